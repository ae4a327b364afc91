package xen

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/morgana-deploy/morgana/step"
)

// wrap puts a script before a tool of the host, until unwrap.
func (b *bench) wrap(tool, script string) (unwrap func()) {
	b.Helper()
	b.dom0(`mkdir -p /usr/local/sbin
		printf '#!/bin/sh\n%s\nexec %s "$@"\n' "$1" "$(command -v "$2")" >"/usr/local/sbin/$2"
		chmod +x "/usr/local/sbin/$2"`, script, tool)
	unwrap = func() {
		if _, err := onDom0(context.Background(), b.l, "rm", "-f", "/usr/local/sbin/"+tool); err != nil {
			b.Error(err)
		}
	}
	b.Cleanup(unwrap)
	return unwrap
}

// A domain that crashed and is kept to be looked at is one that has ended.
func TestCrashedIsNotAdopted(t *testing.T) {
	b := newBench(t)
	img := b.with("crashed", `"args":"crash","expect":"crashing","on_crash":"preserve","timeout":"5m"`)
	r := b.register(img)
	b.boot(r)
	b.dom0(`for i in $(seq 2000); do xl list "$1" | grep -q -- 'c-' && exit; sleep 0.1; done; exit 1`, "crashed.lab.0a1b2c3d-1")
	if m := b.boot(r); !m.Ended || !m.Adopted {
		t.Errorf("booted again: %+v, want it ended", m)
	}
	b.destroy(img.Spec)
}

// The process that reads a console may end before its domain does.
func TestConsoleReaderEnds(t *testing.T) {
	b := newBench(t)
	img := b.with("unread", `"args":"stay","expect":"never printed","timeout":"5m"`)
	r := b.register(img)
	ended := make(chan error, 1)
	go func() {
		_, err := New(b.site).Boot(b.Context(), r)
		ended <- err
	}()
	dir := Root + "/domains/unread.lab.0a1b2c3d-1"
	b.dom0(`for i in $(seq 3000); do [ -e "$1/created" ] && break; sleep 0.1; done; kill "$(cat "$1/console.pid")"`, dir)
	err := <-ended
	if step.KindOf(err) != step.BootFailed || !strings.Contains(err.Error(), "its console is kept no longer") {
		t.Errorf("%v, want BootFailed that says why nothing more came", err)
	}
	// Another process may have the number by now.
	b.dom0(`sleep 1000 >/dev/null 2>&1 & echo $! >"$1/console.pid"`, dir)
	text, err := New(b.site).Console(t.Context(), step.ConsoleFrom{Machine: step.Machine{Registration: r}, Offset: 1 << 20})
	if err != nil || !text.Ended {
		t.Errorf("the console goes on: %+v, %v", text, err)
	}
	b.dom0(`kill "$(cat "$1/console.pid")"`, dir)
	b.destroy(img.Spec)
}

// An xl create goes on when the call it is of, which has the lock, is killed.
func TestCreateOutlivesItsCall(t *testing.T) {
	b := newBench(t)
	img := b.image("orphan")
	r := b.register(img)
	unwrap := b.wrap("xl", `[ "$1" != create ] || [ -e /run/once ] || { touch /run/once; until [ -e /run/go ]; do sleep 0.2; done; }`)
	ended := make(chan error, 1)
	go func() {
		_, err := New(b.site).Boot(b.Context(), r)
		ended <- err
	}()
	b.dom0(`for i in $(seq 3000); do [ -e /run/once ] && break; sleep 0.1; done
		for f in $(grep -lzxF "$1" /proc/[0-9]*/cmdline); do
			! grep -qzxF boot "$f" || { p=${f#/proc/}; kill -9 ${p%/cmdline}; }
		done`, "orphan.lab.0a1b2c3d-1")
	if err := <-ended; err == nil || step.KindOf(err).Final() {
		t.Errorf("a killed call: %v, want an error that is tried again", err)
	}
	m := b.boot(r)
	b.dom0("touch /run/go")
	time.Sleep(5 * time.Second) // what was to be made would be by now
	unwrap()
	b.dom0("rm /run/once /run/go")
	if n := b.dom0(`xl list | grep -c '^orphan\.'`); n != "1" || m.Adopted {
		t.Errorf("%s domains, %+v", n, m)
	}
	b.destroy(img.Spec)
}

// What an xl that is killed leaves may have no name.
func TestXLIsKilled(t *testing.T) {
	b := newBench(t)
	img := b.image("half")
	r := b.register(img)
	uuid := uuidOf("half.lab.0a1b2c3d-1")
	unwrap := b.wrap("xl", `[ "$1" != create ] || { /usr/sbin/xl "$@" & until /usr/sbin/xl list -v | grep -q `+uuid+`; do :; done; kill -9 $!; exit 137; }`)
	if m, err := New(b.site).Boot(t.Context(), r); err == nil || step.KindOf(err).Final() {
		t.Errorf("%+v, %v; want an error that is tried again", m, err)
	}
	unwrap()
	if m := b.boot(r); m.Adopted {
		t.Errorf("adopted %+v", m)
	}
	if n := b.dom0(`xl list -v | grep -c "$1"`, uuid); n != "1" {
		t.Errorf("%s domains have the UUID", n)
	}
	b.destroy(img.Spec)
}

// A domain that listens is asked to shut down, and has the time for it. hello does
// not listen, so a script does so for it, late.
func TestDomainThatShutsDown(t *testing.T) {
	b := newBench(t)
	img := b.image("hears")
	b.boot(b.register(img))
	b.dom0(`at=/local/domain/$(xl domid "$1")
		xenstore-write $at/control/feature-poweroff 1
		(
			until [ "$(xenstore-read $at/control/shutdown)" = poweroff ]; do sleep 0.2; done
			sleep 3
			xenstore-write $at/control/shutdown ""
			sleep 1
			xl domid "$1" && echo its own way >/run/ended
			xl destroy "$1"
		) >/dev/null 2>&1 &`, "hears.lab.0a1b2c3d-1")
	b.destroy(img.Spec)
	if got := b.dom0("cat /run/ended; rm -f /run/ended"); got != "its own way" {
		t.Errorf("the domain was not asked, or not waited for: %q", got)
	}
}

// Check says what a host lacks.
func TestHostsThatLack(t *testing.T) {
	b := newBench(t)
	spec := b.image("lacks").Spec
	bind := func(over string) func() {
		b.dom0(`mount --bind /dev/null "$1"`, over)
		return func() { b.dom0(`umount "$1"`, over) }
	}
	for _, c := range []struct {
		spoil func() (mend func())
		field string
		says  string
	}{
		{func() func() { return bind("/proc/xen/capabilities") }, "host", "is no Xen host: it is a guest of Xen"},
		{func() func() { return b.wrap("xenstore-list", "exit 1") }, "host", "xenstored does not answer"},
		{func() func() { return b.wrap("flock", `case "$*" in *-w*) exit 1 ;; esac`) }, "host", "has no flock -w, of util-linux"},
		{func() func() { return b.wrap("xl", `echo "xl: libxl is not there" >&2; exit 1`) }, "host", "libxl is not there"},
	} {
		mend := c.spoil()
		_, err := New(b.site).Check(t.Context(), spec)
		mend()
		var e *step.Error
		if !errors.As(err, &e) || e.Field != c.field || !e.Kind.Final() || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%v, want %s: %q", err, c.field, c.says)
		}
	}
	spec.Options = options(b.l, `"tool":"xm"`)
	if _, err := New(b.site).Check(t.Context(), spec); step.KindOf(err) != step.Unsupported || !strings.Contains(err.Error(), "has no xm") {
		t.Errorf("%v, want Unsupported", err)
	}
	img := b.image("lacks")
	b.dom0(`mount -t tmpfs -o size=8k none "$1"`, Root)
	_, err := New(b.site).Register(t.Context(), img)
	b.dom0(`umount "$1"`, Root)
	if step.KindOf(err) != step.NoSpace {
		t.Errorf("%v, want NoSpace", err)
	}
}
