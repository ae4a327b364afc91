package machine

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/morgana-deploy/morgana/step"
)

// hostEnd is the bridge and the addresses of a tap, but for those of the kernel.
func hostEnd(t *testing.T, c TapConfig) (bridge string, addresses []string) {
	t.Helper()
	link, err := netlink.LinkByName(c.Interface())
	if err != nil {
		t.Fatal(err)
	}
	if i := link.Attrs().MasterIndex; i != 0 {
		master, err := netlink.LinkByIndex(i)
		if err != nil {
			t.Fatal(err)
		}
		bridge = master.Attrs().Name
	}
	all, err := netlink.AddrList(link, netlink.FAMILY_ALL)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		t.Fatal(err)
	}
	for _, a := range all {
		if a.IP.To4() != nil || !a.IP.IsLinkLocalUnicast() {
			addresses = append(addresses, a.IPNet.String())
		}
	}
	return bridge, addresses
}

// A tap that is adopted has what was asked for now, and nothing of before.
func TestTapThatIsAdoptedIsAsAsked(t *testing.T) {
	c := tapTest(t)
	for _, name := range []string{"mgtestbr2", "mgtestbr3"} {
		addLink(t, &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: name}})
	}
	for i, test := range []struct{ bridge, address string }{
		{"mgtestbr2", ""}, {"", "10.213.8.1/24"}, {"", "10.213.9.1/24"}, {"", "10.213.9.1/16"}, {"", "10.213.9.1/16"},
		{"mgtestbr3", ""}, {"mgtestbr2", ""}, {"", ""},
	} {
		c.Tags.Generation, c.Name = i+1, "mgtesttap7"
		c.Bridge, c.Address = test.bridge, netip.Prefix{}
		if test.address != "" {
			c.Address = netip.MustParsePrefix(test.address)
		}
		if err := MakeTap(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		bridge, addresses := hostEnd(t, c)
		if bridge != test.bridge || len(addresses) > 1 || test.address == "" && len(addresses) > 0 || test.address != "" && (len(addresses) < 1 || addresses[0] != test.address) {
			t.Errorf("asked for %+v, got %q %q", test, bridge, addresses)
		}
	}
}

// A device of somebody else's may go between a look and the call that opens it,
// which then makes one without tags.
func TestTapOfSomebodyElseThatGoes(t *testing.T) {
	c := tapTest(t)
	c.Name = "mgtesttap8"
	somebodys := &netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: c.Name}, Mode: netlink.TUNTAP_MODE_TAP, Flags: netlink.TUNTAP_NO_PI}
	if err := netlink.LinkAdd(somebodys); err != nil {
		t.Fatal(err)
	}
	whose, index, err := c.find()
	if err != nil || whose != others || index == 0 {
		t.Errorf("found %d, %d (%v)", whose, index, err)
	}
	if err := c.sameAs(whose, index); err != nil {
		t.Errorf("of the same: %v", err)
	}
	link, err := netlink.LinkByName(c.Name)
	if err == nil {
		err = netlink.LinkDel(link)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := c.sameAs(whose, index); !errors.Is(err, unix.EBUSY) {
		t.Errorf("of none: %v", err)
	}
	f, err := attach(c.Name, false)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.sameAs(whose, index); !errors.Is(err, unix.EBUSY) {
		t.Errorf("of another: %v", err)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	f, whose, err = c.take(t.Context())
	if err != nil || whose != nobody {
		t.Fatalf("took %d (%v)", whose, err)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
}

// What the kernel refuses is told with the option to blame.
func TestTapThatCannotBeDressed(t *testing.T) {
	c := tapTest(t)
	c.Option = "networks[0]"
	c.Address = netip.MustParsePrefix("ff02::1/64") // no host's
	_, err := OpenTap(t.Context(), c)
	wantKind(t, err, step.InvalidSpec, "networks[0].address", "give it ff02::1/64")
	for _, test := range []struct {
		err  error
		kind step.Kind
		text string
	}{
		{unix.EPERM, step.Unauthorized, "the worker may not change network devices"},
		{unix.ENODEV, "", "a device was removed meanwhile"},
		{unix.EXFULL, step.Conflict, "the bridge is full"},
		{unix.ENOBUFS, "", "join br0: no buffer space"},
	} {
		err := c.explain("bridge", "join br0", test.err)
		var e *step.Error
		if !errors.As(err, &e) || e.Field != "networks[0].bridge" {
			t.Errorf("%v: got %#v", test.err, err)
		}
		if test.kind != "" {
			wantKind(t, err, test.kind, "networks[0].bridge", test.text)
		} else if step.KindOf(err) != "" {
			t.Errorf("%v: kind %s", test.err, step.KindOf(err))
		}
	}
}
