package xenserver

import (
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/morgana-deploy/morgana/image/disk"
	"github.com/morgana-deploy/morgana/machine"
	"github.com/morgana-deploy/morgana/step"
)

var (
	profileForm = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}$`)
	nameForm    = regexp.MustCompile(`^[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*$`)
)

// readPlace checks the options that say where the pool is.
func (s *settings) readPlace() error {
	if s.Profile != "" && !profileForm.MatchString(s.Profile) {
		return step.Invalid("profile", "the name of a file in ~/.xe.d of the worker's user", "%q is no name of a profile", s.Profile)
	}
	for _, text := range strings.Fields(s.Fingerprint) {
		b, err := hex.DecodeString(strings.ReplaceAll(text, ":", ""))
		if err != nil || len(b) != 32 {
			return step.Invalid("fingerprint", "64 hexadecimal digits, from openssl x509 -noout -fingerprint -sha256", "%q is no SHA-256 fingerprint", text)
		}
		s.fingerprints = append(s.fingerprints, [32]byte(b))
	}
	switch {
	case s.CA != "" && s.Fingerprint != "":
		return step.Invalid("ca", "leave out one of them", "give either ca or fingerprint")
	case s.CA != "" && !filepath.IsAbs(s.CA):
		return step.Invalid("ca", "a path that begins with /, on the worker's host", "%q is no absolute path", s.CA)
	}
	return checkHost("host", s.Host)
}

// checkHost refuses a host that is no plain https URL. The empty host is none.
func checkHost(field, host string) error {
	if host == "" {
		return nil
	}
	u, err := url.Parse(host)
	switch {
	case strings.Contains(host, "@"): // it may have a password, which no error tells
		return step.Invalid(field, "leave out the user and the password: the profile has them", "a URL with a user")
	case err != nil || u.Scheme != "https" || u.Host == "" || u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.Fragment != "":
		return step.Invalid(field, `the URL of the pool's master, as "https://xen1.example.org"`, "%q is no https URL of a host", host)
	}
	return nil
}

// allTypes are the types of a VM in the order in which auto prefers them.
var allTypes = []string{typePVH, typePV, typeHVM}

// readBoot checks how the VM is started.
func (s *settings) readBoot() error {
	for i, t := range s.Types {
		if !slices.Contains(allTypes, t) || slices.Contains(s.Types[:i], t) {
			return step.Invalid(fmt.Sprintf("types[%d]", i), step.OneOf(t, allTypes...)+", each once", "%q is no further type of VM", t)
		}
	}
	switch {
	case s.Type != auto && len(s.Types) > 0:
		return step.Invalid("types", "leave it out, or type: auto", "type %s leaves no choice", s.Type)
	case s.Type != auto && !slices.Contains(allTypes, s.Type):
		return step.Invalid("type", step.OneOf(s.Type, append(allTypes, auto)...), "unknown type of VM %q", s.Type)
	case s.Via == "kernel":
		return step.Invalid("via", "via: disk, or a target of kind xen", "the XenAPI takes no kernel: only a file of dom0 can be one")
	case s.Via != viaDisk:
		return step.Invalid("via", "via: disk, or leave it out", "unknown way to boot %q", s.Via)
	case s.Format != auto && s.Format != formatVHD && s.Format != formatRaw:
		return step.Invalid("format", step.OneOf(s.Format, auto, formatVHD, formatRaw), "unknown format %q", s.Format)
	}
	return nil
}

// minDisk is the size of the disk of the smallest kernel, and maxDisk the largest that the
// readers of VHDs take.
const (
	minDisk = 1 << 20
	maxDisk = 2040 << 30
)

// readFiles checks what is on the boot disk.
func (s *settings) readFiles() (err error) {
	if s.Size != "" {
		if s.size, err = disk.ParseSize("size", s.Size); err != nil {
			return err
		}
		if s.size < minDisk || s.size > maxDisk {
			return step.Invalid("size", `"1MiB" to "2040GiB", or leave it out for as small as it may be`, "%s is no size of a boot disk", s.Size)
		}
	}
	return machine.CheckModules(s.Modules)
}

// readNetworks checks network and networks, and sets s.networks from them.
func (s *settings) readNetworks() error {
	switch {
	case s.Network != "" && len(s.Networks) > 0:
		return step.Invalid("network", "write it as one of networks", "give either network or networks")
	case s.Network == noNetwork:
		return nil
	case s.Network != "":
		s.networks = []Network{{Network: s.Network}}
		return nil
	}
	s.networks = slices.Clone(s.Networks)
	for i := range s.networks {
		n, field := &s.networks[i], fmt.Sprintf("networks[%d]", i)
		if n.Network == "" {
			return step.Invalid(field+".network", "the name or the UUID of a network", "needed")
		}
		if n.MAC == "" {
			continue
		}
		mac, err := net.ParseMAC(n.MAC)
		if err != nil || len(mac) != 6 || mac[0]&1 != 0 {
			return step.Invalid(field+".mac", `an address of one station, as "00:16:3e:12:34:56"`, "%q is no MAC address", n.MAC)
		}
		n.MAC = mac.String()
		if slices.ContainsFunc(s.networks[:i], func(o Network) bool { return o.MAC == n.MAC }) {
			return step.Invalid(field+".mac", "", "there is another interface with %s", n.MAC)
		}
	}
	return nil
}

// readTexts refuses texts that cannot be sent.
func (s *settings) readTexts() error {
	texts := [][2]string{{"args", s.Args}, {"folder", s.Folder}, {"sr", s.SR}, {"network", s.Network}, {"affinity", s.Affinity}}
	for i, n := range s.Networks {
		texts = append(texts, [2]string{fmt.Sprintf("networks[%d].network", i), n.Network})
	}
	for i, tag := range s.Tags {
		texts = append(texts, [2]string{fmt.Sprintf("tags[%d]", i), tag})
	}
	for _, o := range texts {
		if err := carried(o[1]); err != nil {
			return step.Invalid(o[0], "", "%w", err)
		}
	}
	return nil
}

// readVM checks the VM's own options.
func (s *settings) readVM() error {
	switch {
	case s.Memory < 4 || s.Memory > 1<<24: // a domain's own pages take some of it
		return step.Invalid("memory", "a number of MiB as 128, at least 4", "%d MiB is no size of memory", s.Memory)
	case s.Type == typeHVM && s.Memory < 128:
		return step.Invalid("memory", "at least 128", "%d MiB is too little for an hvm VM", s.Memory)
	case s.VCPUs < 1 || s.VCPUs > 64:
		return step.Invalid("vcpus", "1 to 64", "%d processors", s.VCPUs)
	case s.Folder != "" && (!strings.HasPrefix(s.Folder, "/") || strings.HasSuffix(s.Folder, "/")):
		return step.Invalid("folder", `as "/web/prod"`, "%q is no folder of XenCenter", s.Folder)
	}
	for i, tag := range s.Tags {
		if strings.TrimSpace(tag) == "" || strings.ContainsAny(tag, ",\n") {
			return step.Invalid(fmt.Sprintf("tags[%d]", i), "a word or several, without commas", "%q is no tag", tag)
		}
	}
	return nil
}

// readReady checks how the VM shows that it is ready.
func (s *settings) readReady() (err error) {
	if s.Address != "" {
		if _, err := netip.ParseAddr(s.Address); err != nil && !nameForm.MatchString(s.Address) {
			return step.Invalid("address", `an IP address or a name, as "192.0.2.7"`, "%q is no address", s.Address)
		}
	}
	switch {
	case s.ExpectPort < 0 || s.ExpectPort > 65535:
		return step.Invalid("expectPort", "1 to 65535", "%d is no TCP port", s.ExpectPort)
	case s.ExpectPort > 0 && s.Address == "":
		return step.Invalid("address", "the address that the kernel has or gets, as by its args", "expectPort needs it: the pool does not know the VM's address")
	case s.Expect != "" && s.Type == typeHVM:
		return step.Invalid("expect", "expectPort with address; or type: pv or pvh", "an hvm VM has no console of text")
	}
	s.expect, s.timeout, err = machine.ReadReady(s.Expect, s.Timeout)
	return err
}
