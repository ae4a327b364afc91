package qemu

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strings"

	"github.com/morgana-deploy/morgana/image"
	"github.com/morgana-deploy/morgana/step"
)

// Check refuses, in seconds and creating nothing: options that are wrong
// (InvalidSpec), a kernel that QEMU cannot load, a host without QEMU, without
// the KVM asked for or with too little memory (Unsupported), a port that
// others hold (Conflict). The spec returned has Host, and all options written out.
func (t *Target) Check(ctx context.Context, spec step.Spec) (step.Spec, error) {
	const op = "check qemu target"
	if _, err := t.room.Of(spec.Tags); err != nil {
		return spec, step.During(op, err)
	}
	s, err := read(spec.Options)
	if err != nil {
		return spec, step.During(op, err)
	}
	if _, err := image.Supports(Kind, spec.Origin.ABIs); err != nil {
		return spec, step.During(op, err)
	}
	if err := checkMemory(s.Memory); err != nil {
		return spec, step.During(op, err)
	}
	if _, err := t.accelerate(ctx, s); err != nil {
		return spec, step.During(op, err)
	}
	if err := t.checkPorts(ctx, spec.Tags, s.forwards); err != nil {
		return spec, step.During(op, err)
	}
	spec.Host = t.site.Host
	spec.Options, err = s.normal()
	return spec, err
}

// program finds QEMU.
func program(name string) (string, error) {
	path, err := exec.LookPath(name)
	if err == nil {
		return path, nil
	}
	e := &step.Error{Kind: step.Unsupported, Err: fmt.Errorf("%s is not installed", name),
		Hint: "sudo apt-get install qemu-system-x86"}
	if name != defaultQEMU {
		e.Field, e.Hint = "qemu", "correct it, or leave it out for "+defaultQEMU
	}
	if !errors.Is(err, exec.ErrNotFound) || strings.Contains(name, "/") {
		e.Field, e.Err = "qemu", err
	}
	return "", e
}

// checkMemory refuses what the whole host does not have. Whether it is free is
// not asked: that changes until boot, and Linux gives it when it is touched.
func checkMemory(mib int) error {
	f, err := os.Open("/proc/meminfo")
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // only read
	total := 0
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var name string
		var kib int
		if _, err := fmt.Sscanf(lines.Text(), "%s %d kB", &name, &kib); err == nil && (name == "MemTotal:" || name == "SwapTotal:") {
			total += kib / 1024
		}
	}
	if total > 0 && mib > total {
		return &step.Error{Kind: step.Unsupported, Field: "memory", Err: fmt.Errorf("%d MiB is more than the host has", mib),
			Hint: fmt.Sprintf("the host has %d MiB with its swap", total)}
	}
	return nil
}
