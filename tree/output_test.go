package tree

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestOutput(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	o, err := newOutput(path)
	if err != nil {
		t.Fatal(err)
	}
	defer o.close()
	write := func(text string) {
		t.Helper()
		if n, err := o.Write([]byte(text)); n != len(text) || err != nil {
			t.Fatal(n, err)
		}
	}
	for _, c := range []struct{ text, last string }{
		{"one\n", "one"}, {"two", "two"}, {" halves\n\n \n", "two halves"}, {"10%\r20%\r", "20%"}, {"dos\r\n", "dos"},
		{"\x1b[1;32mgreen\x1b[0m \x1b]0;title\x07\b\n", "green"}, {"bad \xff utf\n", "bad \uFFFD utf"},
		{strings.Repeat("x", 3*maxLine) + "\n", strings.Repeat("x", maxLine)},
	} {
		write(c.text)
		if got := o.last(); got != c.last {
			t.Errorf("after %q the last line is %q, want %q", c.text, got, c.last)
		}
	}
	o.max = o.size + 10
	for i := range 100 {
		write(fmt.Sprintf("line %d\n", i))
	}
	if all := o.lines(); len(all) != tailLines || all[0] != "line 80" || all[19] != "line 99" {
		t.Errorf("tail is %q", all)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if log := string(text); !strings.Contains(log, "\x1b[1;32mgreen") || !strings.Contains(log, "line 0\nlin\n[the rest is left out: ") ||
		strings.Count(log, "left out") != 1 || !strings.HasSuffix(log, "]\n") {
		t.Errorf("log is %q", log)
	}
}

func TestEnvironOf(t *testing.T) {
	e := environOf([]string{"PATH=/bin", "HOME=/h", "SECRET=x", "GOPROXY=https://u:p@host", "=odd", "SOURCE_DATE_EPOCH=7", "CC=a", "USER=ann@corp",
		"OPAMTOKEN=x", "XDG_SECRET=x", "LC_PASSWORD=x", "OCAML_KEY=x", "OPAMSWITCH=s", "TMPDIR=/shared",
		"http_proxy=u:p@host:3128", "https_proxy=http://u:p@host:3128", "HTTP_PROXY=http://host:3128", "HTTPS_PROXY=http://u:p@host:3128"},
		map[string]string{"CC": "b", "GITHUB_TOKEN": "asked for", "HTTPS_PROXY": "http://me@host"})
	if want := []string{"CC=b", "GITHUB_TOKEN=asked for", "HOME=/h", "HTTPS_PROXY=http://me@host", "HTTP_PROXY=http://host:3128",
		"OPAMSWITCH=s", "PATH=/bin", "SOURCE_DATE_EPOCH=7", "USER=ann@corp"}; !slices.Equal(e.all, want) {
		t.Errorf("all is %q, want %q", e.all, want)
	}
	if want := []string{"GOPROXY", "http_proxy", "https_proxy"}; !slices.Equal(e.withheld, want) {
		t.Errorf("withheld is %q, want %q", e.withheld, want)
	}
	if want := []string{"OPAMSWITCH=s", "SOURCE_DATE_EPOCH=7"}; !slices.Equal(e.shaping, want) {
		t.Errorf("shaping is %q, want %q", e.shaping, want)
	}
}
