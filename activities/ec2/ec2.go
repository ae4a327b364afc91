// Package ec2 runs unikernels as instances of Amazon EC2.
//
// # What is in the account
//
// A rollout, whose folder name is as hello.prod.98767bcc-1, makes
//
//   - a snapshot of the boot disk, sent block by block by the EBS direct APIs
//   - an AMI of that snapshot, named morgana/<folder>/<digest>
//   - an instance of that AMI, with its volume and network interface
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
	"github.com/morgana-deploy/morgana/machine"
	"github.com/morgana-deploy/morgana/step"
)

// Kind is the name of this kind of target: its folder, task queue and activity prefix.
const Kind = "ec2"

// Target is the ec2 target.
type Target struct {
	site     step.Site
	machines *machine.Machines // makes scratch folders
}

// New makes the target of a worker at site.
func New(site step.Site) *Target { return &Target{site, machine.In(site, Kind)} }
