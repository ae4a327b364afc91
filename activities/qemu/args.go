package qemu

import (
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/morgana-deploy/morgana/machine"
	"github.com/morgana-deploy/morgana/qmp"
)

// firstFile is the descriptor of the first of QEMU's extra files; 3 is the
// machine's lock.
const firstFile = 4

// args returns QEMU's arguments. Paths in the machine's folder are relative to it,
// because the path of a socket may have at most 107 bytes, and a comma in a path would
// need quoting.
func (b *boot) args(with means, devices []device, uefi firmware) ([]string, error) {
	args := []string{
		"-name", b.m.Name(), "-uuid", b.rec.UUID(),
		"-no-user-config", "-nodefaults", "-display", "none", // no configuration files, devices or window
		"-pidfile", machine.PidFile,
		"-qmp", "unix:" + qmpFile + ",server=on,wait=off",
		"-chardev", "stdio,id=events,signal=off", "-mon", "chardev=events,mode=control",
		"-accel", with.accel, "-cpu", with.cpu,
		"-m", fmt.Sprintf("%dM", b.s.Memory), "-smp", strconv.Itoa(b.s.CPUs),
		"-serial", "file:" + machine.ConsoleFile,
		"-no-reboot",                // a triple fault ends the machine instead of looping
		"-device", "isa-debug-exit", // how Solo5 and test kernels end
	}
	if b.s.Machine != "" {
		args = append(args, "-machine", b.s.Machine)
	}
	if with.sandbox {
		args = append(args, "-sandbox", sandbox)
	}
	start, err := b.s.startArgs(uefi)
	if err != nil {
		return nil, err
	}
	args = append(args, start...)
	for _, d := range devices {
		more, err := b.deviceArgs(d)
		if err != nil {
			return nil, err
		}
		args = append(args, more...)
	}
	return args, nil
}

// startArgs returns the arguments for the kernel or the boot disk.
func (s *settings) startArgs(uefi firmware) ([]string, error) {
	if !s.disk() {
		line, modules := s.boots()
		args := []string{"-kernel", kernelFile, "-append", line}
		if len(modules) > 0 {
			args = append(args, "-initrd", strings.Join(modules, ","))
		}
		return args, nil
	}
	// Both pc and q35 have a bus ide.0: PIIX, AHCI.
	disk, err := blockdev("boot", bootDisk, false)
	args := append(disk, "-device", "ide-hd,drive=boot,bus=ide.0,bootindex=0")
	if err != nil || s.Via != viaUEFI {
		return args, err
	}
	// QEMU reads two commas in a path as one.
	flash := func(unit int, file, mode string) {
		args = append(args, "-drive", fmt.Sprintf("if=pflash,unit=%d,format=raw%s,file=%s", unit, mode, qmp.Option(file)))
	}
	flash(0, uefi.code, ",readonly=on")
	if uefi.vars != "" {
		flash(1, varsFile, "")
	}
	// OVMF keeps memory at 8 MiB for sleep state S3, if the machine has that. A Solo5 kernel
	// uses the memory from 1 MiB up to the first gap, and would see 8 MiB.
	power := "PIIX4_PM"
	if strings.Contains(s.Machine, "q35") {
		power = "ICH9-LPC"
	}
	return append(args, "-global", power+".disable_s3=1"), nil
}

// deviceArgs returns the arguments for a virtio device and its backend.
func (b *boot) deviceArgs(d device) ([]string, error) {
	// Solo5 knows legacy virtio only; every other driver knows it too.
	bus := "pci,disable-modern=on"
	if b.s.Machine == microvm {
		bus = "device" // virtio-mmio, legacy by itself
	}
	if d.network {
		id := b.s.netdevID(d.index)
		behind := "user,id=" + id
		if b.s.networks[d.index].Kind == tapNetwork {
			behind = fmt.Sprintf("tap,id=%s,fd=%d", id, b.tapFile(d.index))
		}
		return []string{"-netdev", behind,
			"-device", fmt.Sprintf("virtio-net-%s,netdev=%s,mac=%s", bus, id, b.s.mac(b.rec, d.index))}, nil
	}
	disk := b.s.Disks[d.index]
	id, path := fmt.Sprintf("d%d", d.index), disk.Path
	if path == "" {
		path = dataDisk(d.index)
	}
	args, err := blockdev(id, path, disk.ReadOnly)
	device := fmt.Sprintf("virtio-blk-%s,drive=%s", bus, id)
	if disk.Name != "" && len(disk.Name) <= 20 { // virtio's VIRTIO_BLK_ID_BYTES
		device += ",serial=" + disk.Name
	}
	return append(args, "-device", device), err
}

// tapFile is the descriptor of the tap of networks[index] in QEMU.
func (b *boot) tapFile(index int) int {
	fd := firstFile
	for _, n := range b.s.networks[:index] {
		if n.Kind == tapNetwork {
			fd++
		}
	}
	return fd
}

// blockdev returns the argument for a raw disk. QEMU must not guess its format: the machine
// could write the header of another format there.
func blockdev(id, path string, readOnly bool) ([]string, error) {
	driver := "file"
	if info, err := os.Stat(path); err == nil && info.Mode()&os.ModeDevice != 0 { // a block device: others are refused
		driver = "host_device"
	}
	type file struct {
		Driver   string `json:"driver"`
		Filename string `json:"filename"`
	}
	b, err := json.Marshal(struct {
		Driver   string `json:"driver"`
		NodeName string `json:"node-name"`
		ReadOnly bool   `json:"read-only"`
		File     file   `json:"file"`
	}{"raw", id, readOnly, file{driver, path}})
	return []string{"-blockdev", string(b)}, err
}
