package local

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/morgana-deploy/morgana/machine"
	"github.com/morgana-deploy/morgana/need"
	"github.com/morgana-deploy/morgana/step"
)

// withTenders puts the stand-ins for Solo5's tenders into PATH.
func withTenders(t *testing.T) {
	t.Helper()
	t.Setenv("PATH", file(t, tenders)+":"+os.Getenv("PATH"))
}

func needTaps(t *testing.T) {
	t.Helper()
	for _, n := range machine.TapNeeds() {
		if n.Found == "" {
			need.Nil(t, errors.New(n.What+": "+n.Why))
		}
	}
}

// Both devices really work: frames go both ways, the block file is written.
func TestSolo5Devices(t *testing.T) {
	needTaps(t)
	withTenders(t)
	mine := filepath.Join(t.TempDir(), "my disk") // the tender would cut it at the blank
	for _, test := range []struct{ name, network, block string }{
		{"by fd", `"by":"fd","address":"10.213.8.1/24"`, `"size":1`},
		{"by name", `"address":"10.213.8.1/24"`, `"path":"` + mine + `"`},
		{"by a name of mine", `"by":"name","tap":"mglu` + life + `","address":"10.213.8.1/24"`, `"size":2`},
	} {
		t.Run(test.name, func(t *testing.T) {
			if err := os.WriteFile(mine, []byte("my bytes"+strings.Repeat("\x00", 4096-8)), 0o600); err != nil {
				t.Fatal(err)
			}
			b := newBench(t)
			spec := b.spec(`{"args":["net","service","block","storage","stay"],"memory":64,"expect":"block of",
				"networks":[{"name":"service",` + test.network + `}],"blocks":[{"name":"storage",` + test.block + `}]}`)
			checked, err := b.target().Check(t.Context(), spec)
			if err != nil {
				t.Fatal(told(err))
			}
			m := b.boot(b.register(spt, checked))
			text := b.console(m)
			if !strings.Contains(text, "tender: 64 MB\n") || !strings.Contains(text, "arp: the host answered\n") {
				t.Errorf("got\n%s", text)
			}
			if b.target().OnHost(m) {
				t.Error("a guest has the ports of its host")
			}
			if strings.Contains(test.block, "path") {
				if got, err := os.ReadFile(mine); err != nil || !strings.HasPrefix(string(got), "written!") || !strings.Contains(text, "block of 4096 bytes had my bytes\n") {
					t.Errorf("the block file has %.20q (%v)\n%s", got, err, text)
				}
				other := spec
				other.Target = "other"
				_, err := b.target().Check(t.Context(), other)
				wantError(t, err, step.Conflict, "blocks[0].path", "the running machine localtest.dev."+life+"-1 has "+mine, "destroy")
			}
			b.destroy(spec)
			if left := resources(t, b.site); len(left) > 0 {
				t.Errorf("left: %q", left)
			}
		})
	}
}

func TestLinuxProgramWithTaps(t *testing.T) {
	needTaps(t)
	for _, test := range []struct{ name, order, network string }{
		{"by fd", "arp-fd", `"by":"fd",`},
		{"by name", "arp-name", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := newBench(t)
			r := b.register(linux, b.spec(`{"args":["`+test.order+`","{tap:service}","stay"],"expect":"arp:",
				"networks":[{"name":"spare","by":"fd"},{"name":"service",`+test.network+`"address":"10.213.8.1/24"}]}`))
			if text := b.console(b.boot(r)); text != "arp: the host answered\n" {
				t.Errorf("got\n%s", text)
			}
		})
	}
}

// A tap that the user made is used and left as it is; a bridge is joined.
func TestTapOfTheUserAndBridge(t *testing.T) {
	needTaps(t)
	tapName, bridgeName := "mglt"+life, "mglb"+life
	tap := &netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: tapName}, Mode: netlink.TUNTAP_MODE_TAP, Flags: netlink.TUNTAP_NO_PI}
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: bridgeName}}
	for _, link := range []netlink.Link{tap, bridge} {
		if err := netlink.LinkAdd(link); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := netlink.LinkDel(link); err != nil {
				t.Error(err) // it was ours to remove
			}
		})
	}
	address := &netlink.Addr{IPNet: netlink.NewIPNet(netip.MustParseAddr("10.213.8.1").AsSlice())}
	address.Mask = []byte{255, 255, 255, 0}
	if err := netlink.AddrAdd(tap, address); err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetUp(tap); err != nil {
		t.Fatal(err)
	}
	b := newBench(t)
	spec := b.spec(`{"args":["arp-name","{tap:service}","stay"],"expect":"answered",
		"networks":[{"name":"service","tap":"` + tapName + `"},{"name":"second","by":"fd","bridge":"` + bridgeName + `"}]}`)
	r := b.register(linux, spec)
	b.boot(r)
	made, err := netlink.LinkByName(machine.TapConfig{Tags: spec.Tags, Index: 1}.Interface())
	if err != nil {
		t.Fatal(err)
	}
	if at, err := netlink.LinkByIndex(made.Attrs().MasterIndex); err != nil || at.Attrs().Name != bridgeName {
		t.Errorf("the tap is in %+v (%v)", at, err)
	}
	later := spec
	later.Generation++
	if _, err := b.target().Check(t.Context(), later); err != nil {
		t.Errorf("an unchanged deploy is refused: %v", told(err))
	}
	other := spec
	other.Target = "other"
	_, err = b.target().Check(t.Context(), other)
	wantError(t, err, step.Conflict, "networks[0].tap", "the running machine localtest.dev."+life+"-1 has "+tapName, "morgana destroy localtest/dev,")
}

// hvt needs KVM, which decides what happens here.
func TestSolo5HVT(t *testing.T) {
	withTenders(t)
	b := newBench(t)
	r := b.register(hvt, b.spec(`{"args":["hello"],"networks":[{"name":"service"}],"blocks":[{"name":"storage","size":1}]}`))
	spec := r.Spec
	k := b.kernel(hvt, spec)
	spec.Origin = step.Origin{Kernel: &k.File, ABIs: k.ABIs}
	_, err := b.target().Check(t.Context(), spec)
	why, errKVM := machine.TryKVM()
	if errKVM != nil {
		t.Fatal(errKVM)
	}
	if why != "" {
		text := "this host has no working KVM (/dev/kvm): " + why
		wantError(t, err, step.Unsupported, "", text, "-t spt")
		b.refused(r, step.Unsupported, text, "-t spt")
		return
	}
	if err != nil {
		t.Error(told(err))
	}
	if m, err := b.ends(r); err != nil || m.Ready != "ended with status 0" {
		t.Errorf("got %+v (%v)", m, err)
	}
}

// What a tender says is in the hint, should it refuse what we did not.
func TestTenderRefuses(t *testing.T) {
	withTenders(t)
	b := newBench(t)
	r := b.register(sptBare, b.spec(`{"args":["hello"]}`))
	if err := os.Truncate(r.ID+"/kernel", 64); err != nil {
		t.Fatal(err)
	}
	b.refused(r, step.BootFailed, "ended with status 1 and it was not ready", "No Solo5 ABI information found")
}
