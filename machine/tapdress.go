package machine

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/morgana-deploy/morgana/step"
)

// dress gives a tap that Morgana made its tags, bridge and address, and turns it on. It
// removes the bridge and addresses that another generation gave it.
func (c TapConfig) dress() error {
	link, err := linkNamed(c.Interface())
	if err == nil && link == nil {
		err = unix.ENODEV
	}
	if err == nil {
		err = netlink.LinkSetAlias(link, alias(c.Tags))
	}
	if err != nil {
		return c.explain("tap", "tag it", err)
	}
	if err := c.join(link); err != nil {
		return err
	}
	if err := c.address(link); err != nil {
		return err
	}
	return c.explain("tap", "turn it on", netlink.LinkSetUp(link))
}

// join joins the tap to Bridge, or takes it out of its bridge if Bridge is empty.
func (c TapConfig) join(link netlink.Link) error {
	if c.Bridge == "" {
		if link.Attrs().MasterIndex == 0 {
			return nil
		}
		return c.explain("bridge", "leave the bridge it is in", netlink.LinkSetNoMaster(link))
	}
	bridge, err := c.bridge()
	if err != nil || bridge.Attrs().Index == link.Attrs().MasterIndex {
		return err
	}
	return c.explain("bridge", "join "+c.Bridge, netlink.LinkSetMaster(link, bridge))
}

// address gives the tap its address and removes all others, except IPv6 link-local ones,
// which the kernel adds by itself.
func (c TapConfig) address(link netlink.Link) error {
	var want *netlink.Addr
	if c.Address.IsValid() {
		var err error
		if want, err = netlink.ParseAddr(c.Address.String()); err != nil {
			return c.invalid("address", `an address with the network's prefix length, as "10.0.0.1/24"`, "%q is no address: %w", c.Address, err)
		}
	}
	have, err := netlink.AddrList(link, netlink.FAMILY_ALL)
	for tries := 0; errors.Is(err, netlink.ErrDumpInterrupted) && tries < 10; tries++ { // addresses changed meanwhile
		have, err = netlink.AddrList(link, netlink.FAMILY_ALL)
	}
	if err != nil {
		return c.explain("address", "list its addresses", err)
	}
	for i, a := range have {
		if a.IP.To4() == nil && a.IP.IsLinkLocalUnicast() || want != nil && a.IPNet.String() == want.IPNet.String() {
			continue
		}
		if err := netlink.AddrDel(link, &have[i]); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return c.explain("address", "take "+a.IPNet.String()+" from it", err)
		}
	}
	if want == nil {
		return nil
	}
	err = netlink.AddrReplace(link, want)
	if c.Address.Addr().Is6() && (errors.Is(err, unix.EACCES) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EAFNOSUPPORT)) {
		e := c.failed(step.Unsupported, "give an IPv4 address, or sudo sysctl net.ipv6.conf.default.disable_ipv6=0", "IPv6 is off on this host")
		e.Field = c.field("address")
		return e
	}
	return c.explain("address", "give it "+c.Address.String(), err)
}

// explain gives an error of netlink its kind. what names the operation in the message,
// because one errno may have several causes.
func (c TapConfig) explain(part, what string, err error) error {
	if err == nil || step.KindOf(err) != "" {
		return err
	}
	e := c.failed("", "", "%s: %s: %w", c.Interface(), what, err)
	e.Field = c.field(part)
	switch {
	case errors.Is(err, fs.ErrPermission):
		e.Kind, e.Hint = step.Unauthorized, tunWay
		e.Err = fmt.Errorf("the worker may not change network devices (%s: %s)", c.Interface(), what)
	case gone(err): // the next try makes the tap anew, or reports the bridge
		e.Err = fmt.Errorf("%s: %s: a device was removed meanwhile", c.Interface(), what)
	case errors.Is(err, unix.EXFULL):
		e.Kind, e.Hint = step.Conflict, "give another bridge"
		e.Err = fmt.Errorf("%s: %s: the bridge is full", c.Interface(), what)
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ELOOP), errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EADDRNOTAVAIL):
		e.Kind, e.Hint = step.InvalidSpec, "the kernel refuses it: see what ip link and ip address say of it"
	}
	return e
}

// linkNamed returns the device of that name, nil if there is none.
func linkNamed(name string) (netlink.Link, error) {
	link, err := netlink.LinkByName(name)
	if gone(err) {
		return nil, nil
	}
	return link, err
}

func gone(err error) bool {
	var none netlink.LinkNotFoundError
	return errors.As(err, &none) || errors.Is(err, unix.ENODEV)
}
