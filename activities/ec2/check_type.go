package ec2

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/morgana-deploy/morgana/image/disk"
	"github.com/morgana-deploy/morgana/step"
)

// instanceType sees that the type exists in the region and can boot the image.
func (k *checker) instanceType(ctx context.Context) error {
	out, err := k.ec2.DescribeInstanceTypes(ctx, &ec2.DescribeInstanceTypesInput{InstanceTypes: []types.InstanceType{types.InstanceType(k.InstanceType)}})
	unknown := code(err) == "InvalidInstanceType" || err == nil && len(out.InstanceTypes) == 0
	switch {
	case unknown:
		hint, err := k.types(ctx)
		if err != nil {
			return err
		}
		return step.Invalid("instance_type", hint, "%s has no instance type %q", k.region, k.InstanceType)
	case err != nil:
		return failed("ask about instance type "+k.InstanceType, err)
	}
	field, why := k.misfit(out.InstanceTypes[0])
	if why == "" {
		return nil
	}
	hint, err := k.types(ctx)
	if err != nil {
		return err
	}
	return unsupported(field, hint, errors.New(why))
}

// misfit returns why an instance type cannot boot the image, and the option to blame; ""
// if it can.
func (s *settings) misfit(t types.InstanceTypeInfo) (field, why string) {
	const option = "instance_type"
	name, cpu, ebs := t.InstanceType, t.ProcessorInfo, t.EbsInfo
	boot := types.BootModeType(s.BootMode)
	switch {
	case cpu == nil || !slices.Contains(cpu.SupportedArchitectures, types.ArchitectureTypeX8664):
		return option, fmt.Sprintf("%s has no x86_64 processor, and the kernel needs one", name)
	case !slices.Contains(t.SupportedVirtualizationTypes, types.VirtualizationType(s.Virtualization)):
		return option, fmt.Sprintf("%s does not boot %s images", name, s.Virtualization)
	case s.onXen && t.Hypervisor != types.InstanceTypeHypervisorXen:
		return option, fmt.Sprintf("%s does not run on Xen, and a Solo5 xen kernel does", name)
	case s.Virtualization == virtHVM && len(t.SupportedBootModes) > 0 && !slices.Contains(t.SupportedBootModes, boot):
		return "boot_mode", fmt.Sprintf("%s does not boot by %s", name, boot)
	case s.Backing == backingBundle && !slices.Contains(t.SupportedRootDeviceTypes, types.RootDeviceTypeInstanceStore):
		return option, fmt.Sprintf("%s does not boot S3-backed images: it has no disk of its own", name)
	case s.Backing != backingBundle && !slices.Contains(t.SupportedRootDeviceTypes, types.RootDeviceTypeEbs):
		return option, fmt.Sprintf("%s does not boot from an EBS volume", name)
	case s.Encrypted && (ebs == nil || ebs.EncryptionSupport != types.EbsEncryptionSupportSupported):
		return "encrypted", fmt.Sprintf("%s does not boot from an encrypted volume", name)
	case s.Spot && !slices.Contains(t.SupportedUsageClasses, types.UsageClassTypeSpot):
		return "spot", fmt.Sprintf("%s is not sold as a spot instance", name)
	case s.Placement.Tenancy == "host" && !aws.ToBool(t.DedicatedHostsSupported):
		return "placement.tenancy", fmt.Sprintf("%s does not run on dedicated hosts", name)
	}
	return "", ""
}

// types returns the hint that names the type that is meant, or the smallest ones that can
// boot the image.
func (k *checker) types(ctx context.Context) (string, error) {
	all, err := gather(ctx, "list instance types", ec2.NewDescribeInstanceTypesPaginator(k.ec2, &ec2.DescribeInstanceTypesInput{
		Filters: []types.Filter{filter("supported-virtualization-type", k.Virtualization), filter("processor-info.supported-architecture", "x86_64")},
	}), func(page *ec2.DescribeInstanceTypesOutput) []types.InstanceTypeInfo { return page.InstanceTypes })
	if err != nil {
		return "", err
	}
	return k.suggest(all), nil
}

// suggest names a few types of all that can boot the image. Those with the least memory
// come first: they cost the least.
func (s *settings) suggest(all []types.InstanceTypeInfo) string {
	all = slices.DeleteFunc(all, func(t types.InstanceTypeInfo) bool { _, why := s.misfit(t); return why != "" })
	if len(all) == 0 {
		if s.Virtualization == virtPV {
			return "no type of this region boots paravirtual images: name an older region, or virtualization: hvm"
		}
		return "no type of this region can boot this image with these options"
	}
	memory := func(t types.InstanceTypeInfo) int64 {
		if t.MemoryInfo == nil {
			return 1 << 40
		}
		return aws.ToInt64(t.MemoryInfo.SizeInMiB)
	}
	slices.SortFunc(all, func(a, b types.InstanceTypeInfo) int {
		return cmp.Or(cmp.Compare(memory(a), memory(b)), strings.Compare(string(a.InstanceType), string(b.InstanceType)))
	})
	var names []string
	for _, t := range all {
		names = append(names, string(t.InstanceType))
	}
	if near := step.Nearest(s.InstanceType, names); near != "" && near[:strings.IndexByte(near, '.')+1] == s.InstanceType[:strings.IndexByte(s.InstanceType, '.')+1] {
		return fmt.Sprintf("did you mean %q?", near)
	}
	return "types that can: " + strings.Join(names[:min(4, len(names))], ", ")
}

// zones sees that the type is offered in a zone of the subnets. Boot tries the others in
// vain, which is harmless.
func (k *checker) zones(ctx context.Context) error {
	return k.offered(ctx, k.InstanceType, "instance_type", k.nets)
}

// offered sees that a type, which the option field has, is offered in a zone of the subnets.
func (k *checker) offered(ctx context.Context, name, field string, nets []subnet) error {
	offers, err := gather(ctx, "ask where the instance type is offered", ec2.NewDescribeInstanceTypeOfferingsPaginator(k.ec2, &ec2.DescribeInstanceTypeOfferingsInput{
		LocationType: types.LocationTypeAvailabilityZone, Filters: []types.Filter{filter("instance-type", name)},
	}), func(page *ec2.DescribeInstanceTypeOfferingsOutput) []types.InstanceTypeOffering {
		return page.InstanceTypeOfferings
	})
	if err != nil {
		return err
	}
	var offered, asked []string
	for _, o := range offers {
		offered = append(offered, aws.ToString(o.Location))
	}
	slices.Sort(offered)
	for _, n := range nets {
		if slices.Contains(offered, n.zone) {
			return nil
		}
		asked = append(asked, n.zone)
	}
	hint := "another " + field + " or region"
	if len(offered) > 0 {
		hint = "it is offered in " + strings.Join(offered, ", ") + ": name a subnet there, or another " + field
	}
	return unsupported(field, hint, fmt.Errorf("%s is not offered in %s", name, strings.Join(asked, ", ")))
}

// akiName matches the name of Amazon's pv-grub, as "pv-grub-hd0_1.05-x86_64.gz". hd0 is for
// a file system on the whole disk, hd00 for one in the first partition. One boots no disk
// that is made for the other.
var akiName = regexp.MustCompile(`^pv-grub-(hd00?)_([0-9]+(?:\.[0-9]+)*)-(x86_64|i386)\.gz$`)

// akiLayouts are the layouts that an AKI's name tells.
var akiLayouts = map[string]disk.Layout{"hd0": disk.Whole, "hd00": disk.Partition}

// aki sets KernelID of a paravirtual image, or checks the given one.
func (k *checker) aki(ctx context.Context) error {
	if k.Virtualization != virtPV {
		return nil
	}
	// EC2 hides public images that are older than two years, and all pv-grubs are.
	in := &ec2.DescribeImagesInput{Owners: []string{"amazon"}, IncludeDeprecated: aws.Bool(true), Filters: []types.Filter{
		filter("image-type", "kernel"), filter("architecture", "x86_64"), filter("state", "available"), filter("name", "pv-grub-hd0*")}}
	if k.KernelID != "" {
		in = &ec2.DescribeImagesInput{ImageIds: []string{k.KernelID}}
	}
	all, err := gather(ctx, "look for pv-grub", ec2.NewDescribeImagesPaginator(k.ec2, in),
		func(page *ec2.DescribeImagesOutput) []types.Image { return page.Images })
	const list = "aws ec2 describe-images --owners amazon --include-deprecated --filters Name=name,Values='pv-grub-*' lists them"
	if c := code(err); k.KernelID != "" && (c == "InvalidAMIID.NotFound" || c == "InvalidAMIID.Unavailable" || err == nil && len(all) == 0) {
		return &step.Error{Kind: step.NotFound, Field: "kernel_id", Err: fmt.Errorf("%s has no AKI %s", k.region, k.KernelID), Hint: "each region has its own: leave it out, or " + list}
	}
	if err != nil {
		return err
	}
	if k.KernelID == "" {
		if k.KernelID = newestAKI(all, k.layout()); k.KernelID == "" {
			return unsupported("virtualization", "virtualization: hvm; or another region: the older ones have it",
				fmt.Errorf("%s has no pv-grub of Amazon for x86_64 and layout %s", k.region, k.Layout))
		}
		return nil
	}
	given := all[0]
	m := akiName.FindStringSubmatch(aws.ToString(given.Name))
	switch {
	case given.ImageType != types.ImageTypeValuesKernel:
		return step.Invalid("kernel_id", list, "%s is no kernel image (AKI)", k.KernelID)
	case given.Architecture != types.ArchitectureValuesX8664:
		return step.Invalid("kernel_id", "an AKI of x86_64, or leave it out", "%s is of %s", k.KernelID, given.Architecture)
	case m != nil && akiLayouts[m[1]] != k.layout():
		return step.Invalid("kernel_id", "layout: "+strconv.Quote(string(akiLayouts[m[1]]))+", or leave kernel_id out", "%s is %s, which boots layout %s and not %s",
			k.KernelID, aws.ToString(given.Name), akiLayouts[m[1]], k.Layout)
	}
	return nil
}

// newestAKI returns the id of the newest pv-grub for x86_64 and a layout, "" if there is
// none.
func newestAKI(all []types.Image, layout disk.Layout) (id string) {
	var best []int
	for _, a := range all {
		m := akiName.FindStringSubmatch(aws.ToString(a.Name))
		if m == nil || akiLayouts[m[1]] != layout || m[3] != "x86_64" || a.Architecture != types.ArchitectureValuesX8664 {
			continue
		}
		var version []int
		for part := range strings.SplitSeq(m[2], ".") {
			n, _ := strconv.Atoi(part) // digits
			version = append(version, n)
		}
		if id == "" || slices.Compare(version, best) > 0 {
			id, best = aws.ToString(a.ImageId), version
		}
	}
	return id
}
