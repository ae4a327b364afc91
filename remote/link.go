package remote

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"sync"
	"syscall"
	"time"

	"github.com/morgana-deploy/morgana/step"
)

const (
	// sessions is how many commands share a connection at a time. The default limit of
	// sshd, MaxSessions, is 10.
	sessions = 8
	// connectTime bounds a whole login: ConnectTimeout does not bound proxies and slow
	// logins.
	connectTime = time.Minute
)

// link is a connection that commands share: an ssh in the background.
type link struct {
	socket string // where it listens; empty if it was never up
	used   int
}

// links are the connections to one host: as many as its commands at a time need. ssh ends
// a connection that was idle for 60 s.
type links struct {
	sync.Mutex
	all []*link
	// connecting is held while a connection is made: sshd drops some when many
	// log in at once (MaxStartups).
	connecting chan struct{}
	// failed is the error of the last failed login, for callers that waited for it.
	failed   error
	failedAt time.Time
}

// hosts holds the links of each address, because targets open a Host for every step.
var hosts = struct {
	sync.Mutex
	of map[Host]*links
}{of: map[Host]*links{}}

// take returns a link with a place for one more command.
func (ls *links) take() *link {
	ls.Lock()
	defer ls.Unlock()
	for _, l := range ls.all {
		if l.used < sessions {
			l.used++
			return l
		}
	}
	l := &link{used: 1}
	ls.all = append(ls.all, l)
	return l
}

// connect returns the socket of a connection that takes one more command, and makes that
// connection if need be. The caller calls release when its command has ended.
func connect(ctx context.Context, h *Host) (socket string, release func(), err error) {
	hosts.Lock()
	ls := hosts.of[*h]
	if ls == nil {
		ls = &links{connecting: make(chan struct{}, 1)}
		hosts.of[*h] = ls
	}
	hosts.Unlock()

	l := ls.take()
	release = func() {
		ls.Lock()
		l.used--
		ls.Unlock()
	}
	ls.Lock()
	socket = l.socket
	ls.Unlock()
	if listens(ctx, socket) {
		return socket, release, nil
	}
	asked := time.Now()
	select {
	case ls.connecting <- struct{}{}:
	case <-ctx.Done():
		release()
		return "", nil, ctx.Err()
	}
	defer func() { <-ls.connecting }()
	ls.Lock()
	socket, err = l.socket, ls.failed
	tried := ls.failedAt.After(asked)
	ls.Unlock()
	if listens(ctx, socket) { // another call has connected meanwhile
		return socket, release, nil
	}
	if tried { // all callers that waited share the error of one attempt
		release()
		return "", nil, err
	}
	if socket, err = h.dial(ctx); err != nil {
		release()
		if ctx.Err() == nil {
			ls.Lock()
			ls.failed, ls.failedAt = err, time.Now()
			ls.Unlock()
		}
		return "", nil, err
	}
	ls.Lock()
	old := l.socket
	l.socket = socket
	ls.Unlock()
	if old != "" {
		_ = os.Remove(old) // left if its ssh was killed
	}
	return socket, release, nil
}

// listens reports whether an ssh listens on the socket.
func listens(ctx context.Context, socket string) bool {
	if socket == "" {
		return false
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		return false
	}
	_ = conn.Close() // nothing was sent
	return true
}

// dial logs in and leaves an ssh in the background that listens on a new socket.
func (h *Host) dial(ctx context.Context) (string, error) {
	op := "connect to " + h.String()
	dir, err := folder()
	if err != nil {
		return "", err
	}
	log, err := newLog()
	if err != nil {
		return "", err
	}
	defer log.close()
	sweep(dir)
	within, cancel := context.WithTimeout(ctx, connectTime)
	defer cancel()
	socket := filepath.Join(dir, newToken()[:16])
	cmd := h.command(within, log.File, socket, "-M", "-N", "-f")
	cmd.Stderr = log.File // for messages before ssh opens its log
	err = Execute(within, cmd, nil)
	_, ended := status(err)
	switch {
	case err == nil:
		return socket, nil
	case ctx.Err() != nil:
		return "", ctx.Err()
	case cmd.Process == nil:
		return "", notStarted(err)
	case ended:
		return "", said(op, h, log.text())
	case errors.Is(err, context.DeadlineExceeded):
		err = fmt.Errorf("not logged in after %v", connectTime)
	}
	return "", &step.Error{Op: op, Err: err}
}

// log is a file for the messages of one ssh, apart from its command's output.
type log struct {
	*os.File
	once sync.Once
}

func newLog() (*log, error) {
	dir, err := folder()
	if err != nil {
		return nil, err
	}
	f, err := os.CreateTemp(dir, "log-")
	if err != nil {
		return nil, step.During("make a log for ssh", err)
	}
	return &log{File: f}, nil
}

// remove unlinks the file once ssh has opened it, so a killed worker leaves none behind.
func (l *log) remove() { l.once.Do(func() { _ = os.Remove(l.Name()) }) }

// sweep removes logs of workers that were killed while they logged in.
func sweep(dir string) {
	logs, _ := filepath.Glob(filepath.Join(dir, "log-*")) // the pattern is right
	for _, l := range logs {
		if info, err := os.Lstat(l); err == nil && time.Since(info.ModTime()) > time.Hour {
			_ = os.Remove(l)
		}
	}
}

func (l *log) close() {
	l.remove()
	_ = l.Close() // it was only read here
}

func (l *log) text() string {
	if _, err := l.Seek(0, io.SeekStart); err != nil {
		return ""
	}
	text, err := io.ReadAll(io.LimitReader(l, 64<<10))
	if err != nil {
		return ""
	}
	return string(text)
}

// plain matches a path that ssh reads as it is (no spaces, %, ~ or $). A socket's path
// has at most 107 bytes, with its name and the suffix that ssh appends while it binds.
var plain = regexp.MustCompile(`^/[A-Za-z0-9/._-]{1,70}$`)

// folder returns the folder of sockets and logs. It is private to this user: a socket
// gives the user's rights on the other host.
func folder() (string, error) {
	const op = "find a private folder for ssh's sockets"
	dir := filepath.Join(os.Getenv("XDG_RUNTIME_DIR"), "morgana")
	made := errors.New("not to be had") // Mkdir may fail too: XDG_RUNTIME_DIR may be another user's
	if plain.MatchString(dir) {
		made = os.Mkdir(dir, 0o700)
	}
	if made != nil && !errors.Is(made, os.ErrExist) {
		dir = fmt.Sprintf("/tmp/morgana-%d", os.Getuid())
		made = os.Mkdir(dir, 0o700)
	}
	if made != nil && !errors.Is(made, os.ErrExist) {
		return "", step.During(op, made)
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return "", step.During(op, err)
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	if !info.IsDir() || info.Mode().Perm() != 0o700 || !ok || int(owner.Uid) != os.Getuid() {
		return "", &step.Error{Kind: step.Unauthorized, Op: op, Err: fmt.Errorf("%s is not a folder of this user's alone", dir),
			Hint: "remove " + dir + ", or set XDG_RUNTIME_DIR to a folder of your own"}
	}
	return dir, nil
}
