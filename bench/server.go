package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

const serverLog = "server.log"

// server is a morgana-devserver that belongs to this run.
type server struct {
	address string
	cmd     *exec.Cmd
	ended   chan error
}

// binary is the absolute path of one of Morgana's own programs.
func binary(name string) (string, error) {
	return filepath.Abs(filepath.Join(cmp.Or(os.Getenv("MORGANA_BIN"), "bin"), name))
}

// startServer starts a server on free ports, with its database and log in dir,
// and returns when it serves.
func startServer(ctx context.Context, dir string) (*server, error) {
	program, err := binary("morgana-devserver")
	if err != nil {
		return nil, err
	}
	//nolint:noctx // it is asked to stop, and so leaves its database whole
	cmd := exec.Command(program, "--port", "0", "--ui-port", "0", "--db", filepath.Join(dir, "temporal.db"))
	log, err := os.Create(filepath.Join(dir, serverLog)) // it warns of each call that waits behind a hundred others
	if err != nil {
		return nil, err
	}
	defer func() { _ = log.Close() }() // the server has its own
	cmd.Stderr = log
	// Of no terminal's group: on ctrl-C we stop it, when nothing needs it any more.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start a server (make build makes it): %w", err)
	}
	s := &server{cmd: cmd, ended: make(chan error, 1)}
	ready := make(chan error, 1)
	go func() {
		var line struct {
			Address string `json:"address"`
		}
		err := json.NewDecoder(out).Decode(&line)
		s.address = line.Address
		ready <- err
		s.ended <- cmd.Wait()
	}()
	select {
	case err = <-ready:
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("wait for the server: %w", err), s.stop())
	}
	return s, nil
}

func (s *server) stop() error {
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case err := <-s.ended:
		if err != nil {
			return fmt.Errorf("server: %w", err)
		}
		return nil
	case <-time.After(20 * time.Second):
		return errors.Join(errors.New("server: does not stop; killed"), s.cmd.Process.Kill())
	}
}
