package ec2lab

import (
	"os"
	"regexp"
	"slices"
	"strings"
)

// image is an AMI or an AKI.
type image struct {
	base
	ID           string        `xml:"imageId" filter:"image-id"`
	Location     string        `xml:"imageLocation" filter:"manifest-location"`
	State        string        `xml:"imageState" filter:"state"`
	Owner        string        `xml:"imageOwnerId" filter:"owner-id"`
	Alias        string        `xml:"imageOwnerAlias,omitempty" filter:"owner-alias"`
	Created      string        `xml:"creationDate" filter:"creation-date"`
	Public       bool          `xml:"isPublic" filter:"is-public"`
	Architecture string        `xml:"architecture" filter:"architecture"`
	Type         string        `xml:"imageType" filter:"image-type"` // machine or kernel
	Kernel       string        `xml:"kernelId,omitempty" filter:"kernel-id"`
	Name         string        `xml:"name" filter:"name"`
	Description  string        `xml:"description,omitempty" filter:"description"`
	RootType     string        `xml:"rootDeviceType" filter:"root-device-type"`
	RootName     string        `xml:"rootDeviceName,omitempty" filter:"root-device-name"`
	Disks        []diskMapping `xml:"blockDeviceMapping>item"`
	Virt         string        `xml:"virtualizationType" filter:"virtualization-type"`
	Hypervisor   string        `xml:"hypervisor" filter:"hypervisor"`
	ENA          bool          `xml:"enaSupport,omitempty" filter:"ena-support"`
	SRIOV        string        `xml:"sriovNetSupport,omitempty"`
	BootMode     string        `xml:"bootMode,omitempty"`
	TPM          string        `xml:"tpmSupport,omitempty"`
	IMDS         string        `xml:"imdsSupport,omitempty"`
	Deprecated   string        `xml:"deprecationTime,omitempty"`

	linux bool // an Amazon Linux
}

// diskMapping is a volume that an image gives its instances.
type diskMapping struct {
	Device string     `xml:"deviceName" filter:"block-device-mapping.device-name"`
	EBS    mappedDisk `xml:"ebs"`
}

type mappedDisk struct {
	Snapshot  string `xml:"snapshotId,omitempty" filter:"block-device-mapping.snapshot-id"`
	Size      int    `xml:"volumeSize" filter:"block-device-mapping.volume-size"`
	Delete    bool   `xml:"deleteOnTermination" filter:"block-device-mapping.delete-on-termination"`
	Type      string `xml:"volumeType" filter:"block-device-mapping.volume-type"`
	Encrypted bool   `xml:"encrypted" filter:"block-device-mapping.encrypted"`
}

var images = kind{
	word: "image", prefix: "ami-", other: "aki-", param: "ImageId", set: "imagesSet",
	missing: "InvalidAMIID.NotFound", text: "The image id '[%s]' does not exist", malformed: "InvalidAMIID.Malformed",
	least: 1, most: 1000,
}

func (m *image) kind() *kind { return &images }
func (m *image) id() string  { return m.ID }
func (m *image) line() string {
	if m.Owner != account {
		return ""
	}
	return "image " + m.ID + " " + m.State
}

// ownedBy is the Owner parameter of DescribeImages and DescribeSnapshots.
func (r *request) ownedBy(owner, alias string) bool {
	owners := r.list("Owner")
	return owners == nil || slices.Contains(owners, owner) || alias != "" && slices.Contains(owners, alias) ||
		owner == account && slices.Contains(owners, "self")
}

// listsImage says that DescribeImages lists an image. It hides the deprecated ones of others
// unless it is asked for them or for their ids.
func listsImage(r *request, m *image) bool {
	return r.ownedBy(m.Owner, m.Alias) && (m.Owner == account || m.Deprecated == "" || r.bool("IncludeDeprecated", false) || r.has("ImageId.1"))
}

// amazon is the account of Amazon's kernel images.
const amazon = "137112412989"

// grubs are Amazon's kernel images in the region. All are deprecated, as public images are
// two years after their creation. Those of i386 and the older ones are
// there to be avoided.
var grubs = [][3]string{
	{"aki-52a34525", "pv-grub-hd0_1.04-x86_64.gz", "2013-10-14"}, {"aki-68a3451f", "pv-grub-hd0_1.04-i386.gz", "2013-10-14"},
	{"aki-58a3452f", "pv-grub-hd00_1.04-x86_64.gz", "2013-10-14"}, {"aki-5ea34529", "pv-grub-hd00_1.04-i386.gz", "2013-10-14"},
	{"aki-dc9ed9af", "pv-grub-hd0_1.05-x86_64.gz", "2016-06-07"}, {"aki-1c9fd86f", "pv-grub-hd0_1.05-i386.gz", "2016-06-07"},
	{"aki-d09ed9a3", "pv-grub-hd00_1.05-x86_64.gz", "2016-06-07"}, {"aki-2299de51", "pv-grub-hd00_1.05-i386.gz", "2016-06-07"},
}

func (l *Lab) furnishImages() {
	l.furnishLinuxes()
	for _, g := range grubs {
		arch := "x86_64"
		if strings.Contains(g[1], "i386") {
			arch = "i386"
		}
		l.add(&image{
			ID: g[0], Name: g[1], Location: "ec2-public-images-eu/" + g[1] + ".manifest.xml", State: "available", Owner: amazon,
			Alias: "amazon", Created: g[2] + "T12:00:00.000Z", Public: true, Architecture: arch, Type: "kernel",
			RootType: "instance-store", Virt: "paravirtual", Hypervisor: "xen",
			Deprecated: "2022-12-01T00:00:00.000Z",
		})
	}
}

// kernel returns the AKI of an id for an architecture.
func (l *Lab) kernel(id, arch string) (*image, error) {
	if (&kind{prefix: "aki-", malformed: "InvalidKernelId.Malformed"}).well(id) != nil {
		return nil, refuse("InvalidKernelId.Malformed", `Invalid id: "%s" (expecting "aki-...")`, id)
	}
	for m := range kept[*image](l) {
		if m.ID == id && m.Architecture != arch {
			return nil, refuse("InvalidParameterValue", "The architecture '%s' of the kernel '%s' does not match the architecture '%s' of the image", m.Architecture, id, arch)
		}
		if m.ID == id {
			return m, nil
		}
	}
	return nil, images.notFound(id)
}

// layout is the disk layout that an AKI boots.
func (m *image) layout() string {
	if strings.HasPrefix(m.Name, "pv-grub-hd00_") {
		return "hd0,0"
	}
	return "hd0"
}

var imageName = regexp.MustCompile(`^[a-zA-Z0-9()\[\] ./\-'@_]{3,128}$`)

func registerImage(r *request) (*image, error) {
	l := r.lab
	m := &image{
		ID: newID("ami-"), Name: r.get("Name"), State: "pending", Owner: account, Created: now(),
		Location: account + "/" + r.get("Name"), Architecture: r.or("Architecture", "i386"), Type: "machine", Kernel: r.get("KernelId"),
		Description: r.get("Description"), RootType: "ebs", RootName: r.get("RootDeviceName"), Virt: r.or("VirtualizationType", "paravirtual"),
		Hypervisor: "xen", ENA: r.bool("EnaSupport", false), SRIOV: r.get("SriovNetSupport"), BootMode: r.get("BootMode"),
		TPM: r.get("TpmSupport"), IMDS: r.get("ImdsSupport"),
	}
	pv := m.Virt == "paravirtual"
	switch {
	case !imageName.MatchString(m.Name):
		return nil, refuse("InvalidAMIName.Malformed", "AMI names must be between 3 and 128 characters long, and may contain letters, numbers, '(', ')', '.', '-', '/' and '_'")
	case len(m.Description) > 255:
		return nil, refuse("InvalidParameterValue", "The description is longer than 255 characters")
	case m.Kernel != "" && !pv:
		return nil, refuse("InvalidParameterCombination", "A kernelId cannot be specified for an image with virtualization type 'hvm'")
	case m.BootMode != "" && pv:
		return nil, refuse("InvalidParameterCombination", "A boot mode cannot be specified for an image with virtualization type 'paravirtual'")
	case m.ENA && pv, m.SRIOV != "" && pv:
		return nil, refuse("InvalidParameterCombination", "Enhanced networking is not supported for an image with virtualization type 'paravirtual'")
	case pv && m.Architecture != "x86_64" && m.Architecture != "i386", !pv && m.Architecture == "i386":
		return nil, refuse("InvalidParameterCombination", "The architecture '%s' is not supported with virtualization type '%s'", m.Architecture, m.Virt)
	case m.Architecture == "arm64" && m.BootMode == "legacy-bios":
		return nil, refuse("InvalidParameterCombination", "The architecture 'arm64' is not supported with boot mode 'legacy-bios'")
	case m.TPM != "" && m.BootMode != "uefi":
		return nil, refuse("InvalidParameterCombination", "TpmSupport needs boot mode 'uefi'")
	}
	if m.Kernel != "" {
		if _, err := l.kernel(m.Kernel, m.Architecture); err != nil {
			return nil, err
		}
	}
	var err error
	if r.has("ImageLocation") {
		m.Location, m.RootType, m.RootName = r.get("ImageLocation"), "instance-store", r.or("RootDeviceName", "/dev/sda1")
		var file string
		if file, err = l.unbundle(m.Location, m.Architecture); err == nil {
			err = os.Remove(file)
		}
	} else {
		m.Disks, err = r.imageDisks(m.RootName)
	}
	if err != nil {
		return nil, err
	}
	for o := range kept[*image](l) {
		if o.Owner == account && o.Name == m.Name {
			return nil, refuse("InvalidAMIName.Duplicate", "AMI name %s is already in use by AMI %s", m.Name, o.ID)
		}
	}
	return m, nil
}

func (m *image) ripen(*Lab) { m.State = "available" }

func (m *image) answer() any {
	return struct {
		ID string `xml:"imageId"`
	}{m.ID}
}

// imageDisks returns the volumes that RegisterImage is told of.
func (r *request) imageDisks(root string) (disks []diskMapping, err error) {
	found := false
	for _, p := range r.each("BlockDeviceMapping") {
		d := diskMapping{p.get("DeviceName"), mappedDisk{
			Snapshot: p.get("Ebs.SnapshotId"), Size: p.number("Ebs.VolumeSize", 0), Delete: p.bool("Ebs.DeleteOnTermination", true),
			Type: p.or("Ebs.VolumeType", "standard"),
		}}
		if d.Device == "" {
			return nil, refuse("MissingParameter", "The request must contain the parameter deviceName")
		}
		if slices.ContainsFunc(disks, func(o diskMapping) bool { return o.Device == d.Device }) {
			return nil, refuse("InvalidBlockDeviceMapping", "Duplicate device name '%s'", d.Device)
		}
		if d.EBS.Snapshot == "" {
			return nil, refuse("InvalidBlockDeviceMapping", "Snapshot ID required for device '%s'", d.Device)
		}
		if p.has("Ebs.Encrypted") {
			return nil, refuse("InvalidBlockDeviceMapping", "the encrypted flag cannot be specified since device %s has a snapshot specified.", d.Device)
		}
		s, err := find[*snapshot](r.lab, d.EBS.Snapshot)
		if err != nil {
			return nil, err
		}
		if s.State != "completed" {
			return nil, refuse("IncorrectState", "Snapshot '%s' is not 'completed'.", s.ID)
		}
		d.EBS.Encrypted = s.Encrypted
		if d.EBS.Size == 0 {
			d.EBS.Size = s.Size
		}
		if d.EBS.Size < s.Size {
			return nil, tooSmall(d.EBS.Size, s)
		}
		found = found || d.Device == root
		disks = append(disks, d)
	}
	if !found {
		return nil, refuse("InvalidBlockDeviceMapping", "No root snapshot specified in device mapping.")
	}
	return disks, nil
}

func tooSmall(size int, s *snapshot) error {
	return refuse("InvalidBlockDeviceMapping", "Volume of size %dGB is smaller than snapshot '%s', expect size>= %dGB", size, s.ID, s.Size)
}

func deregisterImage(r *request) (any, error) {
	id := r.get("ImageId")
	if err := r.allow(images.arn(id)); err != nil {
		return nil, err
	}
	for _, o := range r.lab.resources {
		if m, ok := o.(*image); ok && m.ID == id && m.gone {
			return nil, refuse("InvalidAMIID.Unavailable", "The image ID '%s' is no longer available", id)
		}
	}
	m, err := find[*image](r.lab, id)
	if err != nil {
		return nil, err
	}
	if m.Owner != account {
		return nil, refuse("AuthFailure", "Not authorized for image:%s", id)
	}
	if err := r.dry(); err != nil {
		return nil, err
	}
	m.gone = true
	if r.bool("DeleteAssociatedSnapshots", false) {
		for s := range kept[*snapshot](r.lab) {
			if m.uses(s) && r.lab.userOf(s) == nil {
				s.gone = true
			}
		}
	}
	return done, nil
}

func (m *image) uses(s *snapshot) bool {
	return slices.ContainsFunc(m.Disks, func(d diskMapping) bool { return d.EBS.Snapshot == s.ID })
}

// userOf returns an image that a snapshot is a disk of.
func (l *Lab) userOf(s *snapshot) *image {
	for m := range kept[*image](l) {
		if m.uses(s) {
			return m
		}
	}
	return nil
}
