package source

import (
	"bytes"
	"context"
	"errors"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/morgana-deploy/morgana/remote"
	"github.com/morgana-deploy/morgana/step"
)

// settings are given to every git. They win over the user's, and the gits that git runs for
// submodules get them too.
var settings = []string{
	"core.hooksPath=/dev/null",
	"core.fsmonitor=false",
	"core.autocrlf=false", // the same bytes as for everybody else
	"gc.auto=0",
	"maintenance.auto=false",
	"fetch.recurseSubmodules=false",
	"submodule.recurse=false",
	"advice.detachedHead=false",
	"credential.interactive=false",
	// A server that works on its answer sends a few bytes every five seconds.
	"http.lowSpeedLimit=1",
	"http.lowSpeedTime=120",
}

// kept are the variables of git that it gets from the worker's environment. Others could
// name another repository, or write credentials into a trace.
var kept = regexp.MustCompile(`^GIT_(CONFIG_(GLOBAL|SYSTEM|NOSYSTEM|COUNT|KEY_\d+|VALUE_\d+)|SSL_\w+|EXEC_PATH|LFS_\w+)=`)

// run runs git in the folder and returns its output. The error is a [*step.Error] that says
// what went wrong, the error of ctx, or its cause.
func (c *checkout) run(ctx context.Context, args ...string) ([]byte, error) {
	var argv []string
	for _, s := range slices.Concat(settings, c.protocols()) {
		argv = append(argv, "-c", s)
	}
	cmd := exec.CommandContext(ctx, "git", append(argv, args...)...)
	cmd.Dir, cmd.Env = c.folder, c.environ
	var out bytes.Buffer
	said := &messages{report: func(p step.Progress) {
		p.Note = "fetching " + c.git.URL
		step.Report(ctx, p)
	}}
	cmd.Stdout, cmd.Stderr = &out, said
	err := remote.Execute(ctx, cmd, nil)
	var exit *exec.ExitError
	switch {
	case err == nil:
		return out.Bytes(), nil
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case cmd.Process == nil && errors.Is(err, exec.ErrNotFound):
		return nil, &step.Error{Kind: step.Unsupported, Field: "source.git", Err: errors.New("git is not installed on the worker's host"), Hint: installGit}
	case !errors.As(err, &exit):
		return nil, err
	}
	return nil, c.refused(ctx, said.text())
}

const installGit = "apt-get install git"

func gitNeeds(ctx context.Context) []step.Need {
	n := step.Need{For: "fetch sources from git", What: "git", Fix: installGit}
	path, err := exec.LookPath("git")
	if err != nil {
		return []step.Need{n}
	}
	n.Found, n.Fix = path, ""
	if version, err := exec.CommandContext(ctx, path, "--version").Output(); err == nil {
		n.Found += " (" + strings.TrimSpace(strings.TrimPrefix(string(version), "git version ")) + ")"
	}
	return []step.Need{n}
}

// messages keeps the last messages of a git and reports its progress.
type messages struct {
	report func(step.Progress)
	line   []byte
	lines  []string
}

// keptLines is how many lines of messages are kept.
const keptLines = 60

var progressForm = regexp.MustCompile(`^(?:remote: )?\w+ing (\w+): +\d+% \((\d+)/(\d+)\)`)

func (m *messages) Write(b []byte) (int, error) {
	for _, c := range b {
		if c != '\r' && c != '\n' {
			if len(m.line) < 4<<10 {
				m.line = append(m.line, c)
			}
			continue
		}
		m.end()
	}
	return len(b), nil
}

// end ends a line.
func (m *messages) end() {
	line := strings.TrimSpace(strings.ToValidUTF8(string(m.line), "\uFFFD"))
	m.line = m.line[:0]
	if p := progressForm.FindStringSubmatch(line); p != nil {
		done, _ := strconv.ParseInt(p[2], 10, 64) // 0 if it is too large
		total, _ := strconv.ParseInt(p[3], 10, 64)
		m.report(step.Progress{Done: done, Total: total, Unit: p[1]})
		return
	}
	if line == "" {
		return
	}
	if m.lines = append(m.lines, line); len(m.lines) > keptLines {
		m.lines = m.lines[1:]
	}
}

func (m *messages) text() string {
	m.end()
	return strings.Join(m.lines, "\n")
}
