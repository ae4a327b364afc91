package ec2

import "github.com/morgana-deploy/morgana/image/disk"

// The files of an image.
const (
	// packedDisk is the boot disk as an archive of [disk.Pack].
	packedDisk = "disk.tar"
	// blocksFile lists the SHA-256 of each block of the disk that is not zero.
	blocksFile = "blocks"
	// amiFile is an [ami] as JSON.
	amiFile = "ami.json"
)

// ami is what RegisterImage is told of an image. It is part of the image's digest.
type ami struct {
	// Architecture and Virtualization have EC2's words: "x86_64"; "hvm" or
	// "paravirtual".
	Architecture   string `json:"architecture"`
	Virtualization string `json:"virtualization"`
	// BootMode is "legacy-bios" or "uefi"; empty for a paravirtual image.
	BootMode string `json:"bootMode,omitempty"`
	// Layout is that of the disk.
	Layout disk.Layout `json:"layout"`
	// KernelID is the AKI of a paravirtual image.
	KernelID string `json:"kernelId,omitempty"`
	// Encrypted says that the snapshot is to be encrypted.
	Encrypted bool `json:"encrypted,omitempty"`
	// Backing is "bundle" for an S3-backed image, else empty.
	Backing string `json:"backing,omitempty"`
	// Size is the disk's, in bytes.
	Size int64 `json:"size"`
}
