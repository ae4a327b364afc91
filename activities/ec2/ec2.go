// Package ec2 runs unikernels as instances of Amazon EC2.
//
// # What is in the account
//
// A rollout, whose folder name is as hello.prod.98767bcc-1, makes
//
//   - a snapshot of the boot disk, sent block by block by the EBS direct APIs
//   - an AMI of that snapshot, named morgana/<folder>/<digest>
//   - an instance of that AMI, with its volume and network interface
//   - until the snapshot is there, what backing volume needs for it: see [dance]
//
// Each has the tags of [tagsOf] from the moment it exists. Destroy finds resources by
// these tags alone. An image that a later rollout uses unchanged is not made anew: its
// snapshot and AMI get one tag more, [useTag], for each rollout that uses them.
//
// # Credentials
//
// Credentials, region, proxies and endpoints are AWS's own configuration: profiles, roles,
// SSO, AWS_* variables of the worker. A Spec names a profile, never a key.
package ec2

import (
	"context"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/morgana-deploy/morgana/carrier"
	"github.com/morgana-deploy/morgana/image/disk"
	"github.com/morgana-deploy/morgana/machine"
	"github.com/morgana-deploy/morgana/remote"
	"github.com/morgana-deploy/morgana/step"
)

// Kind is the name of this kind of target: its folder, task queue and activity prefix.
const Kind = "ec2"

// Target is the ec2 target.
type Target struct {
	site     step.Site
	machines *machine.Machines // makes scratch folders
	limits   limits
}

var (
	_ step.Target     = (*Target)(nil)
	_ step.Observer   = (*Target)(nil)
	_ step.Lister     = (*Target)(nil)
	_ step.Forecaster = (*Target)(nil)
	_ step.Needer     = (*Target)(nil)
)

// New makes the target of a worker at site.
func New(site step.Site) *Target { return &Target{site, machine.In(site, Kind), usual} }

// Needs lists the credentials and the tools that make boot disks. It asks no service but
// that of the credentials.
func (t *Target) Needs(ctx context.Context) []step.Need {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	keys := step.Need{For: "call EC2", What: "AWS credentials", Fix: "aws configure sso"}
	cfg, err := configure(ctx, settings{})
	if err == nil {
		var of aws.Credentials
		of, err = cfg.Credentials.Retrieve(ctx) // they are cached
		keys.Found = of.Source
	}
	if known := profiles(); err != nil && len(known) > 0 {
		keys.Found = "the profiles " + strings.Join(known, ", ")
	} else if err != nil {
		keys.Why = err.Error()
	}
	if keys.Found != "" {
		keys.Fix = ""
	}
	all := []step.Need{keys, {For: "backing import", What: "role " + defaultRole, Optional: true,
		Why: "AWS was not asked whether it is there; for a bucket named BUCKET these make it", Fix: roleFix(defaultRole, "BUCKET")}}
	for _, n := range remote.Needs(ctx) {
		n.For, n.Optional = "backing volume", true
		all = append(all, n)
	}
	for _, layout := range []disk.Layout{disk.BIOS, disk.UEFI, disk.Whole, disk.Partition} {
		all = append(all, disk.Needs(ctx, layout)...)
	}
	return append(all, carrier.Needs(ctx)...)
}
