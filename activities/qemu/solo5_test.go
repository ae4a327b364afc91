package qemu

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/morgana-deploy/morgana/image"
	"github.com/morgana-deploy/morgana/need"
	"github.com/morgana-deploy/morgana/step"
)

const (
	netService = `{"service",NET,{0}}`
	netUplink  = `{"uplink",NET,{0}}`
	blockData  = `{"data",BLOCK,{0}}`
)

// solo5Bench is a site with the stand-in for a Solo5 virtio kernel in its
// store, linked for devices, a list in C.
func solo5Bench(t *testing.T, devices ...string) *bench {
	t.Helper()
	b := newBench(t)
	b.kernel = b.solo5(devices...)
	return b
}

func (b *bench) solo5(devices ...string) step.Artifact {
	b.Helper()
	path := filepath.Join(b.TempDir(), "kernel")
	for _, args := range [][]string{
		{"gcc", "-m32", "-Wa,--64", "-std=c11", "-O1", "-ffreestanding", "-fno-builtin", "-fno-pic", "-fno-pie",
			"-fno-stack-protector", "-fno-asynchronous-unwind-tables", "-fcf-protection=none", "-mgeneral-regs-only", "-Wall", "-Werror",
			"-DSTATUS=0", "-DDEVICES=" + strings.Join(devices, ","), "-c", "-o", path + ".o", "testdata/solo5.c"},
		{"ld", "-T", "testdata/solo5.ld", "--build-id=none", "--no-warn-rwx-segments", "-o", path, path + ".o"},
	} {
		if out, err := exec.CommandContext(b.Context(), args[0], args[1:]...).CombinedOutput(); err != nil { //nolint:gosec // written here
			b.Fatalf("%s: %v\n%s", args[0], err, out)
		}
	}
	f, err := os.Open(path)
	if err != nil {
		b.Fatal(err)
	}
	a, err := b.site.Store.Put(b.Context(), f)
	if err := errors.Join(err, f.Close()); err != nil {
		b.Fatal(err)
	}
	return a
}

const exited = `solo5_exit\\(0\\) called`

// A Solo5 kernel finds the devices of its manifest, in order, and nothing else.
func TestSolo5Devices(t *testing.T) {
	for _, test := range []struct {
		name    string
		devices []string
		options string
		console []string
	}{
		{"none", nil, ``, nil},
		{"ports alone", []string{netService}, fmt.Sprintf(`,"ports":["%d:80"]`, need.Port(t)), []string{"net service"}},
		{"bound by name", []string{netService, netUplink},
			`,"networks":[{"name":"uplink","mac":"52:54:00:00:00:02"},{"name":"service","mac":"52:54:00:00:00:01"}]`,
			[]string{"net service: 52:54:00:00:00:01", "net uplink: 52:54:00:00:00:02"}},
		{"the rest in order", []string{netService, blockData, netUplink},
			`,"networks":[{"mac":"52:54:00:00:00:02"},{"name":"service","mac":"52:54:00:00:00:01"}],"disks":[{"size":"1MiB"}]`,
			[]string{"net service: 52:54:00:00:00:01", "block data: 2048", "net uplink: 52:54:00:00:00:02"}},
		{"q35", []string{blockData, netService}, `,"machine":"q35","network":"user","disks":[{"name":"data","size":"2MiB"}]`,
			[]string{"block data: 4096", "net service"}},
		{"bios", []string{netService, blockData}, `,"via":"bios","network":"user","disks":[{"size":"1MiB"}]`,
			[]string{"net service", "block data: 2048"}},
		{"bios on q35", []string{blockData}, `,"via":"bios","machine":"q35","disks":[{"size":"1MiB"}]`, []string{"block data: 2048"}},
		{"uefi", []string{netService, blockData}, `,"via":"uefi","memory":256,"network":"user","disks":[{"size":"1MiB"}]`, []string{"net service", "block data: 2048"}},
		{"uefi on q35", []string{netService}, `,"via":"uefi","memory":256,"machine":"q35","network":"user"`, []string{"net service"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			b := solo5Bench(t, test.devices...)
			for _, via := range []string{viaBIOS, viaUEFI} {
				if strings.Contains(test.options, via) {
					needDisk(t, via)
				}
			}
			m := b.boot(b.register(b.spec("solo", 1, `{"expect":"`+exited+`"%s}`, test.options)))
			console := b.console(m)
			if n := strings.Count(console, "net ") + strings.Count(console, "block "); n != len(test.devices) {
				t.Errorf("%d devices, want %d", n, len(test.devices))
			}
			for _, want := range test.console {
				if !strings.Contains(console, want) {
					t.Errorf("no %q in:\n%s", want, console)
				}
			}
		})
	}
}

// The stand-in aborts as the real one does, so TestSolo5Devices would see it.
func TestSolo5AbortsAtOthers(t *testing.T) {
	b := solo5Bench(t, netService)
	other := b.solo5()
	img := b.image(b.spec("extra", 1, `{"network":"user","expect":"`+exited+`"}`))
	for i := range img.Files {
		if img.Files[i].Name == kernelFile {
			img.Files[i].Artifact = other // wants none, gets one
		}
	}
	img.Digest = step.DigestOf(img.Files)
	_, err := New(b.site).Boot(t.Context(), b.registerImage(img))
	if e := detail(err); step.KindOf(err) != step.BootFailed || !strings.Contains(e.Hint, "virtio device not in manifest") {
		t.Errorf("%v\n%s", err, e.Hint)
	}
	if e := detail(err); !strings.Contains(e.Error(), "solo5_abort() called") {
		t.Errorf("%v", err)
	}
}

// The exit status of a Solo5 kernel is text.
func TestSolo5Status(t *testing.T) {
	b := solo5Bench(t)
	for i, test := range []struct{ said, want string }{
		{"Solo5: solo5_exit(0) called\n", ""},
		{"Solo5: solo5_exit(64) called\n", "solo5_exit(64) called"},
		{"carrier: exit status 7\r\n", "exit status 7"},
		{"carrier: exit status 0\r\n", ""},
		{"carrier: exit status 7; the unikernel starts again\r\n", ""},
		{"Solo5: solo5_abort() called\n", "solo5_abort() called"},
	} {
		r := b.register(b.spec("status", i+1, `{}`))
		if err := os.WriteFile(filepath.Join(r.ID, "console.log"), []byte(test.said), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := New(b.site).Boot(t.Context(), r)
		if (err == nil) != (test.want == "") || err != nil && (step.KindOf(err) != step.BootFailed || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%q: %v", test.said, err)
		}
	}
}

// A usage text may hold the words of expect: a kernel that fails is not ready.
func TestSolo5UsageMatches(t *testing.T) {
	for _, expect := range []string{`,"expect":"hello"`, ``} {
		b := solo5Bench(t)
		r := b.register(b.spec("usage", 1, `{"args":"usage"%s}`, expect))
		if m, err := New(b.site).Boot(t.Context(), r); step.KindOf(err) != step.BootFailed || !strings.Contains(err.Error(), "solo5_exit(64) called") {
			t.Errorf("%s: got %+v, %v", expect, m.Ready, err)
		}
	}
}

// Check refuses options without the devices that the source tells of, before the build.
func TestDevicesOfTheSource(t *testing.T) {
	b := newBench(t)
	for _, test := range []struct{ options, field, text, hint string }{
		{`{}`, "networks", `network device "service" is not given`, "networks: [{name: service, kind: user}]"},
		{`{"networks":[{"name":"servise"}]}`, "networks[0].name", `no network device "servise"`, `did you mean "service"?`},
		{`{"network":"user"}`, "disks", `disk device "store" is not given`, "disks: [{name: store"},
		{`{"network":"user","disks":[{"size":"1MiB"}]}`, "", "", ""},
	} {
		spec := b.spec("source", 1, "%s", test.options)
		spec.Origin = step.Origin{ABIs: image.MirageABIs("virtio"), Networks: []string{"service"}, Blocks: []string{"store"}}
		_, err := New(b.site).Check(t.Context(), spec)
		if e := detail(err); (err == nil) != (test.text == "") || err != nil && (e.Kind != step.InvalidSpec || e.Field != test.field || !strings.Contains(e.Error(), test.text) || !strings.Contains(e.Hint, test.hint)) {
			t.Errorf("%s: got %v, hint %q", test.options, err, e.Hint)
		}
	}
}

func TestSolo5Refuses(t *testing.T) {
	b := newBench(t)
	none, both := b.solo5(), b.solo5(netService, blockData)
	for _, test := range []struct {
		kernel                     step.Artifact
		options, field, text, hint string
	}{
		{both, `{}`, "networks", `network device "service" is not given`, "networks: [{name: service, kind: user}]"},
		{both, `{"network":"user"}`, "disks", `disk device "data" is not given`, "service (network), data (disk)"},
		{both, `{"networks":[{"name":"servise"}]}`, "networks[0].name", `no network device "servise"`, `did you mean "service"?`},
		{both, `{"networks":[{"name":"data"}]}`, "networks[0].name", `no network device "data"`, "service (network), data (disk)"},
		{both, `{"networks":[{},{}]}`, "networks[1]", "no network device for it", "service (network)"},
		{both, `{"network":"user","disks":[{"name":"service","size":"1MiB"}]}`, "disks[0].name", `no disk device "service"`, "data (disk)"},
		{none, `{"network":"user"}`, "network", "no network device for it", "the kernel's devices: none"},
		{none, `{"disks":[{"size":"1MiB"}]}`, "disks[0]", "no disk device for it", "none"},
		{none, `{"machine":"microvm"}`, "machine", "not one that is multiboot1", "machine: pc"},
	} {
		_, err := New(b.site).Package(t.Context(), step.Kernel{Spec: b.spec("no", 1, "%s", test.options), File: test.kernel})
		e := detail(err)
		if !slices.Contains([]step.Kind{step.InvalidSpec, step.Unsupported}, e.Kind) || e.Field != test.field ||
			!strings.Contains(e.Error(), test.text) || !strings.Contains(e.Hint, test.hint) {
			t.Errorf("%s: %s %s: %v, hint %q", test.options, e.Kind, e.Field, err, e.Hint)
		}
	}
}
