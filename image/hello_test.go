package image

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/morgana-deploy/morgana/need"
)

// buildHello builds examples/hello in a folder of its own and gives its path.
func buildHello(t *testing.T) string {
	t.Helper()
	need.Tools(t, "make", "cc", "ld")
	dir := t.TempDir()
	source := filepath.Join("..", "examples", "hello")
	entries, err := os.ReadDir(source)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		switch filepath.Ext(e.Name()) {
		case ".c", ".h", ".S", ".ld":
		default:
			if e.Name() != "Makefile" {
				continue // built files
			}
		}
		raw, err := os.ReadFile(filepath.Join(source, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, e.Name()), raw, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), "make", "-C", dir, "CFLAGS=-std=c11 -O2 -Wall -Wextra -Werror")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("make: %v\n%s", err, out)
	}
	return filepath.Join(dir, "hello")
}

func TestIdentifyHello(t *testing.T) {
	hello := buildHello(t)
	raw, err := os.ReadFile(hello)
	if err != nil {
		t.Fatal(err)
	}
	info, err := identify(raw)
	if want := []string{Multiboot2, PVH, XenPV, XenPVH}; err != nil || !slices.Equal(info.ABIs, want) || info.Machine != "x86_64" {
		t.Errorf("got %+v, %v, want %v for x86_64", info, err, want)
	}

	// Without its section headers only the segments are left.
	t.Run("stripped", func(t *testing.T) {
		need.Tools(t, "strip")
		if out, err := exec.CommandContext(t.Context(), "strip", hello).CombinedOutput(); err != nil {
			t.Fatalf("strip: %v\n%s", err, out)
		}
		raw, err := os.ReadFile(hello)
		if err != nil {
			t.Fatal(err)
		}
		got, err := identify(raw)
		if err != nil || !slices.Equal(got.ABIs, info.ABIs) {
			t.Errorf("got %+v, %v, want %v", got, err, info.ABIs)
		}
	})
}

func TestHelloIsReproducible(t *testing.T) {
	a, err := os.ReadFile(buildHello(t))
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(buildHello(t))
	if err != nil {
		t.Fatal(err)
	}
	if string(a) != string(b) {
		t.Error("two builds in two folders differ")
	}
}

// The notes that the tests build are ELF notes to others too.
func TestReadelfAgrees(t *testing.T) {
	need.Tools(t, "readelf")
	file := filepath.Join(t.TempDir(), "kernel")
	kernel := testELF{segments: []testPart{load(someCode), note(append(pvhNote, solo5Note(6)...))}}.build()
	if err := os.WriteFile(file, kernel, 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "readelf", "--wide", "--notes", file)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("readelf: %v\n%s", err, out)
	}
	for _, want := range []string{"0x00000012", "0x31494241", "00 00 10 00 00 00 00 00", "06 00 00 00 01 00 00 00"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("readelf does not see %s:\n%s", want, out)
		}
	}
	info, err := identify(kernel)
	if want := []string{Solo5Xen, XenPVH}; err != nil || !slices.Equal(info.ABIs, want) {
		t.Errorf("got %v, %v, want %v", info.ABIs, err, want)
	}
}
