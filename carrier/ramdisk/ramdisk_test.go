package ramdisk

import (
	"bytes"
	"io/fs"
	"os/exec"
	"strings"
	"testing"

	"github.com/morgana-deploy/morgana/need"
)

// cpio reads what is written: types, modes, owners and targets, with the folders above.
func TestWrite(t *testing.T) {
	need.Tools(t, "cpio")
	var b bytes.Buffer
	err := Write(&b, []Entry{
		{Name: "usr/bin/sudo", Mode: fs.ModeSetuid | 0o755, Data: []byte("abc")},
		{Name: "bin", Mode: fs.ModeSymlink | 0o777, Data: []byte("usr/bin")},
		{Name: "home/ann", Mode: fs.ModeDir | 0o700, Owner: 1000},
		{Name: "home/ann/file", Mode: 0o600, Owner: 1000},
	})
	if err != nil {
		t.Fatal(err)
	}
	list := exec.CommandContext(t.Context(), "cpio", "-itvn", "--quiet")
	list.Stdin = &b
	out, err := list.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var got []string
	for line := range strings.Lines(string(out)) {
		f := strings.Fields(line) // mode, links, owner, group, size, date, name
		got = append(got, strings.Join(append(f[:1:1], append(f[2:5:5], f[8:]...)...), " "))
	}
	want := []string{
		"drwxr-xr-x 0 0 0 usr", "drwxr-xr-x 0 0 0 usr/bin", "-rwsr-xr-x 0 0 3 usr/bin/sudo", "lrwxrwxrwx 0 0 7 bin -> usr/bin",
		"drwxr-xr-x 0 0 0 home", "drwx------ 1000 1000 0 home/ann", "-rw------- 1000 1000 0 home/ann/file",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s", out)
	}
}
