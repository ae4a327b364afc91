package ec2

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"

	"github.com/morgana-deploy/morgana/carrier"
	"github.com/morgana-deploy/morgana/image"
	"github.com/morgana-deploy/morgana/image/disk"
	"github.com/morgana-deploy/morgana/step"
)

// Check asks EC2, creates nothing, and refuses:
//   - wrong options, and combinations of options that EC2 refuses (InvalidSpec)
//   - missing or expired credentials, and those of another account (Unauthorized)
//   - a kernel that EC2 cannot boot, and an instance type that cannot boot this one
//     (Unsupported)
//   - a subnet, group, key pair, AKI, address or target group that does not exist (NotFound)
//   - an Elastic IP that something else uses (Conflict)
//
// The permission to start an instance is asked for only if the target has an AMI already:
// the dry run of RunInstances needs one. EC2's API does not tell the quota of vCPUs or the
// capacity of a zone.
func (t *Target) Check(ctx context.Context, spec step.Spec) (_ step.Spec, err error) {
	defer step.SetOp("check ec2 target", &err)
	if _, err := spec.Folder(); err != nil {
		return spec, err
	}
	s, err := complete(spec.Options)
	if err != nil {
		return spec, err
	}
	if err := s.choose(spec.Origin.ABIs); err != nil {
		return spec, err
	}
	if err := lackingDevice(promised(spec.Origin), s.Carried()); err != nil {
		return spec, err
	}
	if err := s.Complete(ctx, spec); err != nil {
		return spec, err
	}
	if err := disk.Missing(ctx, s.layout()); err != nil {
		return spec, image.WithoutVia(err)
	}
	c, err := open(ctx, s)
	if err != nil {
		return spec, err
	}
	step.Report(ctx, step.Progress{Note: "asking EC2 in " + c.region})
	if err := c.insist(ctx, s.Endpoint, 5*time.Second); err != nil {
		return spec, err
	}
	s.Region, s.Account = c.region, c.account
	k := &checker{cloud: c, settings: &s, tags: spec.Tags}
	// The first two compare options with the region and account that are known now.
	for _, ask := range []func(context.Context) error{
		func(context.Context) error { return s.readNetwork() }, func(context.Context) error { return s.readInstance() },
		k.encryption, k.importBucket, k.bundle, k.instanceType, k.subnets, k.zones, k.aki, k.groups, k.keyPair, k.placementGroup, k.elasticIP, k.targetGroup, k.reachable, k.helper,
	} {
		if err := ask(ctx); err != nil {
			return spec, err
		}
	}
	all, err := c.list(ctx, step.Tags{App: spec.App, Target: spec.Target})
	if err != nil {
		return spec, err
	}
	if err := k.mayRun(ctx, spec, all); err != nil {
		return spec, err
	}
	spec.Alone = !slices.ContainsFunc(all, func(r step.Resource) bool { return r.Tags.Life != spec.Life })
	spec.Options, err = json.Marshal(s.Options)
	return spec, err
}

// mayRun returns Unauthorized if a dry run of RunInstances with the newest AMI of all is
// denied. It ignores every other answer: the new AMI may differ.
func (k *checker) mayRun(ctx context.Context, spec step.Spec, all []step.Resource) error {
	var newest step.Resource
	for _, r := range all {
		if r.Kind == kindImage && !r.Created.Before(newest.Created) {
			newest = r
		}
	}
	if newest.ID == "" {
		return nil
	}
	b := &boot{s: *k.settings, r: step.Registration{Spec: spec, ID: newest.ID}}
	in, err := b.input(append(k.Subnets, "")[0], 0)
	if err != nil {
		return err
	}
	in.DryRun, in.ClientToken = aws.Bool(true), nil // Boot's token stays unused
	if _, err = k.ec2.RunInstances(ctx, in); answerTo(code(err)) == denied {
		return failed("try to run an instance", err)
	}
	return nil
}

// insist asks whose the credentials are until AWS answers, or patience has passed. Then the error of a service that
// does not answer is final: the user is waiting, and no work is lost yet.
func (c *cloud) insist(ctx context.Context, endpoint string, patience time.Duration) error {
	var err error
	_, over := poll(ctx, patience, func() (bool, error) {
		err = c.own(ctx)
		return err == nil || step.KindOf(err) != "", ctx.Err()
	})
	if err == nil || step.KindOf(err) != "" || over != nil {
		return err
	}
	e := &step.Error{Kind: step.NotFound, Err: err, Hint: "see that this host reaches AWS, if need be by HTTPS_PROXY"}
	if endpoint != "" {
		e.Field, e.Hint = "endpoint", "correct it, or see that this host reaches it"
	} else if url := cmp.Or(os.Getenv("AWS_ENDPOINT_URL_STS"), os.Getenv("AWS_ENDPOINT_URL")); url != "" {
		e.Hint = "the worker's AWS_ENDPOINT_URL is " + url + "; " + restarted
	}
	var told *step.Error
	if errors.As(err, &told) {
		e.Op, e.Err, e.Hint = told.Op, told.Err, cmp.Or(told.Hint, e.Hint)
	}
	var dns *net.DNSError
	if errors.As(err, &dns) && dns.IsNotFound {
		e.Err = fmt.Errorf("there is no host %s", dns.Name)
		if endpoint == "" {
			e.Kind, e.Field, e.Hint = step.InvalidSpec, "region", `a region of AWS, as "eu-west-1"; or see that this host's DNS works`
		}
	}
	return e
}

// choose sets Virtualization, BootMode, Layout and InstanceType for a kernel with these
// ABIs. Without ABIs, which are not known before the build, it prefers hvm.
func (s *settings) choose(abis []string) error {
	by := Kind
	if s.Carried() {
		by, s.Virtualization = carrier.Loader, virtHVM
	} else if s.Virtualization == virtHVM && s.Backing != backingBundle && slices.Contains(abis, image.Solo5Xen) {
		by, s.onXen = image.GRUBOnXen, true
	}
	abi, err := image.Supports(by, abis)
	if err != nil {
		return err
	}
	if abi == image.Solo5HVT { // few types have nested virtualization, and only on request
		return unsupported("", "build it with -t spt", errors.New("ec2 cannot boot a Solo5 hvt kernel: its tender needs KVM, which the instance lacks"))
	}
	if s.Backing == backingBundle {
		s.Virtualization = virtPV
	}
	if s.Virtualization == virtAuto {
		_, grub := image.Supports("grub", abis)
		s.Virtualization = virtHVM
		if s.Layout != "" || s.KernelID != "" || s.BootMode == "" && grub != nil {
			s.Virtualization = virtPV
		}
	}
	if _, err := image.Supports(s.loader(abis), abis); err != nil {
		other := virtHVM
		if s.Virtualization == virtHVM {
			other = virtPV
		}
		var e *step.Error
		errors.As(err, &e)
		if s.Backing == backingBundle {
			return unsupported("backing", "backing: direct", e.Err)
		}
		return &step.Error{Kind: step.Unsupported, Field: "virtualization", Err: e.Err,
			Hint: "virtualization: " + other + "; boot_mode is for hvm only, layout and kernel_id for paravirtual"}
	}
	field := ""
	switch {
	case s.Port != 0:
		field = "port"
	case s.ElasticIP != "":
		field = "elastic_ip"
	case s.TargetGroup != "":
		field = "target_group"
	}
	if field != "" && slices.Contains(abis, image.Solo5Virtio) {
		return unsupported(field, "leave out "+field+"; for a network "+otherNetwork, errors.New("a Solo5 virtio kernel has no network on EC2: EC2 has no virtio devices"))
	}
	if s.Virtualization == virtPV {
		s.Layout = cmp.Or(s.Layout, string(disk.Whole))
		smallest := "t1.micro"
		if s.Backing == backingBundle { // t1.micro has no disk of its own
			smallest = "m1.small"
		}
		s.InstanceType = cmp.Or(s.InstanceType, smallest)
	} else {
		s.BootMode = cmp.Or(s.BootMode, bootBIOS)
		smallest := "t3.micro"
		if s.onXen {
			smallest = "t2.micro"
		}
		s.InstanceType = cmp.Or(s.InstanceType, smallest)
	}
	return nil
}

// otherNetwork is the way to a network for a Solo5 virtio kernel.
const otherNetwork = "build it with MirageOS -t spt and give carrier: linux, or run it on a target of kind qemu"

// promised is a kernel as far as its source tells what it will be.
func promised(from step.Origin) image.Info {
	k := image.Info{ABIs: from.ABIs}
	if slices.Contains(from.ABIs, image.LinuxExecutable) {
		return k // its devices are Linux's
	}
	for _, name := range from.Networks {
		k.Devices = append(k.Devices, image.Device{Name: name, Type: image.NetBasic})
	}
	for _, name := range from.Blocks {
		k.Devices = append(k.Devices, image.Device{Name: name, Type: image.BlockBasic})
	}
	return k
}

// lackingDevice returns Unsupported for a Solo5 virtio kernel that asks for a device, and for a
// kernel of a carrier that asks for more than an instance's one interface. Check sees the
// devices that the source tells, package all.
func lackingDevice(k image.Info, carried bool) error {
	if carried {
		for i, d := range k.Devices {
			if i > 0 || d.Type != image.NetBasic {
				return unsupported("carrier", "build it without this device, with its files in the kernel (MirageOS's crunch); or run it on a target of kind qemu", fmt.Errorf("the kernel asks for the Solo5 device %s (%s), and an instance has one network interface and no data disk", d.Name, d.Type))
			}
		}
		return nil
	}
	if !slices.Contains(k.ABIs, image.Solo5Virtio) || len(k.Devices) == 0 {
		return nil
	}
	d := k.Devices[0]
	return unsupported("", "build it without devices, as a batch job that prints; else "+otherNetwork,
		fmt.Errorf("the kernel asks for the Solo5 device %s (%s), and EC2 has no virtio devices", d.Name, d.Type))
}

// checker asks EC2 about the options of a rollout.
type checker struct {
	*cloud
	*settings
	tags step.Tags
	nets []subnet
}

// unsupported returns an error about an option.
func unsupported(field, hint string, err error) error {
	return &step.Error{Kind: step.Unsupported, Field: field, Hint: hint, Err: err}
}

// importBucket refuses a bucket of another region or account. One that does not exist is
// made by register.
func (k *checker) importBucket(ctx context.Context) error {
	if k.Backing != backingImport {
		return nil
	}
	_, err := k.bucketThere(ctx)
	return err
}

// encryption sets Encrypted if the account encrypts by default. Register compares it with
// the encryption of a parent.
func (k *checker) encryption(ctx context.Context) error {
	if k.Backing == backingBundle {
		return nil
	}
	out, err := k.ec2.GetEbsEncryptionByDefault(ctx, &ec2.GetEbsEncryptionByDefaultInput{})
	if err != nil {
		return failed("ask whether the account encrypts by default", err)
	}
	k.Encrypted = k.Encrypted || aws.ToBool(out.EbsEncryptionByDefault)
	return nil
}
