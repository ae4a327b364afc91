package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/morgana-deploy/morgana/carrier/task"
)

// plug gives the machine's network interfaces to the unikernel. A Solo5 kernel gets a tap
// for each. All frames of the interface go to the tap and back, and the kernel has the
// interface's MAC address: a cloud passes no other. Linux itself has no address then. A
// Linux program uses Linux's own addresses.
func (m *machine) plug() (n task.Network, err error) {
	solo5 := m.Tender != ""
	if solo5 { // Linux must not speak with the kernel's MAC address
		if err := os.WriteFile("/proc/sys/net/ipv6/conf/all/disable_ipv6", []byte("1"), 0); err != nil && !errors.Is(err, os.ErrNotExist) {
			return n, err
		}
	}
	names, err := await(m.Interfaces, "network interfaces", interfaces)
	if err != nil {
		return n, err
	}
	for i, name := range names {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return n, err
		}
		if err := netlink.LinkSetUp(link); err != nil {
			return n, fmt.Errorf("bring up %s: %w", name, err)
		}
		if i == 0 && m.AsksAddress() {
			lease, err := ask(name)
			if err != nil {
				return n, fmt.Errorf("ask for an address by DHCP on %s: %w", name, err)
			}
			if n.Address, n.Gateway, err = read(lease); err != nil {
				return n, err
			}
			say("%s has %s, gateway %s", name, n.Address, n.Gateway)
			if !solo5 {
				if err := configure(link, lease, n); err != nil {
					return n, fmt.Errorf("configure %s: %w", name, err)
				}
			}
		}
		if solo5 {
			tap, err := join(link, fmt.Sprintf("tap%d", i))
			if err != nil {
				return n, fmt.Errorf("make a tap for %s: %w", name, err)
			}
			n.Taps = append(n.Taps, task.Tap{Name: tap, MAC: link.Attrs().HardwareAddr.String()})
		}
	}
	if lo, err := netlink.LinkByName("lo"); err == nil {
		return n, netlink.LinkSetUp(lo)
	}
	return n, nil
}

// interfaces returns the interfaces that are devices.
func interfaces() ([]string, error) {
	found, err := filepath.Glob("/sys/class/net/*/device")
	for i, path := range found {
		found[i] = filepath.Base(filepath.Dir(path))
	}
	return found, err
}

// ask asks for an address until a server answers.
func ask(name string) (*dhcpv4.DHCPv4, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	client, err := nclient4.New(name, nclient4.WithTimeout(2*time.Second), nclient4.WithRetry(30))
	if err != nil {
		return nil, err
	}
	defer client.Close() //nolint:errcheck // only read
	lease, err := client.Request(ctx)
	if err != nil {
		return nil, err
	}
	return lease.ACK, nil
}

// read returns the address with its network's length, and the gateway.
func read(lease *dhcpv4.DHCPv4) (address, gateway string, err error) {
	ones, bits := lease.SubnetMask().Size()
	if lease.YourIPAddr.IsUnspecified() || bits != 32 {
		return "", "", fmt.Errorf("the DHCP server's answer has no address: %v", lease.Summary())
	}
	if routers := lease.Router(); len(routers) > 0 {
		gateway = routers[0].String()
	}
	return fmt.Sprintf("%s/%d", lease.YourIPAddr, ones), gateway, nil
}

// configure gives Linux its address. The lease is not renewed: clouds keep an instance's
// address for its life.
func configure(link netlink.Link, lease *dhcpv4.DHCPv4, n task.Network) error {
	address, err := netlink.ParseAddr(n.Address)
	if err != nil {
		return err
	}
	if err := netlink.AddrAdd(link, address); err != nil {
		return err
	}
	if n.Gateway != "" {
		if err := netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: net.ParseIP(n.Gateway), Flags: int(netlink.FLAG_ONLINK)}); err != nil {
			return err
		}
	}
	var resolv []byte
	for _, server := range lease.DNS() {
		resolv = fmt.Appendf(resolv, "nameserver %s\n", server)
	}
	return os.WriteFile("/etc/resolv.conf", resolv, 0o644)
}

// join makes a tap and redirects each frame that comes in on one of tap and link to the
// other. A bridge would keep frames to the interface's own MAC address for Linux.
func join(link netlink.Link, name string) (string, error) {
	made := &netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: name}, Mode: netlink.TUNTAP_MODE_TAP, Flags: netlink.TUNTAP_NO_PI}
	if err := netlink.LinkAdd(made); err != nil {
		return "", err
	}
	tap, err := netlink.LinkByName(name)
	if err != nil {
		return "", err
	}
	if err := netlink.LinkSetUp(tap); err != nil {
		return "", err
	}
	for _, way := range [][2]netlink.Link{{link, tap}, {tap, link}} {
		from, to := way[0].Attrs().Index, way[1].Attrs().Index
		ingress := &netlink.Ingress{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: from, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_INGRESS}}
		if err := netlink.QdiscAdd(ingress); err != nil {
			return "", fmt.Errorf("add an ingress queue: %w", err)
		}
		redirect := &netlink.MatchAll{
			FilterAttrs: netlink.FilterAttrs{LinkIndex: from, Parent: ingress.Handle, Priority: 1, Protocol: unix.ETH_P_ALL},
			Actions:     []netlink.Action{netlink.NewMirredAction(to)},
		}
		if err := netlink.FilterAdd(redirect); err != nil {
			return "", fmt.Errorf("add a redirection: %w", err)
		}
	}
	return name, nil
}
