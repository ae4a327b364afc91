// Package xen runs unikernels as domains of a Xen host: this one, or one reached
// by ssh. It speaks to xl (or xm, before Xen 4.1) as a person would; nothing of
// Morgana is installed there.
//
// # What is on the host
//
//	/var/lib/morgana/<digest>/          an image's files, whole or not there; shared by domains
//	/var/lib/morgana/.<digest>.part/    one that is being sent, which goes on where it broke off
//	/var/lib/morgana/domains/<folder>/  one rollout, <folder> as hello.prod.98767bcc-1:
//	    digest       the image it uses
//	    domain.cfg   what xl is given
//	    writes       the disks of the host that it writes to
//	    *.img        disks of its own, where it may write
//	    created      xl create and unpause went well, in this boot of the host
//	    console.log  what it printed from its first instruction on, at most 64 MiB
//	    ready        how it was known to be ready
//
// # Whose a domain is
//
// Its name is the folder's, and its UUID is derived from the name, so a domain
// with the name and another UUID is somebody else's and is never touched. A
// domain without the mark created was cut off while it was made, and is made
// anew: whichever process is killed, there is one domain in the end.
//
// # How
//
// Each act is one verb of verbs.sh, which is sent with the call and changes the
// host under flock. So a connection may break anywhere, and two calls at once do
// no harm.
package xen

import (
	"context"
	"os/exec"
	"slices"

	"github.com/morgana-deploy/morgana/image/disk"
	"github.com/morgana-deploy/morgana/machine"
	"github.com/morgana-deploy/morgana/remote"
	"github.com/morgana-deploy/morgana/step"
)

// Kind is the name of this kind of target: its folder, task queue and activity prefix.
const Kind = "xen"

// Root is the folder on the Xen host that holds images and domains.
const Root = "/var/lib/morgana"

// Target is the xen target. It keeps nothing in memory but connections.
type Target struct {
	site     step.Site
	machines *machine.Machines // for files in work
	root     string
}

var (
	_ step.Target     = (*Target)(nil)
	_ step.Observer   = (*Target)(nil)
	_ step.Lister     = (*Target)(nil)
	_ step.Forecaster = (*Target)(nil)
	_ step.Needer     = (*Target)(nil)
)

// New makes the target of a worker at site.
func New(site step.Site) *Target { return &Target{site, machine.In(site, Kind), Root} }

// Needs says what this host has for deploying to Xen.
func (t *Target) Needs(ctx context.Context) []step.Need {
	xl := step.Need{For: "run domains on this very host", What: "xl", Optional: true,
		Fix: "apt-get install xen-system-amd64, and boot into it; or give targets a host: ssh://root@xen1"}
	if path, err := exec.LookPath(xl.What); err == nil {
		xl.Found = path
	}
	all := append(remote.Needs(ctx), xl)
	for _, layout := range []disk.Layout{disk.Whole, disk.BIOS} {
		for _, n := range disk.Needs(ctx, layout) {
			n.Optional = true // only via: disk wants it
			if !slices.ContainsFunc(all, func(have step.Need) bool { return have.What == n.What }) {
				all = append(all, n)
			}
		}
	}
	return all
}
