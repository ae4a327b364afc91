package xenserver

import (
	"context"
	"strings"

	"github.com/morgana-deploy/morgana/step"
)

// Further keys of other_config.
const (
	// keyUse and a rollout's folder name make the key by which that rollout uses a VDI. A VDI
	// of the same image is not made anew: each rollout that takes it adds its key. Destroy
	// removes a VDI that no other rollout uses.
	keyUse = "morgana:use:"
	// keyVM, a rollout's folder name and a number make the key of a VDI that has the UUID of
	// a VM of that rollout. The VM of the highest number is the rollout's.
	keyVM = "morgana:vm:"
	// keyReady says how a VM became ready.
	keyReady = "morgana:ready"
	// keyConsole has what a VM had printed when it was ready. See [tape].
	keyConsole = "morgana:console"
)

// use records that a rollout uses a VDI. Register calls it for the VDI that it returns.
func (p *pool) use(ctx context.Context, vdi ref, t step.Tags) error {
	folder, err := t.Folder()
	if err != nil {
		return err
	}
	return p.set(ctx, "VDI", vdi, keyUse+folder, "")
}

// set adds a key to the other_config of an object, unless it has the key.
func (p *pool) set(ctx context.Context, class string, of ref, key, value string) error {
	err := p.call(ctx, nil, class+".add_to_other_config", of, key, value)
	if is(err, "MAP_DUPLICATE_KEY") {
		return nil
	}
	return err
}

// users returns the rollouts that use a VDI with this other_config: its owner if it is half
// made.
func users(otherConfig map[string]string) (all []step.Tags) {
	for key := range otherConfig {
		if folder, ok := strings.CutPrefix(key, keyUse); ok {
			if of, ok := step.ParseFolder(folder); ok {
				all = append(all, of)
			}
		}
	}
	if of, ok := owner(otherConfig); ok && len(all) == 0 {
		all = append(all, of)
	}
	return all
}
