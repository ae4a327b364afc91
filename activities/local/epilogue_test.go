package local

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/morgana-deploy/morgana/machine"
	"github.com/morgana-deploy/morgana/step"
)

// The console's last line says how the program ended, once, and belongs to it
// wherever the console is read from.
func TestConsoleSaysTheEnd(t *testing.T) {
	full := strings.Repeat("0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcde\n", 1<<14) // whole pieces
	for _, test := range []struct{ name, options, want string }{
		{"status", `{"args":["say","x","gate","exit","7"],"expect":"x"}`, "said: x\n[ended with status 7]\n"},
		{"no newline", `{"args":["mutter","x","gate"],"expect":"x"}`, "x\n[ended with status 0]\n"},
		{"nothing printed", `{"args":["nap","10"]}`, "[ended with status 0]\n"},
		{"whole pieces", `{"args":["flood","1"]}`, full + "[ended with status 0]\n"},
		{"signal", `{"args":["say","x","stay"],"expect":"x"}`, "said: x\n[killed by signal 9 (killed)]\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := newBench(t)
			r := b.register(linux, b.spec(test.options))
			m := b.boot(r)
			b.open(r)
			if test.name == "signal" {
				if text := b.console(m); text != "said: x\n" {
					t.Errorf("while it runs: %q", text)
				}
				_, program := b.pids(r)
				if err := syscall.Kill(program, syscall.SIGKILL); err != nil {
					t.Fatal(err)
				}
			}
			follow := func(offset int64) string {
				var all strings.Builder
				for from := (step.ConsoleFrom{Machine: m, Offset: offset, WaitSeconds: 120}); ; {
					piece, err := b.target().Console(t.Context(), from)
					if err != nil {
						t.Fatal(err)
					}
					if len(piece.Text) > pieceLimit || piece.Text == "" && !piece.Ended {
						t.Fatalf("at %d: %d bytes, to %d, ended %v", from.Offset, len(piece.Text), piece.Next, piece.Ended)
					}
					all.WriteString(piece.Text)
					if from.Offset = piece.Next; piece.Ended {
						return all.String()
					}
				}
			}
			for offset := max(0, len(test.want)-40); offset <= len(test.want); offset++ {
				if got := follow(int64(offset)); got != test.want[offset:] {
					t.Errorf("from %d: %q, want %q", offset, got, test.want[offset:])
				}
			}
			if got := follow(0); got != test.want {
				t.Errorf("got %d bytes, at the end %q", len(got), got[max(0, len(got)-50):])
			}
			if got := follow(int64(len(test.want)) + 1); got != test.want { // of a machine before it
				t.Errorf("from behind the end: %d bytes", len(got))
			}
		})
	}
	b := newBench(t)
	r := b.register(linux, b.spec(`{"args":["hello"],"expect":"ended with"}`))
	b.refused(r, step.BootFailed, "did not match", "hello from")
}

// The console has an end, the program has not.
func TestConsoleIsCut(t *testing.T) {
	b := newBench(t)
	r := b.register(linux, b.spec(`{"args":["hello","flood","70","complain","exit","0"],"expect":"hello"}`))
	b.boot(r)
	b.until("its end", func() bool { return len(processes(t, b.site)) == 0 })
	if m := b.boot(r); !strings.Contains(m.Ready, "ended with status 0") {
		t.Errorf("got %+v", m)
	}
	tail := machine.Tail(r.ID + "/console.log")
	if size := b.machine(r).Printed(); size < consoleLimit || size > consoleLimit+100 || !strings.HasSuffix(tail, "\n[morgana: the console is cut here, at 64 MiB; the program runs on]") {
		t.Errorf("%d bytes, at the end %q", size, tail[max(0, len(tail)-200):])
	}
}

// A console that somebody else has as well must not keep the machine.
func TestConsoleThatSomebodyKeeps(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "console.log")
	c, err := openConsole(path)
	if err != nil {
		t.Fatal(err)
	}
	kept, err := syscall.Dup(int(c.in.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(kept) //nolint:errcheck // nothing is in it
	if _, err := c.in.WriteString("last words"); err != nil {
		t.Fatal(err)
	}
	for size := int64(0); size == 0; { // until it is read
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		size = info.Size()
	}
	if err := c.close(); err != nil {
		t.Error(err)
	}
	if got, err := os.ReadFile(path); string(got) != "last words" {
		t.Errorf("got %q (%v)", got, err)
	}
}

// A console that cannot be written must not stop the program.
func TestConsoleThatCannotBeWritten(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close() //nolint:errcheck // nothing is in it
	r := strings.NewReader(strings.Repeat("x", 1<<20))
	if err := keep(full, r, 1<<19); !errors.Is(err, syscall.ENOSPC) || r.Len() != 0 {
		t.Errorf("%v, %d bytes not read", err, r.Len())
	}
}
