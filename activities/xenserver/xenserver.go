// Package xenserver runs unikernels as virtual machines of a pool of XenServer, XCP-ng or
// another host of xapi, by the XenAPI.
//
// # What is in the pool
//
// A rollout, whose folder name is as hello.prod.98767bcc-1, makes
//
//   - a VDI, which has the boot disk
//   - a VM with a VBD of that VDI and its network interfaces
//   - tasks of the import and of the start, which it destroys
//
// VDI and VM have the tags of the rollout in their other_config from the moment they exist, a VDI
// from the end of VDI.create on, and the tag "morgana". Destroy finds them by other_config alone.
// [keyUUID] tells them from copies that users make of them. A VDI that an import has not filled has
// no key [keyComplete]; it is never used.
//
// # Credentials
//
// User and password are where the tool xe and others' clients keep them on the worker: see
// [credentials]. A Spec names a profile, never a password.
package xenserver

import (
	"time"

	"github.com/morgana-deploy/morgana/machine"
	"github.com/morgana-deploy/morgana/step"
)

// Kind is the name of this kind of target: its folder, task queue and activity prefix.
const Kind = "xenserver"

// Target is the xenserver target.
type Target struct {
	site     step.Site
	machines *machine.Machines // makes scratch folders
	pools    pools
	patience time.Duration
	busy     time.Duration
}

var (
	_ step.Target     = (*Target)(nil)
	_ step.Observer   = (*Target)(nil)
	_ step.Lister     = (*Target)(nil)
	_ step.Forecaster = (*Target)(nil)
	_ step.Needer     = (*Target)(nil)
)

// New makes the target of a worker at site.
func New(site step.Site) *Target {
	return &Target{site: site, machines: machine.In(site, Kind), patience: patience, busy: busy}
}
