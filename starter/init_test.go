package main

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"

	"github.com/morgana-deploy/morgana/config"
	"github.com/morgana-deploy/morgana/docs"
)

// paravirtual is a kernel that nothing but Xen boots.
const paravirtual = `
	.section .note.Xen, "a", @note
	.long 4, 8, 5; .asciz "Xen"; .asciz "xen-3.0"
	.long 4, 8, 8; .asciz "Xen"; .asciz "generic"
	.text
	.globl _start
_start:	hlt
`

// The target that init writes boots the kernel that it was given.
func TestInitKind(t *testing.T) {
	hello := buildHello(t) // on QEMU, too
	inFolder(t, map[string]string{"hello": string(hello), "hello.xen": string(hello), "none.xen": "no kernel", "pv.s": paravirtual})
	if out, err := exec.CommandContext(t.Context(), "cc", "-nostdlib", "-static", "-no-pie", "-Wl,--build-id=none", "-o", "pv", "pv.s").CombinedOutput(); err != nil {
		t.Fatalf("cc: %v\n%s", err, out)
	}
	if err := os.Mkdir("web", 0o755); err != nil {
		t.Fatal(err)
	}
	for kernel, want := range map[string]string{"": "qemu", "hello": "qemu", "hello.xen": "xen", "pv": "xen", "none.xen": "xen", "dist/web.xen": "xen", "dist/web": "qemu"} {
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
