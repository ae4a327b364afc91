package tree

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/morgana-deploy/morgana/step"
)

// An error names what it is about, not the call in which it was met.
func TestPlainWords(t *testing.T) {
	for _, c := range []struct {
		err  error
		want string
		kind step.Kind
	}{
		{&fs.PathError{Op: "mkdir", Path: "/a", Err: syscall.EROFS}, "do: /a: read-only file system", ""},
		{&fs.PathError{Op: "openat", Path: "/a", Err: syscall.EACCES}, "do: /a: permission denied", step.Unauthorized},
		{&os.LinkError{Op: "rename", Old: "/a", New: "/b", Err: syscall.EXDEV}, "do: /b: invalid cross-device link", ""},
		{os.NewSyscallError("pipe2", syscall.EMFILE), "do: too many open files", ""},
		{&fs.PathError{Op: "write", Path: "/a", Err: syscall.ENOSPC}, "do: no space left on device", step.NoSpace},
		{&step.Error{Kind: step.NotFound, Err: errors.New("gone")}, "do: gone", step.NotFound},
	} {
		e := failed("do", "/folder", c.err)
		if e.Error() != c.want || e.Kind != c.kind || !errors.Is(e, c.err) && e.Kind == "" && errors.Unwrap(c.err) == nil {
			t.Errorf("%v: got %q of kind %q, want %q of kind %q", c.err, e, e.Kind, c.want, c.kind)
		}
		if e.Kind == step.Unauthorized && e.Hint != "let the worker's user write to /folder" {
			t.Errorf("hint is %q", e.Hint)
		}
	}
	if got := Cause(fmt.Errorf("more: %w", &fs.PathError{Op: "stat", Path: "/a", Err: syscall.ELOOP})); got != syscall.ELOOP { //nolint:errorlint // no more than that
		t.Error(got)
	}
}

// What cannot be run is said without the words of Go's libraries.
func TestCannotBeRun(t *testing.T) {
	b := newBench(t)
	files := with(project, "bad-loader!", "#!/no/such/shell\n", "not-a-program!", "text\n", "folder/file", "")
	for name, c := range map[string]struct {
		argv []string
		kind step.Kind
		text string
	}{
		"not in PATH": {[]string{"no-such-tool"}, step.Unsupported, "look for build tools on here: no-such-tool is not installed"},
		"missing":     {[]string{"./later", "-x"}, step.BuildFailed, "build: ./later -x: cannot be run: no such file or directory"},
		"loader":      {[]string{"./bad-loader"}, step.BuildFailed, "build: ./bad-loader: cannot be run: no such file or directory"},
		"text":        {[]string{"./not-a-program"}, step.BuildFailed, "build: ./not-a-program: cannot be run: exec format error"},
		"a folder":    {[]string{"./folder"}, step.BuildFailed, "build: ./folder: cannot be run: permission denied"},
		"no right":    {[]string{"./main.c"}, step.BuildFailed, "build: ./main.c: cannot be run: permission denied"},
	} {
		_, err := b.deploy(t.Context(), b.Spec(options{Build: [][]string{c.argv}, Kernel: "k"}, files))
		if e := wantError(t, err, c.kind); e.Error() != c.text {
			t.Errorf("%s: %q, want %q", name, e, c.text)
		}
	}
	for text, argv := range map[string][]string{
		"no-such-tool is not installed":                              {"no-such-tool", "-x"},
		"/no/such/tool -x: cannot be run: no such file or directory": {"/no/such/tool", "-x"},
	} {
		if _, err := EnvironOf(nil).Output(t.Context(), argv...); !errors.Is(err, fs.ErrNotExist) || err.Error() != text {
			t.Errorf("%v, want %q", err, text)
		}
	}
}

func TestInstallHint(t *testing.T) {
	if got := install(0, "opam") + "; " + install(1000, "opam"); got != "apt-get install opam; sudo apt-get install opam" {
		t.Error(got)
	}
	n := EnvironOf(map[string]string{"PATH": "/nowhere"}).Need("build", "ld")
	if n.Found != "" || !strings.HasSuffix(n.Fix, "apt-get install binutils") || strings.HasPrefix(n.Fix, "sudo ") != (os.Geteuid() != 0) {
		t.Errorf("%+v", n)
	}
}

// What is wrong with the source is said before what the host lacks.
func TestSourceBeforeHost(t *testing.T) {
	b := newBench(t)
	lacks := &step.Error{Kind: step.Unsupported, Err: errors.New("no tool")}
	wrong := errors.New("passing trouble")
	tc := b.changed(func(r *Recipe) {
		r.Inspect = func(context.Context, Environ) (Facts, error) { return Facts{}, lacks }
		r.CheckSource = func(tree *os.Root) error {
			if _, err := tree.Stat("config"); err != nil {
				return step.Invalid("config", "", "the source has no config")
			}
			return wrong
		}
	})
	_, err := b.Deploy(t.Context(), tc, b.Spec(makeIt(), project))
	_ = wantError(t, err, step.InvalidSpec, "config: the source has no config")
	b.WantNothing()
	_, err = b.Deploy(t.Context(), tc, b.Spec(makeIt(), with(project, "config", "")))
	_ = wantError(t, err, step.Unsupported, "no tool")
	b.WantNothing()

	tc = b.changed(func(r *Recipe) {
		r.CheckSource = func(*os.Root) error { return step.Invalid("config", "", "the source has no config") }
	})
	_, err = b.Deploy(t.Context(), tc, b.Spec(options{Build: [][]string{{"no-such-tool"}}, Kernel: "k"}, project))
	_ = wantError(t, err, step.InvalidSpec, "config: the source has no config")
	b.WantNothing()
}
