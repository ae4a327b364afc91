package mirage

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/morgana-deploy/morgana/image"
	"github.com/morgana-deploy/morgana/need"
	"github.com/morgana-deploy/morgana/step"
	"github.com/morgana-deploy/morgana/tree/treetest"
)

func TestMain(m *testing.M) {
	treetest.Main(m, func(site step.Site) step.Toolchain { return New(site) })
}

// project is a unikernel for the stand-in; see testdata/standin/mirage.
var project = map[string]string{
	"config.ml":    "register \"hello\"\nkey \"net\"\nflag \"no-dhcp\"\nkey \"hello\"\ndefault_network\n",
	"unikernel.ml": "let start () = ()\n",
}

// bench is a host with opam, a root and the switch default in it, which has
// mirage and dune: stand-ins, but make and the kernels are real.
type bench struct {
	*treetest.Bench
	root string // opam's
}

func newBench(t *testing.T) *bench {
	t.Helper()
	need.Tools(t, "make", "gcc", "sh")
	b := &bench{treetest.New(t, Kind), filepath.Join(t.TempDir(), "opam")}
	bin := t.TempDir()
	b.install("opam", bin)
	b.newSwitch("default")
	b.setCurrent("default")
	for name, value := range map[string]string{
		"PATH": bin + ":" + os.Getenv("PATH"), "OPAMROOT": b.root, "OPAMSWITCH": "",
	} {
		t.Setenv(name, value)
	}
	if err := os.Unsetenv("OPAMSWITCH"); err != nil {
		t.Fatal(err)
	}
	return b
}

// install links a stand-in into a folder.
func (b *bench) install(name, folder string) {
	b.Helper()
	file, err := filepath.Abs(filepath.Join("testdata/standin", name))
	if err == nil {
		err = os.MkdirAll(folder, 0o755)
	}
	if err == nil {
		err = os.Symlink(file, filepath.Join(folder, name))
	}
	if err != nil {
		b.Fatal(err)
	}
}

func (b *bench) newSwitch(name string) {
	b.Helper()
	b.install("mirage", filepath.Join(b.root, name, "bin"))
	b.install("dune", filepath.Join(b.root, name, "bin"))
	b.install("kernel.S", filepath.Join(b.root, name))
	b.write(b.packages(name), "dune.3.16.0\nlwt.5.7.0\nocaml.5.2.0\n")
}

// packages is the file of what is installed in a switch.
func (b *bench) packages(name string) string { return filepath.Join(b.root, name, "packages") }

func (b *bench) setCurrent(name string) { b.write(filepath.Join(b.root, "config"), name) }

func (b *bench) write(path, text string) {
	b.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		b.Fatal(err)
	}
}

// builds counts what dune built in a switch.
func (b *bench) builds(name string) int {
	text, _ := os.ReadFile(filepath.Join(b.root, name, "builds"))
	return strings.Count(string(text), "\n")
}

// spec is a deploy to a target of a kind; options are in JSON.
func (b *bench) spec(kind, options string, files map[string]string) step.Spec {
	b.Helper()
	spec := b.Spec(json.RawMessage(options), files)
	spec.Kind = kind
	return spec
}

func (b *bench) deploy(spec step.Spec) (step.Kernel, error) {
	return b.Deploy(b.Context(), New(b.Site), spec)
}

// Every target of mirage, from source to a kernel of the ABIs that package image
// promises for it, with the files that go with it.
func TestTargets(t *testing.T) {
	for target, c := range map[string]struct {
		kind  string // whose default the target is, if any
		files []string
	}{
		"unix":                 {"local", nil},
		"xen":                  {"xen", []string{Manifest, XLIn}},
		"virtio":               {"qemu", []string{Manifest}},
		"hvt":                  {"", []string{Manifest}},
		"spt":                  {"", []string{Manifest}},
		"muen":                 {"", []string{Manifest}},
		"genode":               {"", []string{Manifest}},
		"qubes":                {"", []string{Manifest}},
		"unikraft-qemu":        {"", nil},
		"unikraft-firecracker": {"", nil},
	} {
		t.Run(target, func(t *testing.T) {
			b := newBench(t)
			options := "{}"
			if c.kind == "" {
				c.kind, options = "somewhere", `{"target":"`+target+`"}`
			}
			k, err := b.deploy(b.spec(c.kind, options, project))
			if err != nil {
				t.Fatal(err)
			}
			for _, abi := range image.MirageABIs(target) {
				if !slices.Contains(k.ABIs, abi) {
					t.Errorf("ABIs are %v, without %s", k.ABIs, abi)
				}
			}
			var names []string
			for _, f := range k.Files {
				names = append(names, f.Name)
			}
			if !slices.Equal(names, c.files) {
				t.Errorf("files are %v, want %v", names, c.files)
			}
			if a, ok := step.FileNamed(k.Files, Manifest); ok {
				devices, err := image.ReadManifest([]byte(b.Text(&a)))
				want := 1
				if target == "xen" || target == "qubes" {
					want = 0
				}
				if err != nil || len(devices) != want {
					t.Errorf("manifest has %v (%v)", devices, err)
				}
			}
			if a, ok := step.FileNamed(k.Files, XLIn); ok && !strings.Contains(b.Text(&a), "@NETWORK:0@") {
				t.Errorf("xl.in is %s", b.Text(&a))
			}
			if log := b.Text(k.Log); !strings.Contains(log, "is now ready in dist/hello") {
				t.Errorf("log of build:\n%s", log)
			}
		})
	}
}

func TestConfigureCommand(t *testing.T) {
	b := newBench(t)
	spec := b.spec("qemu", `{"target":"virtio","config":"app/config.ml","keys":{"hello":"a b","net":"direct","no-dhcp":null,"no-depext":null}}`,
		map[string]string{"app/config.ml": project["config.ml"], "app/unikernel.ml": project["unikernel.ml"]})
	tc := New(b.Site)
	src, err := tc.Configure(b.Reporting(t.Context()), spec)
	if err != nil {
		t.Fatal(err)
	}
	log := b.Text(src.Log)
	for _, want := range []string{
		`opam exec -- mirage configure -t virtio -f app/config.ml "--hello=a b" --net=direct --no-depext --no-dhcp` + "\n",
		"opam exec -- make depends\n", "fetch monorepo dependencies",
	} {
		if !strings.Contains(log, want) {
			t.Errorf("configure's log lacks %q:\n%s", want, log)
		}
	}
	const update = "opam update --repositories\n"
	if strings.Contains(log, update) {
		t.Errorf("configure looked for new packages:\n%s", log)
	}
	if _, err := tc.Build(b.Reporting(t.Context()), src); err != nil {
		t.Error(err)
	}
	again := spec
	again.Rebuild = true
	again.Generation++
	src, err = tc.Configure(b.Reporting(t.Context()), again)
	if err != nil || src.Tree == "" || !strings.Contains(b.Text(src.Log), update) {
		t.Errorf("configure of a rebuild: %+v, %v", src, err)
	}
	if _, err := tc.Clean(t.Context(), again); err != nil {
		t.Error(err)
	}
	if gone, err := tc.Clean(t.Context(), spec); err != nil || len(gone.Removed) != 1 {
		t.Errorf("clean: %+v, %v", gone, err)
	}
	b.WantNothing()
}

func TestWithoutDepends(t *testing.T) {
	b := newBench(t)
	_, err := b.deploy(b.spec("qemu", `{"depends":false}`, project))
	_ = treetest.WantError(t, err, step.BuildFailed, "build: opam exec -- make build: exit status 2", `Library "lwt" not found`)
	if _, err := b.deploy(b.spec("qemu", `{"depends":false}`, treetest.With(project, "duniverse/lwt/dune", ""))); err != nil {
		t.Error("with its duniverse:", err)
	}
}

func TestOptionsRefused(t *testing.T) {
	b := newBench(t)
	for _, c := range []struct {
		options, kind, field string
		want                 step.Kind
		text                 string
	}{
		{`{"targt":"hvt"}`, "qemu", "targt", step.InvalidSpec, `did you mean "target"?`},
		{`{"target":"virtoi"}`, "qemu", "target", step.InvalidSpec, `did you mean "virtio"?`},
		{`{}`, "ec2", "target", step.InvalidSpec, "one of genode, hvt"},
		{`{"target":"hvt"}`, "qemu", "target", step.Unsupported, "-t virtio"},
		{`{"target":"xen"}`, "qemu", "target", step.Unsupported, "hang without a word"},
		{`{"keys":{"target":"hvt"}}`, "qemu", "keys.target", step.InvalidSpec, "option target"},
		{`{"keys":{"output":"x"}}`, "qemu", "keys.output", step.InvalidSpec, "store"},
		{`{"keys":{"--net":"host"}}`, "qemu", "keys.--net", step.InvalidSpec, "without dashes"},
		{`{"keys":{"t":"x"}}`, "qemu", "keys.t", step.InvalidSpec, "two letters"},
		{`{"keys":{"net":[1]}}`, "qemu", "keys.net", step.InvalidSpec, "not a key's value"},
		{`{"keys":{"net":"\u0000"}}`, "qemu", "keys.net", step.InvalidSpec, "NUL"},
		{`{"config":"../config.ml"}`, "qemu", "config", step.InvalidSpec, "not inside"},
		{`{"config":"app/config.ml"}`, "qemu", "config", step.InvalidSpec, "the source has no app/config.ml"},
		{`{"switch":"--help"}`, "qemu", "switch", step.InvalidSpec, "opam switch list"},
		{`{"switch":"./"}`, "qemu", "switch", step.InvalidSpec, "absolute"},
		{`{"switch":"a","env":{"OPAMSWITCH":"b"}}`, "qemu", "switch", step.InvalidSpec, "one of them"},
		{`{"env":{"A B":""}}`, "qemu", "env", step.InvalidSpec, "A B"},
		{`{"timeout":"soon"}`, "qemu", "timeout", step.InvalidSpec, "soon"},
	} {
		_, err := b.deploy(b.spec(c.kind, c.options, project))
		if e := treetest.WantError(t, err, c.want, c.text); e.Field != c.field {
			t.Errorf("%s: field is %q, want %q", c.options, e.Field, c.field)
		}
	}
	_, err := b.deploy(b.spec("qemu", `{}`, map[string]string{"main.ml": ""}))
	_ = treetest.WantError(t, err, step.InvalidSpec, "the source has no config.ml")
	if n := b.builds("default"); n != 0 {
		t.Errorf("%d builds", n)
	}
}
