package ec2

import (
	"bytes"
	"crypto/sha256"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/morgana-deploy/morgana/remote"
	"github.com/morgana-deploy/morgana/step"
)

// TestHelperSaysWhyDDFails runs the scripts of the helper on this host with another dd.
func TestHelperSaysWhyDDFails(t *testing.T) {
	host, err := remote.Open("")
	no(t, err)
	block := bytes.Repeat([]byte("x"), blockSize)
	file := filepath.Join(t.TempDir(), "disk")
	no(t, os.WriteFile(file, bytes.Repeat(block, 2), 0o600))
	sum := sha256.Sum256(block)
	const broken = "dd: error with '/dev/nvme1n1': Input/output error"
	dd, err := exec.LookPath("dd")
	no(t, err)
	for name, test := range map[string]struct {
		dd   string
		want step.Error
		says string
	}{
		"good": {"#!/bin/sh\nfor a; do shift; [ \"${a#?flag=direct}\" ] && set -- \"$@\" \"$a\"; done\nexec " + dd + " \"$@\"\n", // tmpfs may lack direct
			step.Error{}, ""},
		"broken": {"#!/bin/sh\necho \"" + broken + "\" >&2\nexit 1\n", step.Error{}, broken},
		"none":   {"", step.Error{Kind: step.Unsupported, Field: "helper.image"}, "GNU coreutils"},
	} {
		bin := t.TempDir()
		for _, tool := range []string{"sh", "sha256sum", "sync"} {
			path, err := exec.LookPath(tool)
			if err == nil {
				err = os.Symlink(path, filepath.Join(bin, tool))
			}
			no(t, err)
		}
		if test.dd != "" {
			if err := os.WriteFile(filepath.Join(bin, "dd"), []byte(test.dd), 0o700); err != nil { //nolint:gosec // a program
				t.Fatal(err)
			}
		}
		t.Setenv("PATH", bin)
		w := &writing{dance: &dance{registering: &registering{}}, host: host, device: file}
		w.options.Helper.User = "root"
		lack, read := w.lacking(t.Context(), blocks{{index: 0, sum: sum}, {index: 1, sum: [32]byte{}}})
		script := strings.Replace(writeBlocks, `[ -b "$1" ]`, "", 1)
		wrote := lacksTool(w.run(t.Context(), strings.NewReader("0 1\n"+string(block)), nil, script, file))
		if test.says == "" {
			if read != nil || wrote != nil || len(lack) != 1 || lack[0].index != 1 {
				t.Errorf("%s: %v, %v, lacking %v", name, read, wrote, lack)
			}
			continue
		}
		for _, err := range []error{read, wrote} {
			if err == nil || step.KindOf(err) != test.want.Kind {
				t.Errorf("%s: %v", name, err)
			} else if test.want.Kind != "" {
				refusedWith(t, name, err, test.want, test.says)
			} else if !strings.Contains(err.Error(), test.says) {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}
