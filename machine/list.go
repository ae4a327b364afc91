package machine

import (
	"errors"
	"io/fs"
	"os"
	"time"

	"github.com/morgana-deploy/morgana/step"
)

// List gives the folders of machines whose tags are wanted, half made ones as
// well, and with withTaps their taps. host is where they are.
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
		tags, _ := aliasTags(link.Attrs().Alias) // taps has read it
		all = append(all, step.Resource{Tags: tags, Kind: "tap", ID: link.Attrs().Name, Where: host})
	}
	return all, err
}

// made is when the folder was made: its lock is made first and never written to.
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

// OtherLives wants the tags of other lives of the same app and target.
func OtherLives(tags step.Tags) (wanted func(step.Tags) bool) {
	return step.Removal{Spec: step.Spec{Tags: step.Tags{App: tags.App, Target: tags.Target}}, NotLife: tags.Life}.Match
}
