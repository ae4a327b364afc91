package xenserver

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/morgana-deploy/morgana/machine"
	"github.com/morgana-deploy/morgana/step"
	"github.com/morgana-deploy/morgana/xapilab"
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

// TestConsoleComesLate waits for a console that the pool does not show at once.
func TestConsoleComesLate(t *testing.T) {
	t.Parallel()
	b := newBench(t, xapilab.Config{})
	x := newBetween(t, b.lab)
	looks := 0
	x.after = func(method, answer string) string {
		if method != "console.get_record" || looks == 2 {
			return answer
		}
		looks++ // the calls of a Boot come one after the other
		return strings.Replace(answer, "vt100", "rfb", 1)
	}
	r := b.register(b.image("slow", usual))
	if m, err := b.target().Boot(t.Context(), x.through(r)); err != nil || looks != 2 {
		t.Errorf("after %d looks: %+v, %v", looks, m, err)
	}
	b.destroy(r.Spec)
}

// TestConsoleOfMember reads the console of a VM at the other host of the pool, which refuses it
// at first. The master tells that host's certificate.
func TestConsoleOfMember(t *testing.T) {
	t.Parallel()
	b := newBench(t, xapilab.Config{})
	b.lab.Fault(xapilab.Fault{Call: "CONNECT /console", Times: 2, Status: 500})
	r := b.register(b.image("member", usual+`,"affinity":"lab-2"`))
	r.Spec.Options = json.RawMessage(strings.Replace(string(r.Spec.Options), " "+b.lab.MemberFingerprint, "", 1))
	m := b.boot(r)
	host := b.lab.Get(b.lab.Ref("VM", "morgana-member-lab-1"), "resident_on")
	if m.Ready != `console matched "staying"` || host != b.lab.Ref("host", "lab-2") || b.count("CONNECT /console") != 3 {
		t.Errorf("booted on %s: %+v", host, m)
	}
	b.destroy(r.Spec)
}
