package qemu

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/morgana-deploy/morgana/machine"
	"github.com/morgana-deploy/morgana/need"
	"github.com/morgana-deploy/morgana/step"
)

func TestDisks(t *testing.T) {
	b := newBench(t)
	data := filepath.Join(t.TempDir(), "with, a comma.img")
	if err := os.WriteFile(data, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	const options = `{"args":"stay","expect":"staying","disks":[{"path":%q,"name":"data"%s},{"size":"1GiB"}]}`
	r := b.register(b.spec("disks", 1, options, data, ""))
	b.boot(r)
	var stat syscall.Stat_t
	if err := syscall.Stat(filepath.Join(r.ID, dataDisk(1)), &stat); err != nil || stat.Size != 1<<30 || stat.Blocks != 0 {
		t.Errorf("the new disk has %d bytes in %d blocks, %v", stat.Size, stat.Blocks, err)
	}
	// Another target may not write to it while this one does, nor read.
	for _, more := range []string{"", `,"readonly":true`} {
		spec := b.spec("other", 1, options, data, more)
		_, err := New(b.site).Check(t.Context(), spec)
		if e := detail(err); e.Kind != step.Conflict || e.Field != "disks[0].path" || !strings.Contains(e.Error(), "disks.dev.00c0ffee-1") {
			t.Errorf("check of another machine with the disk: %v", err)
		}
	}
	// The next generation passes Check, for nothing may have changed, and is
	// told at boot.
	next := b.register(b.spec("disks", 2, options, data, ""))
	if _, err := New(b.site).Boot(t.Context(), next); step.KindOf(err) != step.Conflict {
		t.Errorf("boot of the next generation: %v", err)
	}
	b.destroy(r.Spec)
	b.boot(next)
	b.destroy(next.Spec)
	// Machines may read it together.
	for i := range 2 {
		b.boot(b.register(b.spec(fmt.Sprintf("reader%d", i), 1, options, data, `,"readonly":true`)))
	}
	if _, err := os.Stat(data); err != nil {
		t.Errorf("destroy took the disk: %v", err)
	}
}

func TestDisksThatAreNot(t *testing.T) {
	b := newBench(t)
	dir := t.TempDir()
	for name, content := range map[string]string{"empty": "", "image.qcow2": "QFI\xfb and more"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range []struct {
		path string
		kind step.Kind
		text string
	}{
		{dir, step.InvalidSpec, "neither a file nor a block device"},
		{filepath.Join(dir, "none"), step.NotFound, "this host has no"},
		{filepath.Join(dir, "empty"), step.InvalidSpec, "is empty"},
		{filepath.Join(dir, "image.qcow2"), step.InvalidSpec, "not a raw one"},
	} {
		_, err := New(b.site).Check(t.Context(), b.spec("not", 1, `{"disks":[{"size":"1MiB"},{"path":%q}]}`, test.path))
		if e := detail(err); e.Kind != test.kind || e.Field != "disks[1].path" || !strings.Contains(e.Error(), test.text) || e.Hint == "" {
			t.Errorf("%s: %s %v, hint %q", test.path, e.Kind, err, e.Hint)
		}
	}
}

func needTaps(t *testing.T) {
	t.Helper()
	for _, n := range machine.TapNeeds() {
		if n.Found == "" {
			need.Nil(t, errors.New(n.What+": "+n.Why))
		}
	}
}

// interfaces lists this host's, by the kernel's own list.
func interfaces(t *testing.T) []string {
	t.Helper()
	entries, err := os.ReadDir("/sys/class/net")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// taps are those of the machine that are there.
func taps(t *testing.T, tags step.Tags, n int) (names []string) {
	t.Helper()
	all := interfaces(t)
	for i := range n {
		if name := (machine.TapConfig{Tags: tags, Index: i}).Interface(); slices.Contains(all, name) {
			names = append(names, name)
		}
	}
	return names
}

// bridge makes one for a test.
func bridge(t *testing.T) string {
	t.Helper()
	needTaps(t)
	name := fmt.Sprintf("mgq%d", os.Getpid())
	link := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: name}}
	if err := netlink.LinkAdd(link); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := netlink.LinkDel(link); err != nil {
			t.Error(err)
		}
	})
	return name
}

// A machine's taps are there as long as its QEMU, whatever that ends by.
func TestTaps(t *testing.T) {
	br := bridge(t)
	b := newBench(t)
	spec := b.spec("taps", 1, `{"args":"stay","expect":"staying","networks":[{"bridge":%q},{"kind":"user"},{"address":"192.0.2.1/30"}]}`, br)
	r := b.register(spec)
	gone := func(after string) {
		t.Helper()
		eventually(t, "the taps are gone after "+after, func() bool { return len(taps(t, spec.Tags, 3)) == 0 })
	}
	b.boot(r)
	up := taps(t, spec.Tags, 3)
	if len(up) != 2 {
		t.Fatalf("taps %q of %q", up, interfaces(t))
	}
	if _, err := os.Stat(filepath.Join("/sys/class/net", br, "brif", up[0])); err != nil {
		t.Errorf("the first is not in the bridge: %v", err)
	}
	line := cmdline(t, b.pid(r))
	for _, want := range []string{"tap,id=n1,fd=4\x00", "user,id=n0\x00", "tap,id=n2,fd=5\x00"} {
		if !strings.Contains(line, want) {
			t.Errorf("no %q in %q", want, line)
		}
	}
	if err := syscall.Kill(b.pid(r), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	gone("kill -9")
	b.boot(r)
	if len(taps(t, spec.Tags, 3)) != 2 {
		t.Error("started again without its taps")
	}
	b.destroy(spec)
	gone("destroy")

	// QEMU refuses to start, then a machine that never gets ready.
	for _, options := range []string{
		`{"cpu":"max,nope=on","bridge":%q}`,
		`{"args":"once","expect":"never","bridge":%q}`,
	} {
		spec := b.spec("taps", 1, options, br)
		if _, err := New(b.site).Boot(t.Context(), b.register(spec)); step.KindOf(err) != step.BootFailed {
			t.Errorf("%s: %v", options, err)
		}
		b.destroy(spec)
		gone("a failed boot")
	}
}

// The machine before has its tap open, which is known only when a changed one
// boots: an unchanged deploy keeps the machine.
func TestTapOfTheMachineBefore(t *testing.T) {
	needTaps(t)
	name := fmt.Sprintf("mgqt%d", os.Getpid())
	tap := &netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: name}, Mode: netlink.TUNTAP_MODE_TAP, Flags: netlink.TUNTAP_NO_PI}
	if err := netlink.LinkAdd(tap); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := netlink.LinkDel(tap); err != nil {
			t.Error(err)
		}
	})
	b := newBench(t)
	options := `{"args":"stay","expect":"staying","networks":[{"kind":"tap","tap":"` + name + `"}]}`
	b.boot(b.register(b.spec("before", 1, "%s", options)))
	next := b.spec("before", 2, "%s", options)
	if _, err := New(b.site).Check(t.Context(), next); err != nil {
		t.Errorf("check: %v", err)
	}
	_, err := New(b.site).Boot(t.Context(), b.register(next))
	if e := detail(err); e.Kind != step.Conflict || e.Field != "networks[0].tap" || !strings.HasPrefix(e.Hint, "morgana destroy ") {
		t.Errorf("boot: %v, hint %q", err, e.Hint)
	}
}

func TestTapsThatCannotBe(t *testing.T) {
	needTaps(t)
	b := newBench(t)
	for _, test := range []struct {
		options, field string
		kind           step.Kind
		text           string
	}{
		{`{"bridge":"nobridge0"}`, "bridge", step.NotFound, "no bridge nobridge0"},
		{`{"networks":[{"kind":"user"},{"bridge":"nobridge0"}]}`, "networks[1].bridge", step.NotFound, "no bridge nobridge0"},
		{`{"bridge":"lo"}`, "bridge", step.InvalidSpec, "lo is a device"},
		{`{"networks":[{"tap":"lo"}]}`, "networks[0].tap", step.InvalidSpec, "lo"},
		{`{"networks":[{"tap":"a/b"}]}`, "networks[0].tap", step.InvalidSpec, "no name for a device"},
	} {
		_, err := New(b.site).Check(t.Context(), b.spec("not", 1, "%s", test.options))
		if e := detail(err); e.Kind != test.kind || e.Field != test.field || !strings.Contains(e.Error(), test.text) || e.Hint == "" {
			t.Errorf("%s: %s %s: %v, hint %q", test.options, e.Kind, e.Field, err, e.Hint)
		}
	}
}

// A worker that may not make taps says so in one line, before any build.
func TestTapsWithoutPermission(t *testing.T) {
	needTaps(t)
	b := newBench(t)
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with its rights
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var none [2]unix.CapUserData
		if err := unix.Capset(&header, &none[0]); err != nil {
			done <- err
			return
		}
		s, err := complete([]byte(`{"network":"tap"}`))
		if err == nil {
			err = s.checkTaps(New(b.site).machines, b.spec("no", 1, `{}`).Tags)
		}
		done <- err
	}()
	err := <-done
	if e := detail(err); e.Kind != step.Unauthorized || e.Field != "network" || e.Hint == "" || strings.Contains(err.Error(), "\n") {
		t.Errorf("%s %s: %v, hint %q", e.Kind, e.Field, err, e.Hint)
	}
}

func TestFirmware(t *testing.T) {
	dir := t.TempDir()
	code := filepath.Join(dir, "MY_CODE.fd")
	if err := os.WriteFile(code, []byte("code"), 0o600); err != nil {
		t.Fatal(err)
	}
	if f, err := findFirmware(code); err != nil || f != (firmware{code: code}) {
		t.Errorf("without variables: %+v, %v", f, err)
	}
	vars := filepath.Join(dir, "MY_VARS.fd")
	if err := os.WriteFile(vars, []byte("vars"), 0o600); err != nil {
		t.Fatal(err)
	}
	if f, err := findFirmware(code); err != nil || f != (firmware{code, vars}) {
		t.Errorf("with variables: %+v, %v", f, err)
	}
	hint := "correct the path"
	if f, err := findFirmware(""); err == nil {
		hint = "this host has " + f.code
	}
	for path, want := range map[string]struct {
		kind step.Kind
		text string
	}{
		filepath.Join(dir, "none"): {step.NotFound, "firmware: this host has no " + dir},
		dir:                        {step.InvalidSpec, "firmware: the worker cannot read " + dir + ": is a directory"},
		code + "/x":                {step.InvalidSpec, "firmware: the worker cannot read " + code + "/x: not a directory"},
	} {
		_, err := findFirmware(path)
		if e := detail(err); e.Kind != want.kind || !strings.HasPrefix(e.Error(), want.text) || !strings.Contains(e.Hint, hint) {
			t.Errorf("%s: %s %v, hint %q", path, e.Kind, err, e.Hint)
		}
	}
}

// What a disk is made with is looked for before any build.
func TestDiskToolsMissing(t *testing.T) {
	b := newBench(t)
	program, err := exec.LookPath(defaultQEMU)
	if err != nil {
		t.Fatal(err)
	}
	bin := t.TempDir()
	if err := os.Symlink(program, filepath.Join(bin, defaultQEMU)); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin)
	_, err = New(b.site).Check(t.Context(), b.spec("tools", 1, `{"via":"bios","expect":"x"}`))
	if e := detail(err); e.Kind != step.Unsupported || e.Field != "via" || !strings.Contains(e.Hint, "apt-get install") {
		t.Errorf("%s %s: %v, hint %q", e.Kind, e.Field, err, e.Hint)
	}
}

// A worker that is killed while it packages leaves what the next one, or
// destroy, removes.
func TestKilledPackaging(t *testing.T) {
	b := newBench(t)
	for _, clean := range []func(step.Spec){
		func(spec step.Spec) { b.image(spec) },
		func(spec step.Spec) { b.destroy(spec) },
	} {
		spec := b.spec("scratch", 1, `{}`)
		left := filepath.Join(New(b.site).machines.Root(), ".scratch.dev.00c0ffee-1.123")
		if err := os.MkdirAll(left, 0o700); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"lock", "disk.raw"} { // as a crash leaves them: the lock is nobody's
			if err := os.WriteFile(filepath.Join(left, name), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		clean(spec)
		if _, err := os.Stat(left); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is still there (%v)", left, err)
		}
	}
}
