package step

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"strconv"
)

// Tags name the rollout that made a resource. A resource has its tags from the moment
// it exists, so Destroy finds it even if the result of the step that made it was lost.
type Tags struct {
	// App is the unikernel's name, [a-z][a-z0-9-]{0,39}.
	App string `json:"app"`
	// Target is the target's name in morgana.yaml, same form as App.
	Target string `json:"target"`
	// Life is the deployment's id, 8 hex digits. A destroyed deployment and a later one
	// of the same app and target have different lives. Names contain it because a cloud
	// may never accept a used name or client token again. Empty matches every life
	// (Destroy, Clean and List only).
	Life string `json:"life,omitempty"`
	// Generation is the number of the rollout, from 1. Zero matches every
	// generation (Destroy, Clean and List only).
	Generation int `json:"generation,omitempty"`
}

// Match reports whether t selects a resource; have is the resource's Tags. App and Target
// must be equal. Life and Generation must be equal too, unless they are not set in t.
func (t Tags) Match(have Tags) bool {
	return t.App == have.App && t.Target == have.Target &&
		(t.Life == "" || t.Life == have.Life) &&
		(t.Generation == 0 || t.Generation == have.Generation)
}

var (
	lifeForm   = regexp.MustCompile(`^[0-9a-f]{1,32}$`)
	folderForm = regexp.MustCompile(`^([a-z][a-z0-9-]{0,39})\.([a-z][a-z0-9-]{0,39})\.([0-9a-f]{1,32})-([1-9][0-9]{0,8})$`)
)

// Folder returns the name of a rollout's folder or domain on a host: app, target, life
// and generation, as "hello.dev.98767bcc-1". It checks every part, so the name cannot
// lead out of a folder. [ParseFolder] reads it. Tags that do not name one rollout are
// InvalidSpec.
func (t Tags) Folder() (string, error) {
	if err := errors.Join(CheckName("app", t.App), CheckName("target", t.Target)); err != nil {
		return "", err
	}
	if !lifeForm.MatchString(t.Life) {
		return "", &Error{Kind: InvalidSpec, Field: "life", Hint: "8 hex digits", Err: fmt.Errorf("%q is no life", t.Life)}
	}
	if t.Generation < 1 || t.Generation > 999_999_999 {
		return "", &Error{Kind: InvalidSpec, Field: "generation", Hint: "1 or more", Err: fmt.Errorf("%d is no generation", t.Generation)}
	}
	return fmt.Sprintf("%s.%s.%s-%d", t.App, t.Target, t.Life, t.Generation), nil
}

// Token returns a client token, at most 64 letters, digits and hyphens. It depends
// only on the rollout and on what the token is for ("instance", "snapshot vol-1").
// Tags that do not name one rollout are InvalidSpec.
func (t Tags) Token(what string) (string, error) {
	folder, err := t.Folder()
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256([]byte(folder + "\n" + what))
	return "morgana-" + hex.EncodeToString(sum[:20]), nil
}

// ParseFolder returns the tags of a name that [Tags.Folder] made, false for any other.
func ParseFolder(name string) (Tags, bool) {
	p := folderForm.FindStringSubmatch(name)
	if p == nil {
		return Tags{}, false
	}
	generation, err := strconv.Atoi(p[4])
	return Tags{App: p[1], Target: p[2], Life: p[3], Generation: generation}, err == nil
}
