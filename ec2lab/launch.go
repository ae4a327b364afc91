package ec2lab

import (
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// launch is what RunInstances is told, looked up.
type launch struct {
	image  *image
	kind   *instanceType
	kernel *image // nil: none
	subnet *subnet
	groups []groupRef
	public bool
	tags   map[string][]tag
	disks  []diskMapping
	count  int
}

func runInstances(r *request) (any, error) {
	l := r.lab
	also := r.tagging()
	if r.sub("IamInstanceProfile").any() {
		also = append(also, "iam:PassRole")
	}
	if err := r.allow(instances.arn("*"), also...); err != nil {
		return nil, err
	}
	token := r.get("ClientToken")
	if len(token) > 64 || !ascii(token) {
		return nil, refuse("InvalidClientToken", "The specified client token is not valid. You can specify up to 64 ASCII characters.")
	}
	if all, err := r.launched(token); err != nil || all != nil {
		r.seeAll()
		return reservation{ID: firstReservation(all), Owner: account, Items: all}, err
	}
	in, err := r.launch()
	if err != nil {
		return nil, err
	}
	if err := r.dry(); err != nil {
		return nil, err
	}
	answer := reservation{ID: newID("r-"), Owner: account}
	for n := range in.count {
		answer.Items = append(answer.Items, l.launch(r, in, answer.ID, n))
	}
	return answer, nil
}

func firstReservation(all []*instance) string {
	if len(all) == 0 {
		return ""
	}
	return all[0].reservation
}

// launch checks what RunInstances is told.
func (r *request) launch() (in launch, err error) {
	l := r.lab
	least, most := r.number("MinCount", 0), r.number("MaxCount", 0)
	switch {
	case least < 1 || most < 1:
		return in, refuse("InvalidParameterValue", "Value (%d) for parameter minCount is invalid. Expecting a positive integer.", least)
	case most < least:
		return in, refuse("InvalidParameterValue", "Value (%d) for parameter maxCount is invalid. Expecting a value greater than or equal to minCount (%d).", most, least)
	case most > 20:
		return in, refuse("InstanceLimitExceeded", "You have requested more instances (%d) than your current instance limit of 20 allows for the specified instance type.", most)
	}
	in.count = most
	kinds := []string{"instance", "volume", "network-interface"}
	if r.get("InstanceMarketOptions.MarketType") == "spot" {
		kinds = append(kinds, "spot-instances-request")
		if r.or("InstanceMarketOptions.SpotOptions.SpotInstanceType", "one-time") != "one-time" {
			return in, refuse("Unsupported", "The lab has no persistent spot requests")
		}
	} else if r.sub("InstanceMarketOptions.SpotOptions").any() {
		return in, refuse("InvalidParameterCombination", "SpotOptions need the market type 'spot'")
	}
	if in.tags, err = r.tags(kinds...); err != nil {
		return in, err
	}
	if data, err := base64.StdEncoding.DecodeString(r.get("UserData")); err != nil {
		return in, refuse("InvalidParameterValue", "Invalid BASE64 encoding of user data.")
	} else if len(data) > 16<<10 {
		return in, refuse("InvalidParameterValue", "User data is limited to 16384 bytes")
	}
	if k := r.get("KeyName"); r.has("KeyName") {
		if _, err := find[*keyPair](l, k); err != nil {
			return in, err
		}
	}
	if p := r.sub("IamInstanceProfile"); p.any() && p.get("Name") != "web" && p.get("Arn") != profileARN {
		return in, refuse("InvalidParameterValue", "Value (%s) for parameter iamInstanceProfile.name is invalid. Invalid IAM Instance Profile name", p.get("Name"))
	}
	for _, check := range []func(*request) error{in.findImage, in.fitType, in.findKernel, in.place, in.mapDisks} {
		if err := check(r); err != nil {
			return in, err
		}
	}
	return in, nil
}

const profileARN = "arn:aws:iam::" + account + ":instance-profile/web"

func (in *launch) findImage(r *request) (err error) {
	id := r.get("ImageId")
	if name, ok := strings.CutPrefix(id, byParameter); ok {
		of := *r // EC2 asks in the user's name
		of.service, of.action = "ssm", "GetParameters"
		if _, err := of.parameter(name); err != nil {
			return err
		}
		if id = resolved(id); id == "" {
			return refuse("InvalidParameterValue", "The parameter '%s' does not exist", name)
		}
	}
	for _, o := range r.lab.resources {
		if m, ok := o.(*image); ok && m.ID == id && m.gone {
			return refuse("InvalidAMIID.Unavailable", "The image ID '%s' is no longer available", id)
		}
	}
	in.image, err = find[*image](r.lab, id)
	switch {
	case err != nil:
		return err
	case in.image.Type != "machine":
		return refuse("InvalidAMIID.Malformed", `Invalid id: "%s" (expecting "ami-...")`, id)
	case in.image.State != "available":
		return refuse("InvalidAMIID.Unavailable", "The image ID '%s' is not available", id)
	}
	return nil
}

// fitType refuses an instance type that cannot boot the image.
func (in *launch) fitType(r *request) (err error) {
	name, m := r.or("InstanceType", "m1.small"), in.image
	if in.kind, err = find[*instanceType](r.lab, name); err != nil {
		return refuse("InvalidParameterValue", "Invalid value '%s' for InstanceType.", name)
	}
	t := in.kind
	hvm := m.Virt == "hvm"
	switch {
	case !slices.Contains(t.Archs, m.Architecture):
		return refuse("InvalidParameterValue", "The architecture '%s' of the specified instance type does not match the architecture '%s' of the specified AMI. Specify an instance type and an AMI that have matching architectures, and try again. You can use 'describe-instance-types' or 'describe-images' to discover the architecture of the instance type or AMI.", strings.Join(t.Archs, ","), m.Architecture)
	case !slices.Contains(t.Virt, m.Virt):
		return refuse("InvalidParameterCombination", "Virtualization type '%s' is required for instances of type '%s'. Ensure that you are using an AMI with virtualization type '%[1]s'. For more information, see https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/virtualization_types.html", t.Virt[0], name)
	case hvm && t.ENA == "required" && !m.ENA:
		return refuse("InvalidParameterCombination", "Enhanced networking with the Elastic Network Adapter (ENA) is required for the '%s' instance type. Ensure that you are using an AMI that is enabled for ENA.", name)
	case m.BootMode == "uefi" && !slices.Contains(t.BootModes, "uefi"):
		return refuse("InvalidParameterValue", "The instance type '%s' does not support an AMI with a boot mode of UEFI. Only instance types built on the Nitro System support UEFI. Specify an instance type that supports UEFI, and try again.", name)
	case hvm && m.BootMode == "legacy-bios" && !slices.Contains(t.BootModes, "legacy-bios"):
		return refuse("InvalidParameterValue", "The instance type '%s' does not support an AMI with a boot mode of legacy-bios.", name)
	case !slices.Contains(t.Roots, m.RootType):
		return refuse("InvalidParameterCombination", "Instances of type '%s' may only be launched with EBS AMIs.", name)
	case m.RootType == "instance-store" && r.has("InstanceInitiatedShutdownBehavior"):
		return refuse("InvalidParameterCombination", "The attribute instanceInitiatedShutdownBehavior can only be used for EBS-backed images.")
	case r.has("CreditSpecification.CpuCredits") && !t.Burstable:
		return refuse("InvalidParameterCombination", "The %s instance type does not support T2 Unlimited or T3 Unlimited.", name)
	}
	return nil
}

// findKernel finds the AKI of a paravirtual instance.
func (in *launch) findKernel(r *request) (err error) {
	id := r.or("KernelId", in.image.Kernel)
	if in.image.Virt == "hvm" && r.has("KernelId") {
		return refuse("InvalidParameterCombination", "A kernelId cannot be specified for an image with virtualization type 'hvm'")
	}
	if id != "" {
		in.kernel, err = r.lab.kernel(id, in.image.Architecture)
	}
	return err
}

// place finds the subnet and the security groups.
func (in *launch) place(r *request) (err error) {
	l := r.lab
	from := r.params
	nics := r.each("NetworkInterface")
	wanted := r.list("SecurityGroupId")
	switch {
	case len(nics) > 1:
		return refuse("Unsupported", "The lab has no second network interface")
	case len(nics) == 1 && r.has("SubnetId"):
		return refuse("InvalidParameterCombination", "Network interfaces and an instance-level subnet ID may not be specified on the same request")
	case len(nics) == 1 && wanted != nil:
		return refuse("InvalidParameterCombination", "Network interfaces and an instance-level security groups may not be specified on the same request")
	case len(nics) == 1:
		from = nics[0]
		if !from.has("DeviceIndex") || from.number("DeviceIndex", -1) != 0 {
			return refuse("InvalidParameterCombination", "The first network interface must have device index 0")
		}
		wanted = from.list("SecurityGroupId")
	}
	zone := r.get("Placement.AvailabilityZone")
	if id := from.get("SubnetId"); from.has("SubnetId") {
		if in.subnet, err = find[*subnet](l, id); err != nil {
			return err
		}
		if zone != "" && zone != in.subnet.Zone {
			return refuse("InvalidParameterValue", "The subnet ID '%s' is not in the Availability Zone '%s'", id, zone)
		}
	} else {
		for s := range kept[*subnet](l) {
			if s.Default && in.subnet == nil && (zone == s.Zone || zone == "" && l.offered(in.kind.Name, s.Zone)) {
				in.subnet = s
			}
		}
		if in.subnet == nil {
			return refuse("InvalidParameterValue", "Invalid availability zone: [%s]", zone)
		}
	}
	if z := in.subnet.Zone; !l.offered(in.kind.Name, z) {
		return refuse("Unsupported", "Your requested instance type (%s) is not supported in your requested Availability Zone (%s). Please retry your request by not specifying an Availability Zone or choosing %s.", in.kind.Name, z, strings.Join(l.otherZones(in.kind.Name), ", "))
	}
	in.public = from.bool("AssociatePublicIpAddress", in.subnet.Public)
	if g := r.get("Placement.GroupName"); g != "" {
		if _, err := find[*placementGroup](l, g); err != nil {
			return err
		}
	}
	if wanted == nil {
		for g := range kept[*securityGroup](l) {
			if g.Name == "default" && g.VPC == in.subnet.VPC {
				in.groups = []groupRef{{g.ID, g.Name}}
			}
		}
	}
	for _, id := range wanted {
		g, err := find[*securityGroup](l, id)
		if err != nil {
			return err
		}
		in.groups = append(in.groups, groupRef{g.ID, g.Name})
	}
	return nil
}

// otherZones returns the zones that have a type.
func (l *Lab) otherZones(instanceType string) (all []string) {
	for z := range kept[*zone](l) {
		if l.offered(instanceType, z.Name) {
			all = append(all, z.Name)
		}
	}
	return all
}

// mapDisks puts the request's volumes over those of the image.
func (in *launch) mapDisks(r *request) error {
	in.disks = slices.Clone(in.image.Disks)
	for _, p := range r.each("BlockDeviceMapping") {
		at := slices.IndexFunc(in.disks, func(d diskMapping) bool { return d.Device == p.get("DeviceName") })
		if at < 0 {
			return refuse("Unsupported", "The lab has no volumes besides the image's: '%s'", p.get("DeviceName"))
		}
		d := &in.disks[at].EBS
		if p.has("Ebs.SnapshotId") && p.get("Ebs.SnapshotId") != d.Snapshot {
			return refuse("InvalidBlockDeviceMapping", "snapshotId cannot be modified on root device")
		}
		d.Size = p.number("Ebs.VolumeSize", d.Size)
		d.Delete = p.bool("Ebs.DeleteOnTermination", d.Delete)
		d.Type = p.or("Ebs.VolumeType", d.Type)
	}
	for _, d := range in.disks {
		for _, o := range r.lab.resources {
			if s, ok := o.(*snapshot); ok && s.ID == d.EBS.Snapshot && d.EBS.Size < s.Size {
				return tooSmall(d.EBS.Size, s)
			}
		}
	}
	return nil
}

// launch makes the n-th instance of a request.
func (l *Lab) launch(r *request, in launch, reservation string, n int) *instance {
	m := in.image
	i := &instance{
		base: base{Tags: slices.Clone(in.tags["instance"]), asked: sameRequest(r.v)}, ID: newID(instances.prefix), Image: m.ID, State: stateOf("pending"),
		Key: r.get("KeyName"), Index: n, Type: in.kind.Name, Launched: now(), Kernel: m.Kernel, Subnet: in.subnet.ID, VPC: in.subnet.VPC,
		Place:  place{in.subnet.Zone, r.get("Placement.GroupName"), r.or("Placement.Tenancy", "default")},
		Groups: in.groups, Arch: m.Architecture, RootType: m.RootType, RootName: m.RootName, Virt: m.Virt, Token: r.get("ClientToken"),
		Hypervisor: "xen", ENA: m.ENA, BootMode: m.BootMode,
		Metadata:    metadata{"applied", r.or("MetadataOptions.HttpTokens", "optional"), r.or("MetadataOptions.HttpEndpoint", "enabled")},
		reservation: reservation, onShutdown: r.or("InstanceInitiatedShutdownBehavior", "stop"),
		protected: r.bool("DisableApiTermination", false), public: in.public, born: time.Now(),
	}
	if m.RootType == "instance-store" {
		i.onShutdown = "terminate" // it cannot be stopped
	}
	if in.kernel != nil {
		i.Kernel = in.kernel.ID
	}
	if m.Virt == "hvm" {
		i.BootedAs = "legacy-bios"
		if m.BootMode == "uefi" || m.BootMode == "uefi-preferred" && slices.Contains(in.kind.BootModes, "uefi") || !slices.Contains(in.kind.BootModes, i.BootedAs) {
			i.BootedAs = "uefi"
		}
	}
	if r.get("InstanceMarketOptions.MarketType") == "spot" {
		i.Lifecycle = "spot"
	}
	if r.sub("IamInstanceProfile").any() {
		i.Profile = &profile{profileARN, "AIPALABLABLABLABLABLA"}
	}
	l.addresses++
	i.PrivateIP = fmt.Sprintf("172.31.%d.%d", l.addresses/250, 4+l.addresses%250)
	i.PrivateDNS = "ip-" + strings.ReplaceAll(i.PrivateIP, ".", "-") + "." + region + ".compute.internal"
	if in.public {
		i.setPublic(l.nextAddress())
	}
	l.add(i)
	nic := &netInterface{
		base: base{Tags: in.tags["network-interface"]}, Instance: i.ID,
		card: card{ID: newID(interfaces.prefix), Subnet: i.Subnet, VPC: i.VPC, State: "in-use", Private: i.PrivateIP, Groups: in.groups, Delete: true},
	}
	if p := r.sub("NetworkInterface.1"); p.any() {
		nic.Delete = p.bool("DeleteOnTermination", true)
	}
	l.add(nic)
	i.Interfaces = []card{nic.card}
	var root *snapshot
	for _, d := range in.disks {
		v := &volume{
			base: base{Tags: slices.Clone(in.tags["volume"])}, ID: newID(volumes.prefix), Size: d.EBS.Size, Snapshot: d.EBS.Snapshot, Zone: i.Place.Zone,
			State: "in-use", Created: now(), Type: d.EBS.Type, Encrypted: d.EBS.Encrypted,
		}
		v.Attachments = []attachment{{v.ID, i.ID, d.Device, "attached", now(), d.EBS.Delete}}
		if v.file = filepath.Join(l.dir, v.ID+".raw"); d.Device == m.RootName {
			v.file = l.disk(i)
		}
		l.add(v)
		a := attachedDisk{Device: d.Device}
		a.EBS.Volume, a.EBS.Status, a.EBS.Delete = v.ID, "attached", d.EBS.Delete
		i.Disks = append(i.Disks, a)
		for _, o := range l.resources {
			if s, ok := o.(*snapshot); ok && s.ID == d.EBS.Snapshot && d.Device == m.RootName {
				root = s
			}
		}
	}
	layout := ""
	if in.kernel != nil {
		layout = in.kernel.layout()
	}
	if m.Virt == "paravirtual" && in.kernel == nil {
		l.after(r.stuck, func() { l.started(i, nil, errNoKernel) })
		return i
	}
	write := root.writer()
	if m.linux {
		data, _ := base64.StdEncoding.DecodeString(r.get("UserData"))
		i.linux = &Linux{Login: l.login(i.Key, data), Root: Disk{i.Disks[0].EBS.Volume, l.disk(i), m.RootName}, Nitro: in.kind.nitro(), Ready: func() { l.ready(i) }}
		write = func(path string) error { return sparse(path, int64(in.disks[0].EBS.Size)<<30) }
	}
	if m.RootType == "instance-store" {
		file, err := l.unbundle(m.Location, m.Architecture) // EC2 reads it for each instance
		if err != nil {
			l.after(r.stuck, func() { l.started(i, nil, err) })
			return i
		}
		write = func(to string) error { return os.Rename(file, to) }
	}
	l.start(i, write, layout, in.kind.MiB, r.stuck)
	return i
}

// errNoKernel ends an instance whose paravirtual image names no kernel.
var errNoKernel = refuse("Client.InvalidKernel", "the image has no kernel")
