package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/morgana-deploy/morgana/config"
	"github.com/morgana-deploy/morgana/step"
)

// dev is a Temporal server and a worker of our own, in the background, for
// those who have none. Folder holds server.json (written by the server when it
// is ready), worker.json, their logs and the server's database.
type dev struct {
	folder   string
	settings config.Settings
}

// serverInfo is server.json.
type serverInfo struct {
	Address   string `json:"address"`
	UI        string `json:"ui"`
	Namespace string `json:"namespace"`
	PID       int    `json:"pid"`
}

// workerInfo is worker.json.
type workerInfo struct {
	PID int `json:"pid"`
	// Started is the process's start time in clock ticks since boot, which
	// tells it from a later process of the same number.
	Started string `json:"started"`
	// Binary tells a worker built since from the one that runs.
	Binary string `json:"binary"`
	// Server is the address it polls, Store the store it was given, SSHConfig
	// the configuration that its ssh reads, "" if the user's own.
	Server    string `json:"server"`
	Store     string `json:"store"`
	SSHConfig string `json:"sshConfig,omitempty"`
}

func devFolder(state string) string { return filepath.Join(state, "dev") }

func (d dev) path(name string) string { return filepath.Join(d.folder, name) }

// server tells of the server and whether it runs.
func (d dev) server() (serverInfo, bool) {
	var s serverInfo
	if readJSON(d.path("server.json"), &s) != nil {
		return s, false
	}
	conn, err := net.DialTimeout("tcp", s.Address, time.Second) //nolint:noctx // a second on loopback
	if err != nil {
		return s, false
	}
	_ = conn.Close() // only asked whether somebody listens
	return s, startTime(s.PID) != "" && d.isOurs(s.PID)
}

// workerRuns reports whether the worker runs, is the binary we would start, polls
// the server that runs, and has the settings we have. Who says nothing of ssh leaves
// its configuration as it is: somebody at another shell may be using it.
func (d dev) workerRuns() bool {
	w, running := d.worker()
	server, _ := d.server()
	binary, err := besides("morgana-worker")
	return running && err == nil && w.Binary == stamp(binary) && w.Server == server.Address &&
		w.Store == d.settings.Store && (sshConfig() == "" || w.SSHConfig == sshConfig())
}

func (d dev) worker() (workerInfo, bool) {
	var w workerInfo
	err := readJSON(d.path("worker.json"), &w)
	return w, err == nil && w.PID > 0 && w.Started != "" && startTime(w.PID) == w.Started
}

// up starts what does not run, waits until it is ready, and tells what it
// started.
func (d dev) up(ctx context.Context) (server serverInfo, started []string, err error) {
	if err := os.MkdirAll(d.folder, 0o700); err != nil {
		return server, nil, &step.Error{Op: "start the development server", Err: err, Hint: "set MORGANA_STATE to a folder you can write"}
	}
	unlock, err := d.lock(ctx)
	if err != nil {
		return server, nil, err
	}
	defer unlock()
	server, running := d.server()
	if !running {
		if server, err = d.startServer(ctx); err != nil {
			return server, nil, err
		}
		started = append(started, "a Temporal server")
	}
	if d.workerRuns() {
		return server, started, nil
	}
	d.stopWorker(ctx) // an older one, or one of a server that is gone
	return server, append(started, "a worker"), d.startWorker(server)
}

func (d dev) startServer(ctx context.Context) (serverInfo, error) {
	binary, err := besides("morgana-devserver")
	if err != nil {
		return serverInfo{}, err
	}
	var last serverInfo                        // the same ports again, for those who watch
	_ = readJSON(d.path("server.json"), &last) // there may be none
	if err := os.Remove(d.path("server.json")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return serverInfo{}, err
	}
	args := []string{"--port", freePort(last.Address, "7233"), "--ui-port", freePort(strings.TrimPrefix(last.UI, "http://"), "8233"),
		"--db", d.path("temporal.db"), "--ready-file", d.path("server.json")}
	cmd, err := d.start("server.log", nil, binary, args...)
	if err != nil {
		return serverInfo{}, err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for {
		if server, running := d.server(); running {
			return server, nil
		}
		select {
		case <-ctx.Done():
			return serverInfo{}, errDetached
		case err := <-ended:
			return serverInfo{}, &step.Error{Kind: step.Unsupported, Op: "start the development server", Err: fmt.Errorf("it ended: %w", err),
				Hint: tail(d.path("server.log"), 5)}
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (d dev) startWorker(server serverInfo) error {
	binary, err := besides("morgana-worker")
	if err != nil {
		return err
	}
	env := []string{"TEMPORAL_ADDRESS=" + server.Address, "TEMPORAL_NAMESPACE=" + server.Namespace, sshConfigVariable + "=" + sshConfig()}
	cmd, err := d.start("worker.log", env, binary, "--listen", "127.0.0.1:0",
		"--state", d.settings.State, "--store", d.settings.Store)
	if err != nil {
		return err
	}
	w := workerInfo{PID: cmd.Process.Pid, Started: startTime(cmd.Process.Pid), Binary: stamp(binary), Server: server.Address,
		Store: d.settings.Store, SSHConfig: sshConfig()}
	go func() { _ = cmd.Wait() }() // it outlives us; its log says how it ended
	return writeJSON(d.path("worker.json"), w)
}

// start runs a program in the background, in a session of its own.
func (d dev) start(log string, env []string, binary string, args ...string) (*exec.Cmd, error) {
	out, err := os.OpenFile(d.path(log), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer func() { _ = out.Close() }()   // the child has its own
	cmd := exec.Command(binary, args...) //nolint:noctx // it outlives the command that starts it
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = out, out
	cmd.Env = append(os.Environ(), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, &step.Error{Kind: step.Unsupported, Op: "start " + filepath.Base(binary), Err: err}
	}
	return cmd, nil
}

// down stops the worker, then the server.
func (d dev) down(ctx context.Context) (stopped []string) {
	if d.stopWorker(ctx) {
		stopped = append(stopped, "worker")
	}
	if server, running := d.server(); running {
		end(ctx, server.PID, startTime(server.PID))
		stopped = append(stopped, "server")
	}
	return stopped
}

func (d dev) stopWorker(ctx context.Context) bool {
	w, running := d.worker()
	if running {
		end(ctx, w.PID, w.Started)
	}
	return running
}

// isOurs reports whether the process was started on our database.
func (d dev) isOurs(pid int) bool {
	args, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return err == nil && strings.Contains(string(args), d.path("temporal.db"))
}

// end asks a process to stop and insists after 25 s.
func end(ctx context.Context, pid int, started string) {
	if started == "" {
		return // gone already
	}
	_ = syscall.Kill(pid, syscall.SIGTERM) // gone already: the loop sees it
	deadline := time.Now().Add(25 * time.Second)
	for startTime(pid) == started {
		if time.Now().After(deadline) {
			_ = syscall.Kill(pid, syscall.SIGKILL)
			return
		}
		if sleep(ctx, 50*time.Millisecond) != nil {
			return // it has been asked
		}
	}
}

// lock keeps two commands from starting a server each.
func (d dev) lock(ctx context.Context) (func(), error) {
	f, err := os.OpenFile(d.path("lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	for unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
		if sleep(ctx, 50*time.Millisecond) != nil {
			_ = f.Close()
			return nil, errDetached
		}
	}
	return func() { _ = f.Close() }, nil // closing releases it
}

// besides finds a program of ours next to this one, else in PATH.
func besides(name string) (string, error) {
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

// stamp tells one build of a program from another.
func stamp(path string) string {
	info, err := os.Stat(path)
	if err != nil {
		return ""
	}
	return fmt.Sprintf("%s %d %d", path, info.Size(), info.ModTime().UnixNano())
}

// startTime is field 22 of /proc/PID/stat (proc(5)), "" if there is no such
// process or it is a zombie.
func startTime(pid int) string {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return ""
	}
	_, after, _ := strings.Cut(string(stat), ") ") // the name may hold spaces
	fields := strings.Fields(after)
	if len(fields) < 20 || fields[0] == "Z" {
		return ""
	}
	return fields[19]
}

// freePort gives the port of last, a host:port, if it can be had on loopback,
// else usual, else "0" for any.
func freePort(last, usual string) string {
	_, before, _ := net.SplitHostPort(last) // empty: Listen takes that for any
	for _, port := range []string{before, usual} {
		if port == "" {
			continue
		}
		l, err := net.Listen("tcp", "127.0.0.1:"+port) //nolint:noctx // does not block
		if err == nil {
			_ = l.Close()
			return port
		}
	}
	return "0"
}

// tail is the last n lines of a file.
func tail(path string, n int) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return "see " + path
	}
	lines := strings.Split(strings.TrimRight(string(data), "\n"), "\n")
	return strings.Join(append(lines[max(0, len(lines)-n):], "see "+path), "\n")
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
	temp := path + ".new"
	if err := os.WriteFile(temp, data, 0o600); err != nil {
		return err
	}
	return os.Rename(temp, path)
}

func (c *cli) devCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Run a Temporal server and a worker on this machine",
		Long: `A Temporal server with its web UI and database, and a worker, in the background
on this machine. "morgana deploy" starts them by itself where no Temporal
address is configured. They listen on loopback only; their state is in
$XDG_STATE_HOME/morgana/dev.`,
		Example: "  morgana dev up\n  morgana dev status\n  morgana dev down",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	sub := func(use, short string, f func(context.Context, dev) error) {
		cmd.AddCommand(&cobra.Command{Use: use, Short: short, Example: "  morgana dev " + use, Args: cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				settings, err := config.LoadSettings(c.flags)
				if err != nil {
					return err
				}
				return f(cmd.Context(), dev{folder: devFolder(settings.State), settings: settings})
			}})
	}
	sub("up", "Start them, if they do not run", func(ctx context.Context, d dev) error {
		if _, _, err := d.up(ctx); err != nil {
			return err
		}
		return c.devStatus(d)
	})
	sub("down", "Stop them; machines go on running", func(ctx context.Context, d dev) error {
		stopped := d.down(ctx)
		if c.output == "json" {
			c.emit(map[string][]string{"stopped": stopped})
			return nil
		}
		if len(stopped) == 0 {
			c.say("nothing was running")
			return nil
		}
		c.say("stopped: %s", strings.Join(stopped, ", "))
		return nil
	})
	sub("status", "Say whether they run, and where", func(_ context.Context, d dev) error { return c.devStatus(d) })
	return cmd
}

func (c *cli) devStatus(d dev) error {
	server, serverUp := d.server()
	worker, workerUp := d.worker()
	if c.output == "json" {
		c.emit(struct {
			Server    serverInfo `json:"server"`
			ServerUp  bool       `json:"serverUp"`
			WorkerPID int        `json:"workerPid"`
			WorkerUp  bool       `json:"workerUp"`
			Folder    string     `json:"folder"`
		}{server, serverUp, worker.PID, workerUp, d.folder})
		return nil
	}
	state := map[bool]string{true: "running", false: "not running"}
	line := func(name, value string) { _, _ = fmt.Fprintf(c.out, "%-8s %s\n", name, value) }
	line("server", state[serverUp])
	if serverUp {
		line("address", server.Address)
		line("ui", server.UI)
	}
	line("worker", state[workerUp])
	line("folder", d.folder)
	return nil
}
