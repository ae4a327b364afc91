package qemu

import (
	"fmt"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/morgana-deploy/morgana/need"
	"github.com/morgana-deploy/morgana/step"
)

// The guest here has a network: see testdata/answer.c.

func TestExpectPort(t *testing.T) {
	b := benchOf(t, &answeringHello)
	port := need.Port(t)
	for _, test := range []struct{ options, ready, addresses string }{
		{`{"expectPort":80}`, "port 80 answered", "[]"},
		{`{"expectPort":80,"expect":"listening"}`, `console matched "listening", port 80 answered`, "[]"},
		{fmt.Sprintf(`{"expectPort":80,"ports":["%d:80"]}`, port), "port 80 answered", fmt.Sprintf("[127.0.0.1:%d]", port)},
	} {
		r := b.register(b.spec("net", 1, "%s", test.options))
		m := b.boot(r)
		if m.Ready != test.ready || fmt.Sprint(m.Addresses) != test.addresses {
			t.Errorf("%s: ready %q at %s", test.options, m.Ready, m.Addresses)
		}
		// The forward it was asked through is gone; what was wanted is there.
		on, err := New(b.site).machines.Of(r.Spec.Tags)
		if err != nil {
			t.Fatal(err)
		}
		rows, err := guest{on}.usernet(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var listening []string
		for _, r := range rows {
			if r.listens() {
				listening = append(listening, r.forward.host.String())
			}
		}
		if fmt.Sprint(listening) != test.addresses {
			t.Errorf("%s: forwards %s, want %s", test.options, listening, test.addresses)
		}
		if again := b.boot(r); !again.Adopted || again.Ready != test.ready {
			t.Errorf("%s: booted again: %+v", test.options, again)
		}
		for _, address := range m.Addresses {
			if got := ask(t, address.String()); got != "answered\n" {
				t.Errorf("%s says %q", address, got)
			}
		}
		b.destroy(r.Spec)
	}
}

func ask(t *testing.T, address string) string {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(c)
	if err != nil {
		t.Error(err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	return string(got)
}

// QEMU accepts a connection whatever the guest does. A guest that refuses it
// or does not answer is not ready.
func TestExpectPortUnanswered(t *testing.T) {
	b := benchOf(t, &answeringHello)
	for i, args := range []string{"refuse", "mute"} {
		r := b.register(b.spec("net", i+1, `{"args":"%s","expect":"listening","expectPort":80,"timeout":"1s"}`, args))
		err := b.late(r, "listening")
		if step.KindOf(err) != step.BootFailed || !strings.Contains(err.Error(), "port 80 did not answer") {
			t.Errorf("%s: %v", args, err)
		}
	}
}
