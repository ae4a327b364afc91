package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/morgana-deploy/morgana/files"
	"github.com/morgana-deploy/morgana/own"
	"github.com/morgana-deploy/morgana/step"
)

// background is a program that outlives the command that started it.
type background struct {
	*exec.Cmd
	log string
	// logged is the log's size before the program was started.
	logged int64
	ended  chan error
}

// start starts a program in a session of its own. The program appends to log.
func start(log string, env []string, binary string, args ...string) (*background, error) {
	out, err := os.OpenFile(log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer func() { _ = out.Close() }() // the program has its own descriptor
	logged, err := out.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(binary, args...) //nolint:noctx // it outlives the command that starts it
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = out, out
	cmd.Env = append(os.Environ(), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, &step.Error{Kind: step.Unsupported, Op: "start " + filepath.Base(binary), Err: err}
	}
	b := &background{cmd, log, logged, make(chan error, 1)}
	go func() { b.ended <- cmd.Wait() }()
	return b, nil
}

// startLimit is longer than our programs take before they give up by themselves.
const startLimit = 90 * time.Second

// await waits until the program is ready.
func (b *background) await(ctx context.Context, ready func() bool) error {
	limit := time.After(startLimit)
	for !ready() {
		select {
		case <-ctx.Done():
			return errDetached
		case err := <-b.ended:
			return b.failure(fmt.Errorf("it ended: %w", err))
		case <-limit:
			return b.failure(fmt.Errorf("it is not ready after %v", startLimit))
		case <-time.After(50 * time.Millisecond):
		}
	}
	return nil
}

// failure returns the last error in the program's log, else err. Its hint names the log.
func (b *background) failure(err error) error {
	e := &step.Error{Kind: step.Unsupported, Op: "start " + filepath.Base(b.Path), Err: err}
	cause, hint := loggedError(b.log, b.logged)
	if cause != "" {
		e.Err = errors.New(cause)
	}
	e.Hint = strings.TrimPrefix(hint+"\nits log: "+b.log, "\n")
	return e
}

// loggedError returns the last error in a log after an offset, and the hint that follows
// it. Without an error, cause is the last line. Long lines are cut.
func loggedError(log string, from int64) (cause, hint string) {
	f, err := os.Open(log)
	if err != nil {
		return "", ""
	}
	defer func() { _ = f.Close() }() // only read
	const most = 64 << 10
	if info, err := f.Stat(); err == nil {
		from = max(from, info.Size()-most)
	}
	text, _ := io.ReadAll(io.NewSectionReader(f, from, most)) // after an error it has the text read so far
	told := false
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if len(line) > 300 {
			line = strings.ToValidUTF8(line[:300], "") + "..."
		}
		if words, ok := strings.CutPrefix(line, "hint: "); ok && told {
			hint = words
		} else if words, ok := cutAny(line, "error: ", "panic: ", "fatal error: "); ok {
			cause, hint, told = words, "", true
		} else if line != "" && !told {
			cause = line
		}
	}
	return cause, hint
}

func cutAny(line string, prefixes ...string) (string, bool) {
	for _, p := range prefixes {
		if rest, ok := strings.CutPrefix(line, p); ok {
			return rest, true
		}
	}
	return line, false
}

// stopProcess asks a process to stop and kills it after 25 s.
func stopProcess(ctx context.Context, pid int, started string) {
	if started == "" {
		return // gone already
	}
	_ = syscall.Kill(pid, syscall.SIGTERM) // if it is gone, the loop ends
	deadline := time.Now().Add(25 * time.Second)
	for own.StartTime(pid) == started {
		if time.Now().After(deadline) {
			_ = syscall.Kill(pid, syscall.SIGKILL)
			return
		}
		if step.Pause(ctx, 50*time.Millisecond) != nil {
			return // SIGTERM was sent, and the caller waits no longer
		}
	}
}

// lock takes the exclusive lock of a file, which it makes if need be. If ctx ends, the
// error is errDetached.
func lock(ctx context.Context, path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		err := files.Lock(f)
		if err == nil {
			break
		}
		if !errors.Is(err, files.ErrLocked) || step.Pause(ctx, 50*time.Millisecond) != nil {
			_ = f.Close() // nothing was written
			if ctx.Err() != nil {
				err = errDetached
			}
			return nil, err
		}
	}
	return func() { _ = f.Close() }, nil // closing releases it
}

// findProgram returns the path of a program of ours: beside this one, else in PATH.
func findProgram(name string) (string, error) {
	if self, err := os.Executable(); err == nil {
		near := filepath.Join(filepath.Dir(self), name)
		if info, err := os.Stat(near); err == nil && info.Mode().IsRegular() {
			return near, nil
		}
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return "", &step.Error{Kind: step.Unsupported, Op: "find " + name, Err: errors.New("not beside morgana and not in PATH"),
			Hint: "run make build in Morgana's source, or set TEMPORAL_ADDRESS to use a server of yours"}
	}
	return path, nil
}

// stamp identifies a build of a program, "" if it is missing.
func stamp(path string) string {
	info, err := os.Stat(path)
	if err != nil {
		return ""
	}
	return fmt.Sprintf("%s %d %d", path, info.Size(), info.ModTime().UnixNano())
}

func readJSON(path string, into any) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return json.Unmarshal(data, into)
}

func writeJSON(path string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return files.Write(path, data)
}
