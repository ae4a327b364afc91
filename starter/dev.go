package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/morgana-deploy/morgana/config"
	"github.com/morgana-deploy/morgana/own"
	"github.com/morgana-deploy/morgana/step"
)

// dev is a Temporal server and a worker of our own, in the background, for users
// who have none.
type dev struct {
	folder   string
	settings config.Settings
}

// The files in a dev's folder, beside the database and the logs.
const (
	serverFile   = own.ServerFile
	lastFile     = "last.json"    // the last server.json, for the ports of the next server
	workerFile   = "worker.json"  // workerInfo
	readyFile    = "worker.ready" // made by the worker while it takes work: its process id
	databaseFile = own.DatabaseFile
)

// serverInfo is server.json.
type serverInfo = own.Server

// workerInfo is worker.json.
type workerInfo struct {
	PID int `json:"pid"`
	// Started is the start time of the process in clock ticks since boot. It tells the
	// process from a later one of the same PID.
	Started string `json:"started"`
	// Binary is the stamp of the worker's program. A new build replaces the worker.
	Binary string `json:"binary"`
	Store  string `json:"store"`
	// SSHConfig is the path of the worker's ssh configuration, "" for the user's own.
	SSHConfig string `json:"sshConfig,omitempty"`
}

// openDev returns the dev of a state folder, whether or not anything runs. A file that
// may not be read is an error: another user's server may run.
func openDev(settings config.Settings) (dev, error) {
	d := dev{filepath.Join(settings.State, "dev"), settings}
	for _, name := range []string{serverFile, workerFile} {
		f, err := os.Open(d.path(name))
		if err == nil {
			_ = f.Close() // nothing was read
		} else if !errors.Is(err, fs.ErrNotExist) {
			return d, &step.Error{Kind: step.Unauthorized, Op: "look for our own server", Err: err,
				Hint: "another user's server may run on this state folder; set MORGANA_STATE to a folder of your own"}
		}
	}
	return d, nil
}

func (d dev) path(name string) string { return filepath.Join(d.folder, name) }

func (d dev) server() (serverInfo, bool) { return own.Folder(d.folder).Server() }

// worker returns worker.json, whether the worker lives, and whether it takes work: from
// its first poll of Temporal until it is told to stop.
func (d dev) worker() (w workerInfo, lives, works bool) {
	if readJSON(d.path(workerFile), &w) != nil || w.PID <= 0 || w.Started == "" || own.StartTime(w.PID) != w.Started {
		return w, false, false
	}
	var ready int
	return w, true, readJSON(d.path(readyFile), &ready) == nil && ready == w.PID
}

// workerFits reports whether the worker takes work, is the program that we would start,
// and has our settings. If the user names no ssh configuration, the worker may have any:
// another shell may have set it.
func (d dev) workerFits() bool {
	w, _, works := d.worker()
	binary, err := findProgram("morgana-worker")
	return works && err == nil && w.Binary == stamp(binary) &&
		w.Store == d.settings.Store && (sshConfig() == "" || w.SSHConfig == sshConfig())
}

// up starts the server if none runs, and replaces the worker if it does not fit. It
// waits until both are ready, and lists what it started.
func (d dev) up(ctx context.Context) (server serverInfo, started []string, err error) {
	if err := os.MkdirAll(d.folder, 0o700); err != nil {
		return server, nil, &step.Error{Op: "start the development server", Err: err, Hint: "set MORGANA_STATE to a folder you can write"}
	}
	unlock, err := lock(ctx, d.path("lock"))
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
	if d.workerFits() {
		return server, started, nil
	}
	d.stopWorker(ctx)
	return server, append(started, "a worker"), d.startWorker(ctx, server)
}

// releaseLimit is how long a killed server may take to let go of its files and ports.
const releaseLimit = 15 * time.Second

func (d dev) startServer(ctx context.Context) (serverInfo, error) {
	binary, err := findProgram("morgana-devserver")
	if err != nil {
		return serverInfo{}, err
	}
	// The server before this one may be dying: it holds the database and the
	// ports until its last thread has ended.
	waiting, cancel := context.WithTimeout(ctx, releaseLimit)
	defer cancel()
	if unlock, err := lock(waiting, d.path(databaseFile+".lock")); err == nil {
		unlock()
	} // else the new server fails, and names the process that holds the lock
	var last serverInfo
	_ = readJSON(d.path(lastFile), &last) // there may be none
	args := []string{"--port", port(waiting, last.Address, "7233"), "--ui-port", port(waiting, strings.TrimPrefix(last.UI, "http://"), "8233"),
		"--db", d.path(databaseFile), "--ready-file", d.path(serverFile)}
	if err := os.Remove(d.path(serverFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return serverInfo{}, err
	}
	started, err := start(d.path("server.log"), nil, binary, args...)
	if err != nil {
		return serverInfo{}, err
	}
	err = started.await(ctx, func() bool { _, running := d.server(); return running })
	if err != nil {
		return serverInfo{}, err
	}
	server, _ := d.server()
	return server, writeJSON(d.path(lastFile), server)
}

func (d dev) startWorker(ctx context.Context, server serverInfo) error {
	binary, err := findProgram("morgana-worker")
	if err != nil {
		return err
	}
	env := []string{"TEMPORAL_ADDRESS=" + server.Address, "TEMPORAL_NAMESPACE=" + server.Namespace, sshConfigVariable + "=" + sshConfig()}
	started, err := start(d.path("worker.log"), env, binary, "--listen", "127.0.0.1:0", "--ready-file", d.path(readyFile), "--own-server", d.folder,
		"--state", d.settings.State, "--store", d.settings.Store)
	if err != nil {
		return err
	}
	pid := started.Process.Pid
	w := workerInfo{PID: pid, Started: own.StartTime(pid), Binary: stamp(binary),
		Store: d.settings.Store, SSHConfig: sshConfig()}
	if err := writeJSON(d.path(workerFile), w); err != nil {
		return err
	}
	return started.await(ctx, func() bool { _, _, works := d.worker(); return works })
}

// down stops the worker, then the server.
func (d dev) down(ctx context.Context) (stopped []string) {
	if d.stopWorker(ctx) {
		stopped = append(stopped, "worker")
	}
	if server, running := d.server(); running {
		stopProcess(ctx, server.PID, own.StartTime(server.PID))
		stopped = append(stopped, "server")
	}
	return stopped
}

func (d dev) stopWorker(ctx context.Context) bool {
	w, lives, _ := d.worker()
	if lives {
		stopProcess(ctx, w.PID, w.Started)
	}
	return lives
}

// port returns the port of last (a host:port) if it is free on loopback, else usual if
// that is free, else "0" for any port. It waits for the port of last until ctx ends:
// clients look for the server there.
func port(ctx context.Context, last, usual string) string {
	if _, before, err := net.SplitHostPort(last); err == nil {
		for !free(before) {
			if step.Pause(ctx, 50*time.Millisecond) != nil {
				break
			}
		}
		if free(before) {
			return before
		}
	}
	if free(usual) {
		return usual
	}
	return "0"
}

func free(port string) bool {
	l, err := net.Listen("tcp", "127.0.0.1:"+port) //nolint:noctx // does not block
	if err == nil {
		_ = l.Close() // it accepted nothing
	}
	return err == nil
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
	}
	sub := func(use, short string, f func(context.Context, dev) error) {
		cmd.AddCommand(&cobra.Command{Use: use, Short: short, Example: "  morgana dev " + use, Args: cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				settings, err := config.LoadSettings(c.flags)
				if err != nil {
					return err
				}
				d, err := openDev(settings)
				if err != nil {
					return err
				}
				return f(cmd.Context(), d)
			}})
	}
	sub("up", "Start them, if they do not run", func(ctx context.Context, d dev) error {
		if _, _, err := d.up(ctx); err != nil {
			return err
		}
		if options, configured, err := config.Temporal(c.flags); err == nil && configured {
			c.say("warning: the other commands use the Temporal server at %s, not this one: unset TEMPORAL_ADDRESS, or your profile, to use it", options.HostPort)
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
	worker, _, workerUp := d.worker()
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
