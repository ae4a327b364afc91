package xenserver

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/morgana-deploy/morgana/step"
	"github.com/morgana-deploy/morgana/xapilab"
)

// TestObserveEnds observes what becomes of a VM.
func TestObserveEnds(t *testing.T) {
	t.Parallel()
	b := newBench(t, xapilab.Config{})
	m := b.booted("observed", usual)
	vm := b.lab.Ref("VM", "morgana-observed-lab-1")
	for _, test := range []struct {
		state string
		want  step.Health
	}{
		{"Running", step.Health{State: step.Running}}, {"Halted", step.Health{State: step.Ended, How: "shut down", Success: true}},
		{"Paused", step.Health{State: step.Ended, How: crashed}}, {"Suspended", step.Health{State: step.Running}},
	} {
		b.lab.Set(vm, "power_state", test.state)
		if h, err := b.target().Observe(t.Context(), m); err != nil || fmt.Sprint(h) != fmt.Sprint(test.want) {
			t.Errorf("%s: observed %+v, %v", test.state, h, err)
		}
	}
	b.lab.Set(vm, "power_state", "Halted")
	host := b.lab.Ref("host", "lab-2")
	metrics := b.lab.Get(host, "metrics").(string)
	for _, test := range []struct {
		booted time.Time
		live   bool
		want   bool
	}{{time.Now().Add(-time.Hour), true, true}, {time.Now().Add(time.Hour), true, false}, {time.Now().Add(-time.Hour), false, false}} {
		b.lab.Set(host, "other_config", map[string]string{"boot_time": fmt.Sprintf("%d.", test.booted.Unix())})
		b.lab.Set(metrics, "live", test.live)
		if h, err := b.target().Observe(t.Context(), m); err != nil || h.State != step.Ended || h.Success != test.want {
			t.Errorf("host booted %s, live %v: observed %+v, %v", test.booted, test.live, h, err)
		}
	}
	b.lab.Set(metrics, "live", true)
	b.lab.Set(vm, "power_state", "Running")
	guest := b.lab.Get(vm, "guest_metrics").(string)
	b.lab.Set(guest, "networks", map[string]string{"0/ip": "192.0.2.7", "0/ipv4/0": "192.0.2.7", "0/ipv6/0": "2001:db8::7"})
	if h, err := b.target().Observe(t.Context(), m); err != nil || step.Addresses(h.Addresses, " ") != "192.0.2.7 2001:db8::7" {
		t.Errorf("observed %+v, %v", h, err)
	}
	b.destroy(m.Registration.Spec)
}

// TestFailover goes on with a pool that has another master than its configuration names, in a worker
// that knows the former.
func TestFailover(t *testing.T) {
	t.Parallel()
	b := newBench(t, xapilab.Config{})
	img := b.image("failover", usual)
	target := b.target()
	r, err := target.Register(t.Context(), img)
	if err != nil {
		t.Fatal(err)
	}
	b.lab.Failover()
	m, err := target.Boot(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if h, err := target.Observe(t.Context(), m); err != nil || h.State != step.Running {
			t.Errorf("observed %+v, %v", h, err)
		}
		b.lab.Failover()
	}
	if again, err := target.Register(t.Context(), img); err != nil || !again.Adopted {
		t.Errorf("registered %+v, %v", again, err)
	}
	if _, err := target.Destroy(t.Context(), step.Removal{Spec: img.Spec}); err != nil {
		t.Error(err)
	}
	b.asBefore()
	if h, err := target.Observe(t.Context(), m); err != nil || h.State != step.Gone {
		t.Errorf("observed %+v, %v", h, err)
	}
}

// TestObserveMany observes many VMs at the same time with few calls, also after the pool has
// forgotten the token, or the session.
func TestObserveMany(t *testing.T) {
	t.Parallel()
	b := newBench(t, xapilab.Config{})
	m := b.booted("many", usual)
	b.lab.Fault(xapilab.Fault{Call: "event.from", Times: -1, Delay: 100 * time.Millisecond}) // all ask while the first waits
	target := b.target()
	look := func(want step.State, most int) {
		t.Helper()
		calls := b.count("event.from")
		var all sync.WaitGroup
		for range 100 {
			all.Go(func() {
				if h, err := target.Observe(t.Context(), m); err != nil || h.State != want {
					t.Errorf("observed %+v, %v; not %s", h, err, want)
				}
			})
		}
		all.Wait()
		if n := b.count("event.from") - calls; n > most {
			t.Errorf("%d calls of event.from", n)
		}
	}
	look(step.Running, 25)
	look(step.Running, 25)
	b.lab.Fault(xapilab.Fault{Call: "event.from", Error: []string{"EVENTS_LOST"}})
	look(step.Running, 26)
	b.lab.Expire()
	look(step.Running, 27)
	b.destroy(m.Registration.Spec)
	b.lab.Restart() // event.from does not tell what was destroyed before
	look(step.Gone, 27)
}
