package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/morgana-deploy/morgana/xenlab"
)

// xenProduct is a server, a worker and a project, and the commands a person gives.
type xenProduct struct {
	server *server
	worker *exec.Cmd
	dir    string // of the project
	env    []string
	n      int
}

func startXenProduct(ctx context.Context, dir string, lab *xenlab.Lab) (p *xenProduct, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	p = &xenProduct{dir: dir}
	if p.server, err = startServer(ctx, dir); err != nil {
		return nil, err
	}
	p.env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "TEMPORAL_") || strings.HasPrefix(v, "MORGANA_") })
	p.env = append(p.env, "TEMPORAL_ADDRESS="+p.server.address, "MORGANA_SSH_CONFIG="+lab.Config,
		"XDG_STATE_HOME="+filepath.Join(dir, "state"), "XDG_CONFIG_HOME="+filepath.Join(dir, "config"))
	project := fmt.Sprintf("app: hello\ntoolchain: {kind: prebuilt, kernel: kernel}\ntargets:\n"+
		"  bench: {kind: xen, host: %q, memory: %d, args: stay, expect: %q}\n", lab.Host, xenMemory, greeting)
	err = os.WriteFile(filepath.Join(dir, "morgana.yaml"), []byte(project), 0o600)
	if err == nil {
		err = p.startWorker()
	}
	if err != nil {
		return nil, errors.Join(err, p.server.stop())
	}
	return p, nil
}

func (p *xenProduct) startWorker() error {
	program, err := binary("morgana-worker")
	if err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(p.dir, "worker.log"))
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }() // the worker has its own
	//nolint:noctx // it is asked to stop
	p.worker = exec.Command(program, "--listen", "127.0.0.1:0", "--kinds", "prebuilt,xen", "--host", host)
	p.worker.Env, p.worker.Stderr = p.env, log
	p.worker.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // as the server
	return p.worker.Start()
}

func (p *xenProduct) stop() error {
	err := p.worker.Process.Signal(syscall.SIGTERM)
	late := time.AfterFunc(20*time.Second, func() { _ = p.worker.Process.Kill() })
	defer late.Stop()
	return errors.Join(err, p.worker.Wait(), p.server.stop())
}

// deployed deploys the kernel as an app that nobody has had, and destroys it; it
// says in seconds how long each took.
func (p *xenProduct) deployed(ctx context.Context, kernel []byte) (took, gone float64, err error) {
	p.n++
	app := fmt.Sprintf("whole%d", p.n)
	if err := os.WriteFile(filepath.Join(p.dir, "kernel"), kernel, 0o600); err != nil {
		return 0, 0, err
	}
	if took, err = timed(func() error { return p.morgana(ctx, "deploy", "--app", app) }); err != nil {
		return 0, 0, err
	}
	gone, err = timed(func() error { return p.morgana(ctx, "destroy", app+"/bench") })
	return took, gone, err
}

func (p *xenProduct) morgana(ctx context.Context, args ...string) error {
	program, err := binary("morgana")
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir, cmd.Env = p.dir, p.env
	if out, err := cmd.CombinedOutput(); err != nil {
		log, _ := os.ReadFile(filepath.Join(p.dir, "worker.log"))
		return fmt.Errorf("morgana %s: %w\n%s\nthe worker's log ends:\n%s", args[0], err, out, log[max(0, len(log)-2000):])
	}
	return nil
}
