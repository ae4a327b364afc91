package qemu

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/morgana-deploy/morgana/image"
	"github.com/morgana-deploy/morgana/need"
	"github.com/morgana-deploy/morgana/step"
	"github.com/morgana-deploy/morgana/step/steptest"
)

func TestConformance(t *testing.T) {
	const secret = "s3cr3t-of-the-worker"
	t.Setenv("AWS_SECRET_ACCESS_KEY", secret)
	port := need.Port(t)
	options := func(s string) json.RawMessage {
		return withTCG(fmt.Sprintf(s, port))
	}
	steptest.Run(t, steptest.Case{
		New:        func(site step.Site) step.Target { return New(site) },
		Spec:       step.Spec{Kind: Kind, Options: options(`{"args":"stay","expect":"staying","ports":["%d:80"]}`)},
		Kernel:     hello(t),
		ABIs:       []string{image.PVH},
		Misspelt:   json.RawMessage(`{"memroy":64}`),
		Nearest:    "memory",
		Changed:    options(`{"args":"stay","expect":"staying","ports":["%d:80"],"memory":64}`),
		NeverReady: options(`{"args":"stay","expect":"never printed","ports":["%d:80"]}`),
		ConsoleHas: "hello from a unikernel",
		Ends:       withTCG(`{"expect":"hello"}`),
		Secrets:    []string{secret},
		Resources:  resources,
	})
}

// The same from the disk that clouds get.
func TestConformanceFromDisk(t *testing.T) {
	t.Parallel()
	needDisk(t, viaBIOS)
	steptest.Run(t, steptest.Case{
		New:        func(site step.Site) step.Target { return New(site) },
		Spec:       step.Spec{Kind: Kind, Options: withTCG(`{"via":"bios","args":"stay","expect":"staying"}`)},
		Kernel:     hello(t),
		ABIs:       []string{image.PVH, image.Multiboot2},
		Misspelt:   json.RawMessage(`{"viaa":"bios"}`),
		Nearest:    "via",
		Changed:    withTCG(`{"via":"bios","args":"stay","expect":"staying","size":"1GiB"}`),
		NeverReady: withTCG(`{"via":"bios","args":"stay","expect":"never printed"}`),
		ConsoleHas: "hello from a unikernel",
		Resources:  resources,
	})
}

func TestBatchMachineEnds(t *testing.T) {
	b := newBench(t)
	r := b.register(b.spec("job", 1, `{"args":"once","expect":"command line: \\[once\\]\\n"}`))
	first := b.boot(r)
	eventually(t, "the machine ends", func() bool { return b.count("process") == 0 })
	console, err := os.Stat(filepath.Join(r.ID, "console.log"))
	if err != nil {
		t.Fatal(err)
	}
	second := b.boot(r)
	if !second.Adopted || second.ID != first.ID || !strings.Contains(second.Ready, "ended") {
		t.Errorf("booted again: %+v", second)
	}
	if again, err := os.Stat(filepath.Join(r.ID, "console.log")); err != nil || !os.SameFile(console, again) || b.count("process") != 0 {
		t.Errorf("it was started again (%v)", err)
	}
	text, err := New(b.site).Console(t.Context(), step.ConsoleFrom{Machine: second, WaitSeconds: 30})
	if err != nil || !strings.Contains(text.Text, "[once]") {
		t.Errorf("console %+v, %v", text, err)
	}
	text, err = New(b.site).Console(t.Context(), step.ConsoleFrom{Machine: second, Offset: text.Next, WaitSeconds: 30})
	if err != nil || !text.Ended || text.Text != "" {
		t.Errorf("console's end %+v, %v", text, err)
	}
}

// A restart policy on-failure depends on how the machine ended.
func TestHowAMachineEnded(t *testing.T) {
	for args, want := range map[string]step.Health{
		"once":   {State: step.Ended, Success: true},
		"reboot": {State: step.Ended, How: "reset, by a reboot or a triple fault"},
		"stay":   {State: step.Ended, How: "qemu: host-signal"},
	} {
		b := newBench(t)
		r := b.register(b.spec("ends", 1, `{"args":"%s","expect":"command line"}`, args))
		_, err := New(b.site).Boot(t.Context(), r)
		if failed := args == "reboot"; err != nil && !failed {
			t.Fatal(err)
		}
		if pid := b.pid(r); args == "stay" {
			if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
		}
		eventually(t, "the machine ends", func() bool { return b.count("process") == 0 })
		at, err := New(b.site).machines.Of(r.Spec.Tags)
		if err != nil {
			t.Fatal(err)
		}
		record, err := at.Record()
		if err != nil {
			t.Fatal(err)
		}
		got, err := New(b.site).Observe(t.Context(), step.Machine{Registration: r, ID: record.UUID()})
		got.Since = time.Time{}
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, %v; want %+v", args, got, err, want)
		}
	}
}

// A kernel that failed is not ready, though its console matches.
func TestMatchedAndFailed(t *testing.T) {
	b := newBench(t)
	r := b.register(b.spec("fails", 1, `{"args":"reboot","expect":"nothing like it"}`))
	for range 2 {
		if _, err := New(b.site).Boot(t.Context(), r); err == nil || !strings.Contains(err.Error(), "the kernel ended: reset") {
			t.Fatal(err)
		}
		r.Spec.Options = bytes.Replace(r.Spec.Options, []byte("nothing like it"), []byte("rebooting"), 1)
	}
}

func TestBootFailed(t *testing.T) {
	for _, test := range []struct{ name, options, err, hint string }{
		{"never matches", `{"args":"stay","expect":"nothing like it","timeout":"1s"}`, `did not match "nothing like it" within 1s`, "command line: [stay]"},
		{"ends without a match", `{"expect":"nothing like it"}`, `the machine ended and its console did not match`, "command line: []"},
		{"port never answers", `{"args":"stay","expectPort":80,"timeout":"1s"}`, `its port 80 did not answer within 1s`, "command line: [stay]"},
		{"reboots", `{"args":"reboot","expect":"nothing like it"}`, "the kernel ended: reset, by a reboot or a triple fault", "rebooting"},
		{"qemu dies", `{"cpu":"max,nope=on"}`, `Property 'max-x86_64-cpu.nope' not found`, "qemu said"},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := newBench(t)
			r := b.register(b.spec("bad", 1, "%s", test.options))
			words := ""
			if strings.Contains(test.options, "stay") {
				words = test.hint
			}
			err := b.late(r, words)
			if step.KindOf(err) != step.BootFailed {
				t.Fatal(err)
			}
			if e := detail(err); !strings.Contains(e.Error(), test.err) || !strings.Contains(e.Hint, test.hint) {
				t.Errorf("got %q\nhint %s", e, e.Hint)
			}
		})
	}
}

// A kernel that says nothing is ready after a second, and blamed plainly when
// something was expected.
func TestSilentKernel(t *testing.T) {
	b := newBench(t)
	var err error
	if b.kernel, err = b.site.Store.Put(t.Context(), strings.NewReader(silentKernel)); err != nil {
		t.Fatal(err)
	}
	if m := b.boot(b.register(b.spec("silent", 1, `{}`))); m.Ready != "ran for 1s" {
		t.Errorf("ready: %q", m.Ready)
	}
	_, err = New(b.site).Boot(t.Context(), b.register(b.spec("silent", 2, `{"expect":"x","timeout":"1s"}`)))
	if hint := detail(err).Hint; !strings.Contains(hint, "console is empty") {
		t.Errorf("%v\nhint: %s", err, hint)
	}
}

func TestKilledMachineIsStartedAgain(t *testing.T) {
	b := newBench(t)
	r := b.register(b.spec("killed", 1, `{"args":"stay","expect":"stay"}`))
	b.boot(r)
	before := b.pid(r)
	if err := syscall.Kill(before, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "qemu is gone", func() bool { return b.pid(r) == 0 })
	text, err := New(b.site).Console(t.Context(), step.ConsoleFrom{Machine: step.Machine{Registration: r}, Offset: 0})
	if err != nil || text.Ended {
		t.Errorf("console %+v, %v", text, err)
	}
	text, err = New(b.site).Console(t.Context(), step.ConsoleFrom{Machine: step.Machine{Registration: r}, Offset: text.Next, WaitSeconds: 30})
	if err != nil || !text.Ended {
		t.Errorf("console of a killed machine %+v, %v", text, err)
	}
	if m := b.boot(r); m.Adopted || b.pid(r) == 0 || b.pid(r) == before {
		t.Errorf("after a kill: %+v, process %d", m, b.pid(r))
	}
}

func TestConsoleOffsets(t *testing.T) {
	b := newBench(t)
	r := b.register(b.spec("text", 1, `{}`))
	want := strings.Repeat("x", 32<<10-1) + "äö\xff." + strings.Repeat("y", 100)
	if err := os.WriteFile(filepath.Join(r.ID, "console.log"), []byte(want), 0o600); err != nil {
		t.Fatal(err)
	}
	from := step.ConsoleFrom{Machine: step.Machine{Registration: r}}
	var got strings.Builder
	for {
		piece, err := New(b.site).Console(t.Context(), from)
		if err != nil {
			t.Fatal(err)
		}
		if len(piece.Text) > 32<<10 {
			t.Errorf("a piece of %d bytes", len(piece.Text))
		}
		got.WriteString(piece.Text)
		from.Offset = piece.Next
		if piece.Ended {
			break
		}
	}
	if want := strings.ToValidUTF8(want, "\uFFFD"); got.String() != want {
		t.Errorf("got %d bytes, want %d; around the cut %q", got.Len(), len(want), got.String()[32<<10-4:32<<10+8])
	}
}

// Boots that race with each other and with a destroy never make two machines,
// and destroy leaves none.
func TestRaces(t *testing.T) {
	b := newBench(t)
	spec := b.spec("race", 1, `{"args":"stay","expect":"stay"}`)
	r := b.register(spec)
	var all sync.WaitGroup
	for i := range 4 {
		all.Go(func() {
			if i == 3 {
				time.Sleep(30 * time.Millisecond) // while the others start it
				b.destroy(spec)
				return
			}
			_, err := New(b.site).Boot(t.Context(), r)
			if k := step.KindOf(err); err != nil && k != step.NotFound && k != step.BootFailed && k != "" {
				t.Errorf("boot: %v", err)
			}
		})
	}
	all.Wait()
	b.destroy(spec)
}
