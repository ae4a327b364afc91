package probe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/morgana-deploy/morgana/need"
	"github.com/morgana-deploy/morgana/step"
)

// lab is a target whose machine prints console and is in state health.
type lab struct {
	step.Target
	console string
	health  step.Health
}

func (l *lab) Console(_ context.Context, from step.ConsoleFrom) (step.ConsoleText, error) {
	return step.ConsoleText{Text: l.console[from.Offset:], Next: int64(len(l.console))}, nil
}

func (l *lab) Observe(context.Context, step.Machine) (step.Health, error) { return l.health, nil }

// host is a lab whose machines have the ports of this host.
type host struct{ *lab }

func (host) OnHost(step.Machine) bool { return true }

func at(addresses ...step.Address) step.Machine {
	return step.Machine{Addresses: addresses, Registration: step.Registration{Digest: strings.Repeat("0", 64), Spec: step.Spec{
		Kind: "lab", Host: "here", Tags: step.Tags{App: "hello", Target: "dev", Life: "aa", Generation: 2}}}}
}

func tcp(address net.Addr) step.Address {
	a := address.(*net.TCPAddr)
	return step.Address{Kind: "tcp", Address: a.IP.String(), Port: a.Port}
}

func TestProbe(t *testing.T) {
	var asked atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch n := asked.Add(1); {
		case r.URL.Path == "/moved":
			http.Redirect(w, r, "/bad", http.StatusFound)
		case r.URL.Path == "/bad", r.URL.Path == "/later" && n > 3, r.URL.Path == "/once" && n == 2:
			w.WriteHeader(http.StatusServiceUnavailable)
		case r.URL.Path == "/slow":
			<-r.Context().Done()
		}
	}))
	defer server.Close()
	here := tcp(server.Listener.Addr())
	nobody := step.Address{Kind: "tcp", Address: "127.0.0.1", Port: need.Port(t)}
	gone := &lab{health: step.Health{State: step.Ended, How: "exit status 1"}}
	done := &lab{health: step.Health{State: step.Ended, Success: true}, console: "a line\r\nready\r\n"}
	up := &lab{console: "a line\r\nready\r\n"}
	const ok = "GET http://HERE/: 200 OK"
	for _, test := range []struct {
		name         string
		lab          *lab
		probe        step.Probe
		addresses    []step.Address
		answer, fail string
	}{
		{"http", up, step.Probe{HTTP: "/"}, []step.Address{here}, ok, ""},
		{"http at a port", up, step.Probe{HTTP: fmt.Sprintf(":%d/", here.Port)}, nil, ok, ""},
		{"http at one of two addresses", up, step.Probe{HTTP: fmt.Sprintf(":%d/", here.Port)}, []step.Address{{Kind: "ip", Address: "127.9.9.9"}, here}, ok, ""},
		{"a redirect is an answer", up, step.Probe{HTTP: "/moved"}, []step.Address{here}, "GET http://HERE/moved: 302 Found", ""},
		{"one failure is none", up, step.Probe{HTTP: "/once"}, []step.Address{here}, "GET http://HERE/once: 200 OK", ""},
		{"http error", up, step.Probe{HTTP: "/bad"}, []step.Address{here}, "", "GET http://HERE/bad: 503 Service Unavailable, 2 times in a row"},
		{"http that turns bad", up, step.Probe{HTTP: "/later"}, []step.Address{here}, "", "GET http://HERE/later: 503 Service Unavailable, 2 times in a row"},
		{"no answer", up, step.Probe{HTTP: "/slow"}, []step.Address{here}, "", "GET http://HERE/slow: no answer in time, 2 times in a row"},
		{"nobody listens", up, step.Probe{HTTP: "/"}, []step.Address{nobody}, "", "GET http://NOBODY/: connect: connection refused, 2 times in a row"},
		{"the machine has ended", gone, step.Probe{HTTP: "/"}, []step.Address{nobody}, "", "GET http://NOBODY/: connect: connection refused; the machine is ended (exit status 1)"},
		{"tcp", up, step.Probe{TCP: here.Port}, []step.Address{here}, "connected to HERE", ""},
		{"tcp refused", up, step.Probe{TCP: nobody.Port}, []step.Address{nobody}, "", "connect to NOBODY: connect: connection refused, 2 times in a row"},
		{"console", up, step.Probe{Console: "(?m)^ready$"}, nil, `console matched "(?m)^ready$"`, ""},
		{"console of a job", done, step.Probe{Console: "ready"}, nil, `console matched "ready"`, ""},
		{"console without a match", up, step.Probe{Console: "steady"}, nil, "", `console did not match "steady", 2 times in a row`},
		{"console of a machine that failed", &lab{health: gone.health, console: "ready"}, step.Probe{Console: "ready"}, nil, "", `console matched "ready"; the machine is ended (exit status 1)`},
	} {
		t.Run(test.name, func(t *testing.T) {
			asked.Store(0)
			test.probe.Interval, test.probe.Failures, test.probe.Window = "100ms", 2, "300ms"
			if test.fail != "" { // a success at the window's end would end it
				test.probe.Window = "1h"
			}
			began := time.Now()
			out, err := Prober{host{test.lab}}.Probe(t.Context(), step.Probation{Machine: at(test.addresses...), Probe: test.probe})
			name := strings.NewReplacer("HERE", here.String(), "NOBODY", nobody.String())
			if test.fail == "" {
				if err != nil || out.Answer != name.Replace(test.answer) {
					t.Errorf("got %q, %v", out.Answer, err)
				}
				if took := time.Since(began); took < 300*time.Millisecond {
					t.Errorf("the window of 300ms was over after %v", took)
				}
				return
			}
			if want := "probe generation 2: " + name.Replace(test.fail); step.KindOf(err) != step.Unhealthy || err.Error() != want {
				t.Errorf("got %v, want %s", err, want)
			}
		})
	}
}

// The probe never asks a program of the host that is not the machine's.
func TestProbeAsksTheMachineOnly(t *testing.T) {
	foreign, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = foreign.Close() }()
	port := tcp(foreign.Addr()).Port
	for _, test := range []struct {
		name    string
		machine step.Machine
		kind    step.Kind
		say     string
	}{
		{"no address", step.Machine{}, step.Unsupported, "no address to probe"},
		{"no address on a host", at(), step.Unsupported, "no address to probe"},
		{"another port of the host", at(step.Address{Kind: "tcp", Address: "127.0.0.1", Port: 1}), step.InvalidSpec,
			fmt.Sprintf("port %d does not lead to the machine, only 127.0.0.1:1", port)},
		{"a UDP port", at(step.Address{Kind: "udp", Address: "127.0.0.1", Port: port}), step.InvalidSpec, "does not lead to the machine"},
	} {
		probe := step.Probe{TCP: port, Interval: "100ms", Failures: 1, Window: "100ms"}
		out, err := Prober{&lab{}}.Probe(t.Context(), step.Probation{Machine: test.machine, Probe: probe})
		if step.KindOf(err) != test.kind || !strings.Contains(err.Error(), test.say) {
			t.Errorf("%s: %q, %v", test.name, out.Answer, err)
		}
		early := Prober{knowing{addresses: test.machine.Addresses, known: true}}.Check(t.Context(), step.ProbeCheck{Spec: test.machine.Of(), Probe: probe})
		if step.KindOf(early) != test.kind || !strings.Contains(early.Error(), test.say) {
			t.Errorf("%s, before boot: %v", test.name, early)
		}
	}
}

// far is a lab whose console takes more than a second to read.
type far struct{ *lab }

func (f far) Console(ctx context.Context, from step.ConsoleFrom) (step.ConsoleText, error) {
	select {
	case <-ctx.Done():
		return step.ConsoleText{}, ctx.Err()
	case <-time.After(1200 * time.Millisecond):
	}
	return f.lab.Console(ctx, from)
}

// A console that is slow to read is no failure, whatever the interval.
func TestProbeOfASlowConsole(t *testing.T) {
	_, err := Prober{far{&lab{console: "ready"}}}.Probe(t.Context(), step.Probation{Machine: at(),
		Probe: step.Probe{Console: "ready", Interval: "100ms", Failures: 1, Window: "100ms"}})
	if err != nil {
		t.Error(err)
	}
}

// knowing is a target that may know the addresses of its machines before boot.
type knowing struct {
	step.Target
	addresses []step.Address
	known     bool
}

func (k knowing) Addresses(step.Spec) ([]step.Address, bool) { return k.addresses, k.known }

// The check before boot refuses no probe that may reach the machine.
func TestCheckOfAProbe(t *testing.T) {
	web := []step.Address{{Kind: "tcp", Address: "127.0.0.1", Port: 8080}}
	for name, test := range map[string]struct {
		target step.Target
		probe  step.Probe
	}{
		"by console":             {knowing{known: true}, step.Probe{Console: "up"}},
		"its port":               {knowing{addresses: web, known: true}, step.Probe{TCP: 8080}},
		"its first port":         {knowing{addresses: web, known: true}, step.Probe{HTTP: "/"}},
		"an unknown address":     {knowing{}, step.Probe{TCP: 8080}},
		"a target without check": {&lab{}, step.Probe{TCP: 8080}},
	} {
		if err := (Prober{test.target}).Check(t.Context(), step.ProbeCheck{Spec: at().Of(), Probe: test.probe}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The try after a worker's death goes on with the rest of the window, and with the
// failures in a row.
func TestProbeGoesOn(t *testing.T) {
	probe := step.Probation{Machine: at(), Probe: step.Probe{Console: "ready", Interval: "100ms", Failures: 5, Window: "24h"}}
	var last step.Progress
	ctx, cancel := context.WithCancel(t.Context())
	silent := &lab{}
	_, err := Prober{silent}.Probe(step.WithReporter(ctx, func(p step.Progress) {
		last = p
		cancel() // the worker dies after the first probe
	}, nil), probe)
	if !errors.Is(err, context.Canceled) || string(last.State) != "1" || last.Total != 24*60*60 {
		t.Fatalf("progress %+v, error %v", last, err)
	}
	probes := 0
	_, err = Prober{silent}.Probe(step.WithReporter(t.Context(), func(step.Progress) { probes++ }, &last), probe)
	if step.KindOf(err) != step.Unhealthy || probes != 3 {
		t.Errorf("%d probes more, error %v", probes, err)
	}
	last = step.Progress{Done: last.Total, State: []byte("0")}
	if out, err := (Prober{&lab{console: "ready"}}).Probe(step.WithReporter(t.Context(), func(step.Progress) {}, &last), probe); err != nil {
		t.Errorf("at the window's end: %+v, %v", out, err)
	}
}
