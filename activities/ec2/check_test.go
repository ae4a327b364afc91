package ec2

import (
	"errors"
	"net"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/morgana-deploy/morgana/carrier"
	"github.com/morgana-deploy/morgana/image"
	"github.com/morgana-deploy/morgana/image/disk"
	"github.com/morgana-deploy/morgana/step"
)

func TestChoose(t *testing.T) {
	hello := []string{image.Multiboot2, image.PVH, image.XenPV, image.XenPVH}
	miniOS := []string{image.XenPV}
	virtio := image.MirageABIs("virtio")
	linux := carrier.Carriage{Carrier: "linux"}
	hvm, pv := Options{Virtualization: virtHVM}, Options{Virtualization: virtPV}
	for name, test := range map[string]struct {
		abis        []string
		o, want     Options
		kind        step.Kind
		field, says string
	}{
		"unknown kernel":        {nil, Options{}, Options{Virtualization: virtHVM, BootMode: bootBIOS, InstanceType: "t3.micro"}, "", "", ""},
		"GRUB and pv-grub":      {hello, Options{}, Options{Virtualization: virtHVM, BootMode: bootBIOS, InstanceType: "t3.micro"}, "", "", ""},
		"PV only":               {miniOS, Options{}, Options{Virtualization: virtPV, Layout: "hd0", InstanceType: "t1.micro"}, "", "", ""},
		"layout":                {hello, Options{Layout: "hd0,0"}, Options{Virtualization: virtPV, Layout: "hd0,0", InstanceType: "t1.micro"}, "", "", ""},
		"AKI":                   {hello, Options{KernelID: "aki-1"}, Options{Virtualization: virtPV, KernelID: "aki-1", Layout: "hd0", InstanceType: "t1.micro"}, "", "", ""},
		"boot mode":             {hello, Options{BootMode: bootUEFI, InstanceType: "m5.large"}, Options{Virtualization: virtHVM, BootMode: bootUEFI, InstanceType: "m5.large"}, "", "", ""},
		"PV by option":          {hello, pv, Options{Virtualization: virtPV, Layout: "hd0", InstanceType: "t1.micro"}, "", "", ""},
		"a PV kernel as hvm":    {miniOS, hvm, Options{}, step.Unsupported, "virtualization", "virtualization: paravirtual"},
		"a PV kernel with UEFI": {miniOS, Options{BootMode: bootUEFI}, Options{}, step.Unsupported, "virtualization", "virtualization: paravirtual"},
		"a GRUB kernel as PV":   {virtio, pv, Options{}, step.Unsupported, "virtualization", "virtualization: hvm"},
		"MirageOS xen":          {image.MirageABIs("xen"), Options{}, Options{}, step.Unsupported, "", "MirageOS 3.8 or earlier"},
		"MirageOS xen, any way": {image.MirageABIs("xen"), pv, Options{}, step.Unsupported, "", "virtualization: hvm and an instance_type on Xen"},
		"MirageOS xen as hvm":   {image.MirageABIs("xen"), hvm, Options{Virtualization: virtHVM, BootMode: bootBIOS, InstanceType: "t2.micro"}, "", "", ""},
		"MirageOS xen, bundle":  {image.MirageABIs("xen"), Options{Virtualization: virtHVM, Backing: backingBundle}, Options{}, step.Unsupported, "", "PVH only"},
		"MirageOS unix":         {image.MirageABIs("unix"), Options{}, Options{}, step.Unsupported, "", "carrier: linux"},
		"MirageOS spt":          {image.MirageABIs("spt"), Options{Carriage: linux, Port: 80}, Options{Virtualization: virtHVM, BootMode: bootBIOS, InstanceType: "t3.micro"}, "", "", ""},
		"a virtio kernel in it": {virtio, Options{Carriage: linux}, Options{}, step.Unsupported, "", "build it with MirageOS -t spt"},
		"MirageOS hvt":          {image.MirageABIs("hvt"), Options{Carriage: linux}, Options{}, step.Unsupported, "", "build it with -t spt"},
		"MirageOS virtio":       {virtio, Options{}, Options{Virtualization: virtHVM, BootMode: bootBIOS, InstanceType: "t3.micro"}, "", "", ""},
		"virtio with a port":    {virtio, Options{Port: 80}, Options{}, step.Unsupported, "port", "no network on EC2"},
		"virtio with an EIP":    {virtio, Options{ElasticIP: "eipalloc-1"}, Options{}, step.Unsupported, "elastic_ip", "no network on EC2"},
	} {
		s := settings{Options: test.o}
		if s.Virtualization == "" {
			s.Virtualization = virtAuto
		}
		err := s.choose(test.abis)
		if test.kind == "" {
			if s.Virtualization != test.want.Virtualization || s.BootMode != test.want.BootMode || s.Layout != test.want.Layout ||
				s.InstanceType != test.want.InstanceType || s.KernelID != test.want.KernelID || err != nil {
				t.Errorf("%s: got %+v, %v, want %+v", name, s.Options, err, test.want)
			}
			continue
		}
		refusedWith(t, name, err, step.Error{Kind: test.kind, Field: test.field}, test.says)
	}
}

func TestLackingDevice(t *testing.T) {
	virtio := image.Info{ABIs: image.MirageABIs("virtio")}
	if err := lackingDevice(virtio, false); err != nil {
		t.Errorf("without devices: %v", err)
	}
	virtio.Devices = []image.Device{{Name: "service", Type: "NET_BASIC"}}
	refusedWith(t, "a device", lackingDevice(virtio, false), step.Error{Kind: step.Unsupported}, "the Solo5 device service (NET_BASIC)")
	if err := lackingDevice(virtio, true); err != nil {
		t.Errorf("one network with a carrier: %v", err)
	}
	refusedWith(t, "a disk", lackingDevice(image.Info{Devices: append(virtio.Devices, image.Device{Name: "storage", Type: image.BlockBasic})}, true),
		step.Error{Kind: step.Unsupported, Field: "carrier"}, "the Solo5 device storage (BLOCK_BASIC)")
	spt := step.Origin{ABIs: image.MirageABIs("spt"), Networks: []string{"service"}}
	if err := lackingDevice(promised(spt), true); err != nil {
		t.Errorf("one network, by the source: %v", err)
	}
	for _, more := range []step.Origin{{ABIs: spt.ABIs, Networks: []string{"service", "other"}}, {ABIs: spt.ABIs, Blocks: []string{"storage"}}} {
		refusedWith(t, "by the source", lackingDevice(promised(more), true), step.Error{Kind: step.Unsupported, Field: "carrier"}, "kind qemu")
	}
	if err := lackingDevice(promised(step.Origin{ABIs: image.MirageABIs("unix"), Blocks: []string{"disk.img"}}), true); err != nil {
		t.Errorf("a Linux program: %v", err)
	}
	if err := lackingDevice(image.Info{ABIs: helloABIs, Devices: virtio.Devices}, false); err != nil {
		t.Errorf("another kernel: %v", err)
	}
}

// refusedWith checks the kind and the field of an error, and a text in it or its hint.
func refusedWith(t *testing.T, name string, err error, want step.Error, says string) {
	t.Helper()
	var e *step.Error
	if !errors.As(err, &e) || e.Kind != want.Kind || e.Field != want.Field || !strings.Contains(e.Error()+"\n"+e.Hint, says) {
		t.Errorf("%s: got %+v, want %s of %q with %q", name, err, want.Kind, want.Field, says)
	}
}

func typeInfo(name string, mib int64, virtualization string, modes ...types.BootModeType) types.InstanceTypeInfo {
	return types.InstanceTypeInfo{InstanceType: types.InstanceType(name), MemoryInfo: &types.MemoryInfo{SizeInMiB: aws.Int64(mib)},
		ProcessorInfo:                &types.ProcessorInfo{SupportedArchitectures: []types.ArchitectureType{types.ArchitectureTypeX8664}},
		SupportedVirtualizationTypes: []types.VirtualizationType{types.VirtualizationType(virtualization)},
		SupportedRootDeviceTypes:     []types.RootDeviceType{types.RootDeviceTypeEbs}, SupportedBootModes: modes,
		EbsInfo: &types.EbsInfo{EncryptionSupport: types.EbsEncryptionSupportSupported}, SupportedUsageClasses: []types.UsageClassType{types.UsageClassTypeOnDemand}}
}

func TestMisfit(t *testing.T) {
	bios, uefi := types.BootModeTypeLegacyBios, types.BootModeTypeUefi
	arm := typeInfo("c7g.large", 4096, virtHVM, uefi)
	arm.ProcessorInfo.SupportedArchitectures = []types.ArchitectureType{types.ArchitectureTypeArm64}
	store := typeInfo("c1.old", 1700, virtHVM, bios)
	store.SupportedRootDeviceTypes = []types.RootDeviceType{types.RootDeviceTypeInstanceStore}
	plain := typeInfo("m1.old", 1700, virtHVM, bios)
	plain.EbsInfo = nil
	micro := typeInfo("t2.micro", 1024, virtHVM, bios)
	bioS := Options{Virtualization: virtHVM, BootMode: bootBIOS}
	encrypted, spot, host := bioS, bioS, bioS
	encrypted.Encrypted, spot.Spot, host.Placement.Tenancy = true, true, "host"
	onXen, xen := settings{Options: bioS, onXen: true}, micro
	xen.Hypervisor = types.InstanceTypeHypervisorXen
	if _, why := onXen.misfit(micro); !strings.Contains(why, "does not run on Xen") {
		t.Errorf("a Solo5 xen kernel off Xen: %q", why)
	}
	if _, why := onXen.misfit(xen); why != "" {
		t.Errorf("a Solo5 xen kernel on Xen: %s", why)
	}
	for _, test := range []struct {
		o           Options
		t           types.InstanceTypeInfo
		field, says string
	}{
		{bioS, micro, "", ""},
		{Options{Virtualization: virtPV, Layout: "hd0"}, typeInfo("t1.micro", 613, virtPV), "", ""},
		{Options{Virtualization: virtPV, Layout: "hd0"}, micro, "instance_type", "t2.micro does not boot paravirtual images"},
		{Options{Virtualization: virtHVM, BootMode: bootUEFI}, micro, "boot_mode", "t2.micro does not boot by uefi"},
		{Options{Virtualization: virtHVM, BootMode: bootUEFI}, typeInfo("t3.micro", 1024, virtHVM, bios, uefi), "", ""},
		{bioS, arm, "instance_type", "no x86_64 processor"},
		{bioS, store, "instance_type", "EBS"},
		{bioS, plain, "", ""},
		{encrypted, micro, "", ""},
		{encrypted, plain, "encrypted", "m1.old"},
		{spot, micro, "spot", "spot instance"},
		{host, micro, "placement.tenancy", "dedicated hosts"},
	} {
		s := settings{Options: test.o}
		if field, why := s.misfit(test.t); field != test.field || !strings.Contains(why, test.says) || (why == "") != (test.says == "") {
			t.Errorf("%s, %+v: got %q of %q, want %q of %q", test.t.InstanceType, test.o, why, field, test.says, test.field)
		}
	}
}

func TestSuggest(t *testing.T) {
	bios := types.BootModeTypeLegacyBios
	all := []types.InstanceTypeInfo{typeInfo("m5.large", 8192, virtHVM, bios), typeInfo("t1.micro", 613, virtPV), typeInfo("t2.micro", 1024, virtHVM, bios),
		typeInfo("t3.micro", 1024, virtHVM, bios), typeInfo("t2.nano", 512, virtHVM, bios), typeInfo("c5.large", 4096, virtHVM, bios)}
	for _, test := range []struct{ given, virtualization, want string }{
		{"c7g.large", virtHVM, "types that can: t2.nano, t2.micro, t3.micro, c5.large"},
		{"t3.mirco", virtHVM, `did you mean "t3.micro"?`},
		{"t3.micro", virtPV, "types that can: t1.micro"},
	} {
		s := settings{Options: Options{InstanceType: test.given, Virtualization: test.virtualization, BootMode: bootBIOS}}
		if got := s.suggest(append([]types.InstanceTypeInfo{}, all...)); got != test.want {
			t.Errorf("%s: got %q, want %q", test.given, got, test.want)
		}
	}
	s := settings{Options: Options{InstanceType: "t1.micro", Virtualization: virtPV}}
	if got := s.suggest(nil); !strings.Contains(got, "older region") {
		t.Errorf("no type at all: %q", got)
	}
}

func TestNewestAKI(t *testing.T) {
	aki := func(id, name string, arch types.ArchitectureValues) types.Image {
		return types.Image{ImageId: aws.String(id), Name: aws.String(name), Architecture: arch}
	}
	all := []types.Image{
		aki("aki-1", "pv-grub-hd0_1.04-x86_64.gz", types.ArchitectureValuesX8664),
		aki("aki-2", "pv-grub-hd0_1.05-x86_64.gz", types.ArchitectureValuesX8664),
		aki("aki-3", "pv-grub-hd0_1.9-i386.gz", types.ArchitectureValuesI386),
		aki("aki-4", "pv-grub-hd00_1.10-x86_64.gz", types.ArchitectureValuesX8664),
		aki("aki-5", "pv-grub-hd00_1.9-x86_64.gz", types.ArchitectureValuesX8664),
		aki("aki-6", "pv-grub-hd0-V1.99-x86_64.gz.manifest.xml", types.ArchitectureValuesX8664),
		aki("aki-7", "pv-grub-hd0_1.02-x86_64.gz", types.ArchitectureValuesX8664),
	}
	for layout, want := range map[disk.Layout]string{disk.Whole: "aki-2", disk.Partition: "aki-4"} {
		if got := newestAKI(all, layout); got != want {
			t.Errorf("%s: got %s, want %s", layout, got, want)
		}
	}
	if got := newestAKI(all[2:3], disk.Whole); got != "" {
		t.Errorf("of i386 only: %s", got)
	}
}

func TestLetsIn(t *testing.T) {
	rule := func(protocol string, from, to int32) types.SecurityGroup {
		return types.SecurityGroup{IpPermissions: []types.IpPermission{{IpProtocol: aws.String(protocol), FromPort: aws.Int32(from), ToPort: aws.Int32(to)}}}
	}
	for want, groups := range map[bool][]types.SecurityGroup{
		true:  {rule("tcp", 80, 80), rule("tcp", 1, 100), rule("6", 0, 65535), {IpPermissions: []types.IpPermission{{IpProtocol: aws.String("-1")}}}},
		false: {rule("udp", 80, 80), rule("tcp", 81, 90), rule("tcp", 22, 79), {}},
	} {
		for i, g := range groups {
			if got := letsIn(g, 80); got != want {
				t.Errorf("%v, group %d: got %v", want, i, got)
			}
		}
	}
}

func TestNear(t *testing.T) {
	address := func(cidr string) []net.Addr {
		ip, in, err := net.ParseCIDR(cidr)
		no(t, err)
		return []net.Addr{&net.IPNet{IP: ip, Mask: in.Mask}}
	}
	for _, test := range []struct {
		cidr, own string
		want      bool
	}{
		{"172.31.16.0/20", "172.31.80.7/20", true}, {"172.31.16.0/20", "172.17.0.1/16", false}, {"10.0.1.0/24", "10.0.9.9/24", true},
		{"10.0.1.0/24", "192.168.1.9/24", false}, {"", "10.0.9.9/24", false},
	} {
		if got := near(test.cidr, address(test.own)); got != test.want {
			t.Errorf("%s for a host with %s: %v", test.cidr, test.own, got)
		}
	}
}
