package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"

	"github.com/morgana-deploy/morgana/config"
	"github.com/morgana-deploy/morgana/docs"
)

// notes are the ELF notes of kernels that one kind of target boots.
var notes = map[string]string{
	"pv":   `.long 4, 8, 5; .asciz "Xen"; .asciz "xen-3.0"; .long 4, 8, 8; .asciz "Xen"; .asciz "generic"`,
	"hvt":  `.long 6, 16, 0x31494241; .asciz "Solo5"; .balign 4; .long 1, 1, 0, 0`,
	"spt":  `.long 6, 16, 0x31494241; .asciz "Solo5"; .balign 4; .long 2, 1, 0, 0`,
	"muen": `.long 6, 16, 0x31494241; .asciz "Solo5"; .balign 4; .long 4, 1, 0, 0`,
}

// The target that init writes boots the kernel that it was given.
func TestInitKind(t *testing.T) {
	hello := buildHello(t) // boots on QEMU and Xen
	inFolder(t, map[string]string{"hello": string(hello), "hello.xen": string(hello), "none.xen": "no kernel"})
	for name, note := range notes {
		source := ".section .note.x, \"a\", @note\n" + note + "\n.text\n.globl _start\n_start: hlt\n"
		cc := exec.CommandContext(t.Context(), "cc", "-nostdlib", "-static", "-no-pie", "-Wl,--build-id=none", "-o", name, "-x", "assembler", "-")
		cc.Stdin = strings.NewReader(source)
		if out, err := cc.CombinedOutput(); err != nil {
			t.Fatalf("cc: %v\n%s", err, out)
		}
	}
	// The bytes win over a name.
	if err := errors.Join(os.Symlink("pv", "pv.spt"), os.Symlink("/bin/true", "program"), os.Symlink("spt", "web.spt")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir("web", 0o755); err != nil {
		t.Fatal(err)
	}
	for kernel, want := range map[string]string{
		"": "qemu", "hello": "qemu", "hello.xen": "xen", "pv": "xen", "pv.spt": "xen", "none.xen": "xen", "hvt": "local", "web.spt": "local",
		"program": "local", "muen": "qemu", "dist/web.xen": "xen", "dist/web": "qemu", "dist/web.hvt": "local", "dist/web.virtio": "qemu",
	} {
		args := []string{"init", "--force", "web"}
		if kernel != "" {
			args = append(args, "--kernel", kernel)
		}
		if status, _, errOut := morgana(t, args...); status != 0 {
			t.Fatalf("%q: exit %d, %s", kernel, status, errOut)
		}
		path := filepath.Join("web", config.Filename)
		validate(t, path)
		p, err := config.Load(path, nil)
		if err != nil || p.Targets[0].Kind != want {
			t.Errorf("%q: %+v, %v, want kind %s", kernel, p, err, want)
		}
	}
}

// A kernel and a worker of the kind may come later, so init only says that they lack.
func TestInitSaysWhatLacks(t *testing.T) {
	inFolder(t, map[string]string{"there": "a kernel"})
	for args, want := range map[string]string{
		"--kernel none":  "none does not exist: build it",
		"--kernel there": "",
		"--kind ec3":     `kind ec3 is not one of Morgana's own (did you mean "ec2"?)`,
		"--kind acme":    "(one of ec2, local, qemu, xen, xenserver): a worker of yours",
		"--kind ec2":     "",
	} {
		status, _, errOut := morgana(t, append([]string{"init", "--force"}, strings.Fields(args)...)...)
		if status != 0 || !strings.Contains(errOut, want) || want == "" && strings.Count(errOut, "\n") != 1 {
			t.Errorf("%s: exit %d, said %q, want %q", args, status, errOut, want)
		}
	}
}

// The options that init writes for a Solo5 kernel fit its manifest, so the first deploy works.
func TestInitOfSolo5Kernel(t *testing.T) {
	sources, err := filepath.Abs("../activities")
	if err != nil {
		t.Fatal(err)
	}
	inFolder(t, nil)
	gcc := func(name string, args ...string) {
		t.Helper()
		if out, err := exec.CommandContext(t.Context(), "gcc", append(args, "-o", name)...).CombinedOutput(); err != nil {
			t.Fatalf("gcc: %v\n%s", err, out)
		}
	}
	bare := []string{"-nostdlib", "-static", "-no-pie", "-Wl,--build-id=none"}
	gcc("spt", append(bare, "-DTARGET=2", "-DDEVICES=2", sources+"/local/testdata/kernel.S")...)
	gcc("virtio.o", "-m32", "-Wa,--64", "-std=c11", "-O1", "-ffreestanding", "-fno-pic", "-fno-stack-protector", "-fno-asynchronous-unwind-tables",
		"-mgeneral-regs-only", "-DSTATUS=0", `-DDEVICES={"service",NET,{0}},{"storage",BLOCK,{0}}`, "-c", sources+"/qemu/testdata/solo5.c")
	gcc("web.virtio", append(bare, "-T", sources+"/qemu/testdata/solo5.ld", "virtio.o")...)
	for kernel, want := range map[string]string{
		"spt":        `{"networks":[{"address":"10.0.0.1/24","name":"service"}],"blocks":[{"name":"storage","size":64}]}`,
		"web.virtio": `{"memory":256,"networks":[{"kind":"user","name":"service"}],"disks":[{"name":"storage","size":"64MiB"}]}`,
	} {
		if status, _, errOut := morgana(t, "init", "--force", "--kernel", kernel); status != 0 {
			t.Fatalf("%s: exit %d, %s", kernel, status, errOut)
		}
		validate(t, config.Filename)
		wantOptions(t, kernel, want)
	}
}

func TestInitOfMirage(t *testing.T) {
	inFolder(t, map[string]string{"config.ml": "(* MirageOS *)\nopen Mirage\n\nlet main = main \"Unikernel.Main\" job\nlet () = register \"hello\" [ main ]\n"})
	for kind, want := range map[string]string{"qemu": `{"memory":256}`, "xen": `{"memory":256}`, "local": `null`} {
		if status, _, errOut := morgana(t, "init", "--force", "--kind", kind); status != 0 {
			t.Fatalf("exit %d, %s", status, errOut)
		}
		validate(t, config.Filename)
		if p := wantOptions(t, kind, want); p.Toolchain.Kind != "mirage" || p.Source == "" {
			t.Errorf("%s: got %+v", kind, p)
		}
	}
	if err := os.WriteFile("config.ml", []byte("open Mirage\nlet () = register \"hello\" [ main $ generic_stackv4v6 default_network $ block_of_file \"store\" ]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for kind, want := range map[string]string{"qemu": `{"memory":256,"networks":[{"name":"service","kind":"user"}],"disks":[{"name":"store","size":"64MiB"}]}`,
		"xen": `{"memory":256,"vif":[{"name":"0","bridge":"xenbr0"}]}`, "local": `{"blocks":[{"name":"store","size":64}]}`} {
		if status, _, errOut := morgana(t, "init", "--force", "--kind", kind); status != 0 {
			t.Fatalf("exit %d, %s", status, errOut)
		}
		validate(t, config.Filename)
		wantOptions(t, kind, want)
	}
	if err := os.WriteFile("config.ml", []byte("let words = [\"Mirage\"]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if status, _, errOut := morgana(t, "init", "--force"); status != 0 {
		t.Fatalf("exit %d, %s", status, errOut)
	}
	if p, err := config.Load(config.Filename, nil); err != nil || p.Toolchain.Kind != "command" {
		t.Errorf("another config.ml: got %+v, %v", p, err)
	}
}

// wantOptions sees to it that the only target of the morgana.yaml has these options.
func wantOptions(t *testing.T, name, want string) *config.Project {
	t.Helper()
	p, err := config.Load(config.Filename, nil)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	options := string(p.Targets[0].Options)
	if options == "" {
		options = "null"
	}
	var got, wanted any
	if err := errors.Join(json.Unmarshal([]byte(options), &got), json.Unmarshal([]byte(want), &wanted)); err != nil || !reflect.DeepEqual(got, wanted) {
		t.Errorf("%s: got options %s, want %s (%v)", name, options, want, err)
	}
	return p
}

func TestInitKindGiven(t *testing.T) {
	inFolder(t, map[string]string{"hello.xen": "no kernel"})
	if status, _, errOut := morgana(t, "init", "--app", "web", "--kernel", "hello.xen", "--kind", "ec2"); status != 0 {
		t.Fatalf("exit %d, %s", status, errOut)
	}
	validate(t, config.Filename)
	p, err := config.Load(config.Filename, nil)
	if err != nil || p.Targets[0].Kind != "ec2" || !strings.Contains(string(p.Targets[0].Options), "eu-west-1") {
		t.Errorf("got %+v, %v", p, err)
	}
	if status, _, errOut := morgana(t, "init", "--force", "--app", "web", "--kind", "EC2"); status != 2 || !strings.Contains(errOut, "--kind") {
		t.Errorf("a kind that is no name: exit %d, %s", status, errOut)
	}
}

// validate sees to it that the schema takes a morgana.yaml.
func validate(t *testing.T, path string) {
	t.Helper()
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(docs.Schema))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("morgana.schema.json", document); err != nil {
		t.Fatal(err)
	}
	schema, err := c.Compile("morgana.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var values any
	if err := yaml.Unmarshal(content, &values); err != nil {
		t.Fatal(err)
	}
	asJSON, err := json.Marshal(values)
	if err != nil {
		t.Fatal(err)
	}
	if values, err = jsonschema.UnmarshalJSON(bytes.NewReader(asJSON)); err != nil {
		t.Fatal(err)
	}
	if err := schema.Validate(values); err != nil {
		t.Errorf("the schema refuses it: %v\n%s", err, content)
	}
}

// buildHello gives the kernel of examples/hello, built in a folder of its own.
func buildHello(t *testing.T) []byte {
	t.Helper()
	folder := t.TempDir()
	if err := os.CopyFS(folder, os.DirFS("../examples/hello")); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), "make", "-s", "-B", "-C", folder, "hello").CombinedOutput(); err != nil {
		t.Fatalf("make hello: %v\n%s", err, out)
	}
	kernel, err := os.ReadFile(filepath.Join(folder, "hello"))
	if err != nil {
		t.Fatal(err)
	}
	return kernel
}
