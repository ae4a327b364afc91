package xapilab

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/morgana-deploy/morgana/need"
)

var update = flag.Bool("update", false, "write model.txt anew")

// excerptClasses are the classes of the lab.
var excerptClasses = []string{"session", "task", "event", "pool", "host", "host_metrics", "network", "PIF", "SR", "PBD",
	"VM", "VM_metrics", "VM_guest_metrics", "VIF", "VDI", "VBD", "console", "Certificate"}

// theJudge returns the judge, or skips the test.
func theJudge(t *testing.T) *Judge {
	t.Helper()
	need.XenAPI(t)
	return FindJudge(t)
}

// The lab's excerpt of the model is the model's.
func TestModel(t *testing.T) {
	want := makeExcerpt(t, theJudge(t))
	if *update {
		if err := os.WriteFile("model.txt", []byte(want), 0o600); err != nil {
			t.Fatal(err)
		}
	} else if want != excerpt {
		t.Error("model.txt is not the model's; go test ./xapilab -run TestModel -update")
	}
}

func makeExcerpt(t *testing.T, j *Judge) string {
	var s strings.Builder
	for _, name := range excerptClasses {
		c := j.classes[name]
		fmt.Fprintf(&s, "class\t%s\n", name)
		for _, e := range c.Enums {
			var values []string
			for _, v := range e.Values {
				values = append(values, v.Name)
			}
			fmt.Fprintf(&s, "enum\t%s\t%s\n", e.Name, strings.Join(values, " "))
		}
		for _, f := range c.Fields {
			initial := "-"
			if f.Default != nil {
				initial = *f.Default
			}
			fmt.Fprintf(&s, "field\t%s\t%s\t%s\t%s\t%s\n", f.Name, f.Type, f.Qualifier, initial, c.least("set_"+f.Name, "add_"+f.Name))
		}
		for _, full := range slices.Sorted(maps.Keys(methods)) {
			class, verb, _ := strings.Cut(full, ".")
			if class != name {
				continue
			}
			at := slices.IndexFunc(c.Messages, func(m message) bool { return m.Name == verb })
			if at < 0 {
				t.Fatalf("the model has no message %s", full)
			}
			var params []string
			for _, p := range c.Messages[at].Params {
				if p.Type != "session ref" {
					params = append(params, p.Type)
				}
			}
			fmt.Fprintf(&s, "message\t%s\t%s\t%s\t%s\n", verb, c.Messages[at].Result[0], c.least(verb), strings.Join(params, ", "))
		}
	}
	return s.String()
}

// least returns the least role that may send the first of some messages that there is.
func (c *class) least(messages ...string) string {
	for _, name := range messages {
		for _, m := range c.Messages {
			if m.Name != name {
				continue
			}
			for _, role := range slices.Backward(roles) {
				if slices.Contains(m.Roles, role) {
					return role
				}
			}
		}
	}
	return "-"
}
