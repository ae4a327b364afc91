package machine

import (
	"os"
	"testing"

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
