package ec2lab

import (
	"slices"
	"strconv"
	"strings"
)

// instanceType is an instance type.
type instanceType struct {
	base
	Name       string   `xml:"instanceType" filter:"instance-type"`
	Current    bool     `xml:"currentGeneration" filter:"current-generation"`
	FreeTier   bool     `xml:"freeTierEligible" filter:"free-tier-eligible"`
	Usage      []string `xml:"supportedUsageClasses>item" filter:"supported-usage-class"`
	Roots      []string `xml:"supportedRootDeviceTypes>item" filter:"supported-root-device-type"`
	Virt       []string `xml:"supportedVirtualizationTypes>item" filter:"supported-virtualization-type"`
	BareMetal  bool     `xml:"bareMetal" filter:"bare-metal"`
	Hypervisor string   `xml:"hypervisor" filter:"hypervisor"`
	Archs      []string `xml:"processorInfo>supportedArchitectures>item" filter:"processor-info.supported-architecture"`
	VCPUs      int      `xml:"vCpuInfo>defaultVCpus" filter:"vcpu-info.default-vcpus"`
	MiB        int      `xml:"memoryInfo>sizeInMiB" filter:"memory-info.size-in-mib"`
	EBS        string   `xml:"ebsInfo>nvmeSupport" filter:"ebs-info.nvme.support"`
	Encryption string   `xml:"ebsInfo>encryptionSupport" filter:"ebs-info.encryption-support"`
	ENA        string   `xml:"networkInfo>enaSupport" filter:"network-info.ena-support"`
	Burstable  bool     `xml:"burstablePerformanceSupported" filter:"burstable-performance-supported"`
	BootModes  []string `xml:"supportedBootModes>item" filter:"supported-boot-mode"`
}

var instanceTypes = kind{
	word: "instance-type", param: "InstanceType", set: "instanceTypeSet",
	missing: "InvalidInstanceType", text: "The following supplied instance types do not exist: [%s]", least: 5, most: 100,
}

func (t *instanceType) kind() *kind { return &instanceTypes }
func (t *instanceType) id() string  { return t.Name }
func (t *instanceType) nitro() bool { return t.Hypervisor == "nitro" }

// offers are the instance types: name, current, hypervisor, virtualization, boot modes,
// architectures, root devices, processors, MiB.
var offers = [][9]string{
	{"t1.micro", "old", "xen", "hvm paravirtual", "legacy-bios", "i386 x86_64", "ebs", "1", "627"},
	{"m1.small", "old", "xen", "hvm paravirtual", "legacy-bios", "i386 x86_64", "ebs instance-store", "1", "1740"},
	{"m3.medium", "old", "xen", "hvm paravirtual", "legacy-bios", "x86_64", "ebs instance-store", "1", "3840"},
	{"c3.large", "old", "xen", "hvm paravirtual", "legacy-bios", "i386 x86_64", "ebs instance-store", "2", "3840"},
	{"t2.micro", "current", "xen", "hvm", "legacy-bios", "i386 x86_64", "ebs", "1", "1024"},
	{"t3.micro", "current", "nitro", "hvm", "legacy-bios uefi", "x86_64", "ebs", "2", "1024"},
	{"m5.large", "old", "nitro", "hvm", "legacy-bios uefi", "x86_64", "ebs", "2", "8192"},
	{"c7g.large", "current", "nitro", "hvm", "uefi", "arm64", "ebs", "2", "4096"},
}

func (l *Lab) furnishTypes() {
	for _, o := range offers {
		t := &instanceType{
			Name: o[0], Current: o[1] == "current", Hypervisor: o[2], Virt: strings.Fields(o[3]), BootModes: strings.Fields(o[4]),
			Archs: strings.Fields(o[5]), Roots: strings.Fields(o[6]), Usage: []string{"on-demand", "spot"},
			ENA: "unsupported", EBS: "unsupported", Encryption: "supported", FreeTier: o[0] == "t3.micro",
			Burstable: strings.HasPrefix(o[0], "t2") || strings.HasPrefix(o[0], "t3"),
		}
		t.VCPUs, _ = strconv.Atoi(o[7])
		t.MiB, _ = strconv.Atoi(o[8])
		if t.nitro() {
			t.ENA, t.EBS = "required", "required"
		}
		l.add(t)
	}
}

// offered reports whether a zone has an instance type.
func (l *Lab) offered(instanceType, zone string) bool { return !l.withdrawn[instanceType+" "+zone] }

// offering is a type in a place.
type offering struct {
	Type     string `xml:"instanceType"`
	Kind     string `xml:"locationType"`
	Location string `xml:"location"`
}

func describeOfferings(r *request) (any, error) {
	match, err := r.filter(map[string][]string{"instance-type": nil, "location": nil})
	if err != nil {
		return nil, err
	}
	by := r.or("LocationType", "region")
	var all []offering
	for t := range kept[*instanceType](r.lab) {
		for z := range kept[*zone](r.lab) {
			place := map[string]string{"region": region, "availability-zone": z.Name, "availability-zone-id": z.ZoneID}[by]
			o := offering{t.Name, by, place}
			if r.lab.offered(t.Name, z.Name) && !slices.Contains(all, o) {
				all = append(all, o)
			}
		}
	}
	all, next, err := cutPage(r, &kind{least: 5, most: 1000}, false, all)
	all = slices.DeleteFunc(all, func(o offering) bool {
		return !match(nil, map[string][]string{"instance-type": {o.Type}, "location": {o.Location}})
	})
	return page{listed("instanceTypeOfferingSet", all), next}, err
}
