package image

// MirageTarget is the -t of mirage configure that makes a kernel for a kind of
// target, "" if none is known to suit. ec2 is such a kind: which kernel boots
// there depends on the instance type.
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

// MirageABIs gives the ABIs that a kernel made with mirage configure -t target
// has on x86_64 (MirageOS 3.9 and later: before, xen was Xen PV), so that
// [Supports] can be asked before anything is built. It is nil for a target of
// which they are not known; Supports has no opinion on those.
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
