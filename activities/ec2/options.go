package ec2

import (
	"encoding/json"
	"regexp"
	"slices"
	"time"

	"github.com/morgana-deploy/morgana/carrier"
	"github.com/morgana-deploy/morgana/image"
	"github.com/morgana-deploy/morgana/image/disk"
	"github.com/morgana-deploy/morgana/step"
)

// Options are an ec2 target's options in morgana.yaml. docs/schema makes the table of
// docs/targets/ec2.md of the comments.
type Options struct {
	// Profile is a profile of the worker's ~/.aws/config. Default: AWS_PROFILE of
	// the worker, else "default".
	Profile string `json:"profile,omitempty"`
	// Region is the region, as "eu-west-1". Default: that of the profile or of
	// AWS_REGION of the worker.
	Region string `json:"region,omitempty"`
	// Endpoint is the URL of another service with EC2's API. Default: Amazon's, or
	// AWS_ENDPOINT_URL of the worker.
	Endpoint string `json:"endpoint,omitempty"`
	// Account is the account's number. A deploy with another account's credentials
	// is refused. Default: the account of the credentials.
	Account string `json:"account,omitempty"`
	// Backing is how the image is made: "direct" sends the blocks of a snapshot;
	// "import" puts the disk into a bucket, and AWS's VM Import makes a snapshot of it;
	// "bundle" makes an S3-backed image, which is paravirtual, of an encrypted bundle;
	// "volume" lets an instance of Linux, the helper, write a volume, and makes a snapshot of it.
	Backing string `json:"backing" jsonschema:"enum=direct,enum=import,enum=bundle,enum=volume"`
	// Helper is the helper of backing volume, which lasts some minutes.
	Helper Helper `json:"helper,omitzero"`
	// Bucket is a bucket of S3 in the region, for backings import and bundle. It is made
	// if it does not exist, and stays.
	Bucket string `json:"bucket,omitempty"`
	// Role is the role by which VM Import reads the bucket. Default: "vmimport".
	Role string `json:"role,omitempty"`
	// EC2Cert is the path, on the worker, of the X.509 certificate that signs bundles.
	// Default: EC2_CERT of the worker, else one that the worker makes.
	EC2Cert string `json:"ec2_cert,omitempty"`
	// EC2PrivateKey is the path, on the worker, of the key of ec2_cert. Default:
	// EC2_PRIVATE_KEY of the worker.
	EC2PrivateKey string `json:"ec2_private_key,omitempty"`
	// CloudCert is the path, on the worker, of the certificate of the service that opens
	// bundles. Default: Amazon's.
	CloudCert string `json:"cloud_cert,omitempty"`
	// InstanceType is the type of the instance. Default: "t3.micro", or "t1.micro"
	// for a paravirtual image, or "m1.small" for a bundle, or "t2.micro" for a Solo5 xen
	// kernel.
	InstanceType string `json:"instance_type,omitempty"`
	// Virtualization is how the instance boots: "hvm" by GRUB on its disk,
	// "paravirtual" by pv-grub, or "auto": hvm if GRUB can boot the kernel, else
	// paravirtual. A Solo5 xen kernel needs "hvm", and an instance type on Xen; this is
	// experimental.
	Virtualization string `json:"virtualization" jsonschema:"enum=auto,enum=hvm,enum=paravirtual"`
	// BootMode is how the firmware of an hvm instance starts: "legacy-bios" or
	// "uefi". Default: "legacy-bios".
	BootMode string `json:"boot_mode,omitempty" jsonschema:"enum=legacy-bios,enum=uefi"`
	// Layout is where the file system of a paravirtual image begins: "hd0" at the
	// disk's first sector, "hd0,0" in its first partition. Default: "hd0".
	Layout string `json:"layout,omitempty" jsonschema:"enum=hd0,enum=hd0\\,0"`
	// KernelID is the AKI of a pv-grub for that layout. Default: Amazon's newest in
	// the region.
	KernelID string `json:"kernel_id,omitempty"`
	// Size is the size of the boot disk, as "1GiB". EC2 rounds it up to whole GiB.
	// Default: as small as its files allow.
	Size string `json:"size,omitempty" example:"1GiB"`
	// Encrypted is whether the snapshot is encrypted, with the account's default KMS
	// key. Default: true if the account encrypts new volumes by default.
	Encrypted bool `json:"encrypted,omitempty"`
	// Args is the kernel's command line.
	Args string `json:"args,omitempty"`
	// Modules are names of files that came with the kernel, as "initrd.img": its
	// ramdisk or multiboot modules.
	Modules []string `json:"modules,omitempty"`
	carrier.Carriage
	// Subnets are subnets for the instance, as "subnet-0a1b...". One after the other
	// is tried while its zone lacks capacity. Default: the default VPC's.
	Subnets []string `json:"subnets,omitempty"`
	// SecurityGroups are ids of security groups. Default: the VPC's default group.
	SecurityGroups []string `json:"security_groups,omitempty"`
	// PublicIP is whether the instance gets a public address. False with port says that
	// the worker reaches private addresses. Default: as the subnet says.
	PublicIP *bool `json:"public_ip,omitempty"`
	// KeyName is the name of a key pair; the instance finds it in its metadata.
	KeyName string `json:"key_name,omitempty"`
	// InstanceProfile is the name of an IAM instance profile.
	InstanceProfile string `json:"instance_profile,omitempty"`
	// UserData is the text that the instance finds in its metadata, at most 16 KiB.
	// It is no place for secrets.
	UserData string `json:"user_data,omitempty"`
	// Spot is whether a spot instance is bought, which EC2 may end at any time.
	Spot bool `json:"spot,omitempty"`
	// Placement is the place of the instance within the region.
	Placement Placement `json:"placement,omitzero"`
	// ElasticIP is the allocation id of an Elastic IP, as "eipalloc-0a1b...". It
	// moves to the new instance once that is ready.
	ElasticIP string `json:"elastic_ip,omitempty"`
	// TargetGroup is the ARN of a load balancer's target group. The new instance
	// takes the place of the old one in it once that is ready.
	TargetGroup string `json:"target_group,omitempty"`
	// Expect is a regular expression (RE2). The instance is ready when its console
	// matches. A paravirtual instance shows its console only minutes later.
	Expect string `json:"expect,omitempty"`
	// Port is a TCP port. The instance is ready when the worker can connect to it.
	// With expect, both must hold. With neither it is ready when it runs.
	Port int `json:"port,omitempty"`
	// Timeout is how long the instance may take to be ready, as "90s".
	Timeout string `json:"timeout" example:"90s"`
}

// Placement is where an instance is placed.
type Placement struct {
	// Zone is an availability zone, as "eu-west-1a".
	Zone string `json:"zone,omitempty"`
	// Group is the name of a placement group.
	Group string `json:"group,omitempty"`
	// Tenancy is the kind of hardware: "default", which others share, "dedicated", or
	// "host", a dedicated host. Default: that of the VPC.
	Tenancy string `json:"tenancy,omitempty" jsonschema:"enum=default,enum=dedicated,enum=host"`
}

// Helper is the instance that writes the volume of backing volume.
type Helper struct {
	// Image is the AMI, as "ami-0a1b...": a Linux for x86_64 with cloud-init, sshd and
	// GNU coreutils. Default: Amazon's newest Amazon Linux 2023.
	Image string `json:"image,omitempty"`
	// Type is the type of the instance. Default: "t3.micro".
	Type string `json:"type,omitempty"`
	// Subnet is its subnet, as "subnet-0a1b...". Default: one of subnets, else of the
	// default VPC.
	Subnet string `json:"subnet,omitempty"`
	// User is the login name: root, or a user who may use sudo without a password. Default:
	// "ec2-user".
	User string `json:"user,omitempty"`
	// PublicIP is whether the helper gets a public address. False says that the worker
	// reaches private addresses. Default: as the subnet says.
	PublicIP *bool `json:"public_ip,omitempty"`
	// From is the address, or the prefix as "203.0.113.0/28", from which the worker reaches
	// the helper. Default: the address that checkip.amazonaws.com sees; for a
	// helper with a private address, this host's address towards it.
	From string `json:"from,omitempty"`
}

// The values of Options.Backing, Virtualization and BootMode. They are EC2's words.
const (
	backingDirect = "direct"
	backingImport = "import"
	backingBundle = "bundle"
	backingVolume = "volume"

	virtAuto = "auto"
	virtHVM  = "hvm"
	virtPV   = "paravirtual"

	bootBIOS = "legacy-bios"
	bootUEFI = "uefi"
)

// Defaults returns the options of a target that sets none.
func Defaults() Options {
	return Options{Backing: backingDirect, Virtualization: virtAuto, Timeout: "10m"}
}

// settings are Options that have been read and parsed.
type settings struct {
	Options
	expect  *regexp.Regexp // nil if none
	timeout time.Duration
	size    int64 // of the boot disk in bytes; 0: as small as its files allow
	onXen   bool  // of check: the kernel is a Solo5 xen kernel, which GRUB starts on Xen only
}

// complete reads options as a user wrote them, for Check.
func complete(options json.RawMessage) (settings, error) {
	s, err := readOver(Defaults(), options)
	var given struct {
		Port *int `json:"port"`
	}
	switch {
	case err != nil:
	case s.timeout > maxTimeout:
		err = step.Invalid("timeout", `at most "23h"`, "%s is longer than a try of boot", s.Timeout)
	case json.Unmarshal(options, &given) == nil && given.Port != nil && *given.Port == 0:
		err = step.Invalid("port", "1 to 65535, or leave it out", "0 is no TCP port")
	}
	return s, err
}

// maxTimeout is below 24 hours, after which a try of boot is ended.
const maxTimeout = 23 * time.Hour

// read reads options that Check has completed.
func read(options json.RawMessage) (settings, error) { return readOver(Options{}, options) }

// readOver decodes options over under, and refuses wrong ones without asking EC2.
func readOver(under Options, options json.RawMessage) (s settings, err error) {
	s.Options = under
	err = step.Decode(options, &s.Options, s.Read, s.readPlace, s.readBoot, s.readFiles, s.readBundle, s.readHelper, s.readNetwork, s.readInstance, s.readReady)
	return s, err
}

// layout returns the layout of the boot disk. Check has set Virtualization.
func (s *settings) layout() disk.Layout {
	switch {
	case s.Virtualization == virtPV && s.Layout == string(disk.Partition):
		return disk.Partition
	case s.Virtualization == virtPV:
		return disk.Whole
	case s.BootMode == bootUEFI:
		return disk.UEFI
	}
	return disk.BIOS
}

// loader returns the loader of package image's table for a kernel with these ABIs, as they
// were known to check. Check has set Virtualization.
func (s *settings) loader(abis []string) string {
	switch {
	case s.Carried():
		return carrier.Loader
	case s.Virtualization == virtPV:
		return "pv-grub"
	case slices.Contains(abis, image.Solo5Xen): // check has seen that the instance type is on Xen
		return image.GRUBOnXen
	}
	return "grub"
}
