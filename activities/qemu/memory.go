package qemu

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/morgana-deploy/morgana/step"
)

// leastMemory is the least memory in MiB for each Via. Kernels begin at 1 MiB. OVMF
// (2022.11) does not come as far as GRUB with less than 64 MiB.
var leastMemory = map[string]int{viaKernel: 2, viaBIOS: 2, viaUEFI: 64}

// carrierMemory is the same for a carrier with Debian's cloud kernel 6.1. By UEFI GRUB needs
// more for its two files.
var carrierMemory = map[string]int{viaKernel: 128, viaBIOS: 128, viaUEFI: 256}

// checkMemory refuses more memory than the host has. It does not ask for free memory:
// that changes until boot, and Linux gives memory only when it is touched.
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
