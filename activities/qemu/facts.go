package qemu

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/morgana-deploy/morgana/files"
	"github.com/morgana-deploy/morgana/step"
)

// facts describe a QEMU on this host. They are kept in a file until the host boots
// again or the program changes.
type facts struct {
	// Boot, QEMU and Built identify the boot of the host and the program.
	Boot  string    `json:"boot"`
	QEMU  string    `json:"qemu"`
	Built time.Time `json:"built"`
	// Version is as QEMU says it: "7.2.22".
	Version string `json:"version"`
	// Machines are its machine types that unikernels run in, CPUs its processors.
	Machines []string `json:"machines"`
	CPUs     []string `json:"cpus"`
	// Sandbox says that this QEMU knows -sandbox.
	Sandbox bool `json:"sandbox"`
}

// probeTimeout bounds each question to QEMU. Its first start from a slow disk takes long.
const probeTimeout = 30 * time.Second

// sandbox is the value of -sandbox that libvirt uses: no new programs, privileges or
// priorities.
const sandbox = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"

func (t *Target) learn(ctx context.Context, qemu string) (facts, error) {
	program, err := os.Stat(qemu)
	if err != nil {
		return facts{}, err
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return facts{}, err
	}
	now := facts{Boot: strings.TrimSpace(string(boot)), QEMU: qemu, Built: program.ModTime().UTC()}
	cache := filepath.Join(t.machines.Root(), ".facts.json")
	var kept facts
	if b, err := os.ReadFile(cache); err == nil && json.Unmarshal(b, &kept) == nil &&
		kept.Boot == now.Boot && kept.QEMU == now.QEMU && kept.Built.Equal(now.Built) &&
		len(kept.Machines) > 0 {
		return kept, nil
	}
	if err := now.ask(ctx); err != nil {
		return facts{}, err
	}
	b, err := json.Marshal(now)
	if err == nil {
		err = os.MkdirAll(t.machines.Root(), 0o700)
	}
	if err == nil {
		err = files.Write(cache, b)
	}
	return now, err
}

// ask asks QEMU for its version, machine types and processors. A program that does not
// list machine types is no QEMU for x86: InvalidSpec.
func (f *facts) ask(ctx context.Context) error {
	version, err := tell(ctx, f.QEMU, "--version")
	if err != nil {
		return err
	}
	// "QEMU emulator version 7.2.22 (Debian ...)"
	if _, rest, ok := strings.Cut(version, "QEMU emulator version "); ok {
		f.Version, _, _ = strings.Cut(strings.TrimSpace(rest), " ")
		f.Version, _, _ = strings.Cut(f.Version, "\n")
	}
	machines, err := tell(ctx, f.QEMU, "-machine", "help")
	if err != nil {
		return err
	}
	for _, name := range firstWords(machines, "Supported machines") {
		if name == "pc" || name == "q35" || name == microvm || strings.HasPrefix(name, "pc-") {
			f.Machines = append(f.Machines, name)
		}
	}
	if f.Version == "" || len(f.Machines) == 0 {
		return step.Invalid("qemu", "leave it out for "+defaultQEMU, "%s is no QEMU for x86", f.QEMU)
	}
	cpus, err := tell(ctx, f.QEMU, "-cpu", "help")
	if err != nil {
		return err
	}
	f.CPUs = firstWords(cpus, "Available CPUs")
	f.Sandbox, err = knowsSandbox(ctx, f.QEMU)
	return err
}

// knowsSandbox asks QEMU for its list of machines with -sandbox on. A QEMU that was built
// without it refuses.
func knowsSandbox(ctx context.Context, qemu string) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	err := exec.CommandContext(ctx, qemu, "-sandbox", sandbox, "-machine", "help").Run()
	var refused *exec.ExitError
	if errors.As(err, &refused) && ctx.Err() == nil {
		return false, nil
	}
	return err == nil, err
}

// tell returns QEMU's output. A program that fails is InvalidSpec.
func tell(ctx context.Context, qemu string, args ...string) (string, error) {
	limited, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	cmd := exec.CommandContext(limited, qemu, args...)
	cmd.WaitDelay = time.Second
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	var status *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return "", ctx.Err()
	case limited.Err() != nil:
		// As likely a busy host as a program that is no QEMU: try again.
		return "", &step.Error{Field: "qemu", Err: fmt.Errorf("%s %s did not end within %s", qemu, strings.Join(args, " "), probeTimeout),
			Hint: "leave it out for " + defaultQEMU}
	case errors.As(err, &status):
		line, _, _ := strings.Cut(strings.TrimSpace(said.String()), "\n")
		return "", step.Invalid("qemu", "leave it out for "+defaultQEMU, "%s %s failed: %s", qemu, strings.Join(args, " "), cmp.Or(line, status.String()))
	case err != nil:
		return "", &step.Error{Kind: step.Unsupported, Field: "qemu", Err: fmt.Errorf("the worker cannot run %s: %w", qemu, cause(err)),
			Hint: "a QEMU for this host, or leave it out for " + defaultQEMU}
	}
	return string(out), nil
}

// firstWords returns the first word of each line of a list that QEMU prints. The list ends
// with an empty line. Some versions print "x86" before a processor.
func firstWords(text, title string) []string {
	var all []string
	in := false
	for lines := bufio.NewScanner(strings.NewReader(text)); lines.Scan(); {
		words := strings.Fields(lines.Text())
		switch {
		case strings.HasPrefix(lines.Text(), title):
			in = true
		case len(words) == 0:
			in = false
		case in && words[0] == "x86" && len(words) > 1:
			all = append(all, words[1])
		case in:
			all = append(all, words[0])
		}
	}
	return all
}

// check refuses a machine type and a processor that this QEMU does not have.
func (f facts) check(s settings) error {
	if s.Machine != "" && !slices.Contains(f.Machines, s.Machine) {
		return step.Invalid("machine", known(s.Machine, "pc, q35 or microvm, or a version that "+f.QEMU+" -machine help prints", f.Machines),
			"QEMU %s has no machine type %q for unikernels", f.Version, s.Machine)
	}
	// Features follow the name; QEMU checks them when it starts.
	name, _, _ := strings.Cut(s.CPU, ",")
	if name != "" && name != "host" && len(f.CPUs) > 0 && !slices.Contains(f.CPUs, name) {
		return step.Invalid("cpu", known(name, "a name that "+f.QEMU+" -cpu help prints", f.CPUs),
			"QEMU %s has no processor %q", f.Version, name)
	}
	return nil
}

// known returns the hint for an unknown name: the nearest name in all, or the text
// otherwise if none is near.
func known(given, otherwise string, all []string) string {
	if near := step.Nearest(given, all); near != "" {
		return fmt.Sprintf("did you mean %q?", near)
	}
	return otherwise
}
