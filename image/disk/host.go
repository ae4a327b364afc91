package disk

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/morgana-deploy/morgana/step"
)

// host holds the places where this host has the tools.
type host struct {
	path []string // searched for programs, in this order
	grub string   // GRUB's modules, a folder per platform
}

// thisHost also searches the folders that only root has in its PATH.
func thisHost() host {
	dirs := filepath.SplitList(os.Getenv("PATH"))
	return host{path: append(dirs, "/usr/local/sbin", "/usr/sbin", "/sbin"), grub: "/usr/lib/grub"}
}

// tool is a program or, if its name has a /, a file of GRUB.
type tool struct{ name, pkg string }

var (
	biosTools = []tool{{"grub-mkimage", "grub-common"}, {biosPlatform + "/boot.img", "grub-pc-bin"}, {biosPlatform + "/kernel.img", "grub-pc-bin"}}
	uefiTools = []tool{{"grub-mkimage", "grub-common"}, {uefiPlatform + "/kernel.img", "grub-efi-amd64-bin"},
		{"mformat", "mtools"}, {"mmd", "mtools"}, {"mcopy", "mtools"}}
)

func toolsOf(l Layout) []tool {
	switch l {
	case BIOS:
		return biosTools
	case UEFI:
		return uefiTools
	}
	return nil
}

// Needs lists the tools that [Write] runs or reads for a layout.
func Needs(_ context.Context, l Layout) []step.Need { return thisHost().needs(l) }

// Missing returns an error if this host lacks one of the [Needs] of a layout: Unsupported,
// with Field "via".
func Missing(ctx context.Context, l Layout) error {
	for _, n := range Needs(ctx, l) {
		if n.Found == "" && !n.Optional {
			return &step.Error{Kind: step.Unsupported, Field: "via", Err: fmt.Errorf("%s is not installed, to %s", n.What, n.For), Hint: n.Fix}
		}
	}
	return nil
}

func (h host) needs(l Layout) []step.Need {
	var needs []step.Need
	for _, t := range toolsOf(l) {
		need := step.Need{For: "make a disk of layout " + string(l), What: t.name, Fix: "apt-get install " + t.pkg}
		if strings.Contains(t.name, "/") {
			need.What = filepath.Join(h.grub, t.name)
			if _, err := os.Stat(need.What); err == nil {
				need.Found = need.What
			}
		} else if found, err := h.find(t.name); err == nil {
			need.Found = found
		}
		if need.Found != "" {
			need.Fix = ""
		}
		needs = append(needs, need)
	}
	return needs
}

func (h host) find(program string) (string, error) {
	for _, dir := range h.path {
		if !filepath.IsAbs(dir) {
			continue // the tools run in another working folder
		}
		if path, err := exec.LookPath(filepath.Join(dir, program)); err == nil {
			return path, nil
		}
	}
	return "", &exec.Error{Name: program, Err: exec.ErrNotFound}
}

// missing makes an error of the needs that were not found.
func missing(l Layout, needs []step.Need) error {
	var names, fixes []string
	for _, n := range needs {
		if n.Found == "" {
			names = append(names, n.What)
			fixes = append(fixes, strings.TrimPrefix(n.Fix, "apt-get install "))
		}
	}
	if names == nil {
		return nil
	}
	return &step.Error{Kind: step.Unsupported, Op: opWrite,
		Err:  errors.New("a disk of layout " + string(l) + " is made with " + strings.Join(names, ", ") + ", not found here"),
		Hint: "apt-get install " + strings.Join(slices.Compact(fixes), " ")}
}
