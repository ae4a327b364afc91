package machine

import (
	"context"
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/morgana-deploy/morgana/need"
	"github.com/morgana-deploy/morgana/step"
)

// needTaps skips a test where taps cannot be made, unless all tests are required.
func needTaps(t *testing.T) {
	t.Helper()
	for _, n := range TapNeeds() {
		if n.Found != "" {
			continue
		}
		need.Nil(t, errors.New(n.What+": "+n.Why))
	}
}

// tapTest is a test's own tags, and sees that none of its taps are left.
func tapTest(t *testing.T) TapConfig {
	t.Helper()
	needTaps(t)
	c := TapConfig{Tags: step.Tags{App: "taptest", Target: strings.ToLower(t.Name()[4:min(len(t.Name()), 40)]), Life: "0a1b2c3d", Generation: 1}}
	t.Cleanup(func() {
		if _, err := RemoveTaps(step.Tags{App: c.Tags.App, Target: c.Tags.Target}.Match); err != nil {
			t.Error(err)
		}
		if left := tapsOf(t, c.Tags); len(left) > 0 {
			t.Errorf("left: %q", left)
		}
	})
	return c
}

// tapsOf lists the taps of an app and target, of all generations.
func tapsOf(t *testing.T, tags step.Tags) (names []string) {
	t.Helper()
	links, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		if strings.HasPrefix(l.Attrs().Alias, "morgana "+tags.App+"/"+tags.Target+"/") || l.Attrs().Name == (TapConfig{Tags: tags}).Interface() {
			names = append(names, l.Attrs().Name)
		}
	}
	return names
}

// noMachines is a target without machines.
func noMachines(t *testing.T) *Machines {
	t.Helper()
	return In(step.Site{State: t.TempDir()}, "test")
}

// addLink makes a device for a test.
func addLink(t *testing.T, link netlink.Link) {
	t.Helper()
	err := netlink.LinkAdd(link)
	if errors.Is(err, fs.ErrExist) && netlink.LinkDel(link) == nil { // left by a test that was killed
		err = netlink.LinkAdd(link)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := netlink.LinkDel(link); err != nil {
			t.Error(err)
		}
	})
}

func wantKind(t *testing.T, err error, kind step.Kind, field, text string) {
	t.Helper()
	var e *step.Error
	if !errors.As(err, &e) || e.Kind != kind || e.Field != field || !strings.Contains(err.Error(), text) || e.Hint == "" {
		t.Errorf("got %#v (%v), want %s of %s, %q, with a hint", e, err, kind, field, text)
	}
	if err != nil && strings.Contains(err.Error(), "\n") {
		t.Errorf("more than a line: %q", err)
	}
}

func TestTapIsGoneWithItsFile(t *testing.T) {
	c := tapTest(t)
	addLink(t, &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "mgtestbr0"}})
	c.Bridge = "mgtestbr0"
	f, err := OpenTap(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	link, err := netlink.LinkByName(c.Interface())
	if err != nil {
		t.Fatal(err)
	}
	bridge, err := netlink.LinkByName(c.Bridge)
	if err != nil {
		t.Fatal(err)
	}
	a := link.Attrs()
	if a.Alias != "morgana taptest/"+c.Tags.Target+"/0a1b2c3d/1" || a.MasterIndex != bridge.Attrs().Index || a.RawFlags&unix.IFF_UP == 0 {
		t.Errorf("got %+v", a)
	}
	if err := noMachines(t).CheckTap(c); err != nil {
		t.Errorf("check of a machine that runs: %v", err)
	}
	// It lives as long as the last process that has it, even one that is killed.
	sleeper := exec.Command("sleep", "600")
	sleeper.ExtraFiles = []*os.File{f}
	if err := sleeper.Start(); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	if got := tapsOf(t, c.Tags); !slices.Equal(got, []string{c.Interface()}) {
		t.Errorf("got %q", got)
	}
	_, err = OpenTap(t.Context(), c)
	wantKind(t, err, step.Conflict, "tap", "another program has")
	short, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := OpenTap(short, c); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	if err := sleeper.Process.Kill(); err != nil {
		t.Error(err)
	}
	_ = sleeper.Wait() // it was killed
	if got := tapsOf(t, c.Tags); len(got) > 0 {
		t.Errorf("left: %q", got)
	}
}

func TestTapWithAddressPassesFrames(t *testing.T) {
	c := tapTest(t)
	c.Address = netip.MustParsePrefix("10.213.7.1/24")
	f, err := OpenTap(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close() //nolint:errcheck // ends the tap
	fd := int(f.Fd())
	if err := unix.SetNonblock(fd, true); err != nil {
		t.Fatal(err)
	}
	// Who has 10.213.7.1? Tell 10.213.7.2.
	mac := []byte{2, 0, 0, 0, 0, 7}
	ask := slices.Concat([]byte{255, 255, 255, 255, 255, 255}, mac, []byte{8, 6, 0, 1, 8, 0, 6, 4, 0, 1},
		mac, []byte{10, 213, 7, 2}, make([]byte, 6), []byte{10, 213, 7, 1})
	if _, err := unix.Write(fd, ask); err != nil {
		t.Fatal(err)
	}
	want := slices.Concat(mac, hostMAC(t, c), []byte{8, 6, 0, 1, 8, 0, 6, 4, 0, 2})
	buffer := make([]byte, 2000)
	for until := time.Now().Add(time.Minute); time.Now().Before(until); {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		if _, err := unix.Poll(fds, 500); err != nil && !errors.Is(err, unix.EINTR) {
			t.Fatal(err)
		}
		if n, err := unix.Read(fd, buffer); err == nil && n >= len(want) && string(buffer[:len(want)]) == string(want) {
			return
		}
	}
	t.Error("the host does not answer on its end of the tap")
}

func hostMAC(t *testing.T, c TapConfig) []byte {
	t.Helper()
	link, err := netlink.LinkByName(c.Interface())
	if err != nil {
		t.Fatal(err)
	}
	return link.Attrs().HardwareAddr
}

func TestTapsThatStayAreRemovedByTags(t *testing.T) {
	c := tapTest(t)
	second, later := c, c
	second.Index, second.Name = 1, "mgtesttap1"
	later.Tags.Generation = 2
	for _, tap := range []TapConfig{c, second, later, c} { // the last one again: adopted
		if err := MakeTap(t.Context(), tap); err != nil {
			t.Fatal(err)
		}
		if err := noMachines(t).CheckTap(tap); err != nil {
			t.Error(err)
		}
	}
	if got := tapsOf(t, c.Tags); len(got) != 3 {
		t.Errorf("made %q", got)
	}
	removed, err := RemoveTaps(c.Tags.Match)
	if want := []string{c.Interface(), second.Name}; err != nil || !slices.Equal(slices.Sorted(slices.Values(removed)), slices.Sorted(slices.Values(want))) {
		t.Errorf("removed %q, want %q (%v)", removed, want, err)
	}
	if again, err := RemoveTaps(c.Tags.Match); err != nil || len(again) > 0 {
		t.Errorf("removed again: %q (%v)", again, err)
	}
	if got := tapsOf(t, c.Tags); !slices.Equal(got, []string{later.Interface()}) {
		t.Errorf("left %q", got)
	}
}

// A name of the user's own goes from one generation to the next, when it is free.
func TestTapOfAnEarlierGenerationIsTakenOver(t *testing.T) {
	c := tapTest(t)
	c.Name = "mgtesttap2"
	if err := MakeTap(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	later := c
	later.Tags.Generation = 2
	if err := noMachines(t).CheckTap(later); err != nil {
		t.Error(err)
	}
	if err := MakeTap(t.Context(), later); err != nil {
		t.Fatal(err)
	}
	if removed, err := RemoveTaps(c.Tags.Match); err != nil || len(removed) > 0 {
		t.Errorf("the earlier generation removed %q (%v)", removed, err)
	}
	stranger := c
	stranger.Tags.App = "other"
	wantKind(t, noMachines(t).CheckTap(stranger), step.Conflict, "tap", "belongs to taptest.")
	_, err := OpenTap(t.Context(), stranger)
	wantKind(t, err, step.Conflict, "tap", "belongs to taptest.")
}

func TestTapOfSomebodyElseIsUsedAsItIs(t *testing.T) {
	c := tapTest(t)
	c.Name, c.Option = "mgtesttap3", "networks[0]"
	addLink(t, &netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: c.Name}, Mode: netlink.TUNTAP_MODE_TAP, Flags: netlink.TUNTAP_NO_PI})
	if err := noMachines(t).CheckTap(c); err != nil {
		t.Error(err)
	}
	f, err := OpenTap(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	wantKind(t, noMachines(t).CheckTap(c), step.Conflict, "networks[0].tap", "another program has")
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	addressed := c
	addressed.Address = netip.MustParsePrefix("10.213.7.1/24")
	wantKind(t, noMachines(t).CheckTap(addressed), step.InvalidSpec, "networks[0].address", "is there already")
	if link, err := netlink.LinkByName(c.Name); err != nil || link.Attrs().Alias != "" {
		t.Errorf("it was changed: %+v (%v)", link, err)
	}
}

func TestTapRefused(t *testing.T) {
	needTaps(t)
	addLink(t, &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "mgtestbr1"}})
	tags := step.Tags{App: "taptest", Target: "refused", Life: "0a1b2c3d", Generation: 1}
	for _, test := range []struct {
		c           TapConfig
		kind        step.Kind
		field, text string
	}{
		{TapConfig{Bridge: "mgnobridge"}, step.NotFound, "bridge", "no bridge mgnobridge"},
		{TapConfig{Bridge: "lo"}, step.InvalidSpec, "bridge", "lo is a device of type"},
		{TapConfig{Name: "mgtestbr1"}, step.InvalidSpec, "tap", "of type bridge"},
		{TapConfig{Name: "tap%d"}, step.InvalidSpec, "tap", "no name"},
		{TapConfig{Name: "a/b"}, step.InvalidSpec, "tap", "no name"},
		{TapConfig{Name: ".."}, step.InvalidSpec, "tap", "no name"},
		{TapConfig{Name: "sixteencharsname"}, step.InvalidSpec, "tap", "no name"},
		{TapConfig{Bridge: "br0", Address: netip.MustParsePrefix("10.0.0.1/24")}, step.InvalidSpec, "address", "in a bridge"},
	} {
		test.c.Tags = tags
		wantKind(t, noMachines(t).CheckTap(test.c), test.kind, test.field, test.text)
		f, err := OpenTap(t.Context(), test.c)
		if err == nil {
			t.Errorf("%+v was opened", test.c)
			_ = f.Close()
		}
		wantKind(t, err, test.kind, test.field, test.text)
	}
}

func TestTapNamesAreTheirOwn(t *testing.T) {
	seen := map[string]bool{}
	for _, life := range []string{"0a1b2c3d", "0a1b2c3e"} {
		for generation := range 3 {
			for index := range 3 {
				c := TapConfig{Tags: step.Tags{App: "a", Target: "b", Life: life, Generation: generation}, Index: index}
				if name := c.Interface(); seen[name] || len(name) > 15 {
					t.Errorf("%+v: %s", c, name)
				} else {
					seen[name] = true
				}
			}
		}
	}
}
