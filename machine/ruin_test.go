package machine

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"syscall"
	"testing"

	"github.com/morgana-deploy/morgana/step"
)

// A record that says nothing is as good as none: what reads it says so once and
// for all, and Register makes the machine anew.
func TestRuinIsMadeAnew(t *testing.T) {
	write := func(text string) func(Machine) error {
		return func(m Machine) error { return os.WriteFile(m.File(RecordFile), []byte(text), 0o600) }
	}
	for _, test := range []struct {
		name  string
		spoil func(Machine) error
	}{
		{"empty", write("")},
		{"cut off", write(`{"tags": {"app": "boot`)},
		{"zeros", write("\x00\x00\x00\x00")},
		{"null", write("null")},
		{"of nothing", write("{}")},
		{"lost", func(m Machine) error { return os.Remove(m.File(RecordFile)) }},
		{"all lost", func(m Machine) error { return errors.Join(os.RemoveAll(m.Path), os.Mkdir(m.Path, 0o700)) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := newBench(t)
			m := Machine{b.reg.ID, b.reg.Spec.Tags}
			if err := test.spoil(m); err != nil {
				t.Fatal(err)
			}
			_, err := b.boot(t.Context())
			wantKind(t, err, step.NotFound, "", "machine.json is lost or damaged")
			_, err = b.machines.Console(t.Context(), step.ConsoleFrom{Machine: step.Machine{Registration: b.reg}})
			wantKind(t, err, step.NotFound, "", "machine.json is lost or damaged")
			if reg := b.register(b.image(b.reg.Spec, "kernel")); reg.Adopted {
				t.Error("a ruin was adopted")
			}
			if _, err := b.boot(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestRuinWithoutItsLock(t *testing.T) {
	b := newBench(t)
	m := Machine{b.reg.ID, b.reg.Spec.Tags}
	if err := os.Remove(m.File(lockFile)); err != nil {
		t.Fatal(err)
	}
	if reg := b.register(b.image(b.reg.Spec, "kernel")); reg.Adopted {
		t.Error("a machine that nobody can take was adopted")
	}
	if reg := b.register(b.image(b.reg.Spec, "kernel")); !reg.Adopted {
		t.Error("a machine that is whole was made anew")
	}
}

// Nobody can take it, but it can be ended.
func TestRuinThatRuns(t *testing.T) {
	b := newBench(t)
	if _, err := b.boot(t.Context()); err != nil {
		t.Fatal(err)
	}
	m := Machine{b.reg.ID, b.reg.Spec.Tags}
	pid, err := m.Pid()
	if err = errors.Join(err, os.Remove(m.File(lockFile))); err != nil || pid == 0 {
		t.Fatal(pid, err)
	}
	_, err = b.machines.Register(t.Context(), b.image(b.reg.Spec, "another"),
		func(context.Context, Machine, json.RawMessage) error { return nil })
	wantKind(t, err, step.Conflict, "", "runs under this name")
	deaf := func(context.Context, Machine, int) error { return errors.New("it does not listen") }
	if _, err := b.machines.Destroy(t.Context(), step.Removal{Spec: b.reg.Spec}, Quit{Ask: deaf}); err != nil {
		t.Error(err)
	}
	if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("it runs on: %v", err)
	}
}
