package local

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"time"

	"github.com/morgana-deploy/morgana/image"
	"github.com/morgana-deploy/morgana/machine"
	"github.com/morgana-deploy/morgana/step"
	"github.com/morgana-deploy/morgana/tree"
)

const (
	kvmInstead = "build the kernel with -t spt, which needs none"

	// tenderPatience is how long a tender may take to say its version.
	tenderPatience = 10 * time.Second
)

// tender finds the program that runs the kernel, "" for a Linux program. It refuses a
// program that is no tender, or the tender of another kind of kernel. A tender that the
// user named is looked at even before the kernel is known. from is how the kernel is made.
func (s *settings) tender(ctx context.Context, from step.Recipe) (string, error) {
	name := s.Tender
	switch s.ABI {
	case image.LinuxExecutable:
		return "", nil
	case image.Solo5HVT:
		if why, err := machine.TryKVM(); err != nil {
			return "", err
		} else if why != "" {
			return "", machine.NoKVM("", kvmInstead, why)
		}
	}
	if name == "" {
		name = s.ABI // solo5-spt, solo5-hvt
	}
	if name == "" {
		return "", nil
	}
	path, err := tree.Tender(ctx, name, from)
	if err != nil || s.Tender == "" {
		return path, err
	}
	return path, s.try(ctx, path)
}

// A Solo5 tender is known by what it prints for --version: since 0.6 its version
// (tenderVersion), before that its usage (tenderUsage). See tenders/spt/spt_main.c in
// Solo5.
var (
	tenderVersion = regexp.MustCompile(`(?m)^(\S+) tender, version `)
	tenderUsage   = "[ CORE OPTIONS ]"
)

// try runs the tender that the user named, and reads its kind from its output.
func (s *settings) try(ctx context.Context, path string) error {
	hint := "leave it out, or name a Solo5 tender: solo5-spt or solo5-hvt, as the kernel's target"
	if s.ABI != "" {
		hint = fmt.Sprintf("leave it out, or name a %s: the kernel wants that one", s.ABI)
	}
	limited, cancel := context.WithTimeout(ctx, tenderPatience)
	defer cancel()
	cmd := exec.CommandContext(limited, path, "--version")
	cmd.Env = inherited()
	cmd.WaitDelay = time.Second // its children may keep the output open
	said, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil && cmd.ProcessState == nil && (machine.Passing(err) || errors.Is(err, syscall.ETXTBSY)) {
		return &step.Error{Field: "tender", Err: err}
	}
	found := tenderVersion.FindSubmatch(said)
	if found == nil && !strings.Contains(string(said), tenderUsage) {
		return step.Invalid("tender", hint, "%s is no Solo5 tender", path)
	}
	if found == nil {
		return nil // a tender older than 0.6 does not say its kind
	}
	for _, abi := range []string{image.Solo5SPT, image.Solo5HVT} {
		if s.ABI != "" && s.ABI != abi && strings.HasPrefix(string(found[1]), abi) {
			return step.Invalid("tender", hint, "%s is a %s, and the kernel is for %s", path, abi, s.ABI)
		}
	}
	return nil
}
