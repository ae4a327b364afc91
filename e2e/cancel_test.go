package e2e

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"
)

// cancel ends a running and a queued deploy and not the machine. logs has the output of
// the cancelled build, of a failed one and of an earlier generation.
func TestCancelAndLogs(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	folder := l.source("cancelled", "printf 'first \\033[1mbuild\\033[0m\\n'\nmake >/dev/null\n", stays)
	refusal{code: 2, line: "cancelled/dev is not deployed", hint: "morgana status"}.matches(t, l.morgana(folder, "cancel", "cancelled/dev"))
	refusal{code: 2, line: "cancelled/dev is not deployed", hint: "morgana status"}.matches(t, l.morgana(folder, "logs", "cancelled/dev"))
	l.deployed(folder)
	machine := l.one("cancelled")
	if r := l.morgana(folder, "cancel"); r.code != 0 || r.out != "cancelled/dev: no deploy runs, so there is nothing to cancel\n" {
		t.Errorf("nothing to cancel: %+v", r)
	}

	logs := func(want string, args ...string) {
		t.Helper()
		r := l.morgana(folder, append([]string{"logs"}, args...)...)
		if r.code != 0 || r.errOut != "" || strings.Count(r.out, "==> ") != 1 || !strings.Contains(r.out, want) {
			t.Errorf("logs %q: %+v", args, r)
		}
	}
	logs("first \x1b[1mbuild\x1b[0m\n", "cancelled/dev", "-g", "1", "--stage", "build")

	l.write(filepath.Join(folder, "build.sh"), "echo second build\nsleep 1000\n")
	running := l.begin(folder, "deploy")
	l.eventually("a build runs", func() bool { return l.runs("sleep 1000") })
	refusal{code: 2, line: "rollout/cancelled/dev/2 has no log of build", hint: "build still runs"}.
		matches(t, l.morgana(folder, "logs", "--stage", "build"))
	queued := l.begin(folder, "deploy", "--set", "dev.memory=72")
	l.eventually("a deploy is queued", func() bool { return strings.Contains(queued.out.String(), "generation 3") })
	l.eventually("the build runs, perhaps in another try", func() bool { return l.runs("sleep 1000") })
	r := l.morgana(folder, "cancel", "cancelled/dev", "-o", "json")
	var got struct {
		Event, App, Target string
		Cancelled          []int
		Removed            []string
	}
	if err := json.Unmarshal([]byte(r.out), &got); err != nil || r.code != 0 || got.App != "cancelled" || got.Target != "dev" || len(got.Cancelled) != 2 || len(got.Removed) == 0 {
		t.Errorf("cancel: %+v, %v", r, err)
	}
	refusal{code: 1, line: "rollout/cancelled/dev/2: cancelled", hint: "nothing of this deploy is left"}.matches(t, l.end(running))
	refusal{code: 1, line: "rollout/cancelled/dev/3: cancelled before it began", hint: "deploy again"}.matches(t, l.end(queued))
	if now := l.one("cancelled"); now != machine {
		t.Errorf("process %d runs, it was %d", now, machine)
	}
	logs("second build\n", "--generation", "2")
	refusal{code: 2, line: "the server has no history of rollout/cancelled/dev/3", hint: "has not begun"}.matches(t, l.morgana(folder, "logs"))
	refusal{code: 2, line: "cancelled/dev has no generation 9", hint: "the last one is 3"}.matches(t, l.morgana(folder, "logs", "-g", "9"))

	// A first build that fails ends the deployment, and its log is still found.
	failing := l.source("failing", "echo it breaks\nexit 4\n", stays)
	l.ends(l.begin(failing, "deploy"), 1)
	r = l.morgana(failing, "logs", "failing/dev", "-o", "json")
	lines := strings.Split(strings.TrimSpace(r.out), "\n")
	var line struct {
		App, Target, Stage, Line string
		Generation               int
	}
	if r.code != 0 || len(lines) != 3 || json.Unmarshal([]byte(lines[1]), &line) != nil ||
		line.Line != "it breaks" || line.App != "failing" || line.Stage != "build" || line.Generation != 1 {
		t.Errorf("logs of a failed build: %+v", r)
	}
	refusal{code: 2, line: "rollout/failing/dev/1 has no log of configure", hint: "configure ran no command"}.
		matches(t, l.morgana(failing, "logs", "failing/dev", "--stage", "configure"))
	l.ends(l.begin(folder, "destroy"), 0)
	l.gone()
}
