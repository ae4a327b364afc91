package qemu

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"

	"github.com/morgana-deploy/morgana/machine"
	"github.com/morgana-deploy/morgana/step"
)

// Network is one virtio-net device and where it is plugged in.
type Network struct {
	// Name is the name of the network device that a Solo5 kernel asks for. A
	// network without a name is bound to the first device that is left.
	Name string `json:"name,omitempty"`
	// Kind is the kind of network: "user", QEMU's user network, or "tap", a tap
	// device of the host, which is removed with the machine. Default: "tap" if tap, bridge or address
	// is given, else "user".
	Kind string `json:"kind" jsonschema:"enum=user,enum=tap"`
	// Tap is the name of the tap device. A device that exists and is not Morgana's is
	// used as it is, without bridge and address. A named tap belongs to one machine at a
	// time: destroy the old machine before you deploy a change. Default: a name that
	// Morgana chooses.
	Tap string `json:"tap,omitempty"`
	// Bridge is a bridge of the host that the tap joins.
	Bridge string `json:"bridge,omitempty"`
	// Address is the address of the host's end of the tap, as "10.0.0.1/24".
	Address string `json:"address,omitempty"`
	// MAC is the machine's address, as "52:54:00:12:34:56". Default: a new one
	// for each rollout.
	MAC string `json:"mac,omitempty"`

	address netip.Prefix
}

const (
	userNetwork = "user"
	tapNetwork  = "tap"
)

// fillNetworks fills in the defaults of network and networks.
func (s *settings) fillNetworks() {
	for i := range s.Networks {
		if n := &s.Networks[i]; n.Kind == "" {
			n.Kind = userNetwork
			if n.Tap != "" || n.Bridge != "" || n.Address != "" {
				n.Kind = tapNetwork
			}
		}
	}
	if s.Network != "" || len(s.Networks) > 0 {
		return
	}
	switch {
	case s.Bridge != "":
		s.Network = tapNetwork
	case len(s.Ports) > 0 || s.ExpectPort > 0:
		s.Network = userNetwork
	default:
		s.Network = "none"
	}
}

// readNetworks checks network, bridge and networks, and sets s.networks from them.
func (s *settings) readNetworks() error {
	needed := len(s.forwards) > 0 || s.ExpectPort > 0
	if len(s.Networks) > 0 && s.Network != "" {
		return step.Invalid("network", "write it as one of networks", "give either network or networks")
	}
	switch {
	case len(s.Networks) > 0 && s.Bridge != "":
		return step.Invalid("bridge", "write it in one of networks", "bridge goes with network: tap")
	case s.Network == "" || s.Network == tapNetwork || s.Bridge == "":
	default:
		return step.Invalid("bridge", "network: tap", "network %s has no bridge", s.Network)
	}
	switch s.Network {
	case "":
		s.networks = s.Networks
	case "none":
		s.networks = nil
	case userNetwork, tapNetwork:
		s.networks = []Network{{Kind: s.Network, Bridge: s.Bridge}}
	default:
		return step.Invalid("network", step.OneOf(s.Network, userNetwork, tapNetwork, "none"), "unknown network %q", s.Network)
	}
	for i := range s.networks {
		if err := s.networks[i].read(fmt.Sprintf("networks[%d]", i)); err != nil {
			return err
		}
		for j, other := range s.networks[:i] {
			switch n := s.networks[i]; {
			case n.Name != "" && n.Name == other.Name:
				return step.Invalid(fmt.Sprintf("networks[%d].name", i), "", "there is another network named %q", n.Name)
			case n.Tap != "" && n.Tap == other.Tap:
				return step.Invalid(fmt.Sprintf("networks[%d].tap", i), "another tap, or leave it out for one of its own",
					"%s is the tap of networks[%d].tap too", n.Tap, j)
			}
		}
	}
	if needed && s.userNetwork() < 0 {
		field := "networks"
		if len(s.Networks) == 0 {
			field = "network"
		}
		return step.Invalid(field, "add one of kind user, or leave out ports and expectPort", "ports and expectPort need a network of kind user")
	}
	return nil
}

func (n *Network) read(field string) error {
	switch {
	case n.Name != "" && !deviceForm.MatchString(n.Name):
		return step.Invalid(field+".name", deviceNames, "%q is no name of a network", n.Name)
	case n.Kind != userNetwork && n.Kind != tapNetwork:
		return step.Invalid(field+".kind", step.OneOf(n.Kind, userNetwork, tapNetwork), "unknown kind of network %q", n.Kind)
	case n.Kind == userNetwork && (n.Tap != "" || n.Bridge != "" || n.Address != ""):
		return step.Invalid(field+".kind", "kind: tap", "tap, bridge and address go with kind tap")
	}
	if n.Address != "" {
		var err error
		if n.address, err = netip.ParsePrefix(n.Address); err != nil {
			return step.Invalid(field+".address", `an address with its network's length, as "10.0.0.1/24"`, "%q is no address", n.Address)
		}
	}
	if n.MAC != "" {
		mac, err := net.ParseMAC(n.MAC)
		if err != nil || len(mac) != 6 || mac[0]&1 != 0 {
			return step.Invalid(field+".mac", `an address of one station, as "52:54:00:12:34:56"`, "%q is no MAC address", n.MAC)
		}
		n.MAC = mac.String()
	}
	return nil
}

// userNetwork is the index of the network of option ports, -1 if there is none.
func (s *settings) userNetwork() int {
	return slices.IndexFunc(s.networks, func(n Network) bool { return n.Kind == userNetwork })
}

// netdevID is the id of networks[i] on QEMU's command line. It is netdev for the network
// of option ports, whatever its index.
func (s *settings) netdevID(i int) string {
	switch user := s.userNetwork(); {
	case i == user:
		return netdev
	case i < user:
		return fmt.Sprintf("n%d", i+1)
	default:
		return fmt.Sprintf("n%d", i)
	}
}

// tap is the tap device of networks[i].
func (s *settings) tap(tags step.Tags, i int) machine.TapConfig {
	n := s.networks[i]
	c := machine.TapConfig{Tags: tags, Index: i, Name: n.Tap, Bridge: n.Bridge, Address: n.address}
	if len(s.Networks) > 0 {
		c.Option = fmt.Sprintf("networks[%d]", i)
	}
	return c
}

// blame sets Field of a tap's error to "network" if the user wrote option network instead
// of networks.
func (s *settings) blame(err error) error {
	var e *step.Error
	if errors.As(err, &e) && len(s.Networks) == 0 && e.Field == "tap" {
		return step.Amend(err, func(e *step.Error) { e.Field = "network" })
	}
	return err
}

// mac is the MAC address of networks[i]. Two generations may run side by side, so each has
// its own. 52:54:00 is QEMU's range.
func (s *settings) mac(rec machine.Record, i int) string {
	if s.networks[i].MAC != "" {
		return s.networks[i].MAC
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\n%d", rec.UUID(), i))
	return fmt.Sprintf("52:54:00:%02x:%02x:%02x", sum[0], sum[1], sum[2])
}

// checkTaps checks that this worker can make the machine's taps.
func (s *settings) checkTaps(machines *machine.Machines, tags step.Tags) error {
	for i, n := range s.networks {
		if n.Kind != tapNetwork {
			continue
		}
		if err := machines.CheckTap(s.tap(tags, i)); err != nil {
			return s.blame(err)
		}
	}
	return nil
}

// openTaps opens the machine's taps, in the order of its networks. The caller closes them,
// also after an error.
func (s *settings) openTaps(ctx context.Context, tags step.Tags) (taps []*os.File, err error) {
	for i, n := range s.networks {
		if n.Kind != tapNetwork {
			continue
		}
		f, err := machine.OpenTap(ctx, s.tap(tags, i))
		if err != nil {
			return taps, s.blame(err)
		}
		taps = append(taps, f)
	}
	return taps, nil
}
