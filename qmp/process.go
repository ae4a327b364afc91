package qmp

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
)

// Process is a process that lasts as long as a machine and prints its console.
type Process struct {
	// Dir has the process's files: console, and log with its error output. Stop removes it.
	Dir string
	// Done is closed when the process has ended.
	Done <-chan struct{}
	kill func() error
}

// Start starts cmd, which ends with this process.
func (p *Process) Start(cmd *exec.Cmd) error {
	console, err := os.Create(p.console())
	if err != nil {
		return err
	}
	defer func() { _ = console.Close() }() // cmd has its own
	log, err := os.Create(filepath.Join(p.Dir, "log"))
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }() // likewise
	cmd.Stdout, cmd.Stderr = console, log
	if p.Done, err = Start(cmd); err != nil {
		return err
	}
	p.kill = cmd.Process.Kill
	return nil
}

func (p *Process) console() string { return filepath.Join(p.Dir, "console") }

// Console returns what the machine has printed so far.
func (p *Process) Console() ([]byte, error) { return os.ReadFile(p.console()) }

// Ended reports whether the process has ended.
func (p *Process) Ended() bool {
	select {
	case <-p.Done:
		return true
	default:
		return false
	}
}

// Stop ends the process and removes its files.
func (p *Process) Stop() error {
	if err := p.kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	<-p.Done
	return os.RemoveAll(p.Dir)
}
