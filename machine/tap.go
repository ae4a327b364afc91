package machine

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/morgana-deploy/morgana/step"
)

// TapConfig describes a tap device of a machine: a network interface of this host that is
// connected to an interface of the machine.
//
// A tap that Morgana makes has the machine's tags as its alias, which "ip link" shows. So
// it is found even after the machine's folder is gone.
type TapConfig struct {
	// Tags are the machine's, Index the number of its tap, from 0.
	Tags  step.Tags
	Index int
	// Name is the interface's name, at most 15 bytes. If it is empty, the name is made of
	// Tags and Index, see [TapConfig.Interface]. A tap of this name that Morgana did not make
	// is used as it is; then Bridge and Address must be empty.
	Name string
	// Bridge is a bridge of this host that the tap joins; empty for none.
	Bridge string
	// Address is given to the host's end, as 10.0.0.1/24; the zero Prefix gives none.
	Address netip.Prefix
	// Option is the option that describes the tap, as "networks[0]"; an error's
	// Field is the option and one of ".tap", ".bridge" and ".address".
	Option string
}

const (
	tunDevice   = "/dev/net/tun"
	aliasPrefix = "morgana "
	// letGo is how long the kernel may take to free the tap of a process that is ending.
	letGo = 2 * time.Second
)

// Interface is the name of the host's interface: Name, or "mg", 10 hex digits of a digest
// of the tags, "-" and Index.
func (c TapConfig) Interface() string {
	if c.Name != "" {
		return c.Name
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\n%s\n%s\n%d", c.Tags.App, c.Tags.Target, c.Tags.Life, c.Tags.Generation))
	return fmt.Sprintf("mg%x-%d", sum[:5], c.Index)
}

// OpenTap opens the tap and turns it on. It makes a tap that does not exist. A tap that
// Morgana made is gone when the last process has closed the file. Frames have no header
// before them (IFF_NO_PI, no IFF_VNET_HDR). A tap that another process has open is
// Conflict.
func OpenTap(ctx context.Context, c TapConfig) (_ *os.File, err error) {
	defer step.SetOp("open tap "+c.Interface(), &err)
	return openTap(ctx, c, false)
}

// MakeTap makes the tap for a program that opens it by its name. It belongs to the
// worker's user and stays until [RemoveTaps].
func MakeTap(ctx context.Context, c TapConfig) (err error) {
	defer step.SetOp("make tap "+c.Interface(), &err)
	f, err := openTap(ctx, c, true)
	if err == nil {
		err = f.Close()
	}
	return err
}

func openTap(ctx context.Context, c TapConfig, keep bool) (f *os.File, err error) {
	if err := c.sane(); err != nil {
		return nil, err
	}
	f, whose, err := c.take(ctx)
	if err != nil || whose == others {
		return f, err
	}
	if err = c.dress(); err == nil {
		err = c.denied(persist(f, keep)) // last, so that no tap stays without tags
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// owner is the maker of the tap that has a name.
type owner int

const (
	nobody owner = iota // no tap has the name
	same                // this machine
	ours                // another generation or life of this deployment
	others              // not of Morgana's making
)

// find looks for the tap and returns its owner. It refuses a tap of another deployment
// and a device that is no tap. It also refuses a tap not made by Morgana if c has a
// bridge or address for it. index is the device's index, 0 if there is no device; an
// index is never used again.
func (c TapConfig) find() (whose owner, index int, err error) {
	link, err := linkNamed(c.Interface())
	if link == nil || err != nil {
		return nobody, 0, c.explain("tap", "look for it", err)
	}
	index = link.Attrs().Index
	if tap, ok := link.(*netlink.Tuntap); !ok || tap.Mode != netlink.TUNTAP_MODE_TAP {
		return others, index, c.invalid("tap", "give the name of a tap device, or of none", "%s is a device of type %s", c.Interface(), link.Type())
	}
	tags, ok := aliasTags(link.Attrs().Alias)
	switch {
	case !ok:
		return others, index, c.checkOthers()
	case tags.App != c.Tags.App || tags.Target != c.Tags.Target:
		return others, index, c.conflict(destroyOf(tags)+", or give another name",
			"%s belongs to %s.%s", c.Interface(), tags.App, tags.Target)
	case tags == c.Tags:
		return same, index, nil
	}
	return ours, index, nil
}

// checkOthers refuses Bridge and Address for a tap that Morgana did not make.
func (c TapConfig) checkOthers() error {
	field := "bridge"
	if c.Bridge == "" {
		field = "address"
	}
	if c.Bridge == "" && !c.Address.IsValid() {
		return nil
	}
	return c.invalid(field, "leave it out and set up the device itself; or give a name that is free",
		"%s is there already and is not Morgana's", c.Interface())
}

// take opens the tap, or makes it. It waits a moment for a process that is ending.
func (c TapConfig) take(ctx context.Context) (*os.File, owner, error) {
	for began := time.Now(); ; {
		whose, index, err := c.find()
		if err != nil {
			return nil, whose, err
		}
		f, err := attach(c.Interface(), whose == nobody)
		if err == nil {
			if err = c.sameAs(whose, index); err == nil {
				return f, whose, nil
			}
			err = errors.Join(err, f.Close())
		}
		if !errors.Is(err, unix.EBUSY) {
			return nil, whose, c.denied(err)
		}
		if time.Since(began) > letGo {
			return nil, whose, c.held()
		}
		if err := step.Pause(ctx, tick); err != nil {
			return nil, whose, err
		}
	}
}

// sameAs detects a tap that was replaced between find and attach. If find saw a tap not
// made by Morgana, and that tap was gone by the time of attach, attach has made a new
// one, which needs tags. sameAs then returns EBUSY, so that take starts again.
func (c TapConfig) sameAs(whose owner, index int) error {
	if whose != others {
		return nil // made by Morgana, before or now
	}
	link, err := linkNamed(c.Interface())
	if err == nil && (link == nil || link.Attrs().Index != index) {
		err = unix.EBUSY
	}
	return err
}

// attach makes the tap, or opens one that is there unless create is set. The file is for a
// child process: it is in blocking mode.
func attach(name string, create bool) (*os.File, error) {
	fd, err := unix.Open(tunDevice, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: tunDevice, Err: err}
	}
	f := os.NewFile(uintptr(fd), tunDevice)
	ifr, err := unix.NewIfreq(name)
	if err == nil {
		flags := uint16(unix.IFF_TAP | unix.IFF_NO_PI)
		if create {
			flags |= unix.IFF_TUN_EXCL
		}
		ifr.SetUint16(flags)
		if err = unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
			err = os.NewSyscallError("TUNSETIFF", err)
		}
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// persist sets whether the tap outlives its file. A tap that does belongs to the worker's
// user.
func persist(f *os.File, keep bool) error {
	on := 0
	if keep {
		on = 1
		if err := unix.IoctlSetInt(int(f.Fd()), unix.TUNSETOWNER, os.Getuid()); err != nil {
			return os.NewSyscallError("TUNSETOWNER", err)
		}
	}
	return os.NewSyscallError("TUNSETPERSIST", unix.IoctlSetInt(int(f.Fd()), unix.TUNSETPERSIST, on))
}

// taps lists the taps of Morgana's making whose tags are wanted.
func taps(wanted func(step.Tags) bool) (found []netlink.Link, err error) {
	links, err := netlink.LinkList()
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) { // an interrupted list has the older links
		return nil, os.NewSyscallError("netlink", err)
	}
	for _, link := range links {
		if have, ok := aliasTags(link.Attrs().Alias); ok && wanted(have) {
			if _, tap := link.(*netlink.Tuntap); tap {
				found = append(found, link)
			}
		}
	}
	return found, nil
}

// RemoveTaps removes the taps whose tags are wanted, also open ones, and returns their
// names.
func RemoveTaps(wanted func(step.Tags) bool) ([]string, error) {
	links, err := taps(wanted)
	if err != nil {
		return nil, err
	}
	var removed []string
	var errs []error
	for _, link := range links {
		name := link.Attrs().Name
		switch err := netlink.LinkDel(link); {
		case err == nil:
			removed = append(removed, name)
		case !gone(err):
			errs = append(errs, TapConfig{Name: name}.explain("tap", "remove it", err))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return removed, step.During("remove taps", err)
	}
	return removed, nil
}

func alias(tags step.Tags) string {
	return fmt.Sprintf("%s%s/%s/%s/%d", aliasPrefix, tags.App, tags.Target, tags.Life, tags.Generation)
}

func aliasTags(alias string) (step.Tags, bool) {
	rest, ok := strings.CutPrefix(alias, aliasPrefix)
	p := strings.Split(rest, "/")
	if !ok || len(p) != 4 {
		return step.Tags{}, false
	}
	generation, err := strconv.Atoi(p[3])
	return step.Tags{App: p[0], Target: p[1], Life: p[2], Generation: generation}, err == nil
}
