package xenserver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/morgana-deploy/morgana/step"
	"github.com/morgana-deploy/morgana/xapilab"
)

// TestBootTypes boots each type of VM, with its devices.
func TestBootTypes(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	port := listener.Addr().(*net.TCPAddr).Port
	for kind, test := range map[string]struct{ options, ready, address, mode string }{
		typePV:  {usual, `console matched "staying"`, "", "RO"},
		typePVH: {usual + fmt.Sprintf(`,"address":"127.0.0.1","expectPort":%d`, port), fmt.Sprintf(`console matched "staying"; port %d took a connection`, port), fmt.Sprintf("127.0.0.1:%d", port), "RO"},
		typeHVM: {fmt.Sprintf(`,"address":"127.0.0.1","expectPort":%d`, port), fmt.Sprintf("port %d took a connection", port), fmt.Sprintf("127.0.0.1:%d", port), "RW"},
	} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, xapilab.Config{})
			m := b.booted("types", fmt.Sprintf(`,"type":%q,"memory":200,"vcpus":2,"folder":"/web","tags":["mine"],"auto_poweron":true`, kind)+test.options)
			if m.Ready != test.ready || step.Addresses(m.Addresses, " ") != test.address || m.Adopted || m.Ended {
				t.Errorf("booted %+v", m)
			}
			vm := b.lab.Ref("VM", "morgana-types-lab-1")
			for field, want := range map[string]any{"power_state": "Running", "domain_type": kind, "memory_static_max": int64(200 << 20), "VCPUs_max": int64(2)} {
				if got := b.lab.Get(vm, field); got != want {
					t.Errorf("%s is %v, want %v", field, got, want)
				}
			}
			config := b.lab.Get(vm, "other_config").(map[string]string)
			if config["folder"] != "/web" || config["auto_poweron"] != "true" || !slices.Equal(b.lab.Get(vm, "tags").([]string), []string{"mine", "morgana"}) {
				t.Errorf("other_config %q, tags %q", config, b.lab.Get(vm, "tags"))
			}
			vbds, vifs := b.lab.Get(vm, "VBDs").([]string), b.lab.Get(vm, "VIFs").([]string)
			if len(vbds) != 1 || len(vifs) != 1 || b.lab.Get(vbds[0], "mode") != test.mode {
				t.Errorf("VBDs %q, VIFs %q", vbds, vifs)
			}
			b.destroy(m.Registration.Spec)
		})
	}
}

// TestGenerationsShareAVDI runs two generations of one image at the same time.
func TestGenerationsShareAVDI(t *testing.T) {
	t.Parallel()
	b := newBench(t, xapilab.Config{})
	img := b.image("share", usual)
	first := b.boot(b.register(img))
	later := img
	later.Spec.Generation = 2
	second := b.boot(b.register(later))
	if first.ID == second.ID || first.Registration.ID != second.Registration.ID || b.count("VDI.create") != 1 {
		t.Errorf("the first is %+v\nthe second %+v", first, second)
	}
	done, err := b.target().Destroy(t.Context(), step.Removal{Spec: first.Registration.Spec})
	if want := []string{"VM " + first.ID, "the use of VDI " + first.Registration.ID}; err != nil || !slices.Equal(done.Removed, want) {
		t.Errorf("destroyed %q, want %q: %v", done.Removed, want, err)
	}
	if h, err := b.target().Observe(t.Context(), second); err != nil || h.State != step.Running {
		t.Errorf("the second is %+v, %v", h, err)
	}
	b.destroy(img.Spec)
}

// TestBootGoesOn boots a VM whose first Boot was cut off while the VM ran. If its text is lost,
// the VM is started anew. The pool may show the last lines.
func TestBootGoesOn(t *testing.T) {
	t.Parallel()
	for text, starts := range map[string]int{"": 1, strings.Repeat("more\r\n", 1000): 2} {
		b := newBench(t, xapilab.Config{Hypervisor: &guests{more: text}})
		if starts > 1 {
			b.patience = time.Second
		}
		img := b.image("late", usual)
		r := b.register(img)
		b.lab.Fault(xapilab.Fault{Call: "VM.unpause", Lose: xapilab.After})
		if m, err := b.target().Boot(t.Context(), r); err == nil || step.KindOf(err).Final() {
			t.Fatalf("a lost answer: %+v, %v", m, err)
		}
		if m := b.boot(r); !m.Adopted || b.count("Async.VM.start") != starts || b.count("VM.create") != 1 {
			t.Errorf("with %d bytes after it, it was started %d times: %+v", len(text), b.count("Async.VM.start"), m)
		}
		b.destroy(img.Spec)
	}
}

// TestStartTaskLies adopts a VM that runs though its start's task says that it failed.
func TestStartTaskLies(t *testing.T) {
	t.Parallel()
	b := newBench(t, xapilab.Config{})
	img := b.image("lies", usual)
	r := b.register(img)
	b.lab.Fault(xapilab.Fault{Call: "Async.VM.start", TaskError: []string{"INTERNAL_ERROR", "timeout"}})
	if m := b.boot(r); m.Ended || b.count("Async.VM.start") != 1 {
		t.Errorf("booted %+v", m)
	}
	b.destroy(img.Spec)
}

// TestStartAnswerLost goes on with a start whose answer was lost, and destroys its task.
func TestStartAnswerLost(t *testing.T) {
	t.Parallel()
	b := newBench(t, xapilab.Config{Moment: 5 * time.Second}) // long enough for a look at the VM
	r := b.register(b.image("lost", usual))
	b.lab.Fault(xapilab.Fault{Call: "Async.VM.start", Lose: xapilab.After})
	if m := b.boot(r); m.Ended || b.count("Async.VM.start") != 1 {
		t.Errorf("started %d times: %+v", b.count("Async.VM.start"), m)
	}
	b.destroy(r.Spec)
}

// TestBootFails says why a VM does not get ready, and Destroy removes it.
func TestBootFails(t *testing.T) {
	const port = 1 // nobody listens there
	for name, test := range map[string]struct {
		options string
		prepare func(*bench)
		text    string
		hint    string
		kind    step.Kind
	}{
		"another text": {options: `,"args":"stay","expect":"never","timeout":"5s"`, text: `its console did not match "never" within 5s`, hint: "the console's last lines:\nhello from a unikernel\nstaying", kind: step.BootFailed},
		"ended":        {options: `,"expect":"staying"`, text: `the VM has ended and its console did not match "staying"`, hint: "hello from a unikernel", kind: step.BootFailed},
		"no port":      {options: fmt.Sprintf(`,"args":"stay","address":"127.0.0.1","expectPort":%d,"timeout":"1s"`, port), text: fmt.Sprintf("the worker could not connect to its port %d within 1s", port), kind: step.BootFailed},
		"no memory": {options: usual, prepare: func(b *bench) {
			b.lab.Fault(xapilab.Fault{Call: "VM.assert_can_boot_here", Times: -1, Error: []string{"HOST_NOT_ENOUGH_FREE_MEMORY", "134217728", "67108864"}})
		}, text: "no host of the pool can run morgana-fails-lab-1: lab-1: ", hint: "memory"},
		"the bootloader": {options: usual, prepare: func(b *bench) {
			b.lab.Fault(xapilab.Fault{Call: "Async.VM.start", Error: []string{"BOOTLOADER_FAILED", "OpaqueRef:1", "Unable to find partition containing kernel"}})
		}, text: "Unable to find partition containing kernel"},
		"another operation": {options: usual + `,"timeout":"1s"`, prepare: func(b *bench) {
			b.lab.Fault(xapilab.Fault{Call: "Async.VM.start", Times: -1, Error: []string{"OTHER_OPERATION_IN_PROGRESS", "VM", "OpaqueRef:1"}})
		}, text: "the VM did not run within 1s", kind: step.BootFailed},
		"another operation on the paused VM": {options: usual + `,"timeout":"1s"`, prepare: func(b *bench) {
			b.lab.Fault(xapilab.Fault{Call: "VM.unpause", Times: -1, Error: []string{"OTHER_OPERATION_IN_PROGRESS", "VM", "OpaqueRef:1"}})
		}, text: "the VM did not run within 1s", kind: step.BootFailed},
		"destroyed": {options: usual, prepare: func(b *bench) {
			b.lab.Fault(xapilab.Fault{Call: "VM.get_record", Skip: 1, Error: []string{"HANDLE_INVALID", "VM", "OpaqueRef:1"}})
		}, text: "the VM morgana-fails-lab-1 was destroyed meanwhile"},
		"no hosts": {options: usual, prepare: func(b *bench) {
			b.lab.Fault(xapilab.Fault{Call: "Async.VM.start", Error: []string{"NO_HOSTS_AVAILABLE"}})
		}, text: "no host"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, xapilab.Config{})
			img := b.image("fails", test.options)
			r := b.register(img)
			if test.prepare != nil {
				test.prepare(b)
			}
			m, err := b.target().Boot(t.Context(), r)
			var e *step.Error
			if !errors.As(err, &e) || test.kind != "" && e.Kind != test.kind || !strings.Contains(err.Error(), test.text) || !strings.Contains(e.Hint, test.hint) {
				t.Errorf("boot: %+v, %#v, want %q and hint %q", m, err, test.text, test.hint)
			}
			b.destroy(img.Spec)
		})
	}
}

// TestOneHostMayComeBack tries again if one host is too small and another does not answer.
func TestOneHostMayComeBack(t *testing.T) {
	t.Parallel()
	b := newBench(t, xapilab.Config{})
	r := b.register(b.image("back", usual))
	away, small := []string{"HOST_NOT_LIVE", "OpaqueRef:1"}, []string{"HOST_NOT_ENOUGH_FREE_MEMORY", "134217728", "1048576"}
	for _, answers := range [][][]string{{away, small}, {small, away}} {
		for _, answer := range answers {
			b.lab.Fault(xapilab.Fault{Call: "VM.assert_can_boot_here", Error: answer})
		}
		_, err := b.target().Boot(t.Context(), r)
		var e *step.Error
		if !errors.As(err, &e) || e.Kind != "" || e.Field != "" || !strings.Contains(e.Hint, "metrics-live") {
			t.Errorf("%q: %#v", answers, err)
		}
	}
	b.destroy(r.Spec)
}

// TestEarlierText boots a VM while the console of its earlier start is still being read. The
// text of that start does not make it ready.
func TestEarlierText(t *testing.T) {
	t.Parallel()
	b := newBench(t, xapilab.Config{})
	r := b.register(b.image("earlier", `,"args":"stay","expect":"never","timeout":"1s"`))
	b.lab.Fault(xapilab.Fault{Call: "Async.VM.start", Error: []string{"INTERNAL_ERROR", "no"}})
	if m, err := b.target().Boot(t.Context(), r); err == nil {
		t.Fatalf("booted %+v", m)
	}
	f, err := open(b.target().tape(vmRecord{UUID: b.lab.Get(b.lab.Ref("VM", nameOf(r.Spec.Tags)), "uuid").(string)}))
	if err == nil {
		_, err = f.WriteString("never\n")
	}
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close() //nolint:errcheck // after the test
	if m, err := b.target().Boot(t.Context(), r); step.KindOf(err) != step.BootFailed {
		t.Errorf("booted %+v, %v", m, err)
	}
	b.destroy(r.Spec)
}

// TestCrashedBefore starts a VM anew that has crashed after the first Boot was cut off.
func TestCrashedBefore(t *testing.T) {
	t.Parallel()
	b := newBench(t, xapilab.Config{})
	b.patience = time.Second
	r := b.register(b.image("crashed", usual))
	b.lab.Fault(xapilab.Fault{Call: "VM.unpause", Lose: xapilab.After})
	if m, err := b.target().Boot(t.Context(), r); err == nil {
		t.Fatalf("a lost answer: %+v", m)
	}
	b.lab.Set(b.lab.Ref("VM", nameOf(r.Spec.Tags)), "power_state", paused)
	if m := b.boot(r); m.Ended || b.count("Async.VM.start") != 2 {
		t.Errorf("started %d times: %+v", b.count("Async.VM.start"), m)
	}
	b.destroy(r.Spec)
}

// TestEnded returns a VM that ran to its end as ended, and does not start it again.
func TestEnded(t *testing.T) {
	t.Parallel()
	b := newBench(t, xapilab.Config{})
	r := b.register(b.image("batch", `,"expect":"hello from"`))
	first := b.boot(r)
	deadline := time.Now().Add(2 * time.Minute)
	for again := first; !again.Ended; again = b.boot(r) {
		if time.Now().After(deadline) {
			t.Fatalf("it does not end: %+v", again)
		}
	}
	if again := b.boot(r); !again.Ended || !again.Adopted || again.ID != first.ID || !strings.HasPrefix(again.Ready, `console matched "hello from"; `) {
		t.Errorf("booted again: %+v", again)
	}
	text, err := b.target().Console(t.Context(), step.ConsoleFrom{Machine: first, WaitSeconds: 120})
	if err != nil || text.Text != "hello from a unikernel\r\n" {
		t.Errorf("console: %+v, %v", text, err)
	}
	text, err = b.target().Console(t.Context(), step.ConsoleFrom{Machine: first, Offset: text.Next, WaitSeconds: 120})
	if err != nil || !text.Ended || text.Text != "" {
		t.Errorf("behind its end: %+v, %v", text, err)
	}
	if n := b.count("Async.VM.start"); n != 1 {
		t.Errorf("it was started %d times", n)
	}
	b.destroy(r.Spec)
}

// mutates reports whether a call changes the pool.
func mutates(method string) bool {
	_, message, _ := strings.Cut(strings.TrimPrefix(method, "Async."), ".")
	return strings.HasPrefix(method, "PUT ") || strings.HasPrefix(method, "Async.") ||
		slices.Contains([]string{"create", "destroy", "unpause", "hard_shutdown", "add_to_other_config", "remove_from_other_config", "set_name_label"}, message)
}

// TestAnswersLost loses each mutating call of a rollout and its destruction once, before and
// after its effect, by a restart of xapi, and with an expired session. Each step is tried again by another worker.
func TestAnswersLost(t *testing.T) {
	type nth struct {
		method string
		skip   int
	}
	rollout := func(b *bench, img step.Image) {
		tries := 0
		again := func(what string, do func(*Target) error) {
			for {
				tries++
				err := do(b.target())
				if err == nil {
					return
				}
				if step.KindOf(err).Final() || tries > 20 {
					b.Fatalf("%s: %v", what, err)
				}
			}
		}
		var r step.Registration
		var m step.Machine
		again("register", func(t *Target) (err error) { r, err = t.Register(b.Context(), img); return err })
		again("boot", func(t *Target) (err error) { m, err = t.Boot(b.Context(), r); return err })
		kinds := map[string]int{}
		for _, line := range b.lab.Resources() {
			if !slices.Contains(b.before, line) {
				kind, _, _ := strings.Cut(line, " ")
				kinds[kind]++
			}
		}
		if kinds["VM"] != 1 || kinds["VDI"] != 1 || kinds["VBD"] != 1 || kinds["VIF"] != 1 {
			b.Errorf("in the pool: %q", b.lab.Resources())
		}
		if h, err := b.target().Observe(b.Context(), m); err != nil || h.State != step.Running {
			b.Errorf("observed %+v, %v", h, err)
		}
		again("destroy", func(t *Target) error { _, err := t.Destroy(b.Context(), step.Removal{Spec: img.Spec}); return err })
	}
	var calls []nth
	b := newBench(t, xapilab.Config{})
	img := b.image("lost", usual)
	begin := len(b.lab.Calls())
	rollout(b, img)
	b.asBefore()
	seen := map[string]int{}
	for _, c := range b.lab.Calls()[begin:] {
		if mutates(c.Method) {
			calls = append(calls, nth{c.Method, seen[c.Method]})
			seen[c.Method]++
		}
	}
	calls = append(calls, nth{"task.get_record", 0}, nth{"CONNECT /console", 0}) // that of the import
	for _, call := range calls {
		for when, lose := range map[string]xapilab.Lose{"before": xapilab.Before, "after": xapilab.After, "restart": xapilab.Restarts, "expired": xapilab.Expires} {
			t.Run(fmt.Sprintf("%s %d %s", call.method, call.skip, when), func(t *testing.T) {
				t.Parallel()
				b := newBench(t, xapilab.Config{})
				b.patience = time.Second
				img := b.image("lost", usual)
				b.lab.Fault(xapilab.Fault{Call: call.method, Skip: call.skip, Lose: lose})
				rollout(b, img)
				if lose != xapilab.Expires && !strings.Contains(call.method, "/") && !slices.ContainsFunc(b.lab.Calls(), func(c xapilab.Call) bool { return c.Code == "lost" }) {
					t.Errorf("no call was lost")
				}
				// A task whose reference is lost cannot be told from those of others after its
				// end: xapi removes it an hour later.
				if now := b.lab.Resources(); slices.Equal(now, []string{"task Async.VM.start"}) && call.method == "Async.VM.start" && lose == xapilab.After {
					return
				}
				b.asBefore()
			})
		}
	}
}

// TestStartCutOff ends a boot while the pool starts its VM, by a context and as by a kill. The
// task of the start is gone when it has ended, or after Destroy.
func TestStartCutOff(t *testing.T) {
	t.Parallel()
	b := newBench(t, xapilab.Config{})
	for _, killed := range []bool{false, true} {
		img := b.image("cut", usual)
		r := b.register(img)
		ctx, cancel := context.WithCancel(t.Context())
		x := newBetween(t, b.lab)
		x.before = func(method string) {
			if method == "task.get_record" {
				cancel()
			}
		}
		if killed {
			t.Cleanup(b.lab.Fault(xapilab.Fault{Call: "task.destroy", Times: 2, Lose: xapilab.Before}))
		}
		if _, err := b.target().Boot(ctx, x.through(r)); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		left := func() bool { return slices.Contains(b.lab.Resources(), "task Async.VM.start") }
		for end := time.Now().Add(time.Minute); left() && !killed && time.Now().Before(end); time.Sleep(time.Millisecond) {
		}
		if left() != killed {
			t.Errorf("killed: %t, the task is left: %t", killed, left())
		}
		b.destroy(img.Spec)
	}
}

// A VM that says it is the rollout's and has another image is never adopted nor removed.
func TestBootConflict(t *testing.T) {
	t.Parallel()
	b := newBench(t, xapilab.Config{})
	m := b.booted("two", usual)
	b.lab.AddVM(map[string]any{"other_config": (&settings{}).otherConfig(m.Registration.Spec.Tags, "another")})
	for range 8 {
		if _, err := b.target().Boot(t.Context(), m.Registration); step.KindOf(err) != step.Conflict {
			t.Fatal(err)
		}
	}
}
