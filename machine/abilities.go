package machine

import (
	"errors"
	"io/fs"
	"os"
	"time"

	"github.com/morgana-deploy/morgana/step"
)

// Observe returns the state of m. If the process is gone and has removed its pid file,
// Observe calls ended, which returns How, Success and Since of its end. Since is zero if
// none ever ran.
func (r *Machines) Observe(m step.Machine, ended func(Machine) (step.Health, error)) (_ step.Health, err error) {
	at, err := r.Of(m.Registration.Spec.Tags)
	if err != nil {
		return step.Health{}, step.During("observe", err)
	}
	defer step.SetOp("observe "+at.Name(), &err)
	return at.observe(m.ID, ended)
}

func (m Machine) observe(id string, ended func(Machine) (step.Health, error)) (step.Health, error) {
	gone := step.Health{State: step.Gone}
	rec, err := m.Record()
	if step.KindOf(err) == step.NotFound || err == nil && rec.UUID() != id {
		return gone, nil
	}
	if err != nil {
		return gone, err
	}
	pid, err := m.Pid()
	if err != nil {
		return gone, err
	}
	// A process that ends by itself removes its pid file.
	started, err := os.Stat(m.File(PidFile))
	switch {
	case err == nil && pid != 0:
		return step.Health{State: step.Running, Since: started.ModTime().UTC()}, nil
	case err == nil:
		return step.Health{State: step.Ended, How: "killed"}, nil
	case !errors.Is(err, fs.ErrNotExist):
		return gone, err
	}
	h, err := ended(m)
	if err != nil || h.Since.IsZero() {
		return gone, err
	}
	h.State, h.Since = step.Ended, h.Since.UTC()
	return h, nil
}

// Forecast lists the actions of Register for the machine with these tags.
func (r *Machines) Forecast(tags step.Tags) ([]step.Action, error) {
	m, err := r.Of(tags)
	if err != nil {
		return nil, step.During("forecast", err)
	}
	return []step.Action{{Call: "mkdir " + m.Path, Why: "the machine's files: its kernel, disks and console"}}, nil
}

// Forecast lists the actions of opening or making the tap.
func (c TapConfig) Forecast() ([]step.Action, error) {
	name := c.Interface()
	whose, _, err := c.find()
	if err != nil {
		return nil, err
	}
	if whose == others {
		return []step.Action{{Call: "open tap " + name, Why: "a network device; the tap is there already"}}, nil
	}
	all := []step.Action{{Call: "ip tuntap add " + name + " mode tap", Why: "a network device"}}
	if c.Bridge != "" {
		all = append(all, step.Action{Call: "ip link set " + name + " master " + c.Bridge, Why: "the network that the tap joins"})
	}
	if c.Address.IsValid() {
		all = append(all, step.Action{Call: "ip address add " + c.Address.String() + " dev " + name, Why: "the host's address in that network"})
	}
	for i := range all {
		all[i].Permission = "CAP_NET_ADMIN"
	}
	return all, nil
}

// Wanted returns the filter for List: tags.Match, or a filter that accepts all if App and
// Target are empty.
func Wanted(tags step.Tags) func(step.Tags) bool {
	if tags.App == "" && tags.Target == "" {
		return func(step.Tags) bool { return true }
	}
	return tags.Match
}

// List returns the folders of the machines whose tags are wanted, also half-made and
// half-removed folders. With withTaps it also returns their taps. Each Resource's Where
// is host.
func (r *Machines) List(host string, wanted func(step.Tags) bool, withTaps bool) ([]step.Resource, error) {
	whole, err := r.All(wanted)
	if err != nil {
		return nil, err
	}
	scrap, err := r.scrap(wanted)
	if err != nil {
		return nil, err
	}
	var all []step.Resource
	for _, m := range append(whole, scrap...) {
		made, err := m.made()
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed meanwhile
		}
		if err != nil {
			return nil, err
		}
		all = append(all, step.Resource{Tags: m.Tags, Kind: "folder", ID: m.Path, Created: made, Where: host})
	}
	if !withTaps {
		return all, nil
	}
	links, err := taps(wanted)
	for _, link := range links {
		tags, _ := aliasTags(link.Attrs().Alias) // taps has checked it
		all = append(all, step.Resource{Tags: tags, Kind: "tap", ID: link.Attrs().Name, Where: host})
	}
	return all, err
}

// made returns the time at which the folder was made: that of its lock file, which is made
// first and never written to, or else the folder's own.
func (m Machine) made() (time.Time, error) {
	info, err := os.Lstat(m.File(lockFile))
	if errors.Is(err, fs.ErrNotExist) {
		info, err = os.Lstat(m.Path)
	}
	if err != nil {
		return time.Time{}, err
	}
	return info.ModTime().UTC(), nil
}

// Alone reports whether this host has nothing of another life of the same app
// and target.
func (r *Machines) Alone(tags step.Tags) (bool, error) {
	found, err := r.List("", OtherLives(tags), true)
	return len(found) == 0, err
}

// OtherLives accepts the tags of other lives of the same app and target.
func OtherLives(tags step.Tags) (wanted func(step.Tags) bool) {
	return step.Removal{Spec: step.Spec{Tags: step.Tags{App: tags.App, Target: tags.Target}}, NotLife: tags.Life}.Match
}
