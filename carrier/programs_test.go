package carrier

import (
	"slices"
	"testing"

	"github.com/morgana-deploy/morgana/carrier/ramdisk"
	"github.com/morgana-deploy/morgana/need"
)

// A program that is not linked statically brings its libraries.
func TestLibraries(t *testing.T) {
	need.Tools(t, "/bin/cat")
	all, err := program("/bin/cat", "kernel", "kernel")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"kernel", "lib/libc.so.6", "lib64/ld-linux-x86-64.so.2"} {
		if !slices.ContainsFunc(all, func(e ramdisk.Entry) bool { return e.Name == name && isFile(e.Path) }) {
			t.Errorf("no %s in %+v", name, all)
		}
	}
}
