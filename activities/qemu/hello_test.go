package qemu

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/morgana-deploy/morgana/need"
)

// A kernel is examples/hello, built once in a copy, with another hello.c if
// one is given.
type kernel struct {
	source string
	once   sync.Once
	folder string
	err    error
}

var (
	plainHello     kernel
	answeringHello = kernel{source: "testdata/answer.c"}
)

func TestMain(m *testing.M) {
	status := m.Run()
	for _, folder := range []string{plainHello.folder, answeringHello.folder} {
		if err := os.RemoveAll(folder); err != nil {
			fmt.Fprintln(os.Stderr, err)
			status = 1
		}
	}
	os.Exit(status)
}

// hello gives the path of examples/hello's kernel.
func hello(t testing.TB) string { return plainHello.path(t) }

func (k *kernel) path(t testing.TB) string {
	t.Helper()
	for _, tool := range []string{"qemu-system-x86_64", "make", "gcc", "ld"} {
		need.Tools(t, tool)
	}
	k.once.Do(func() { k.folder, k.err = k.build() })
	if k.err != nil {
		t.Fatal(k.err)
	}
	return filepath.Join(k.folder, "hello")
}

func (k *kernel) build() (folder string, err error) {
	if folder, err = os.MkdirTemp("", "morgana-hello-*"); err != nil {
		return "", err
	}
	sources, err := filepath.Glob("../../examples/hello/*")
	if err != nil {
		return folder, err
	}
	for _, source := range sources {
		name := filepath.Base(source)
		if name == "hello" || strings.HasSuffix(name, ".o") {
			continue // somebody's build
		}
		if name == "hello.c" && k.source != "" {
			source = k.source
		}
		b, err := os.ReadFile(source)
		if err != nil {
			return folder, err
		}
		if err := os.WriteFile(filepath.Join(folder, name), b, 0o600); err != nil {
			return folder, err
		}
	}
	if out, err := exec.Command("make", "-s", "-C", folder, "hello").CombinedOutput(); err != nil {
		return folder, fmt.Errorf("make hello: %w\n%s", err, out)
	}
	return folder, nil
}
