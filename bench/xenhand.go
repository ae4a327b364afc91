package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/morgana-deploy/morgana/xenlab"
)

// byHand is what a person does on a Xen host: xl over an ssh connection that all
// commands share (ControlMaster).
type byHand struct {
	lab    *xenlab.Lab
	socket string
}

// connect leaves an ssh in the background that listens on the socket.
func connect(ctx context.Context, lab *xenlab.Lab, socket string) (*byHand, error) {
	h := &byHand{lab: lab, socket: socket}
	cmd := h.ssh(ctx, "-M", "-N", "-f", "-o", "ControlPersist=yes")
	cmd.Stderr = nil // it keeps it open
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("connect to the lab: %w", err)
	}
	return h, nil
}

func (h *byHand) close(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	_ = h.ssh(ctx, "-O", "exit", "-q").Run() // it has ended if the lab has
}

// ssh is an ssh with more options that takes no command.
func (h *byHand) ssh(ctx context.Context, options ...string) *exec.Cmd {
	cmd := h.lab.Command(ctx)
	cmd.Args = slices.Insert(cmd.Args, 1, append([]string{"-S", h.socket}, options...)...)
	return cmd
}

// command is a command in dom0.
func (h *byHand) command(ctx context.Context, argv ...string) *exec.Cmd {
	cmd := h.lab.Command(ctx, argv...)
	cmd.Args = slices.Insert(cmd.Args, 1, "-S", h.socket)
	return cmd
}

func (h *byHand) run(ctx context.Context, argv ...string) error {
	_, err := h.said(ctx, argv...)
	return err
}

func (h *byHand) said(ctx context.Context, argv ...string) (string, error) {
	cmd := h.command(ctx, argv...)
	var told bytes.Buffer
	cmd.Stderr = &told
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s: %w\n%s", strings.Join(argv, " "), err, told.String())
	}
	return string(out), nil
}

func (h *byHand) write(ctx context.Context, path string, content []byte) error {
	cmd := h.command(ctx, "dd", "of="+path, "status=none")
	cmd.Stdin = bytes.NewReader(content)
	return cmd.Run()
}

const (
	handName   = "byhand"
	handKernel = "/root/hello"
)

// deploy creates a domain and waits for its greeting. A kernel that is new is
// copied to the host first; a configuration is in any case.
func (h *byHand) deploy(ctx context.Context, kernel []byte, isNew bool) error {
	if isNew {
		if err := h.write(ctx, handKernel, kernel); err != nil {
			return err
		}
	}
	const config = "/root/hello.cfg"
	if err := h.write(ctx, config, fmt.Appendf(nil, "name=%q\ntype=\"pvh\"\nkernel=%q\nextra=\"stay\"\nmemory=%d\n", handName, handKernel, xenMemory)); err != nil {
		return err
	}
	if err := h.run(ctx, "xl", "create", "-p", config); err != nil {
		return err
	}
	return h.unpause(ctx)
}

func (h *byHand) destroy(ctx context.Context) error { return h.run(ctx, "xl", "destroy", handName) }

// unpause reads the console, lets the domain go and waits until it has greeted.
func (h *byHand) unpause(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	console := h.command(ctx, "xl", "console", handName)
	in, err := console.StdinPipe() // at whose end xl console would end
	if err != nil {
		return err
	}
	out, err := console.StdoutPipe()
	if err != nil {
		return err
	}
	if err := console.Start(); err != nil {
		return err
	}
	unpaused := h.run(ctx, "xl", "unpause", handName)
	greeted := false
	if unpaused == nil {
		for lines := bufio.NewScanner(out); !greeted && lines.Scan(); {
			greeted = strings.Contains(lines.Text(), greeting)
		}
	}
	_ = in.Close()
	killed := console.Process.Kill() // xl console itself ends with the domain
	_, _ = io.Copy(io.Discard, out)
	_ = console.Wait() // killed, as it should be
	if unpaused == nil && !greeted {
		return errors.New("the kernel did not greet")
	}
	return errors.Join(unpaused, killed)
}
