package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.temporal.io/api/workflowservice/v1"

	"github.com/morgana-deploy/morgana/source/gittest"
	"github.com/morgana-deploy/morgana/workflows"
)

// redeploys is what "schedule show -o json" prints, as far as the tests read it.
type redeploys struct {
	Every   string
	Paused  bool
	Warning string
	Next    []time.Time
	Last    []redeploy
}

type redeploy struct {
	Workflow string
	Time     time.Time
	State    string
	Result   struct{ Revision string }
	Error    struct{ Op, Field, Message string }
}

// line is "unchanged", or "failed: " and the error.
func (r redeploy) line() string {
	parts := []string{r.State, r.Error.Op, r.Error.Field, r.Error.Message}
	return strings.Join(slices.DeleteFunc(parts, func(s string) bool { return s == "" }), ": ")
}

// scheduled reads the schedule of a deployment.
func (l *lab) scheduled(name string) (s redeploys) {
	l.t.Helper()
	r := l.morgana(l.folder, "schedule", "show", name, "-o", "json")
	if r.code != 0 || json.Unmarshal([]byte(r.out), &s) != nil {
		l.t.Fatalf("schedule show %s: %+v", name, r)
	}
	return s
}

// redeployed waits for the end of a redeploy that was started after since, and returns the
// first.
func (l *lab) redeployed(name string, since time.Time) (done redeploy) {
	l.t.Helper()
	l.eventually("a redeploy of "+name, func() bool {
		for _, r := range slices.Backward(l.scheduled(name).Last) {
			if r.Time.After(since) {
				done = r
				return r.State != "running"
			}
		}
		return false
	})
	return done
}

// triggered starts a redeploy and returns how it ended.
func (l *lab) triggered(name string) redeploy {
	l.t.Helper()
	at := time.Now()
	l.ends(l.begin(l.folder, "schedule", "trigger", name), 0)
	return l.redeployed(name, at)
}

// scheduledProgram is a source whose build appends to the file builds, fails if the file
// fail exists, and has the text of the file dependency in its kernel.
func (l *lab) scheduledProgram(app string) (folder, outside string) {
	outside = l.t.TempDir()
	folder = l.project("app: " + app + `
toolchain: {kind: command, build: [[sh, -ec, "echo built >> ` + outside + `/builds; test ! -e ` + outside + `/fail || { echo broken dependency; exit 3; }; ` +
		`cc -o prog prog.c; cat ` + outside + `/dependency >> prog"]], kernel: prog}
targets: {dev: {kind: local, expect: "hello"}}
`)
	l.write(filepath.Join(folder, "prog.c"), program)
	l.write(filepath.Join(outside, "dependency"), "version 1")
	return folder, outside
}

// A schedule redeploys within seconds, over the death of the worker and a restart of the
// server. An unchanged source sends nothing and restarts nothing, a redeploy that fails
// leaves the program that runs, a rebuild finds a new dependency, and destroy removes the
// schedule.
func TestSchedule(t *testing.T) {
	t.Parallel()
	l := newServerLab(t)
	folder, outside := l.scheduledProgram("nightly")
	l.deployed(folder)
	before, sent := l.programs(), l.artifacts()
	if len(before) != 1 {
		t.Fatalf("programs %q", before)
	}
	kept := func(when string) {
		t.Helper()
		if now := l.programs(); !slices.Equal(now, before) {
			t.Errorf("%s: programs %q, were %q", when, now, before)
		}
	}
	r := l.ends(l.begin(folder, "schedule", "set", "--every", "2s"), 0)
	if !strings.Contains(r.out, "nightly/dev: redeployed every 2s; next: ") || !strings.Contains(r.errOut, "only --rebuild can change anything") {
		t.Errorf("set: %+v", r)
	}
	if line := l.redeployed("nightly/dev", time.Time{}).line(); line != "unchanged" {
		t.Errorf("redeploy: %s", line)
	}
	kept("unchanged")
	if now := l.artifacts(); !slices.Equal(now, sent) {
		t.Errorf("artifacts %q, were %q", now, sent)
	}

	// The schedule is readable without morgana.
	about, err := l.client().ScheduleClient().GetHandle(t.Context(), "schedule/nightly/dev").Describe(t.Context())
	if err != nil || about.Schedule.State.Note != "redeploys nightly on dev" || len(about.Memo.GetFields()) != 1 ||
		about.Schedule.Policy.CatchupWindow != time.Hour {
		t.Errorf("in Temporal: %+v, %v", about, err)
	} else if app, ok := about.TypedSearchAttributes.GetKeyword(workflows.AppAttribute); !ok || app != "nightly" {
		t.Errorf("search attributes %+v", about.TypedSearchAttributes)
	}

	// Over the death of the worker, which a redeploy waits for, and of the server.
	l.kill(l.worker)
	var waiting redeploy // of before, or the next
	l.eventually("a redeploy waits for a worker", func() bool {
		waiting = l.scheduled("nightly/dev").Last[0]
		return waiting.State == "running"
	})
	l.kill(l.server)
	l.startServer()
	l.startWorker()
	if line := l.redeployed("nightly/dev", waiting.Time.Add(-1)).line(); line != "unchanged" {
		t.Errorf("a redeploy over the death of worker and server: %s", line)
	}
	if line := l.redeployed("nightly/dev", time.Now()).line(); line != "unchanged" {
		t.Errorf("a redeploy after that: %s", line)
	}
	kept("after the restart")
	if builds := readAll(t, filepath.Join(outside, "builds")); builds != "built\n" {
		t.Errorf("builds:\n%s", builds)
	}

	// A pause, and the same pause again.
	for range 2 {
		l.ends(l.begin(folder, "schedule", "pause"), 0)
	}
	if s := l.scheduled("nightly/dev"); !s.Paused || len(s.Next) != 0 {
		t.Errorf("paused: %+v", s)
	}
	l.ends(l.begin(folder, "schedule", "set", "--every", "24h", "--rebuild"), 0)
	l.ends(l.begin(folder, "schedule", "resume"), 0)
	if s := l.scheduled("nightly/dev"); s.Paused || s.Every != "24h" || s.Warning != "" || len(s.Next) == 0 {
		t.Errorf("set and resumed: %+v", s)
	}
	l.eventually("no redeploy runs", func() bool { return l.scheduled("nightly/dev").Last[0].State != "running" })

	// A rebuild that fails.
	l.write(filepath.Join(outside, "fail"), "")
	if line := l.triggered("nightly/dev").line(); !strings.HasPrefix(line, "failed: build: sh -ec ") || !strings.HasSuffix(line, "exit status 3") {
		t.Errorf("a rebuild that fails: %s", line)
	}
	kept("after a redeploy that failed")
	l.eventually("the failure is found", func() bool {
		found, err := l.client().ListWorkflow(t.Context(), &workflowservice.ListWorkflowExecutionsRequest{
			Namespace: l.ready.Namespace, Query: "WorkflowType = 'Redeploy' AND ExecutionStatus = 'Failed' AND MorganaApp = 'nightly'"})
		return err == nil && len(found.GetExecutions()) == 1
	})
	if logs := l.morgana(folder, "logs", "nightly/dev", "--stage", "build"); !strings.Contains(logs.out, "broken dependency\n") {
		t.Errorf("logs: %+v", logs)
	}

	// A rebuild with a new dependency. Its kernel serves the next deploy.
	if err := os.Remove(filepath.Join(outside, "fail")); err != nil {
		t.Fatal(err)
	}
	l.write(filepath.Join(outside, "dependency"), "version 2")
	if line := l.triggered("nightly/dev").line(); line != "deployed" {
		t.Errorf("a rebuild with a new dependency: %s", line)
	}
	if now := l.programs(); len(now) != 1 || slices.Equal(now, before) {
		t.Errorf("programs %q, were %q", now, before)
	}
	if again := l.deployed(folder); !strings.Contains(again.out, "unchanged") {
		t.Errorf("a deploy after the rebuild:\n%s", again.out)
	}
	if list := l.morgana(folder, "schedule", "list"); list.code != 0 || !strings.Contains(list.out, "nightly  dev     every 24h, rebuild") ||
		!strings.Contains(list.out, "deployed: generation ") {
		t.Errorf("list: %+v", list)
	}

	gone := l.ends(l.begin(folder, "destroy"), 0)
	if !strings.Contains(gone.out, "nightly/dev: removed schedule/nightly/dev\n") {
		t.Errorf("destroy: %+v", gone)
	}
	refusal{code: 2, line: "nightly/dev has no schedule", hint: "morgana schedule set"}.matches(t, l.morgana(folder, "schedule", "show", "nightly/dev"))
	for range 2 {
		l.ends(l.begin(folder, "schedule", "remove", "nightly/dev"), 0)
	}
	l.gone()
}

// The schedule of a deployment that was terminated makes no machine, and says why.
func TestScheduleWithoutDeployment(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	folder, _ := l.scheduledProgram("orphan")
	refusal{code: 2, line: "orphan/dev is not deployed", hint: "deploy it first"}.
		matches(t, l.morgana(folder, "schedule", "set", "orphan/dev", "--every", "1h"))
	l.deployed(folder)
	for _, bad := range [][]string{
		{"--cron", "0 25 * * *", `--cron: "0 25 * * *": Hour is not in range [0-23]`, "minute, hour, "},
	} {
		refusal{code: 2, line: bad[2], hint: bad[3]}.matches(t, l.morgana(folder, "schedule", "set", "orphan/dev", bad[0], bad[1]))
	}
	l.ends(l.begin(folder, "schedule", "set", "--cron", "@monthly"), 0)
	if err := l.client().TerminateWorkflow(t.Context(), "deployment/orphan/dev", "", "by the test"); err != nil {
		t.Fatal(err)
	}
	before := l.programs()
	if line := l.triggered("orphan/dev").line(); line != "failed: orphan/dev is not deployed" {
		t.Errorf("redeploy: %s", line)
	}
	if now := l.programs(); !slices.Equal(now, before) {
		t.Errorf("programs %q, were %q", now, before)
	}
	if s := l.scheduled("orphan/dev"); s.Warning != "orphan/dev is not deployed, so its redeploys fail" {
		t.Errorf("warning %q", s.Warning)
	}
	if gone := l.ends(l.begin(folder, "destroy"), 0); !strings.Contains(gone.out, "removed schedule/orphan/dev\n") {
		t.Errorf("destroy: %+v", gone)
	}
	l.gone()
}

// A schedule follows a branch in git. A branch that was moved by force is deployed. A submodule
// without a repository, a branch that was deleted, or credentials that are refused is one line
// and leaves the program alone.
func TestScheduleFromGit(t *testing.T) {
	t.Parallel()
	l := emptyLab(t)
	parent := t.TempDir()
	repo := gittest.New(t, parent, "hello")
	first := repo.Commit(map[string]string{"prog.c": saying("first")})
	http, ssh := gittest.ServeHTTP(t, parent), gittest.ServeSSH(t)
	http.Password = "hushhush"
	credentials := filepath.Join(l.folder, "credentials")
	know := func(password string) {
		l.write(credentials, strings.Replace(http.Server.URL, "://", "://ann:"+password+"@", 1)+"\n")
	}
	know(http.Password)
	l.write(filepath.Join(l.folder, "gitconfig"), "[credential]\n\thelper = store --file "+credentials+"\n")
	l.env = append(l.env, "GIT_CONFIG_GLOBAL="+filepath.Join(l.folder, "gitconfig"), "MORGANA_SSH_CONFIG="+ssh.Config)
	l.namespace()
	l.startWorker()
	me := strings.TrimPrefix(strings.Split(ssh.URL(""), "@")[0], "ssh://")
	for app, url := range map[string]string{"by-http": http.URL("hello"), "by-ssh": ssh.URL(repo.Folder)} {
		folder := l.project("app: " + app + "\nsource: {git: \"" + url + "\", ref: main}\n" +
			"toolchain: {kind: command, build: [[cc, -o, prog, prog.c]], kernel: prog}\ntargets: {dev: {kind: local, expect: \", colour\"}}\n")
		l.deployed(folder)
		if r := l.ends(l.begin(folder, "schedule", "set", "--cron", "0 4 * * *", "--timezone", "Europe/Berlin"), 0); r.errOut != "" {
			t.Errorf("set: %+v", r)
		}
	}
	fires := func(app, commit, want string) {
		t.Helper()
		got := l.triggered(app + "/dev")
		if got.line() != want || got.Result.Revision != commit {
			t.Errorf("%s: %q of commit %s, want %q of %s", app, got.line(), got.Result.Revision, want, commit)
		}
	}
	fires("by-http", first, "unchanged")
	second := repo.Commit(map[string]string{"prog.c": saying("second")})
	fires("by-http", second, "deployed")
	fires("by-ssh", second, "deployed")
	repo.Git("reset", "-q", "--hard", first)
	forced := repo.Commit(map[string]string{"prog.c": saying("forced")})
	fires("by-http", forced, "deployed")
	running := l.programs()
	repo.Git("-c", "protocol.file.allow=always", "submodule", "add", "-q", repo.Folder, "lib")
	repo.Git("config", "-f", ".gitmodules", "submodule.lib.url", "../missing")
	repo.Commit(nil)
	fires("by-http", "", "failed: fetch "+http.URL("hello")+": source.git: submodule lib: there is no repository")
	repo.Git("reset", "-q", "--hard", forced)
	repo.Git("branch", "-q", "-m", "main", "other")
	fires("by-http", "", "failed: fetch "+http.URL("hello")+`: source.ref: the repository has no branch or tag "main"`)
	repo.Git("branch", "-q", "-m", "other", "main")
	know("wrong")
	fires("by-http", "", "failed: fetch "+http.URL("hello")+": source.git: the server refuses the credentials")
	ssh.Offer("stranger")
	if got := l.triggered("by-ssh/dev").line(); !strings.HasPrefix(got, "failed: fetch ssh://") || !strings.HasSuffix(got, "source.git: "+me+"@127.0.0.1: Permission denied (publickey)") {
		t.Errorf("by-ssh: %s", got)
	}
	if now := l.programs(); !slices.Equal(now, running) {
		t.Errorf("programs %q, were %q", now, running)
	}
	know(http.Password)
	fires("by-http", forced, "unchanged")
	if r := l.morgana(l.folder, "schedule", "show", "by-http/dev"); r.code != 0 || strings.Contains(r.out, "hush") ||
		!strings.Contains(r.out, "by-http/dev: redeployed at 0 4 * * * (Europe/Berlin)\n") ||
		strings.Count(r.out, ", commit "+forced[:12]+"\n") != 2 || strings.Count(r.out, "\nnext  ") != 5 {
		t.Errorf("show: %+v", r)
	}
	for _, app := range []string{"by-http", "by-ssh"} {
		l.ends(l.begin(l.folder, "destroy", app+"/dev"), 0)
	}
}
