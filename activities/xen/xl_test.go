package xen

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The real xl takes the golden files.
func TestXLTakesThem(t *testing.T) {
	l := lab(t)
	argv := []string{"sh", "-c", `f=$(mktemp); trap 'rm $f' EXIT; for c; do printf %s "$c" >$f; xl -N create $f 2>&1 && echo "taken"; done`, "sh"}
	n := 0
	for _, g := range goldens {
		b, err := os.ReadFile(filepath.Join("testdata", g.name+".cfg"))
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(g.name, "xm") {
			argv = append(argv, string(b))
			n++
		}
	}
	out, err := onDom0(t.Context(), l, argv...)
	if err != nil || strings.Count(out, "\ntaken\n") != n || strings.Contains(out, "unrecognized") {
		t.Errorf("%v\n%s", err, out)
	}
}
