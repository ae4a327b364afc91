package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/morgana-deploy/morgana/config"
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
