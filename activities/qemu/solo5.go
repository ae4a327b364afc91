package qemu

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/morgana-deploy/morgana/image"
	"github.com/morgana-deploy/morgana/machine"
	"github.com/morgana-deploy/morgana/step"
)

// manifest holds the devices of a Solo5 kernel; nil for any other kernel.
type manifest struct{ devices []image.Device }

// manifestOf returns the manifest of a kernel that was identified.
func manifestOf(info image.Info) *manifest {
	for _, abi := range []string{image.Solo5Virtio, image.Solo5SPT, image.Solo5HVT} {
		if slices.Contains(info.ABIs, abi) {
			return &manifest{info.Devices}
		}
	}
	return nil
}

// json returns the manifest as mirage configure writes it.
func (m *manifest) json() ([]byte, error) {
	return json.Marshal(struct {
		Type    string         `json:"type"`
		Version int            `json:"version"`
		Devices []image.Device `json:"devices"`
	}{"solo5.manifest", 1, append([]image.Device{}, m.devices...)})
}

// readManifest reads the manifest in a machine's folder; nil if there is none.
func readManifest(m machine.Machine) (*manifest, error) {
	b, err := os.ReadFile(m.File(manifestFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	devices, err := image.ReadManifest(b)
	return &manifest{devices}, err
}

// device is networks[index] or disks[index].
type device struct {
	network bool
	index   int
}

// devices returns the machine's virtio devices in the order in which the kernel is to find
// them. A Solo5 kernel's manifest sets the order. Its devices are bound to options by name;
// options without a name take the devices that are left, in order. InvalidSpec if an option
// or a device is left over.
func (s *settings) devices(m *manifest) ([]device, error) {
	var all []device
	if m == nil {
		for i := range s.networks {
			all = append(all, device{true, i})
		}
		for i := range s.Disks {
			all = append(all, device{false, i})
		}
		return all, nil
	}
	netOf, err := m.bind(image.NetBasic, "network", s.networkNames())
	if err != nil {
		return nil, s.blameNetwork(err)
	}
	diskOf, err := m.bind(image.BlockBasic, "disk", s.diskNames())
	if err != nil {
		return nil, err
	}
	for _, d := range m.devices {
		if d.Type == image.NetBasic {
			all = append(all, device{true, netOf[d.Name]})
		} else {
			all = append(all, device{false, diskOf[d.Name]})
		}
	}
	return all, nil
}

// networkNames returns the names of the options' networks, "" for none.
func (s *settings) networkNames() (names []string) {
	for _, n := range s.networks {
		names = append(names, n.Name)
	}
	return names
}

// diskNames returns the names of the options' disks, "" for none.
func (s *settings) diskNames() (names []string) {
	for _, d := range s.Disks {
		names = append(names, d.Name)
	}
	return names
}

// bind returns the index of the option for each of the manifest's devices of a kind. given
// are the options' names, "" for none; noun is "network" or "disk".
func (m *manifest) bind(kind, noun string, given []string) (map[string]int, error) {
	bound := map[string]int{}
	for i, name := range given {
		if name == "" {
			continue
		}
		if !slices.Contains(m.devices, image.Device{Name: name, Type: kind}) {
			return nil, step.Invalid(fmt.Sprintf("%ss[%d].name", noun, i), m.known(kind, name), "the kernel has no %s device %q", noun, name)
		}
		bound[name] = i
	}
	at := 0
	for _, d := range m.devices {
		if _, ok := bound[d.Name]; ok || d.Type != kind {
			continue
		}
		for at < len(given) && given[at] != "" {
			at++
		}
		if at == len(given) {
			return nil, step.Invalid(noun+"s", fmt.Sprintf("the kernel starts with all of its devices only: %s; write %s", m.list(), example(noun, d.Name)),
				"the kernel's %s device %q is not given", noun, d.Name)
		}
		bound[d.Name] = at
		at++
	}
	for i := at; i < len(given); i++ {
		if given[i] == "" {
			return nil, step.Invalid(fmt.Sprintf("%ss[%d]", noun, i), m.known(kind, ""),
				"the kernel has no %s device for it, and would not start with one it does not expect", noun)
		}
	}
	return bound, nil
}

func example(noun, name string) string {
	if noun == "network" {
		return fmt.Sprintf("networks: [{name: %s, kind: user}]", name)
	}
	return fmt.Sprintf("disks: [{name: %s, path: /a/file}]", name)
}

// known returns a hint: the nearest name, or all devices.
func (m *manifest) known(kind, name string) string {
	var names []string
	for _, d := range m.devices {
		if d.Type == kind {
			names = append(names, d.Name)
		}
	}
	if near := step.Nearest(name, names); near != "" {
		return fmt.Sprintf("did you mean %q?", near)
	}
	return "the kernel's devices: " + m.list()
}

func (m *manifest) list() string {
	if len(m.devices) == 0 {
		return "none"
	}
	var all []string
	for _, d := range m.devices {
		noun := "network"
		if d.Type == image.BlockBasic {
			noun = "disk"
		}
		all = append(all, d.Name+" ("+noun+")")
	}
	return strings.Join(all, ", ")
}

// blameNetwork sets Field to network, if the options have that instead of networks.
func (s *settings) blameNetwork(err error) error {
	var e *step.Error
	if errors.As(err, &e) && len(s.Networks) == 0 && e.Field != "networks" {
		return step.Amend(err, func(e *step.Error) { e.Field = "network" })
	}
	return err
}
