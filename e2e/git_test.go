package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/morgana-deploy/morgana/source/gittest"
)

// saying is a program that says a word and stays.
func saying(word string) string { return strings.ReplaceAll(program, "hello from a process", word) }

// A program is deployed from a git repository with the worker's credentials: an unchanged
// commit restarts nothing, a changed one does, kill -9 of the worker in a fetch leaves
// nothing behind, and what goes wrong is one line that leaves the machine alone.
func TestDeployFromGit(t *testing.T) {
	t.Parallel()
	l := emptyLab(t)
	parent := t.TempDir()
	repo := gittest.New(t, parent, "hello")
	first := repo.Commit(map[string]string{"web/prog.c": saying("first"), "morgana.yaml": "app: not read\n"})
	h := gittest.ServeHTTP(t, parent)
	h.Password = "hushhush"
	credentials := filepath.Join(l.folder, "credentials")
	know := func(password string) {
		l.write(credentials, strings.Replace(h.Server.URL, "://", "://ann:"+password+"@", 1)+"\n")
	}
	know(h.Password)
	l.write(filepath.Join(l.folder, "gitconfig"), "[credential]\n\thelper = store --file "+credentials+"\n")
	l.env = append(l.env, "GIT_CONFIG_GLOBAL="+filepath.Join(l.folder, "gitconfig"))
	l.namespace()
	l.startWorker()
	c := l.client()

	const yaml = `app: prog
source: {git: SOURCE, ref: main, path: web}
toolchain: {kind: command, build: [[cc, -o, prog, prog.c]], kernel: prog}
targets:
  dev: {kind: local, expect: ", colour"}
`
	folder := l.project(strings.ReplaceAll(yaml, "SOURCE", h.URL("hello")))
	r := l.deployed(folder)
	for _, want := range []string{"prog/dev fetch ", "commit " + first, ", commit " + first[:12] + "\n"} {
		if !strings.Contains(r.out, want) {
			t.Errorf("deploy does not say %q:\n%s", want, r.out)
		}
	}
	before := l.programs()
	if r := l.deployed(folder); !strings.Contains(r.out, "unchanged, generation 1 is kept") {
		t.Errorf("an unchanged commit:\n%s", r.out)
	}
	if after := l.programs(); len(after) != 1 || after[0] != before[0] {
		t.Errorf("programs %q, were %q", after, before)
	}
	// The starter packs the folder to the same archive: nothing is built.
	if r := l.deployed(folder, "--source", filepath.Join(repo.Folder, "web")); !strings.Contains(r.out, "from an earlier build") ||
		!strings.Contains(r.out, "unchanged, generation 1 is kept") || !strings.Contains(r.out, ", commit "+first[:12]+"\n") {
		t.Errorf("the same content from a folder:\n%s", r.out)
	}

	second := repo.Commit(map[string]string{"web/prog.c": saying("second")})
	held := make(chan struct{})
	h.Hold(held)
	deploy := l.begin(folder, "deploy")
	l.started(c, rollout("prog", 4), "source.Fetch")
	l.eventually("a fetch waits for the server", func() bool { return len(fetches(l)) == 1 && h.Held() > 0 })
	l.kill(l.worker)
	close(held)
	l.startWorker()
	if r := l.ends(deploy, 0); !strings.Contains(r.out, ", commit "+second[:12]+"\n") {
		t.Errorf("after kill -9 of the worker in the fetch:\n%s", r.out)
	}
	if left := fetches(l); len(left) > 0 {
		t.Errorf("left %q", left)
	}
	if r := l.morgana(folder, "console", "prog/dev"); !strings.Contains(r.out, "second, colour") {
		t.Errorf("console: %s%s", r.out, r.errOut)
	}

	var status struct{ Commit, State string }
	if r := l.morgana(folder, "status", "-o", "json"); json.Unmarshal([]byte(r.out), &status) != nil || status.Commit != second || status.State != "up" {
		t.Errorf("status %s", r.out)
	}
	if r := l.morgana(folder, "history", "prog/dev"); strings.Count(r.out, first[:12]) != 3 || strings.Count(r.out, second[:12]) != 1 {
		t.Errorf("history:\n%s", r.out)
	}
	l.eventually("a search by commit finds the rollout", func() bool {
		found, err := c.ListWorkflow(t.Context(), &workflowservice.ListWorkflowExecutionsRequest{Query: "MorganaCommit = '" + second + "'"})
		return err == nil && len(found.Executions) == 1 && found.Executions[0].Execution.WorkflowId == rollout("prog", 4)
	})

	if r := l.morgana(folder, "plan"); r.code != 0 || !strings.Contains(r.out, "nothing to do") || !strings.Contains(r.out, "commit "+second[:12]) {
		t.Errorf("plan of a branch that has not moved: exit status %d\n%s%s", r.code, r.out, r.errOut)
	}

	running := l.programs()
	refused := func(yaml, want string) {
		t.Helper()
		l.write(filepath.Join(folder, "morgana.yaml"), strings.ReplaceAll(yaml, "SOURCE", h.URL("hello")))
		if r := l.morgana(folder, "deploy"); r.code != 2 || !strings.Contains(r.errOut, want) || !strings.Contains(r.errOut, "\nhint: ") {
			t.Errorf("exit status %d, want 2 and %q:\n%s%s", r.code, want, r.out, r.errOut)
		}
	}
	refused(strings.ReplaceAll(yaml, "main", "gone"), `error: morgana.yaml:2: source.ref: the repository has no branch or tag "gone"`)
	refused(strings.ReplaceAll(yaml, "path: web", "path: wbe"), `error: morgana.yaml:2: source.path: commit `+second[:12]+` has no folder "wbe"`)
	know("wrong")
	refused(yaml, "error: morgana.yaml:2: source.git: the server refuses the credentials")
	// git has forgotten the credentials that were refused.
	if r := l.morgana(folder, "plan"); r.code != 2 || !strings.Contains(r.errOut, "error: morgana.yaml:2: source.git: the server wants credentials") {
		t.Errorf("plan without credentials: exit status %d\n%s%s", r.code, r.out, r.errOut)
	}
	if after := l.programs(); len(after) != 1 || after[0] != running[0] {
		t.Errorf("programs %q, were %q", after, running)
	}
	for generation := range 7 {
		text, err := protojson.Marshal(l.history(c, rollout("prog", generation+1), ""))
		if err != nil || strings.Contains(string(text), "hush") {
			t.Errorf("history of generation %d: %v, or it has the password", generation+1, err)
		}
	}
	if log, err := os.ReadFile(filepath.Join(l.folder, "morgana-worker.log")); err != nil || strings.Contains(string(log), "hush") {
		t.Errorf("the worker's log: %v, or it has the password", err)
	}
	if r := l.morgana(folder, "destroy"); r.code != 0 {
		t.Errorf("destroy: %s%s", r.out, r.errOut)
	}
	l.clean()
}

// fetches lists the folders of fetches.
func fetches(l *lab) []string {
	names, _ := filepath.Glob(l.state("source", "fetch-*")) // the pattern is right
	return names
}
