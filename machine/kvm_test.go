package machine

import (
	"errors"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/morgana-deploy/morgana/step"
)

func TestKVMRefused(t *testing.T) {
	for errno, want := range map[syscall.Errno]string{
		syscall.ENOENT: "not there", syscall.EACCES: "may not open", syscall.ENODEV: "not loaded", syscall.ENXIO: "not loaded",
		syscall.EIO: "cannot be opened: input/output error", syscall.EMFILE: "", syscall.ENOMEM: "",
	} {
		why, err := kvmRefused(&os.PathError{Op: "open", Path: KVM, Err: errno})
		if (why == "") != (want == "") || !strings.Contains(why, want) || (err == nil) == (want == "") {
			t.Errorf("%v: %q, %v", errno, why, err)
		}
	}
	err := NoKVM("cpu", "cpu: max", "it is not there")
	var e *step.Error
	if !errors.As(err, &e) || e.Kind != step.Unsupported || err.Error() != "cpu: this host has no working KVM (/dev/kvm): it is not there" || e.Hint != "cpu: max; or "+KVMFix {
		t.Errorf("got %v, %+v", err, e)
	}
}
