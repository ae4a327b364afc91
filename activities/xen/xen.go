// Package xen runs unikernels as domains of a Xen host: this one, or one reached by ssh.
// It runs xl (or xm, before Xen 4.1) there; nothing of Morgana is installed.
//
// # What is on the host
//
//	/var/lib/morgana/<digest>/          an image's files, whole or not there; shared by domains
//	/var/lib/morgana/.<digest>.part/    an image that is being sent; a broken transfer is resumed
//	/var/lib/morgana/domains/<folder>/  one rollout, <folder> as hello.prod.98767bcc-1:
//	    digest       the image it uses
//	    domain.cfg   the configuration for xl create
//	    writes       the host's disks that the domain writes to
//	    *.img        the domain's own copies of disks that it writes to
//	    created      the host's boot ID when xl create and unpause had succeeded
//	    console.log  the domain's console from its first instruction on, at most 64 MiB
//	    ready        how the domain became ready
//
// # Ownership of a domain
//
// A domain has the name of its folder and a UUID derived from that name. A domain of that
// name with another UUID is foreign and is never touched. If file created is missing, the
// domain's creation was cut off, and boot creates it anew. So whichever process is
// killed, there is one domain in the end.
//
// # How
//
// Each call runs one verb of verbs.sh, sent with the call, which changes the host under
// flock. So a connection may break at any time, and two calls at once do no harm.
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
	machines *machine.Machines // makes scratch folders
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

// Needs lists the programs of this host for deploying to Xen.
func (t *Target) Needs(ctx context.Context) []step.Need {
	xl := step.Need{For: "run domains on this very host", What: "xl", Optional: true,
		Fix: "apt-get install xen-system-amd64, and boot into it; or give targets a host: ssh://root@xen1"}
	if path, err := exec.LookPath(xl.What); err == nil {
		xl.Found = path
	}
	all := append(remote.Needs(ctx), xl)
	for _, layout := range []disk.Layout{disk.Whole, disk.BIOS} {
		for _, n := range disk.Needs(ctx, layout) {
			n.Optional = true // needed only with via: disk
			if !slices.ContainsFunc(all, func(have step.Need) bool { return have.What == n.What }) {
				all = append(all, n)
			}
		}
	}
	return all
}
