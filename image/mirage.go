package image

import (
	"regexp"
	"slices"
	"strings"
)

// MirageTarget returns the value of mirage configure -t for a kind of target, or ""
// if none is known. For ec2 it is "": the right one depends on the instance type.
func MirageTarget(kind string) string {
	switch kind {
	case "qemu", "openstack":
		return "virtio"
	case "xen", "xenserver":
		return "xen"
	case "local":
		return "unix"
	}
	return ""
}

// MirageABIs returns the ABIs of the kernels that mirage configure -t target makes on
// x86_64, so that [Supports] can be asked before a build. They are those of MirageOS
// 3.9 and later; earlier ones made Xen PV kernels for xen. It returns nil for an
// unknown target, which Supports accepts.
func MirageABIs(target string) []string {
	switch target {
	case "unix":
		return []string{LinuxExecutable}
	case "hvt":
		return []string{Solo5HVT}
	case "spt":
		return []string{Solo5SPT}
	case "virtio":
		return []string{Multiboot1, Solo5Virtio}
	case "muen":
		return []string{Solo5Muen}
	case "genode":
		return []string{Solo5Genode}
	case "xen", "qubes":
		return []string{Solo5Xen, XenPVH}
	}
	return nil
}

// defaultNetworks are the names of MirageOS's default_network, by the target of mirage
// configure.
var defaultNetworks = map[string]string{"unix": "tap0", "macosx": "tap0", "xen": "0", "qubes": "0",
	"hvt": "service", "spt": "service", "virtio": "service", "muen": "service", "genode": "service"}

var (
	// ocamlForm matches a comment without a comment in it, or a string. So a comment within
	// a string stays.
	ocamlForm   = regexp.MustCompile(`(?s)\(\*(?:[^*(]|\*+[^*)]|\(+[^*(])*?\*+\)|"(?:[^"\\]|\\.)*"`)
	networkForm = regexp.MustCompile(`\bdefault_network\b|\bnetif\b(?:\s+~group:\s*"[^"]*")?\s*("[^"\\]*")?`)
	blockForm   = regexp.MustCompile(`\bblock_of_file\b\s*("[^"\\]*")?`)
	// unclearForm matches a choice by a key, and devices that name their blocks themselves.
	unclearForm = regexp.MustCompile(`\b(?:match_impl|if_impl|generic_block|generic_kv_ro|block_of_xenstore_id|tar_block|archive_of_files|docteur)\b`)
)

// MirageDevices returns the names of the network and block devices of the kernel that
// mirage configure -t target makes of a config.ml. They are nil if there are none, or if
// the text does not tell: it chooses devices by a key, or computes a name.
func MirageDevices(config, target string) (networks, blocks []string) {
	config = ocamlForm.ReplaceAllStringFunc(config, func(found string) string {
		if strings.HasPrefix(found, "(*") {
			return " "
		}
		return found
	})
	if unclearForm.MatchString(config) || strings.Contains(config, "(*") {
		return nil, nil
	}
	return names(networkForm, config, defaultNetworks[target]), names(blockForm, config, "")
}

// names returns the names in the matches of form, each once. A match without a name has
// the name fallback if it is default_network; otherwise names returns nil.
func names(form *regexp.Regexp, config, fallback string) []string {
	var all []string
	for _, found := range form.FindAllStringSubmatch(config, -1) {
		name := strings.Trim(found[1], `"`)
		if found[0] == "default_network" {
			name = fallback
		}
		if name == "" {
			return nil
		}
		if !slices.Contains(all, name) {
			all = append(all, name)
		}
	}
	return all
}
