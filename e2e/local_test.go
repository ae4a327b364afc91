package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// program is a unikernel as MirageOS's unix target makes it: a Linux program. Its
// argument is its exit status.
const program = `#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
int main(int argc, char **argv) {
	printf("hello from a process, colour %s\n", getenv("COLOUR") ? getenv("COLOUR") : "unknown");
	fflush(stdout);
	if (argc > 1) return atoi(argv[1]);
	for (;;) pause();
}
`

// A program is deployed as a process of this host. The process outlives the
// worker, its exit status is kept, and destroy ends it.
func TestLocalProgram(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	folder := l.project(`app: prog
toolchain: {kind: command, build: [[cc, -o, prog, prog.c]], kernel: prog}
targets:
  stays: {kind: local, env: {COLOUR: blue}, expect: "colour blue"}
  ends: {kind: local, args: ["0"], expect: "hello"}
  fails: {kind: local, args: ["7"], expect: "never said"}
`)
	l.write(filepath.Join(folder, "prog.c"), program)

	l.deployed(folder, "-t", "stays", "-t", "ends")
	if r := l.morgana(folder, "deploy", "-t", "fails"); r.code != 1 || !strings.Contains(r.errOut, "status 7") {
		t.Errorf("exit status %d, want 1 and the program's\n%s%s", r.code, r.out, r.errOut)
	}
	before := l.programs()
	if len(before) != 1 {
		t.Fatalf("programs %q, want one", before)
	}
	l.restartWorker(nil)
	if r := l.deployed(folder, "-t", "stays"); !strings.Contains(r.out, "unchanged") {
		t.Errorf("the second deploy says\n%s", r.out)
	}
	if after := l.programs(); len(after) != 1 || after[0] != before[0] {
		t.Errorf("programs %q, were %q", after, before)
	}
	if r := l.morgana(folder, "console", "prog/stays"); !strings.Contains(r.out, "hello from a process, colour blue") {
		t.Errorf("console: %s%s", r.out, r.errOut)
	}
	for _, target := range []string{"stays", "ends"} {
		if r := l.morgana(folder, "destroy", "prog/"+target); r.code != 0 {
			t.Errorf("destroy: %s%s", r.out, r.errOut)
		}
	}
	if left := l.programs(); len(left) > 0 {
		t.Errorf("programs still run: %q", left)
	}
	if left, _ := filepath.Glob(l.state("local", "*")); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

// A kernel that the target cannot run is refused, with a kind that can run it.
func TestLocalRefusesAKernel(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	folder, _ := l.built(l.kernel(), "pvh", "")
	l.write(filepath.Join(folder, "morgana.yaml"), strings.Replace(l.read(filepath.Join(folder, "morgana.yaml")), "kind: qemu", "kind: local", 1))
	r := l.morgana(folder, "deploy")
	if r.code != 2 || !strings.Contains(r.errOut, "kind qemu") {
		t.Errorf("exit status %d\n%s%s", r.code, r.out, r.errOut)
	}
}

// programs lists the processes of machines of kind local, without supervisors.
func (l *lab) programs() (found []string) {
	for _, p := range l.processes() {
		pid, _, _ := strings.Cut(p, " ")
		if cwd, err := os.Readlink("/proc/" + pid + "/cwd"); err == nil && strings.HasPrefix(cwd, l.state("local")) &&
			!strings.Contains(p, " supervise-local-machine ") {
			found = append(found, p)
		}
	}
	return found
}

func (l *lab) read(path string) string {
	l.t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		l.t.Fatal(err)
	}
	return string(text)
}

// morgana doctor and schema work where nothing is configured.
func TestDoctorAndSchema(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	r := l.morgana(t.TempDir(), "doctor")
	if r.code != 0 {
		t.Errorf("exit status %d\n%s%s", r.code, r.out, r.errOut)
	}
	for _, kind := range []string{"command", "mirage", "local", "qemu"} {
		if !strings.Contains(r.out, kind) {
			t.Errorf("doctor says nothing of %s:\n%s", kind, r.out)
		}
	}
	r = l.morgana(t.TempDir(), "schema")
	if r.code != 0 || !strings.Contains(r.out, `"$schema"`) {
		t.Errorf("exit status %d\n%s%s", r.code, r.out, r.errOut)
	}
	cmd := exec.CommandContext(t.Context(), "python3", "-m", "json.tool")
	cmd.Stdin = strings.NewReader(r.out)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("the schema is no JSON: %v\n%s", err, out)
	}
}
