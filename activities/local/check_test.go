package local

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/morgana-deploy/morgana/image"
	"github.com/morgana-deploy/morgana/step"
)

func TestOptionsRefused(t *testing.T) {
	for _, test := range []struct{ options, field, text, hint string }{
		{`{"networks":[{"nam":"a"}]}`, "networks[0].nam", "unknown field", `"name"`},
		{`{"networks":[{}]}`, "networks[0].name", "no name", "manifest"},
		{`{"networks":[{"name":"a b"}]}`, "networks[0].name", "no name", "manifest"},
		{`{"networks":[{"name":"a"},{"name":"a"}]}`, "networks[1].name", "two networks", ""},
		{`{"networks":[{"name":"a","tap":"tap0"},{"name":"b","tap":"tap0"}]}`, "networks[1].tap", "two networks have the tap tap0", "auto"},
		{`{"networks":[{"name":"a","by":"post"}]}`, "networks[0].by", "not handed over", "name or fd"},
		{`{"networks":[{"name":"a","address":"10.0.0.1"}]}`, "networks[0].address", "no address", "10.0.0.1/24"},
		{`{"networks":[{"name":"a","tap":"a-very-long-name"}]}`, "networks[0].tap", "no name for a device", "at most 15"},
		{`{"networks":[{"name":"a","bridge":"br0","address":"10.0.0.1/24"}]}`, "networks[0].address", "in a bridge", "bridge"},
		{`{"blocks":[{"name":"a"}]}`, "blocks[0]", "one of path and size", "MiB"},
		{`{"blocks":[{"name":"a","path":"/x","size":1}]}`, "blocks[0]", "one of path and size", "MiB"},
		{`{"blocks":[{"name":"a","path":"x"}]}`, "blocks[0].path", "relative", "absolute"},
		{`{"blocks":[{"name":"a","size":-1}]}`, "blocks[0].size", "no size", "MiB"},
		{`{"blocks":[{"name":"a","size":1},{"name":"a","size":1}]}`, "blocks[1].name", "two block devices", ""},
		{`{"blocks":[{"name":"../a","size":1}]}`, "blocks[0].name", "no name", "letters"},
		{`{"args":["{tap:servcie}"],"networks":[{"name":"service"}]}`, "args[0]", "{tap:servcie}", `"service"`},
		{`{"args":["x","--disk={block:a}"]}`, "args[1]", "{block:a}", "there is no block"},
		{`{"args":["a\u0000b"]}`, "args[0]", "NUL", ""},
		{`{"env":{"A=B":"c"}}`, "env", "no name of a variable", "OCAMLRUNPARAM"},
		{`{"env":{"A":"{tap:x}"}}`, "env.A", "{tap:x}", "there is no tap"},
		{`{"expect":"("}`, "expect", "missing closing", "regular expression"},
		{`{"timeout":"soon"}`, "timeout", "no duration", "90s"},
		{`{"timeout":"-1s"}`, "timeout", "no duration", "90s"},
		{`{"memory":-1}`, "memory", "no size", "MiB"},
		{`{"tender":"./solo5-spt"}`, "tender", "relative", "PATH"},
	} {
		b := &bench{T: t, site: step.Site{Host: "testhost", State: t.TempDir()}}
		_, err := b.target().Check(t.Context(), b.spec(test.options))
		if step.KindOf(err) != step.InvalidSpec {
			t.Errorf("%s: got %v", test.options, err)
			continue
		}
		if test.hint != "" {
			wantError(t, err, step.InvalidSpec, test.field, test.text, test.hint)
		} else if !strings.Contains(err.Error(), test.field+": ") || !strings.Contains(err.Error(), test.text) {
			t.Errorf("%s: got %v", test.options, err)
		}
	}
}

// What the kernel says: Check refuses it of a kernel that is there, Package of any.
func TestKernelRefused(t *testing.T) {
	withTenders(t)
	const devices = `"networks":[{"name":"service"}],"blocks":[{"name":"storage","size":1}]`
	for _, test := range []struct {
		kernel, options   string
		kind              step.Kind
		field, text, hint string
	}{
		{spt, `{}`, step.InvalidSpec, "networks", `network device "service" is not given`, "{name: service, tap: auto}"},
		{spt, `{"networks":[{"name":"service"}]}`, step.InvalidSpec, "blocks", `block device "storage" is not given`, "{name: storage, size: 64}"},
		{spt, `{"networks":[{"name":"servcie"}]}`, step.InvalidSpec, "networks[0].name", `no network device "servcie"`, `did you mean "service"?`},
		{spt, `{"networks":[{"name":"storage"}]}`, step.InvalidSpec, "networks[0].name", `no network device "storage"`, "one of service"},
		{sptBare, `{"blocks":[{"name":"a","size":1}]}`, step.InvalidSpec, "blocks[0].name", `no block device "a"`, "there is no block device in the kernel's manifest"},
		{linux, `{"memory":64}`, step.InvalidSpec, "memory", "no meaning", "Linux program"},
		{linux, `{"tender":"solo5-spt"}`, step.InvalidSpec, "tender", "no meaning", "Linux program"},
		{linux, `{"blocks":[{"name":"console.log","size":1}]}`, step.InvalidSpec, "blocks[0].name", `a file "console.log" of its own`, "another name"},
		{linux, `{"blocks":[{"name":"a","size":1},{"name":"block-a","size":1}]}`, step.InvalidSpec, "blocks[1].name", `a file "block-a"`, "another name"},
		{arm, `{}`, step.Unsupported, "", "the kernel is for aarch64", "build it for"},
	} {
		t.Run(test.kernel+test.options, func(t *testing.T) {
			b := newBench(t)
			spec := b.spec(test.options)
			k := b.kernel(test.kernel, spec)
			_, err := b.target().Package(t.Context(), k)
			wantError(t, err, test.kind, test.field, test.text, test.hint)
			spec.Origin = step.Origin{Kernel: &k.File, ABIs: k.ABIs}
			_, err = b.target().Check(t.Context(), spec)
			wantError(t, err, test.kind, test.field, test.text, test.hint)
		})
	}
	b := newBench(t)
	virtio := step.Kernel{Spec: b.spec(`{` + devices + `}`), ABIs: []string{image.Multiboot1, image.Solo5Virtio}}
	_, err := b.target().Package(t.Context(), virtio)
	wantError(t, err, step.Unsupported, "", "has no tender", "kind qemu")
}

// Check refuses options without the devices that the source tells of, before the build.
func TestDevicesOfTheSource(t *testing.T) {
	withTenders(t)
	b := newBench(t)
	spec := b.spec(`{"networks":[{"name":"servcie"}]}`)
	spec.Origin = step.Origin{ABIs: []string{image.Solo5SPT}, Networks: []string{"service"}}
	_, err := b.target().Check(t.Context(), spec)
	wantError(t, err, step.InvalidSpec, "networks[0].name", `no network device "servcie"`, `did you mean "service"?`)
	spec.Options = b.spec(`{}`).Options
	_, err = b.target().Check(t.Context(), spec)
	wantError(t, err, step.InvalidSpec, "networks", `network device "service" is not given`, "{name: service, tap: auto}")
	spec.Origin = step.Origin{ABIs: []string{image.Solo5SPT}, Blocks: []string{"store"}}
	_, err = b.target().Check(t.Context(), spec)
	wantError(t, err, step.InvalidSpec, "blocks", `block device "store" is not given`, "{name: store, size: 64}")
	spec.Origin = step.Origin{ABIs: []string{image.LinuxExecutable}, Networks: []string{"tap0"}} // which the host may have
	if _, err := b.target().Check(t.Context(), spec); err != nil {
		t.Error(told(err))
	}
}

// A plan asks for a kernel that only a deploy puts into the store.
func TestKernelNotStored(t *testing.T) {
	b := newBench(t)
	spec := b.spec(`{}`)
	k := b.kernel(linux, spec)
	k.File.SHA256 = strings.Repeat("0", 64)
	k.File.URI = k.File.URI[:len(k.File.URI)-64] + k.File.SHA256
	spec.Origin = step.Origin{Kernel: &k.File, ABIs: k.ABIs}
	if _, err := b.target().Check(t.Context(), spec); err != nil {
		t.Error(told(err))
	}
}

// A tender that is not in PATH is taken from the opam switch in which the kernel is made.
func TestTenderOfTheSwitch(t *testing.T) {
	root := t.TempDir()
	for _, name := range []string{"default", "five"} {
		if err := errors.Join(os.MkdirAll(filepath.Join(root, name), 0o700), os.Symlink(file(t, tenders), filepath.Join(root, name, "bin"))); err != nil {
			t.Fatal(err)
		}
	}
	// opam var says nothing of a switch that is not there, and fails.
	opam := "#!/bin/sh\ns=default\nfor a; do case $a in --switch=*) s=${a#*=} ;; esac; done\n" +
		"[ \"$1\" = var ] && [ -d \"" + root + "/$s\" ] || exit 5\necho \"" + root + "/$s/bin\"\n"
	bin := t.TempDir()
	if err := os.WriteFile(filepath.Join(bin, "opam"), []byte(opam), 0o700); err != nil { //nolint:gosec // a program
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	b := newBench(t)
	for options, want := range map[string]string{"": "default", `{"switch":"five"}`: "five", `{"switch":"six"}`: ""} {
		s, err := complete(b.spec(`{}`).Options)
		if err != nil {
			t.Fatal(err)
		}
		s.ABI = image.Solo5SPT
		path, err := s.tender(t.Context(), step.Recipe{Kind: "mirage", Options: json.RawMessage(options)})
		if want == "" {
			wantError(t, step.During("check", err), step.Unsupported, "tender", "opam switch", "opam install solo5")
		} else if err != nil || path != filepath.Join(root, want, "bin/solo5-spt") {
			t.Errorf("%s: found %s, %v", options, path, err)
		}
	}
	for _, n := range New(step.Site{}).Needs(t.Context()) {
		if n.What == image.Solo5SPT && n.Found != filepath.Join(root, "default/bin/solo5-spt") {
			t.Errorf("doctor: %+v", n)
		}
	}
}

// A tender that is none, or another kernel's, is refused before anything starts
// where the host is known: by Check of a kernel that is there, by Package else.
func TestTenderRefused(t *testing.T) {
	withTenders(t)
	folder := t.TempDir()
	script := func(name, text string) string {
		path := filepath.Join(folder, name)
		if err := os.WriteFile(path, []byte(text), 0o700); err != nil { //nolint:gosec // a program
			t.Fatal(err)
		}
		return path
	}
	renamed := script("my tender", "#!/bin/sh\nexec solo5-hvt \"$@\"\n")
	old := script("old", "#!/bin/sh\necho 'usage: old [ CORE OPTIONS ] [ MODULE OPTIONS ] [ -- ] KERNEL [ ARGS ]' >&2\nexit 1\n")
	for _, test := range []struct{ tender, text, hint string }{
		{"solo5-spt", "", ""},
		{file(t, tenderOf), "", ""},
		{old, "", ""},
		{"/bin/true", "/bin/true is no Solo5 tender", "solo5-spt"},
		{"cat", "/cat is no Solo5 tender", "the kernel wants that one"},
		{script("broken", "no program"), "is no Solo5 tender", "solo5-spt"},
		{"solo5-hvt", "is a solo5-hvt, and the kernel is for solo5-spt", "name a solo5-spt"},
		{renamed, "is a solo5-hvt, and the kernel is for solo5-spt", "name a solo5-spt"},
	} {
		t.Run(test.tender, func(t *testing.T) {
			b := newBench(t)
			given := Defaults()
			given.Tender = test.tender
			options, err := json.Marshal(given)
			if err != nil {
				t.Fatal(err)
			}
			spec := b.spec(string(options))
			spec.Host = b.site.Host
			k := b.kernel(sptBare, spec)
			_, errPackage := b.target().Package(t.Context(), k)
			spec.Origin = step.Origin{Kernel: &k.File, ABIs: k.ABIs}
			_, errCheck := b.target().Check(t.Context(), spec)
			for _, err := range []error{errPackage, errCheck} {
				if test.text != "" {
					wantError(t, err, step.InvalidSpec, "tender", test.text, test.hint)
				} else if err != nil {
					t.Error(told(err))
				}
			}
		})
	}
	b := newBench(t)
	_, err := b.target().Check(t.Context(), b.spec(`{"tender":"/bin/true"}`)) // of a kernel to be built
	wantError(t, err, step.InvalidSpec, "tender", "is no Solo5 tender", "solo5-spt or solo5-hvt")
}

// Two block devices are two files, under whatever name, and one machine's.
func TestBlockFiles(t *testing.T) {
	b := newBench(t)
	folder := t.TempDir()
	disk, link := filepath.Join(folder, "disk"), filepath.Join(folder, "link")
	if err := errors.Join(os.WriteFile(disk, make([]byte, 512), 0o600), os.Symlink(disk, link)); err != nil {
		t.Fatal(err)
	}
	_, err := b.target().Check(t.Context(), b.spec(`{"blocks":[{"name":"a","path":"`+disk+`"},{"name":"b","size":1},{"name":"c","path":"`+link+`"}]}`))
	wantError(t, err, step.InvalidSpec, "blocks[2].path", link+" is the file of blocks[0].path too", "another file")
	one := b.spec(`{"args":["hello","stay"],"expect":"hello","blocks":[{"name":"a","path":"` + disk + `"}]}`)
	b.boot(b.register(linux, one))
	other := one
	other.Target, other.Options = "other", []byte(strings.ReplaceAll(string(one.Options), disk, link))
	_, err = b.target().Check(t.Context(), other)
	wantError(t, err, step.Conflict, "blocks[0].path", "the running machine localtest.dev."+life+"-1 has "+link, "morgana destroy localtest/dev")
	next := one
	next.Generation++
	if _, err := b.target().Check(t.Context(), next); err != nil {
		t.Errorf("the next generation's check: %v", err)
	}
	b.refused(b.register(linux, next), step.Conflict, "has "+disk, "destroy")
}

// What the host lacks.
func TestHostRefused(t *testing.T) {
	b := newBench(t)
	folder := t.TempDir()
	odd := filepath.Join(folder, "odd")
	if err := os.WriteFile(odd, make([]byte, 700), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		options           string
		abis              []string
		kind              step.Kind
		field, text, hint string
	}{
		{`{}`, []string{image.Solo5SPT}, step.Unsupported, "tender", "solo5-spt is neither in the worker's PATH nor in its opam switch", "opam install solo5"},
		{`{"tender":"solo5-spt-debug"}`, nil, step.Unsupported, "tender", "solo5-spt-debug is neither in the worker's PATH nor in its opam switch", "opam install solo5"},
		{`{"tender":"/nonexistent/solo5-spt"}`, nil, step.Unsupported, "tender", "/nonexistent/solo5-spt: no such file", "opam install solo5"},
		{`{"blocks":[{"name":"a","path":"` + folder + `/none"}]}`, nil, step.NotFound, "blocks[0].path", "this host has no " + folder + "/none", "give a size"},
		{`{"blocks":[{"name":"a","path":"` + folder + `"}]}`, nil, step.InvalidSpec, "blocks[0].path", "neither a file nor a block device", "file"},
		{`{"blocks":[{"name":"a","path":"/dev/null"}]}`, nil, step.InvalidSpec, "blocks[0].path", "neither a file nor a block device", "file"},
		{`{"blocks":[{"name":"a","path":"` + odd + `"}]}`, nil, step.InvalidSpec, "blocks[0].path", "has 700 bytes", "truncate -s %512"},
		{`{"networks":[{"name":"a","bridge":"mgnobridge"}]}`, nil, step.NotFound, "networks[0].bridge", "no bridge mgnobridge", "ip link"},
		{`{"networks":[{"name":"a","tap":"lo"}]}`, nil, step.InvalidSpec, "networks[0].tap", "lo is a device of type", "tap device"},
	} {
		spec := b.spec(test.options)
		spec.Origin.ABIs = test.abis
		_, err := b.target().Check(t.Context(), spec)
		wantError(t, err, test.kind, test.field, test.text, test.hint)
	}
}

func TestCheckCompletes(t *testing.T) {
	b := newBench(t)
	spec, err := b.target().Check(t.Context(), b.spec(`{"networks":[{"name":"service"}]}`))
	if err != nil {
		t.Fatal(told(err))
	}
	var o Options
	if err := json.Unmarshal(spec.Options, &o); err != nil || o.Timeout != "60s" || o.Networks[0].Tap != "auto" || o.Networks[0].By != "name" || spec.Host != "testhost" {
		t.Errorf("got %s on %s (%v)", spec.Options, spec.Host, err)
	}
}

func TestNeeds(t *testing.T) {
	withTenders(t)
	found := map[string]string{}
	for _, n := range New(step.Site{}).Needs(t.Context()) {
		if n.For == "" || (n.Found == "") != (n.Fix != "") {
			t.Errorf("%+v", n)
		}
		found[n.What] = n.Found
	}
	if found["solo5-spt"] != file(t, tenderOf) {
		t.Errorf("got %q", found)
	}
	for _, what := range []string{"/dev/net/tun", "CAP_NET_ADMIN", "solo5-hvt", "KVM"} {
		if _, ok := found[what]; !ok {
			t.Errorf("%s is not told", what)
		}
	}
}

// Defaults are Check's: a later stage that has not all options has none of its own.
func TestOnlyCheckKnowsDefaults(t *testing.T) {
	for _, options := range []string{`{}`, `{"timeout":"60s","networks":[{"name":"service"}]}`} {
		if s, err := readOptions(json.RawMessage(options)); step.KindOf(err) != step.InvalidSpec {
			t.Errorf("%s: got %+v, %v", options, s.Options, err)
		}
		if _, err := complete(json.RawMessage(options)); err != nil {
			t.Errorf("%s: %v", options, err)
		}
	}
}
