package xenserver

import (
	"fmt"
	"slices"
	"strconv"

	"github.com/morgana-deploy/morgana/step"
)

// The keys of the other_config of a VM and of a VDI.
const (
	keyApp        = "morgana:app"
	keyTarget     = "morgana:target"
	keyLife       = "morgana:life"
	keyGeneration = "morgana:generation"
	// keyUUID has the object's own UUID, from the moment after its creation. A copy that a user
	// makes of it, as by VM.copy or for a backup, has the key of the original.
	keyUUID = "morgana:uuid"
	// keyDigest is the digest of the image.
	keyDigest = "morgana:digest"
	// keyComplete is that of a VDI which has the whole image.
	keyComplete = "morgana:complete"
	// keyFolder is XenCenter's.
	keyFolder = "folder"
)

// tagged is in the tags of each VM and VDI, for users who look for them.
const tagged = "morgana"

// nameOf returns the name_label of a rollout's VM and VDI. Destroy does not look at it.
func nameOf(t step.Tags) string {
	return fmt.Sprintf("morgana-%s-%s-%d", t.App, t.Target, t.Generation)
}

// otherConfig returns the other_config with which a rollout's VM and VDI are created.
func (s *settings) otherConfig(t step.Tags, digest string) map[string]string {
	all := map[string]string{keyApp: t.App, keyTarget: t.Target, keyLife: t.Life,
		keyGeneration: strconv.Itoa(t.Generation), keyDigest: digest}
	if s.Folder != "" {
		all[keyFolder] = s.Folder
	}
	return all
}

// tags returns the tags with which a rollout's VM and VDI are created.
func (s *settings) tags() []string {
	return slices.Compact(slices.Sorted(slices.Values(append(slices.Clone(s.Tags), tagged))))
}

// owner returns the tags of the rollout that made an object, false if no rollout did. An
// object without [keyUUID] was just made.
func owner(uuid string, otherConfig map[string]string) (step.Tags, bool) {
	generation, err := strconv.Atoi(otherConfig[keyGeneration])
	t := step.Tags{App: otherConfig[keyApp], Target: otherConfig[keyTarget], Life: otherConfig[keyLife], Generation: generation}
	_, named := t.Folder()
	own, ok := otherConfig[keyUUID]
	return t, err == nil && named == nil && (!ok || own == uuid)
}
