package qemu

import (
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/morgana-deploy/morgana/image"
	"github.com/morgana-deploy/morgana/need"
	"github.com/morgana-deploy/morgana/step"
)

// holders says which generations of app forward port, as "1 2".
func (b *bench) holders(app string, port int) string {
	b.Helper()
	var who []string
	all, err := New(b.site).machines.All(func(t step.Tags) bool { return t.App == app })
	if err != nil {
		b.Fatal(err)
	}
	for _, m := range all {
		rows, err := guest{m}.usernet(b.Context())
		if err != nil {
			continue
		}
		for _, r := range rows {
			if r.listens() && int(r.forward.host.Port()) == port {
				who = append(who, fmt.Sprint(m.Tags.Generation))
			}
		}
	}
	return strings.Join(who, " ")
}

func (b *bench) expectHolder(when, app string, port int, want string) {
	b.Helper()
	if got := b.holders(app, port); got != want {
		b.Errorf("%s: port held by generation %q, want %q", when, got, want)
	}
	if got := listens(port); got != (want != "") {
		b.Errorf("%s: the host's port listens: %v", when, got)
	}
}

func TestPortsBetweenGenerations(t *testing.T) {
	b := newBench(t)
	port, second := need.Port(t), need.Port(t)
	options := fmt.Sprintf(`{"args":"stay","expect":"stay","ports":["%d:80"]}`, port)
	both := fmt.Sprintf(`{"args":"stay","expect":"stay","ports":["0.0.0.0:%d:81","%d:53/udp"]}`, port, second)
	never := fmt.Sprintf(`{"args":"stay","expect":"never","timeout":"1s","ports":["%d:80"]}`, port)

	first := b.boot(b.register(b.spec("web", 1, "%s", options)))
	if want := fmt.Sprintf("[127.0.0.1:%d]", port); fmt.Sprint(first.Addresses) != want {
		t.Errorf("addresses %s, want %s", first.Addresses, want)
	}
	b.expectHolder("after the first boot", "web", port, "1")

	r2 := b.register(b.spec("web", 2, "%s", never))
	if _, err := New(b.site).Boot(t.Context(), r2); step.KindOf(err) != step.BootFailed {
		t.Errorf("boot of 2: %v", err)
	}
	b.expectHolder("after a boot that failed", "web", port, "1")
	b.destroy(r2.Spec)
	b.expectHolder("after it was destroyed", "web", port, "1")

	r3 := b.register(b.spec("web", 3, "%s", both))
	b.boot(r3)
	b.expectHolder("after the next boot", "web", port, "3")
	if got := b.holders("web", second); got != "3" {
		t.Errorf("udp port held by %q", got)
	}
	b.boot(r3)
	b.expectHolder("after the same boot again", "web", port, "3")

	b.destroy(r3.Spec)
	b.expectHolder("after it was destroyed", "web", port, "1")
	b.destroy(r3.Spec)
	b.expectHolder("after it was destroyed again", "web", port, "1")
	b.destroy(first.Registration.Spec)
	b.expectHolder("at the end", "web", port, "")
}

// A worker dies between any two moves; the same step done again ends right.
func TestPortsHalfMoved(t *testing.T) {
	b := newBench(t)
	port := need.Port(t)
	options := fmt.Sprintf(`{"args":"stay","expect":"stay","ports":["%d:80"]}`, port)
	r1 := b.register(b.spec("web", 1, "%s", options))
	b.boot(r1)
	take := func(r step.Registration) {
		t.Helper()
		m, err := New(b.site).machines.Of(r.Spec.Tags)
		if err != nil {
			t.Fatal(err)
		}
		f, err := parseForward(fmt.Sprintf("%d:80", port))
		if err != nil {
			t.Fatal(err)
		}
		if err := (guest{m}).removeForward(t.Context(), f); err != nil {
			t.Fatal(err)
		}
	}
	r2 := b.register(b.spec("web", 2, "%s", options))
	take(r1)
	b.expectHolder("taken from the old", "web", port, "")
	b.boot(r2)
	b.expectHolder("boot", "web", port, "2")
	take(r2)
	b.boot(r2)
	b.expectHolder("boot again", "web", port, "2")
	// Destroy ended the new one and died before it returned the port.
	all := New(b.site).machines
	if _, err := all.Destroy(t.Context(), step.Removal{Spec: r2.Spec}, quit); err != nil {
		t.Fatal(err)
	}
	b.expectHolder("half destroyed", "web", port, "")
	b.destroy(r2.Spec)
	b.expectHolder("destroyed again", "web", port, "1")
}

func TestPortConflicts(t *testing.T) {
	b := newBench(t)
	ours := need.Port(t)
	b.boot(b.register(b.spec("first", 4, `{"args":"stay","expect":"stay","ports":["%d:80"]}`, ours)))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}()
	for _, test := range []struct {
		port  string
		kind  step.Kind
		words string
	}{
		{fmt.Sprintf("%d:80", l.Addr().(*net.TCPAddr).Port), step.Conflict, "another program"},
		{fmt.Sprintf("%d:80", ours), step.Conflict, "first.dev.00c0ffee-4"},
		{fmt.Sprintf("0.0.0.0:%d:80", ours), step.Conflict, "first.dev.00c0ffee-4"},
		{"192.0.2.1:8080:80", step.InvalidSpec, "no address of this host"},
	} {
		spec := b.spec("other", 1, `{"ports":["%d:1","%s"]}`, need.Port(t), test.port)
		_, err := New(b.site).Check(t.Context(), spec)
		if e := detail(err); e.Kind != test.kind || e.Field != "ports[1]" || !strings.Contains(e.Error(), test.words) {
			t.Errorf("%s: %#v", test.port, err)
		}
	}
	// Taken after Check: Boot says the same, and starts nothing.
	port := need.Port(t)
	r := b.register(b.spec("other", 1, `{"args":"stay","ports":["%d:80"]}`, port))
	late, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	running := b.count("process")
	_, err = New(b.site).Boot(t.Context(), r)
	if step.KindOf(err) != step.Conflict || b.count("process") != running {
		t.Errorf("boot with a taken port: %v; %d machines, %d before", err, b.count("process"), running)
	}
	if err := late.Close(); err != nil {
		t.Error(err)
	}
}

func TestCheckRefuses(t *testing.T) {
	b := newBench(t)
	for _, test := range []struct {
		options, field string
		abis           []string
		kind           step.Kind
		words          string
	}{
		{`{"memory":900000000}`, "memory", nil, step.Unsupported, "more than the host has"},
		{`{"qemu":"qemu-system-none"}`, "qemu", nil, step.Unsupported, "qemu-system-none is not installed"},
		{`{"qemu":"/nowhere/qemu"}`, "qemu", nil, step.Unsupported, "/nowhere/qemu"},
		{`{}`, "", []string{image.XenPV}, step.Unsupported, "Xen PV"},
		{`{"expect":"("}`, "expect", nil, step.InvalidSpec, "missing closing"},
	} {
		spec := b.spec("checked", 1, "%s", test.options)
		spec.Origin.ABIs = test.abis
		_, err := New(b.site).Check(t.Context(), spec)
		if e := detail(err); e.Kind != test.kind || e.Field != test.field || !strings.Contains(e.Error(), test.words) || e.Hint == "" {
			t.Errorf("%s %s: %#v", test.options, test.abis, err)
		}
	}
	if _, err := New(b.site).Package(t.Context(), step.Kernel{Spec: b.spec("a", 1, "{}"), File: b.kernel, ABIs: []string{image.Multiboot2}}); step.KindOf(err) != step.Unsupported {
		t.Errorf("package of a multiboot2 kernel: %v", err)
	}
}
