package machine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/morgana-deploy/morgana/step"
)

const (
	tunFix = "sudo modprobe tun"
	// tunOpen is the hint if the worker's user may not open the device. tunAllow is the
	// hint if no user may open it, as in a container.
	tunOpen  = "sudo chmod 666 " + tunDevice + `, or for good a udev rule: KERNEL=="tun", MODE="0666"`
	tunAllow = "give the worker's container the device: docker run --device " + tunDevice
	tunWay   = "run the worker as root, or sudo setcap cap_net_admin+ep on its program, " +
		"or make a tap for its user (sudo ip tuntap add NAME mode tap user USER) and give its name"
)

// CheckTap checks, without making anything, whether [OpenTap] can work: the host has tun
// devices (Unsupported), the worker may make this one (Unauthorized), the bridge is there
// (NotFound), no other deployment has the name or the device (Conflict), and the
// configuration is sane (InvalidSpec).
//
// A tap that a running machine of the same deployment holds is accepted, as
// [Machines.TakeDisks] accepts a disk with sparing.
func (r *Machines) CheckTap(c TapConfig) error {
	if err := c.sane(); err != nil {
		return err
	}
	if err := c.tun(); err != nil {
		return err
	}
	if c.Bridge != "" {
		if _, err := c.bridge(); err != nil {
			return err
		}
	}
	whose, _, err := c.find()
	if err != nil {
		return err
	}
	if whose != others && !mayMakeTaps() {
		return c.denied(unix.EPERM)
	}
	if whose == nobody || whose == same {
		return nil
	}
	// Only opening a tap tells whether it is free and may be opened.
	switch f, err := attach(c.Interface(), false); {
	case err == nil:
		return f.Close()
	case errors.Is(err, unix.EBUSY) && whose == ours:
		return nil
	case errors.Is(err, unix.EBUSY):
		return r.checkHolder(c)
	case errors.Is(err, unix.EPERM):
		return c.failed(step.Unauthorized, fmt.Sprintf("make it anew for the worker's user: sudo ip tuntap add %s mode tap user %d", c.Interface(), os.Geteuid()),
			"%s belongs to another user", c.Interface())
	default:
		return c.denied(err)
	}
}

// checkHolder accepts an open tap only if a machine of the same deployment has it.
func (r *Machines) checkHolder(c TapConfig) error {
	holder := r.holder(func(file, info string) bool {
		if to, err := os.Readlink(file); err != nil || to != tunDevice {
			return false
		}
		told, err := os.ReadFile(info)
		return err == nil && strings.Contains("\n"+string(told), "\niff:\t"+c.Interface()+"\n")
	})
	switch {
	case holder == nil:
		return c.held()
	case holder.deployedAs(c.Tags):
		return nil
	}
	return c.conflict(destroyOf(holder.Tags)+", or give another name", "the running machine %s has %s", holder.Name(), c.Interface())
}

// TapNeeds lists the needs for making taps, met or not.
func TapNeeds() []step.Need {
	tun := step.Need{For: "tap devices", What: tunDevice, Optional: true}
	if err := (TapConfig{}).tun(); err == nil {
		tun.Found = tunDevice
	} else {
		tun.Why, tun.Fix = err.Error(), tunFix
		var e *step.Error
		if errors.As(err, &e) {
			tun.Why, tun.Fix = e.Err.Error(), e.Hint
		}
	}
	right := step.Need{For: "tap devices", What: "CAP_NET_ADMIN", Optional: true}
	if mayMakeTaps() {
		right.Found = "effective"
	} else {
		right.Why, right.Fix = "the worker may not make network devices", tunWay
	}
	return []step.Need{tun, right}
}

// sane checks the configuration without asking the host. A name must pass the kernel's
// dev_valid_name, and have no "%", which the kernel would take for a pattern.
func (c TapConfig) sane() error {
	name := c.Interface()
	odd := func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune("/:%,@", r) }
	switch {
	case len(name) >= unix.IFNAMSIZ || name == "." || name == ".." || strings.ContainsFunc(name, odd):
		return c.invalid("tap", `a network device's name, as "tap0": at most 15 letters, digits, "-", "_" and "."`, "%q is no name for a device", name)
	case c.Bridge != "" && c.Address.IsValid():
		return c.invalid("address", "give the address to the bridge", "a tap in a bridge has no address of its own")
	}
	return nil
}

// tun checks that the tun device is there and may be opened. Opening it makes no tap.
func (c TapConfig) tun() error {
	f, err := os.OpenFile(tunDevice, os.O_RDWR, 0)
	if err != nil {
		return c.denied(err)
	}
	return f.Close()
}

func (c TapConfig) bridge() (netlink.Link, error) {
	link, err := linkNamed(c.Bridge)
	switch {
	case err != nil:
		return nil, c.explain("bridge", "look for "+c.Bridge, err)
	case link == nil:
		e := c.failed(step.NotFound, fmt.Sprintf("sudo ip link add %s type bridge && sudo ip link set %[1]s up; or see ip link for its name", c.Bridge),
			"this host has no bridge %s", c.Bridge)
		e.Field = c.field("bridge")
		return nil, e
	case link.Type() != "bridge":
		return nil, c.invalid("bridge", "see which there are: ip link show type bridge", "%s is a device of type %s", c.Bridge, link.Type())
	}
	return link, nil
}

// mayMakeTaps reports whether this process has CAP_NET_ADMIN.
func mayMakeTaps() bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets [2]unix.CapUserData
	err := unix.Capget(&header, &sets[0])
	return err == nil && sets[unix.CAP_NET_ADMIN/32].Effective&(1<<(unix.CAP_NET_ADMIN%32)) != 0
}

// denied gives an error of the tun device its kind.
func (c TapConfig) denied(err error) error {
	switch {
	case err == nil || step.KindOf(err) != "":
		return err
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		return c.failed(step.Unsupported, tunFix, "this host has no %s", tunDevice)
	case closed(err) == unix.EPERM: // EACCES would be the file's mode
		return c.failed(step.Unauthorized, tunAllow, "the worker may not open %s", tunDevice)
	case closed(err) != 0:
		return c.failed(step.Unauthorized, tunOpen, "the worker may not open %s", tunDevice)
	case errors.Is(err, fs.ErrPermission):
		return c.failed(step.Unauthorized, tunWay, "the worker may not make or open tap devices")
	case errors.Is(err, unix.EINVAL):
		return c.failed(step.Conflict, "make it anew with: ip tuntap add "+c.Interface()+" mode tap", "%s was made with other flags", c.Interface())
	}
	return err
}

// closed returns the errno if this user may not open the tun device, 0 for any other error.
func closed(err error) (why unix.Errno) {
	var at *fs.PathError
	if errors.As(err, &at) && at.Path == tunDevice && errors.Is(at, fs.ErrPermission) {
		_ = errors.As(at, &why)
	}
	return why
}

func (c TapConfig) held() error {
	return c.conflict(destroyOf(c.Tags)+", if an earlier generation has it; else end that program, or leave the name out",
		"another program has %s open", c.Interface())
}

func (c TapConfig) conflict(hint, format string, args ...any) error {
	return c.failed(step.Conflict, hint, format, args...)
}

func (c TapConfig) invalid(part, hint, format string, args ...any) error {
	e := c.failed(step.InvalidSpec, hint, format, args...)
	e.Field = c.field(part)
	return e
}

func (c TapConfig) failed(kind step.Kind, hint, format string, args ...any) *step.Error {
	return &step.Error{Kind: kind, Field: c.field("tap"), Hint: hint, Err: fmt.Errorf(format, args...)}
}

func (c TapConfig) field(part string) string {
	if c.Option == "" {
		return part
	}
	return c.Option + "." + part
}
