package xenserver

import (
	"strings"
	"testing"

	"github.com/morgana-deploy/morgana/machine"
	"github.com/morgana-deploy/morgana/step"
)

// TestRecord appends consoles to a file with the text of an earlier worker.
func TestRecord(t *testing.T) {
	t.Parallel()
	long, line := strings.Repeat("x", 300)+"end\r\n", "more\r\n"
	for name, test := range map[string]struct{ before, printed, want string }{
		"a console without a file":          {printed: long, want: long},
		"one that goes on":                  {before: long, printed: long[20:] + line, want: long + line},
		"one of which text is missing":      {before: long, printed: line, want: long + lost + line},
		"one that prints more than is kept": {before: strings.Repeat("y", keptText-2), printed: strings.Repeat("y", overlap) + line, want: lost + line},
		"one that says nothing any more":    {before: long, want: long},
		"one with the file's last prompt":   {before: "> ", printed: "> ", want: "> "},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tape := New(step.Site{State: t.TempDir()}).tape(vmRecord{UUID: "../a"})
			f, err := open(tape)
			if err == nil {
				_, err = f.WriteString(test.before)
			}
			if err != nil || !isRead(tape) {
				t.Fatalf("the file is not locked: %v", err)
			}
			if other, err := open(tape); other != nil || err != nil {
				t.Errorf("another call has it, too: %v", err)
			}
			if err := record(f, strings.NewReader(test.printed)); err == nil || f.Close() != nil || isRead(tape) {
				t.Errorf("it has not ended: %v", err)
			}
			var got strings.Builder
			for next := int64(0); ; {
				var text string
				if text, next, err = tape.ConsoleAt(next); text == "" || err != nil {
					break
				}
				got.WriteString(text)
			}
			if got.String() != test.want || machine.Tail(tape.File(machine.ConsoleFile)) == "" {
				t.Errorf("%.400q, want %.400q", got.String(), test.want)
			}
		})
	}
}
