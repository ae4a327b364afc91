package ec2

import (
	"cmp"
	"fmt"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/morgana-deploy/morgana/image/disk"
	"github.com/morgana-deploy/morgana/machine"
	"github.com/morgana-deploy/morgana/step"
)

// The forms of names. They are wider than AWS's own, for other services with EC2's API.
var (
	regionForm  = regexp.MustCompile(`^[a-z0-9]+(-[a-z0-9]+)*$`)
	zoneAtEnd   = regexp.MustCompile(`^([a-z]+(?:-[a-z]+)+-[0-9]+)[a-z]$`)
	accountForm = regexp.MustCompile(`^[0-9]{12}$`)
	typeForm    = regexp.MustCompile(`^[a-z][a-z0-9-]*\.[a-z0-9-]+$`)
	profileForm = regexp.MustCompile(`^[\w+=,.@-]{1,128}$`)
	arnForm     = regexp.MustCompile(`^arn:[a-z-]+:elasticloadbalancing:([a-z0-9-]+):([0-9]{12}):targetgroup/[A-Za-z0-9-]+/[0-9a-f]+$`)
	bucketForm  = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$`)
	loginForm   = regexp.MustCompile(`^[a-z_][a-z0-9_.-]{0,31}$`)
	oneLine     = regexp.MustCompile(`^[ -~]{1,255}$`)
)

// idForm matches the ids of a kind of resource, as "subnet-0a1b2c3d": AWS's old ids have 8
// digits and its new ones 17.
func idForm(prefix, id string) bool {
	hex, ok := strings.CutPrefix(id, prefix+"-")
	return ok && len(hex) >= 8 && len(hex) <= 17 && strings.Trim(hex, "0123456789abcdef") == ""
}

// checkID refuses an id that is not of the form of its kind.
func checkID(field, prefix, id, where string) error {
	if !idForm(prefix, id) {
		return step.Invalid(field, fmt.Sprintf("an id as %q, from %s", prefix+"-0a1b2c3d4e5f67890", where), "%q is no id of this kind", id)
	}
	return nil
}

func checkIDs(field, prefix string, ids []string, where string) error {
	for i, id := range ids {
		at := fmt.Sprintf("%s[%d]", field, i)
		if err := checkID(at, prefix, id, where); err != nil {
			return err
		}
		if slices.Contains(ids[:i], id) {
			return step.Invalid(at, "", "%q is given twice", id)
		}
	}
	return nil
}

// readPlace checks the options that say where EC2 is.
func (s *settings) readPlace() error {
	if s.Profile != "" && !oneLine.MatchString(s.Profile) {
		return step.Invalid("profile", "a profile of ~/.aws/config on the worker's host", "%q is no name of a profile", s.Profile)
	}
	if m := zoneAtEnd.FindStringSubmatch(s.Region); m != nil {
		return step.Invalid("region", fmt.Sprintf("region: %s, and placement: {zone: %s}", m[1], s.Region), "%s is a zone", s.Region)
	}
	if s.Region != "" && !regionForm.MatchString(s.Region) {
		return step.Invalid("region", `a region's name, as "eu-west-1"`, "%q is no region", s.Region)
	}
	if s.Account != "" && !accountForm.MatchString(s.Account) {
		return step.Invalid("account", `12 digits in quotes, as "111122223333"`, "%q is no account's number", s.Account)
	}
	if s.Endpoint == "" {
		return nil
	}
	u, err := url.Parse(s.Endpoint)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
		return step.Invalid("endpoint", `a URL, as "https://ec2.example.org"`, "%q is no http or https URL", s.Endpoint)
	}
	if u.User != nil {
		return step.Invalid("endpoint", "leave out the user and the password: the profile has the keys", "a URL with a user")
	}
	return nil
}

// readBundle checks the options of backing bundle, and refuses them for others.
func (s *settings) readBundle() error {
	for _, o := range []struct{ field, path string }{{"ec2_cert", s.EC2Cert}, {"ec2_private_key", s.EC2PrivateKey}, {"cloud_cert", s.CloudCert}} {
		switch {
		case o.path != "" && s.Backing != backingBundle:
			return step.Invalid(o.field, "leave it out, or backing: bundle", "backing %s makes no bundle", s.Backing)
		case o.path != "" && !filepath.IsAbs(o.path):
			return step.Invalid(o.field, "a path that begins with /, on the worker's host", "%q is no absolute path", o.path)
		}
	}
	switch {
	case s.Backing != backingBundle:
	case (s.EC2Cert == "") != (s.EC2PrivateKey == ""):
		return step.Invalid("ec2_cert", "name both, or none: then the worker makes them", "ec2_cert and ec2_private_key belong together")
	case s.Virtualization == virtHVM || s.BootMode != "":
		return step.Invalid("virtualization", "virtualization: paravirtual; or backing: direct", "an S3-backed image of a bundle is paravirtual")
	case s.Layout == string(disk.Partition):
		return step.Invalid("layout", `layout: hd0; or backing: direct`, "an S3-backed image has no partitions")
	case s.Encrypted:
		return step.Invalid("encrypted", "leave it out, or backing: direct", "an S3-backed image has no volume to encrypt")
	case s.size > maxBundled:
		return step.Invalid("size", `at most "10GiB", or backing: direct`, "%s is more than an S3-backed image holds", s.Size)
	}
	return nil
}

var allBackings = []string{backingDirect, backingImport, backingBundle, backingVolume}

// readHelper checks the options of backing volume, and refuses them for others.
func (s *settings) readHelper() error {
	h := s.Helper
	switch {
	case h == Helper{}:
		return nil
	case s.Backing != backingVolume:
		return step.Invalid("helper", "leave it out, or backing: volume", "backing %s needs no helper", s.Backing)
	case h.Type != "" && !typeForm.MatchString(h.Type):
		return step.Invalid("helper.type", `a type's name, as "t3.micro"`, "%q is no instance type", h.Type)
	case h.User != "" && !loginForm.MatchString(h.User):
		return step.Invalid("helper.user", `a login name, as "ec2-user" or "admin"`, "%q is no login name", h.User)
	}
	if h.From != "" {
		if _, err := prefixOf(h.From); err != nil {
			return step.Invalid("helper.from", `an IPv4 address or prefix, as "203.0.113.7" or "203.0.113.0/28"`, "%w", err)
		}
	}
	for _, id := range []struct{ field, prefix, id, where string }{
		{"helper.image", "ami", h.Image, "aws ec2 describe-images"}, {"helper.subnet", "subnet", h.Subnet, "aws ec2 describe-subnets"},
	} {
		if id.id != "" {
			if err := checkID(id.field, id.prefix, id.id, id.where); err != nil {
				return err
			}
		}
	}
	return nil
}

// readBoot checks how the image is made and started.
func (s *settings) readBoot() error {
	paravirtual := s.Layout != "" || s.KernelID != ""
	bucketed := s.Backing == backingImport || s.Backing == backingBundle
	switch {
	case !slices.Contains(allBackings, s.Backing):
		return step.Invalid("backing", step.OneOf(s.Backing, allBackings...), "unknown backing %q", s.Backing)
	case s.Bucket != "" && !bucketed:
		return step.Invalid("bucket", "leave it out, or backing: import or bundle", "backing %s needs no bucket", s.Backing)
	case s.Role != "" && s.Backing != backingImport:
		return step.Invalid("role", "leave it out, or backing: import", "backing %s needs no role", s.Backing)
	case s.Bucket == "" && bucketed:
		return step.Invalid("bucket", `a name that no other account has, as "example-morgana"; it is made if it does not exist`, "backing %s needs a bucket", s.Backing)
	case s.Bucket != "" && !bucketForm.MatchString(s.Bucket):
		return step.Invalid("bucket", "3 to 63 lower-case letters, digits, dots and hyphens", "%q is no name of a bucket", s.Bucket)
	case s.Role != "" && !profileForm.MatchString(s.Role):
		return step.Invalid("role", "a name that aws iam list-roles lists", "%q is no name of a role", s.Role)
	case !slices.Contains([]string{virtAuto, virtHVM, virtPV}, s.Virtualization):
		return step.Invalid("virtualization", "one of auto, hvm, paravirtual", "unknown virtualization %q", s.Virtualization)
	case s.BootMode != "" && s.BootMode != bootBIOS && s.BootMode != bootUEFI:
		return step.Invalid("boot_mode", step.OneOf(s.BootMode, bootBIOS, bootUEFI), "unknown boot mode %q", s.BootMode)
	case s.Layout != "" && s.Layout != string(disk.Whole) && s.Layout != string(disk.Partition):
		return step.Invalid("layout", step.OneOf(s.Layout, string(disk.Whole), string(disk.Partition)), "unknown layout %q", s.Layout)
	case s.BootMode != "" && s.Virtualization == virtPV:
		return step.Invalid("boot_mode", "leave it out, or virtualization: hvm", "a paravirtual instance has no firmware: its AKI starts the kernel")
	case s.BootMode != "" && s.Virtualization == virtAuto && paravirtual:
		return step.Invalid("boot_mode", "leave out boot_mode for a paravirtual image, or layout and kernel_id for an hvm one",
			"boot_mode is for hvm, and layout and kernel_id are for paravirtual")
	case s.Layout != "" && s.Virtualization == virtHVM:
		return step.Invalid("layout", "leave it out, or virtualization: paravirtual", "the disk of an hvm instance is a BIOS or UEFI disk")
	case s.Carried() && (s.Virtualization == virtPV || s.Backing == backingBundle || paravirtual):
		return step.Invalid("carrier", "leave it out, or virtualization: hvm without layout, kernel_id and backing bundle", "the carrier's Linux boots by GRUB on the disk of an hvm instance")
	case s.Carried() && len(s.Modules) > 0:
		return step.Invalid("modules", "leave out modules, or carrier", "a carrier has a ramdisk of its own, and its kernel takes none")
	case s.KernelID != "" && s.Virtualization == virtHVM:
		return step.Invalid("kernel_id", "leave it out, or virtualization: paravirtual", "an hvm instance boots by the GRUB on its disk")
	case s.KernelID != "":
		return checkID("kernel_id", "aki", s.KernelID, "aws ec2 describe-images --owners amazon --include-deprecated --filters Name=name,Values='pv-grub-*'")
	}
	return nil
}

// maxVolume is the largest root volume that EC2 makes of an AMI, in bytes.
const maxVolume = 16 << 40

// readFiles checks what is on the boot disk.
func (s *settings) readFiles() (err error) {
	if s.Size != "" {
		if s.size, err = disk.ParseSize("size", s.Size); err != nil {
			return err
		}
		if s.size > maxVolume {
			return step.Invalid("size", `at most "16TiB"`, "%s is more than a volume of EC2 holds", s.Size)
		}
	}
	if strings.ContainsRune(s.Args, 0) {
		return step.Invalid("args", "", "a command line cannot hold a NUL")
	}
	return machine.CheckModules(s.Modules)
}

// readNetwork checks the options of the network interface and of stable addresses.
func (s *settings) readNetwork() error {
	if err := checkIDs("subnets", "subnet", s.Subnets, "aws ec2 describe-subnets"); err != nil {
		return err
	}
	if err := checkIDs("security_groups", "sg", s.SecurityGroups, "aws ec2 describe-security-groups"); err != nil {
		return err
	}
	if s.ElasticIP != "" {
		if err := checkID("elastic_ip", "eipalloc", s.ElasticIP, "aws ec2 describe-addresses"); err != nil {
			return err
		}
	}
	if s.TargetGroup == "" {
		return nil
	}
	arn := arnForm.FindStringSubmatch(s.TargetGroup)
	switch {
	case arn == nil:
		return step.Invalid("target_group", `an ARN as "arn:aws:elasticloadbalancing:eu-west-1:111122223333:targetgroup/web/0a1b2c3d4e5f6789"`,
			"%q is no ARN of a target group", s.TargetGroup)
	case s.Region != "" && arn[1] != s.Region:
		return step.Invalid("target_group", "a target group of the region, or region: "+arn[1], "it is in %s, and the instance in %s", arn[1], s.Region)
	case s.Account != "" && arn[2] != s.Account:
		return step.Invalid("target_group", "a target group of the account", "it is in account %s, and the instance in %s", arn[2], s.Account)
	}
	return nil
}

// maxUserData is EC2's limit, in bytes before base64.
const maxUserData = 16 << 10

var tenancies = []string{"default", "dedicated", "host"}

// readInstance checks the other options of the instance.
func (s *settings) readInstance() error {
	p := s.Placement
	switch {
	case s.InstanceType != "" && !typeForm.MatchString(s.InstanceType):
		return step.Invalid("instance_type", `a type's name, as "t3.micro"`, "%q is no instance type", s.InstanceType)
	case s.KeyName != "" && (!oneLine.MatchString(s.KeyName) || strings.TrimSpace(s.KeyName) != s.KeyName):
		return step.Invalid("key_name", "a name that aws ec2 describe-key-pairs lists", "%q is no name of a key pair", s.KeyName)
	case strings.HasPrefix(s.InstanceProfile, "arn:"):
		return step.Invalid("instance_profile", "the name alone: "+s.InstanceProfile[strings.LastIndexByte(s.InstanceProfile, '/')+1:], "an ARN, not a name")
	case s.InstanceProfile != "" && !profileForm.MatchString(s.InstanceProfile):
		return step.Invalid("instance_profile", "a name that aws iam list-instance-profiles lists", "%q is no name of an instance profile", s.InstanceProfile)
	case len(s.UserData) > maxUserData:
		return step.Invalid("user_data", "at most 16 KiB: put more into a module or a bucket", "%d bytes are too long", len(s.UserData))
	case p.Tenancy != "" && !slices.Contains(tenancies, p.Tenancy):
		return step.Invalid("placement.tenancy", step.OneOf(p.Tenancy, tenancies...), "unknown tenancy %q", p.Tenancy)
	case p.Tenancy == "host" && s.Spot:
		return step.Invalid("placement.tenancy", "spot: false, or tenancy: default", "a spot instance cannot be on a dedicated host")
	case p.Zone != "" && len(s.Subnets) > 0:
		return step.Invalid("placement.zone", "leave it out: each subnet is in one zone", "subnets decide the zone")
	case p.Zone != "" && (!regionForm.MatchString(p.Zone) || !strings.HasPrefix(p.Zone, s.Region) || p.Zone == s.Region):
		return step.Invalid("placement.zone", `a zone of the region, as "eu-west-1a"`, "%q is no zone of %s", p.Zone, cmp.Or(s.Region, "the region"))
	case p.Group != "" && !oneLine.MatchString(p.Group):
		return step.Invalid("placement.group", "a name that aws ec2 describe-placement-groups lists", "%q is no name of a placement group", p.Group)
	}
	return nil
}

// readReady checks how the instance is known to be ready.
func (s *settings) readReady() (err error) {
	if s.Port < 0 || s.Port > 65535 {
		return step.Invalid("port", "1 to 65535", "%d is no TCP port", s.Port)
	}
	s.expect, s.timeout, err = machine.ReadReady(s.Expect, s.Timeout)
	return err
}
