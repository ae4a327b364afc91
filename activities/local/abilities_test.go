package local

import (
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/morgana-deploy/morgana/image"
	"github.com/morgana-deploy/morgana/step"
)

func TestObserveSaysHowItEnded(t *testing.T) {
	for _, test := range []struct {
		name, options, how string
		end                func(*bench, step.Registration)
	}{
		{"by itself", `{"args":["hello","gate","exit","3"],"expect":"hello"}`, "exit status 3", (*bench).open},
		{"program killed", `{"args":["hello","stay"],"expect":"hello"}`, "killed by signal 9 (killed)", func(b *bench, r step.Registration) {
			_, program := b.pids(r)
			if err := syscall.Kill(program, syscall.SIGKILL); err != nil {
				b.Fatal(err)
			}
		}},
		{"supervisor killed", `{"args":["hello","stay"],"expect":"hello"}`, "killed", (*bench).killSupervisor},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := newBench(t)
			r := b.register(linux, b.spec(test.options))
			m := b.boot(r)
			if !b.target().OnHost(m) {
				t.Error("a program has not the ports of its host")
			}
			test.end(b, r)
			var h step.Health
			b.until("its end", func() bool {
				var err error
				if h, err = b.target().Observe(t.Context(), m); err != nil {
					t.Fatal(err)
				}
				return h.State != step.Running
			})
			if h.State != step.Ended || h.How != test.how || h.Success != (test.how == "exit status 0") || (h.Since.IsZero() != (test.how == "killed")) {
				t.Errorf("got %+v, want %q", h, test.how)
			}
			m.ID += "x"
			if h, err := b.target().Observe(t.Context(), m); err != nil || h.State != step.Gone {
				t.Errorf("another machine: %+v, %v", h, err)
			}
		})
	}
}

// What a program left behind is listed until it is destroyed, without its folder too.
func TestListHasWhatAProgramLeft(t *testing.T) {
	b := newBench(t)
	r := b.register(linux, b.spec(`{"args":["leave","daemon","hello","stay"],"expect":"hello"}`))
	left := b.left(b.boot(r))
	b.killSupervisor(r)
	all, err := b.target().List(t.Context(), r.Spec)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(all, func(r step.Resource) bool { return r.Kind == "process" }) || gone(left) {
		t.Errorf("got %+v", all)
	}
	r.Spec.Life = "ffffffff"
	checked, err := b.target().Check(t.Context(), r.Spec)
	if err != nil || checked.Alone {
		t.Errorf("alone beside it: %t, %v", checked.Alone, err)
	}
}

func TestForecast(t *testing.T) {
	b := newBench(t)
	spec := b.spec(`{"args":["hi"],"networks":[{"name":"service","address":"10.9.8.1/24"}],"blocks":[{"name":"a","size":3},{"name":"b","path":"/b"}],"timeout":"9s"}`)
	spec.Origin.ABIs = []string{image.Solo5SPT}
	acts, err := b.target().Forecast(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	var calls []string
	for _, a := range acts {
		calls = append(calls, strings.Split(a.Call, " ")[0])
	}
	if want := []string{"mkdir", "truncate", "flock", "ip", "ip", "solo5-spt"}; !slices.Equal(calls, want) {
		t.Errorf("got %q, want %q", calls, want)
	}
}

// Only a Solo5 guest is known before boot to have no address.
func TestAddressesBeforeBoot(t *testing.T) {
	for abi, want := range map[string]bool{image.LinuxExecutable: false, image.Solo5SPT: true, image.Solo5HVT: true, "": false} {
		var spec step.Spec
		if abi != "" {
			spec.Origin.ABIs = []string{abi}
		}
		if all, known := new(Target).Addresses(spec); len(all) > 0 || known != want {
			t.Errorf("%q: %v, known %t", abi, all, known)
		}
	}
}
