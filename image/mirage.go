package image

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
