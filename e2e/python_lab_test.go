package e2e

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/morgana-deploy/morgana/need"
)

// pythonLab is a lab with the example's worker, and a copy of the example
// beside a copy of the hello kernel, as in the work tree.
type pythonLab struct {
	*lab
	python string
	worker *exec.Cmd
	folder string // has the example's morgana.yaml
}

func newPythonLab(t *testing.T) *pythonLab {
	t.Helper()
	need.Tools(t, "ssh-keygen", "strip")
	p := &pythonLab{python: need.Python(t, readAll(t, "../examples/python-step/requirements.txt")), lab: newLab(t)}
	p.folder = filepath.Join(filepath.Dir(p.hello()), "python-step")
	if err := os.Mkdir(p.folder, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"morgana.yaml", "pyqemu.py", "wire.py", "worker.py"} { // and no other files of the work tree
		p.write(filepath.Join(p.folder, name), readAll(t, filepath.Join("../examples/python-step", name)))
	}
	key := filepath.Join(t.TempDir(), "key")
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "the test's", "-f", key).CombinedOutput(); err != nil {
		t.Fatalf("ssh-keygen: %v\n%s", err, out)
	}
	p.env = append(p.env, "PYTHONDONTWRITEBYTECODE=1", "SIGN_KEY="+key)
	p.startPython()
	return p
}

// startPython starts the example's worker, with more in its environment.
func (p *pythonLab) startPython(env ...string) {
	p.t.Helper()
	log, err := os.CreateTemp(p.lab.folder, "python.*.log")
	if err != nil {
		p.t.Fatal(err)
	}
	defer func() { _ = log.Close() }()
	script := filepath.Join(p.folder, "worker.py")
	p.worker = exec.Command(p.python, script)
	p.worker.Env, p.worker.Stdout, p.worker.Stderr = append(p.env, env...), log, log
	if err := p.worker.Start(); err != nil {
		p.t.Fatal(err)
	}
	worker := p.worker
	said := func() string { text, _ := os.ReadFile(log.Name()); return string(lastOf(text, 4000)) }
	p.t.Cleanup(func() {
		p.kill(worker)
		if p.t.Failed() {
			p.t.Logf("python:\n%s", said())
		}
	})
	// A Python worker does not stop cleanly before it serves. The worker of
	// docs/steps.md prints nothing when it serves.
	if strings.Contains(readAll(p.t, script), `"serving"`) {
		p.eventually("the Python worker serves", func() bool { return strings.Contains(said(), "serving pyqemu") })
	}
}

// stopPython stops the worker by SIGTERM, which must end it with status 0.
func (p *pythonLab) stopPython() {
	p.t.Helper()
	if err := errors.Join(p.worker.Process.Signal(syscall.SIGTERM), p.worker.Wait()); err != nil {
		p.t.Errorf("the Python worker that was told to stop: %v", err)
	}
}

// root is where the Python target keeps its machines.
func (p *pythonLab) root() string { return filepath.Join(p.lab.folder, "state", "pyqemu") }

// folders lists them, half-made ones as well.
func (p *pythonLab) folders() (names []string) {
	entries, _ := os.ReadDir(p.root()) // not there: none
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// only fails the test unless the Python target has one machine, with one
// process, of an app and target.
func (p *pythonLab) only(rollout string) (pid, folder string) {
	p.t.Helper()
	all := p.folders()
	if len(all) != 1 || !strings.HasPrefix(all[0], rollout+".") {
		p.t.Fatalf("folders %q, want one of %s", all, rollout)
	}
	folder = filepath.Join(p.root(), all[0])
	var pids []string
	for _, line := range p.processes() {
		pid, _, _ := strings.Cut(line, " ")
		if cwd, _ := os.Readlink("/proc/" + pid + "/cwd"); cwd == folder {
			pids = append(pids, pid)
		}
	}
	if len(pids) != 1 {
		p.t.Fatalf("processes %q of machine %s, want one", pids, all[0])
	}
	return pids[0], folder
}

// nothingLeft fails the test if anything is left: a process, a folder, a build
// tree, a half-written artifact. It stops the Python worker.
func (p *pythonLab) nothingLeft() {
	p.t.Helper()
	p.stopPython()
	p.gone()
	if all := p.folders(); len(all) > 0 {
		p.t.Errorf("left behind: %q", all)
	}
}

// edit replaces a text of a file of the lab's projects.
func (p *pythonLab) edit(path, old, text string) {
	p.t.Helper()
	before := readAll(p.t, path)
	if !strings.Contains(before, old) {
		p.t.Fatalf("%s has no %q", path, old)
	}
	p.write(path, strings.Replace(before, old, text, 1))
}
