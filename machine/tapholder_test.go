package machine

import (
	"errors"
	"os"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/morgana-deploy/morgana/step"
)

// A running machine's tap is no obstacle to the check of its next generation,
// whoever made the tap; another deployment is told which machine has it.
func TestTapOfARunningMachine(t *testing.T) {
	for name, made := range map[string]bool{"mgtesttap7": true, "mgtesttap8": false} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			needTaps(t)
			c := TapConfig{Tags: b.reg.Spec.Tags, Name: name}
			if made {
				if err := MakeTap(t.Context(), c); err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() {
					if _, err := RemoveTaps(c.Tags.Match); err != nil {
						t.Error(err)
					}
				})
			} else {
				addLink(t, &netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: name}, Mode: netlink.TUNTAP_MODE_TAP, Flags: netlink.TUNTAP_NO_PI})
			}
			f, err := attach(name, false) // as the program does
			if err != nil {
				t.Fatal(err)
			}
			b.files = []*os.File{f}
			if _, err := b.boot(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
			next, stranger := c, c
			next.Tags.Generation++
			for _, c := range []TapConfig{c, next} {
				if err := b.machines.CheckTap(c); err != nil {
					t.Errorf("check for generation %d: %v", c.Tags.Generation, err)
				}
			}
			_, err = OpenTap(t.Context(), next)
			wantHint(t, err, step.Conflict, "another program has "+name,
				"morgana destroy boottest/dev, if an earlier generation has it; else end that program, or leave the name out")
			stranger.Tags = another
			text := "the running machine boottest.dev.0a1b2c3d-1 has " + name
			if made {
				text = name + " belongs to boottest.dev"
			}
			wantHint(t, b.machines.CheckTap(stranger), step.Conflict, text, "morgana destroy boottest/dev, or give another name")
		})
	}
}

// The device itself may be closed: rights to make taps do not open it.
func TestTunDeviceThatIsClosed(t *testing.T) {
	for errno, hint := range map[unix.Errno]string{
		unix.EACCES: tunOpen, unix.EPERM: tunAllow,
	} {
		err := TapConfig{}.denied(&os.PathError{Op: "open", Path: tunDevice, Err: errno})
		wantHint(t, err, step.Unauthorized, "the worker may not open /dev/net/tun", hint)
	}
	err := TapConfig{}.denied(os.NewSyscallError("TUNSETIFF", unix.EPERM))
	wantHint(t, err, step.Unauthorized, "the worker may not make or open tap devices", tunWay)
}

func wantHint(t *testing.T, err error, kind step.Kind, text, hint string) {
	t.Helper()
	wantKind(t, err, kind, "tap", text)
	var e *step.Error
	if errors.As(err, &e) && e.Hint != hint {
		t.Errorf("hint %q, want %q", e.Hint, hint)
	}
}
