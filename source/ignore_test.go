package source

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/morgana-deploy/morgana/need"
)

// tree makes files of a map from name to content. A content "-> x" is a link
// to x, and one that starts with "#!" is executable.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	folder := t.TempDir()
	for name, text := range files {
		path := filepath.Join(folder, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		if target, ok := strings.CutPrefix(text, "-> "); ok {
			err = os.Symlink(target, path)
		} else if strings.HasPrefix(text, "#!") {
			err = os.WriteFile(path, []byte(text), 0o755)
		} else {
			err = os.WriteFile(path, []byte(text), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return folder
}

// packed lists the names in the archive of a folder without its project file, in order.
func packed(t *testing.T, folder, project string) []string {
	t.Helper()
	var b bytes.Buffer
	if _, err := pack(t.Context(), folder, project, &b); err != nil {
		t.Fatal(err)
	}
	var names []string
	r := tar.NewReader(&b)
	for {
		h, err := r.Next()
		if err == io.EOF {
			return names
		}
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, h.Name)
	}
}

// gitFiles lists what git sees in a folder.
func gitFiles(t *testing.T, folder string) []string {
	t.Helper()
	git := func(args ...string) string {
		cmd := exec.Command("git", append([]string{"-C", folder}, args...)...)
		cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null",
			"XDG_CONFIG_HOME=/nowhere", "LC_ALL=C", "GIT_DIR="+filepath.Join(folder, ".git"))
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("git %v: %v", args, err)
		}
		return string(out)
	}
	git("init", "-q")
	out := strings.TrimSuffix(git("ls-files", "-z", "--others", "--exclude-standard", "--cached"), "\x00")
	if out == "" {
		return nil
	}
	names := strings.Split(out, "\x00")
	slices.Sort(names)
	return names
}

func TestIgnoreAsGitDoes(t *testing.T) {
	need.Tools(t, "git")
	all := []string{"a", "a.o", "a b", "b ", "#x", "!x", "é", "-", "x]y", "\\",
		"src/a.o", "build/a.o", "build/sub/a.o", "build.o", "src/keep.o", "src/deep/a.o", "src/deep/er/a", "src/build/a", "src/a-b", "srca",
		"build/a", "build/keep", "build/sub/keep", "docs/a.log", "docs/b", "logs/a.log", "a.log", "vendor/a/b/c", "vendor/x"}
	for _, c := range []struct{ name, root, src string }{
		{"nothing", "", ""},
		{"glob at any depth", "*.o", ""},
		{"negation", "*.o\n!keep.o", ""},
		{"negation in a nested file", "*.o", "!keep.o"},
		{"a nested file ignores", "", "*.o\n/build/"},
		{"anchored", "/a.o\n/build", ""},
		{"anchored by a middle slash", "src/build\ndeep/er", ""},
		{"directories only", "build/\na/\nsrca/", ""},
		{"what is below an ignored folder stays ignored", "build\n!build/keep", ""},
		{"all but one in a folder", "build/*\n!build/keep", ""},
		{"all but one below a folder", "build/**\n!build/keep", ""},
		{"a folder brought back brings not what is in it", "*.log\n!docs/", ""},
		{"a path brought back brings not what is in it", "*.log\n!/docs", ""},
		{"only some", "/*\n!/src\n!/.gitignore", ""},
		{"leading double star", "**/er\n**/build/keep", ""},
		{"middle double star", "src/**/a.o\nvendor/**/c", ""},
		{"trailing double star", "vendor/**", ""},
		{"double star alone", "**\n!*/\n!*.o", ""},
		{"slash double star", "/**\n!src\n!src/a.o", ""},
		{"triple star", "src/***/a.o", ""},
		{"double star in a name", "s**a\nsrc/d**p", ""},
		{"double star right behind text", "build**/*.o\nsrc**/a\na**/a.log\nve/**/a", ""},
		{"double star behind text at the end", "vendor/a**\n!vendor/a/", ""},
		{"double star behind text and a wildcard", "s?c**/a\ns\\rc**/a.o\n[b]uild**/keep", ""},
		{"double star before an escaped slash", "vendor/**\\/c\n**\\/keep", ""},
		{"star does not cross a slash", "src/*/a", ""},
		{"question mark", "?.o\nsrc/?-b\n??", ""},
		{"sets", "[ab].o\n[!s]*\n", ""},
		{"caret set", "[^sb]*\n", ""},
		{"ranges", "[a-c]\n[x-z]*y\n", ""},
		{"bracket in a set", "x[]]y", ""},
		{"dash in a set", "[a-]\n[-]", ""},
		{"escape in a set", `[\]x]*[\y-z]`, ""},
		{"classes", "[[:alpha:]]\n[[:punct:]]x\n[[:digit:][:space:]b]*", ""},
		{"an unknown class", "[[:nope:]]\n[[:alpha]", ""},
		{"an open bracket", "[ab\na[", ""},
		{"a class that is none", "[[:]\n[[:]]\n[[:a]]", ""},
		{"a reversed range", "[z-a]*", ""},
		{"a slash in a set", "src[/]a.o\nsrc[!a]a.o", ""},
		{"escapes", "\\#x\n\\!x\n\\a.o\n\\*\\*", ""},
		{"a backslash at the end", "a\\\nb\\\\\n\\\\", ""},
		{"comments", "#x\n # no comment\n", ""},
		{"trailing spaces", "a   \nb\\ \nc \\ ", ""},
		{"carriage returns", "a\r\nbuild/\r\n", ""},
		{"byte order mark", "\xef\xbb\xbfa\nb", ""},
		{"no newline at the end", "a.o\na", ""},
		{"bytes, not characters", "??", ""},
		{"odd lines", "/\n!\n//\n!/\n*/\n!src/\n", ""},
		{"double slash", "src//a.o\nbuild//", ""},
		{"dots", "./a\nsrc/../a.o", ""},
		{"a nested anchor", "", "/a.o\n!/deep\ndeep/er"},
		{"deeper wins", "*.o\n*.log", "!*.o"},
		{"the ignore file itself", ".gitignore", ""},
		{"all", "*", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			files := map[string]string{".gitignore": c.root, "src/.gitignore": c.src, "link": "-> src", "zz-never-ignored": ""}
			for _, name := range all {
				files[name] = ""
			}
			folder := tree(t, files)
			// Pack refuses an empty folder; git does not mind.
			compare(t, folder)
		})
	}
}

func compare(t *testing.T, folder string) {
	t.Helper()
	want := gitFiles(t, folder)
	var got []string
	if len(want) > 0 {
		got = packed(t, folder, "")
	} else if _, err := pack(t.Context(), folder, "", io.Discard); err == nil {
		got = packed(t, folder, "")
	}
	if !slices.Equal(got, want) {
		for _, name := range got {
			if !slices.Contains(want, name) {
				t.Errorf("packed, though git ignores it: %q", name)
			}
		}
		for _, name := range want {
			if !slices.Contains(got, name) {
				t.Errorf("left out, though git has it: %q", name)
			}
		}
		if !t.Failed() {
			t.Errorf("order %q, want %q", got, want)
		}
	}
}

// Random patterns of the letters that mean something, against git.
func TestIgnoreAsGitDoesAtRandom(t *testing.T) {
	need.Tools(t, "git")
	r := rand.New(rand.NewPCG(7, 11))
	pieces := []string{"a", "b", "ab", "*", "**", "a**/", "?", "/", "/", "[a-b]", "[!a]", "[]a]", "\\", "!", "#", " ", "[", "]", "-", "[[:lower:]]", "."}
	pattern := func() string {
		var b strings.Builder
		if r.IntN(3) == 0 {
			b.WriteByte('!')
		}
		for range 1 + r.IntN(5) {
			b.WriteString(pieces[r.IntN(len(pieces))])
		}
		return b.String()
	}
	ignore := func() string {
		var lines []string
		for range 1 + r.IntN(5) {
			lines = append(lines, pattern())
		}
		return strings.Join(lines, "\n")
	}
	for i := range 60 {
		files := map[string]string{".gitignore": ignore(), "a/.gitignore": ignore(), "zz": ""}
		for _, d := range []string{"", "a/", "b/", "a/b/", "a/b/a/", "b/ab/"} {
			for _, f := range []string{"x", "ab.a", "bb", "-", "]"} {
				files[d+f] = ""
			}
		}
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			compare(t, tree(t, files))
			if t.Failed() {
				t.Logf("root:\n%s\na:\n%s", files[".gitignore"], files["a/.gitignore"])
			}
		})
	}
}
