package local

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/morgana-deploy/morgana/image"
	"github.com/morgana-deploy/morgana/machine"
	"github.com/morgana-deploy/morgana/step"
)

const (
	tenderFix = "opam install solo5, then start the worker with opam's bin folder in PATH, or give tender: with its path"
	kvmFix    = "build the kernel with -t spt, which needs no kvm, or use a host whose processor can virtualise"
	blockSize = 512 // of Solo5's and Linux's block devices
)

// Check refuses, in seconds and creating nothing: options that are wrong
// (InvalidSpec), a kernel that cannot run here, a host without its tender,
// without KVM that works or without tun devices (Unsupported), a worker that
// may not make taps (Unauthorized), a bridge or block device that is not there
// (NotFound) or that another machine has (Conflict). What depends on a kernel
// that is yet to be built Package and Boot see. The spec returned has Host, and
// all options written out.
func (t *Target) Check(ctx context.Context, spec step.Spec) (step.Spec, error) {
	checked, err := t.check(ctx, spec)
	if err != nil {
		return spec, step.During("check local target", err)
	}
	return checked, nil
}

func (t *Target) check(ctx context.Context, spec step.Spec) (step.Spec, error) {
	if _, err := t.room.Of(spec.Tags); err != nil {
		return spec, err
	}
	s, err := readOptions(spec.Options)
	if err != nil {
		return spec, err
	}
	if spec.Options, err = json.Marshal(s.Options); err != nil {
		return spec, err
	}
	if s.ABI, err = image.Supports(Kind, spec.Origin.ABIs); err != nil {
		return spec, err
	}
	if spec.Origin.Kernel != nil {
		err := t.inspect(ctx, *spec.Origin.Kernel, func(_ *os.File, info image.Info) error { return s.fit(info) })
		if err != nil {
			return spec, err
		}
	}
	switch {
	case s.ABI != "":
		_, err = s.tender()
	case s.Tender != "":
		_, err = findTender(s.Tender)
	}
	if err != nil {
		return spec, err
	}
	for _, tap := range s.taps(spec.Tags) {
		if err := machine.CheckTap(tap); err != nil {
			return spec, err
		}
	}
	for i, b := range s.Blocks {
		if b.Path == "" {
			continue
		}
		f, err := b.take(fmt.Sprintf("blocks[%d].path", i))
		if err != nil {
			return spec, err
		}
		if err := f.Close(); err != nil {
			return spec, err
		}
	}
	spec.Host = t.site.Host
	return spec, nil
}

// take opens the file and locks it (flock) for as long as the machine runs:
// two machines that write to one file system destroy it.
func (b Block) take(field string) (*os.File, error) {
	info, err := os.Stat(b.Path)
	if err == nil && !info.Mode().IsRegular() && (info.Mode()&fs.ModeDevice == 0 || info.Mode()&fs.ModeCharDevice != 0) {
		return nil, invalid(field, "a file, or a device as /dev/vg0/data", "%s is neither a file nor a block device", b.Path)
	}
	var f *os.File
	if err == nil {
		f, err = os.OpenFile(b.Path, os.O_RDWR, 0)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, failed(step.NotFound, field, "make it on the worker's host, or give size: for an empty one", "there is no %s", b.Path)
	case errors.Is(err, fs.ErrPermission):
		return nil, failed(step.Unauthorized, field, "let the worker's user read and write it", "%w", err)
	case err != nil:
		return nil, failed(step.InvalidSpec, field, "", "%w", err)
	}
	if err := b.free(f, field); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func (b Block) free(f *os.File, field string) error {
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	if size < blockSize || size%blockSize != 0 {
		return invalid(field, fmt.Sprintf("truncate -s %%%d FILE", blockSize), "%s has %d bytes, not a number of blocks of %d", b.Path, size, blockSize)
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return failed(step.Conflict, field, "destroy the machine that has it first: morgana destroy", "another machine has %s", b.Path)
	}
	return os.NewSyscallError("flock", err)
}

// Needs is what this host has of what local machines want.
func (t *Target) Needs(context.Context) []step.Need {
	needs := machine.TapNeeds()
	for _, abi := range []string{image.Solo5SPT, image.Solo5HVT} {
		n := step.Need{For: "run " + abi + " kernels", What: abi, Optional: true}
		if path, err := findTender(abi); err != nil {
			n.Fix = tenderFix
		} else {
			n.Found = path
		}
		needs = append(needs, n)
	}
	kvm := step.Need{For: "run solo5-hvt kernels", What: "KVM", Optional: true}
	if kvm.Why = tryKVM(); kvm.Why != "" {
		kvm.Fix = kvmFix
	} else {
		kvm.Found = kvmDevice
	}
	return append(needs, kvm)
}
