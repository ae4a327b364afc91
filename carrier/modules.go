package carrier

import (
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/morgana-deploy/morgana/carrier/ramdisk"
	"github.com/morgana-deploy/morgana/image"
)

// The modules of the ramdisk, if the package has them. Debian's cloud kernel has nvme built
// in, and no e1000. The boot disk needs no driver: the boot loader reads it.
var (
	drivers = []string{
		"virtio_pci", "virtio_net", "virtio_blk", "virtio_rng", // QEMU and OpenStack
		"nvme", "ena", "ixgbevf", // EC2, Nitro and its predecessors
		"xen_blkfront", "xen_netfront", // EC2, Xen
		"vmxnet3", "e1000", "e1000e",
	}
	redirection = []string{"tun", "sch_ingress", "cls_matchall", "act_mirred"} // for a Solo5 kernel's network
	kvm         = []string{"kvm_intel", "kvm_amd"}                             // for solo5-hvt
)

// moduleName returns the name of the module in a file, as modprobe knows it.
func moduleName(file string) (string, bool) {
	name, rest, found := strings.Cut(file, ".ko")
	return strings.ReplaceAll(name, "-", "_"), found && slices.Contains([]string{"", ".xz", ".gz"}, rest)
}

// choose returns the modules of names and those that they depend on, each behind its own
// dependencies. It unpacks them: Linux's init takes plain modules.
func (l linux) choose(ctx context.Context, names []string) (all []ramdisk.Entry, err error) {
	seen := map[string]bool{}
	var add func(name string) error
	add = func(name string) error {
		path, found := l.modules[name]
		if seen[name] || !found {
			return nil
		}
		seen[name] = true
		data, err := plain(ctx, path)
		if err != nil {
			return fmt.Errorf("module %s: %w", name, err)
		}
		needs, err := depends(data)
		if err != nil {
			return fmt.Errorf("module %s: %w", name, err)
		}
		for _, n := range needs {
			if err := add(n); err != nil {
				return err
			}
		}
		all = append(all, ramdisk.Entry{Name: fmt.Sprintf("modules/%02d-%s.ko", len(all), name), Mode: 0o644, Data: data})
		return nil
	}
	for _, name := range names {
		if err := add(name); err != nil {
			return nil, err
		}
	}
	return all, nil
}

func plain(ctx context.Context, path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // only read
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	var data bytes.Buffer
	_, _, err = image.DecompressTo(ctx, &data, f, info.Size())
	return data.Bytes(), err
}

// depends returns the names of the modules that a module needs, from its section .modinfo.
func depends(module []byte) ([]string, error) {
	f, err := elf.NewFile(bytes.NewReader(module))
	if err != nil {
		return nil, err
	}
	section := f.Section(".modinfo")
	if section == nil {
		return nil, errors.New("it has no section .modinfo")
	}
	data, err := section.Data()
	if err != nil {
		return nil, err
	}
	for _, field := range strings.Split(string(data), "\x00") {
		if list, found := strings.CutPrefix(field, "depends="); found && list != "" {
			return strings.Split(strings.ReplaceAll(list, "-", "_"), ","), nil
		}
	}
	return nil, nil
}
