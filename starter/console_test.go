package main

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/morgana-deploy/morgana/step"
)

func TestConsoleIsCut(t *testing.T) {
	var b strings.Builder
	for i := 0; b.Len() < 20<<20; i++ {
		_, _ = fmt.Fprintf(&b, "line %d of a console that is long\n", i)
	}
	for _, size := range []int{0, 100, 40 << 10, 1<<20 - 1, 1 << 20, 1<<20 + 1, 5<<20 + 77, 20 << 20} {
		for _, anew := range []bool{false, true} { // past the end a target returns no text, or begins again
			for _, all := range []bool{false, true} {
				t.Run(fmt.Sprintf("%d anew %v all %v", size, anew, all), func(t *testing.T) {
					console, reads := b.String()[:size], 0
					var out, errOut bytes.Buffer
					c := &cli{out: &out, err: &errOut, output: "text"}
					err := c.printConsole(t.Context(), func(offset int64, _ int) (step.ConsoleText, error) {
						reads++
						if offset > int64(size) {
							if !anew {
								return step.ConsoleText{Next: offset}, nil
							}
							offset = 0
						}
						text := console[offset:min(int(offset)+32<<10, size)]
						return step.ConsoleText{Text: text, Next: offset + int64(len(text))}, nil
					}, consoleFlags{all: all})
					got := out.String()
					cut := size > 1<<20 && !all
					switch {
					case err != nil || !strings.HasSuffix(console, got):
						t.Errorf("%v, printed %d bytes that are not its last", err, len(got))
					case !cut && (len(got) != size || errOut.Len() > 0 || reads > size>>15+3):
						t.Errorf("printed %d bytes by %d reads, said %q", len(got), reads, errOut.String())
					case cut && (len(got) > 1<<20 || len(got) < 1<<19 || !strings.HasPrefix(got, "line ") || reads > 50):
						t.Errorf("printed %d bytes by %d reads, first %.20q", len(got), reads, got)
					case cut && (!strings.Contains(errOut.String(), "--all") || strings.Count(errOut.String(), "\n") != 1):
						t.Errorf("said %q", errOut.String())
					}
				})
			}
		}
	}
}
