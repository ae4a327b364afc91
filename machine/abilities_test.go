package machine

import (
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/morgana-deploy/morgana/step"
)

func TestAlone(t *testing.T) {
	b := newBench(t)
	tags := b.reg.Spec.Tags
	other := tags
	other.Life = "ffffffff"
	for _, test := range []struct {
		name string
		tags step.Tags
		want bool
	}{
		{"this life", tags, true},
		{"another generation", step.Tags{App: tags.App, Target: tags.Target, Life: tags.Life, Generation: 7}, true},
		{"another life", other, false},
		{"another target", step.Tags{App: tags.App, Target: "prod", Life: "ffffffff", Generation: 1}, true},
	} {
		if got, err := b.machines.Alone(test.tags); got != test.want || err != nil {
			t.Errorf("%s: %t, %v", test.name, got, err)
		}
	}
	m := Machine{b.reg.ID, tags}
	if err := os.Rename(m.Path, b.machines.root+"/."+m.Name()+".1"); err != nil { // half removed
		t.Fatal(err)
	}
	if got, err := b.machines.Alone(other); got || err != nil {
		t.Errorf("beside what another life left: %t, %v", got, err)
	}
}

func TestObserve(t *testing.T) {
	b := newBench(t)
	machine := Machine{b.reg.ID, b.reg.Spec.Tags}
	look := func(m step.Machine, want step.State, how string) {
		t.Helper()
		h, err := b.machines.Observe(m, func(Machine) (step.Health, error) { return step.Health{How: "as asked", Since: time.Unix(1, 0)}, nil })
		if err != nil || h.State != want || h.How != how {
			t.Errorf("got %+v, %v, want %s %q", h, err, want, how)
		}
	}
	m, err := b.boot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	look(m, step.Running, "")
	pid, err := machine.Pid()
	if err != nil {
		t.Fatal(err)
	}
	if err := machine.Signal(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for began := time.Now(); pid != 0 && time.Since(began) < 2*time.Minute; time.Sleep(time.Millisecond) {
		pid, _ = machine.Pid()
	}
	look(m, step.Ended, "killed")
	if err := machine.forget(); err != nil {
		t.Fatal(err)
	}
	look(m, step.Ended, "as asked")
	m.ID = "another"
	look(m, step.Gone, "")
	m.Registration.Spec.Generation++
	look(m, step.Gone, "")
}
