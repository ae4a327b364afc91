package xen

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/morgana-deploy/morgana/remote"
	"github.com/morgana-deploy/morgana/step"
)

// These tests run the script by this host's sh in a folder of their own. Where a verb
// asks Xen, programs with the names of Xen's tools say what real ones were seen to say.

const folder = "web.prod.0a1b2c3d-1"

var digest = strings.Repeat("ab", 32)

// localHost is a dom0 whose root is an empty folder.
func localHost(t *testing.T) *dom0 {
	t.Helper()
	host, err := remote.Open("")
	if err != nil {
		t.Fatal(err)
	}
	return &dom0{host, filepath.Join(t.TempDir(), "root"), toolXL}
}

// tools puts programs before those of PATH.
func tools(t *testing.T, scripts map[string]string) {
	t.Helper()
	dir := t.TempDir()
	for name, script := range scripts {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+script), 0o700); err != nil { //nolint:gosec // a program
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}

// domainRuns are the tools of a host where the domain of folder runs as domain 3.
func domainRuns() map[string]string {
	return map[string]string{
		"xenstore-list": "echo 0; echo 3",
		"xenstore-read": `for p; do case $p in
			/local/domain/0/name) echo Domain-0 ;;
			/local/domain/3/name) echo ` + folder + ` ;;
			/local/domain/3/vm) echo /vm/` + uuidOf(folder) + ` ;;
			*) echo "xenstore-read: couldn't read path $p" >&2; exit 1 ;; esac; done`,
		"xl": `[ "$1" = list ] && [ $# = 1 ] || exit 1
			echo "Name                                        ID   Mem VCPUs	State	Time(s)"
			echo "Domain-0                                     0   768     1     r-----      82.7"
			echo "` + folder + `                          3    32     1     -b----       0.1"`,
	}
}

// registered runs verb register for a kernel, with what is sent of it.
func registered(d *dom0, kernel string, send string) (string, error) {
	var out bytes.Buffer
	err := d.run(context.Background(), strings.NewReader(send), &out, "register", folder, digest, "config", "", "1", "1",
		"kernel", strconv.Itoa(len(kernel)), fmt.Sprintf("%x", sha256.Sum256([]byte(kernel))))
	return out.String(), err
}

// TestSeveralFiles: each is taken from the input up to its size.
func TestSeveralFiles(t *testing.T) {
	d := localHost(t)
	k, stop := d.talk(t.Context(), 0, "register", folder, digest, "config", "", "1", "2",
		"one", "1", fmt.Sprintf("%x", sha256.Sum256([]byte("1"))), "two", "2", fmt.Sprintf("%x", sha256.Sum256([]byte("22"))))
	defer stop()
	for _, content := range []string{"1", "22"} {
		if have, err := k.line(t.Context()); have != "0" || err != nil {
			t.Fatalf("%q, %v", have, err)
		}
		if _, err := io.WriteString(k.in, content); err != nil {
			t.Fatal(err)
		}
	}
	if err := k.end(); err != nil {
		t.Error(err)
	}
	if two, err := os.ReadFile(filepath.Join(d.root, digest, "two")); string(two) != "22" || err != nil {
		t.Errorf("%q, %v", two, err)
	}
}

// under lists the files of a folder.
func under(t *testing.T, dir string) (names []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			path = strings.ReplaceAll(strings.TrimPrefix(path, dir+"/"), digest, "DIGEST")
			names = append(names, strings.ReplaceAll(path, folder, "FOLDER"))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// noDomain are the tools of a host without a guest.
func noDomain() map[string]string {
	return map[string]string{"xenstore-list": "echo 0", "xl": `[ "$1" = list ] && echo "Name ID Mem VCPUs State Time(s)"`}
}

// Two rollouts share an image; it goes with the second.
func TestImageIsShared(t *testing.T) {
	d := localHost(t)
	tools(t, noDomain())
	const kernel, other = "a kernel", "other.prod.0a1b2c3d-1"
	if said, err := registered(d, kernel, kernel); said != "0\n" || err != nil {
		t.Fatalf("%q, %v", said, err)
	}
	if out, err := d.do(t.Context(), "register", other, digest, "config", "", "1", "0"); out != "whole\n" || err != nil {
		t.Errorf("the second: %q, %v", out, err)
	}
	destroyed := func(name string, want ...string) {
		t.Helper()
		out, err := d.do(t.Context(), "destroy", name, uuidOf(name), "1", "")
		if got := strings.Split(strings.TrimSpace(out), "\n"); !slices.Equal(got, want) || err != nil {
			t.Errorf("destroy %s: removed %q, %v, want %q", name, got, err, want)
		}
	}
	destroyed(other, "folder "+d.root+"/domains/"+other)
	destroyed(folder, "image "+d.root+"/"+digest, "folder "+d.root+"/domains/"+folder)
	if left := under(t, d.root); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
}

// A copy that the domain writes to is made once, and one of its own.
func TestCopies(t *testing.T) {
	d := localHost(t)
	if _, err := registered(d, "a disk", "a disk"); err != nil {
		t.Fatal(err)
	}
	own := filepath.Join(d.root, "domains", folder, "kernel")
	for _, want := range []string{"a disk", "written to"} {
		if _, err := d.do(t.Context(), "register", folder, digest, "config", "", "1", "0", "kernel"); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(own); string(got) != want || err != nil {
			t.Errorf("%q, %v, want %q", got, err, want)
		}
		if err := os.WriteFile(own, []byte("written to"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// A removal that is cut off anywhere leaves nothing that is taken for whole, and
// is found again.
func TestDestroyIsCutOff(t *testing.T) {
	d := localHost(t)
	tools(t, noDomain())
	const kernel = "a kernel"
	dir := filepath.Join(d.root, "domains", folder)
	path := os.Getenv("PATH")
	for _, what := range []string{dir + "/digest", d.root + "/.gone." + digest, dir} {
		if _, err := registered(d, kernel, kernel); err != nil {
			t.Fatal(err)
		}
		tools(t, map[string]string{"rm": fmt.Sprintf(`for last; do :; done
			if [ "$last" = %s ]; then /bin/rm -f "$last"/kernel "$last"/domain.cfg 2>/dev/null; kill -9 $PPID; exit; fi
			exec /bin/rm "$@"`, what)})
		if out, err := d.do(t.Context(), "destroy", folder, uuidOf(folder), "1", ""); err == nil {
			t.Fatalf("%s: rm was not reached: %q", what, out)
		}
		t.Setenv("PATH", path)
		if what != dir { // a deploy that comes now
			if _, err := registered(d, kernel, kernel); err != nil {
				t.Errorf("%s: %v", what, err)
			}
			if got, err := os.ReadFile(filepath.Join(d.root, digest, "kernel")); string(got) != kernel || err != nil {
				t.Errorf("%s: the image has %q, %v", what, got, err)
			}
		}
		if _, err := d.do(t.Context(), "destroy", folder, uuidOf(folder), "1", ""); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		if left := under(t, d.root); len(left) > 0 {
			t.Errorf("%s: left %q", what, left)
		}
	}
}

// Who waits for a lock says so, and changes nothing.
func TestLocked(t *testing.T) {
	d := localHost(t)
	tools(t, map[string]string{"flock": "exit 1"}) // as after its time
	if _, err := registered(d, "x", "x"); !exited(err, busy) || step.KindOf(err).Final() {
		t.Errorf("register: %v, want a busy host", err)
	}
	if got := under(t, d.root); len(got) > 0 {
		t.Errorf("registered %q", got)
	}
}

// A name that leads elsewhere reaches no file, whoever made the image.
func TestVerbsRefuseNames(t *testing.T) {
	d := localHost(t)
	if _, err := registered(d, "x", "x"); err != nil {
		t.Fatal(err)
	}
	top := filepath.Dir(d.root)
	before := under(t, top)
	sum := fmt.Sprintf("%x", sha256.Sum256([]byte("x")))
	other := strings.Repeat("cd", 32)
	for _, name := range []string{"", ".", "..", "../escaped", "../../escaped", "/escaped", "a/b", "-rf", ".hidden"} {
		for _, argv := range [][]string{
			{"register", name, digest, "config", "", "1", "0"}, {"register", folder, name, "config", "", "1", "0"},
			{"register", folder, other, "config", "", "1", "1", name, "1", sum}, {"register", folder, digest, "config", "", "1", "0", name},
			{"boot", name, uuidOf(folder)}, {"ready", name, uuidOf(folder), "x"}, {"destroy", name, uuidOf(folder), "1", ""},
			{"console", name, "0", "1", "0"}, {"observe", name, uuidOf(folder)},
		} {
			if err := d.run(t.Context(), strings.NewReader("x"), io.Discard, argv[0], argv[1:]...); step.KindOf(err) != step.InvalidSpec {
				t.Errorf("%q: %v, want InvalidSpec", argv, err)
			}
		}
	}
	if _, err := d.do(t.Context(), "destroy", folder, uuidOf(folder), "1", ""); err == nil {
		t.Error("destroyed without Xen")
	}
	if now := under(t, top); !slices.Equal(now, before) {
		t.Errorf("%q, before %q", now, before)
	}
}

// An xl that fails says nothing about a domain.
func TestXLListFails(t *testing.T) {
	d := localHost(t)
	dir := filepath.Join(d.root, "domains", folder)
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"domain.cfg": "", "created": string(boot), "ready": "console matched \"x\""} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	verbs := []string{"boot", "ready", "observe"}
	run := func(verb string) (string, error) {
		args := []string{folder, uuidOf(folder)}
		switch verb {
		case "ready":
			args = append(args, "console printed")
		case "destroy":
			args = append(args, "0", "")
		}
		return d.do(t.Context(), verb, args...)
	}
	good := domainRuns()
	tools(t, good)
	for _, verb := range verbs {
		out, err := run(verb)
		if err != nil || strings.Contains(out, "gone") || strings.Contains(out, "ended") {
			t.Errorf("%s of a domain that runs: %q, %v", verb, out, err)
		}
	}
	for name, script := range map[string]string{
		"xl":            `echo "libxl: error: cannot open libxc handle" >&2; exit 1`,
		"xenstore-read": `case $* in */vm*) exit 1 ;; esac` + "\n" + good["xenstore-read"],
	} {
		bad := domainRuns()
		bad[name] = script
		tools(t, bad)
		for _, verb := range append(verbs, "destroy") {
			if out, err := run(verb); err == nil || step.KindOf(err).Final() {
				t.Errorf("%s fails, %s: %q, %v, want an error that is tried again", name, verb, out, err)
			}
		}
	}
	if _, err := os.Stat(dir); err != nil {
		t.Error(err)
	}
}

// A transfer goes on where it broke off; one that came damaged begins anew.
func TestReceive(t *testing.T) {
	whole := strings.Repeat("0123456789abcdef", 100<<10/16)
	half := len(whole) / 2
	for _, c := range []struct {
		name   string
		have   string
		said   string
		send   string
		status int
		left   int // bytes of a part, -1 for none
	}{
		{"all", "", "0", whole, 0, -1},
		{"the other half", whole[:half], strconv.Itoa(half), whole[half:], 0, -1},
		{"nothing is left to send", whole, strconv.Itoa(len(whole)), "", 0, -1},
		{"more is there than it has", whole + "x", "0", whole, 0, -1},
		{"cut off", "", "0", whole[:half], corrupt, half},
		{"cut off at once", "", "0", "", corrupt, 0},
		{"damaged", strings.Repeat("x", half), strconv.Itoa(half), whole[half:], corrupt, -1},
	} {
		d := localHost(t)
		part, image := filepath.Join(d.root, "."+digest+".part"), filepath.Join(d.root, digest)
		if err := os.MkdirAll(part, 0o700); err != nil {
			t.Fatal(err)
		}
		if c.have != "" {
			if err := os.WriteFile(filepath.Join(part, "kernel"), []byte(c.have), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		said, err := registered(d, whole, c.send)
		if c.status == 0 && err != nil || c.status != 0 && !exited(err, c.status) || said != c.said+"\n" {
			t.Errorf("%s: said %q, %v, want %q and status %d", c.name, said, err, c.said, c.status)
		}
		left, err := os.ReadFile(filepath.Join(part, "kernel"))
		if c.left < 0 && !os.IsNotExist(err) || c.left >= 0 && (err != nil || len(left) != c.left) {
			t.Errorf("%s: %d bytes are left, %v, want %d", c.name, len(left), err, c.left)
		}
		if c.status != 0 {
			continue
		}
		if got, err := os.ReadFile(filepath.Join(image, "kernel")); err != nil || string(got) != whole {
			t.Errorf("%s: the image has %d bytes, %v", c.name, len(got), err)
		}
		want := []string{"DIGEST/kernel", "domains/FOLDER/digest", "domains/FOLDER/domain.cfg", "domains/FOLDER/writes"}
		if got := under(t, d.root); !slices.Equal(got, want) {
			t.Errorf("%s: the host has %q, want %q", c.name, got, want)
		}
		if said, err := registered(d, whole, ""); said != "whole\n" || err != nil {
			t.Errorf("%s: again: %q, %v", c.name, said, err)
		}
	}
}
