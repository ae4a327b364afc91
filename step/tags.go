package step

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"strconv"
)

// Tags say whose a resource is. Whatever a step creates outside carries them
// from the moment it exists, so that Destroy can find it even if the answer
// that named it was lost.
type Tags struct {
	// App is the unikernel's name, [a-z][a-z0-9-]{0,39}.
	App string `json:"app"`
	// Target is the name the target has in morgana.yaml, same form as App.
	Target string `json:"target"`
	// Life tells one deployment from an earlier one of the same app and target
	// that was destroyed: 8 hex digits, new whenever a deployment starts from
	// nothing. Clouds burn names and client tokens for good, so a name made of
	// app, target and generation alone would one day be refused. Empty matches
	// every life (Destroy only).
	Life string `json:"life,omitempty"`
	// Generation is the number of the rollout, from 1. Zero matches every
	// generation (Destroy only).
	Generation int `json:"generation,omitempty"`
}

// Match reports whether a resource tagged have is one that t asks for: same
// app and target, and same life and generation unless t leaves them open.
func (t Tags) Match(have Tags) bool {
	return t.App == have.App && t.Target == have.Target &&
		(t.Life == "" || t.Life == have.Life) &&
		(t.Generation == 0 || t.Generation == have.Generation)
}

var (
	lifeForm   = regexp.MustCompile(`^[0-9a-f]{1,32}$`)
	folderForm = regexp.MustCompile(`^([a-z][a-z0-9-]{0,39})\.([a-z][a-z0-9-]{0,39})\.([0-9a-f]{1,32})-([1-9][0-9]{0,8})$`)
)

// Folder is the name of what one rollout has on a host, as
// "hello.dev.98767bcc-1": app, target, life and generation. It is made of
// checked parts only, so it is a plain file name and leads nowhere; [ParseFolder]
// reads it. Tags that do not name one rollout are InvalidSpec.
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

// Token is a name for client tokens and the like: at most 64 letters, digits and
// hyphens, the same for the same rollout and the same what ("instance",
// "snapshot vol-1"), and another for any other. Tags that do not name one
// rollout are InvalidSpec.
func (t Tags) Token(what string) (string, error) {
	folder, err := t.Folder()
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256([]byte(folder + "\n" + what))
	return "morgana-" + hex.EncodeToString(sum[:20]), nil
}

// ParseFolder gives the tags of a name that [Tags.Folder] made, false for any other.
func ParseFolder(name string) (Tags, bool) {
	p := folderForm.FindStringSubmatch(name)
	if p == nil {
		return Tags{}, false
	}
	generation, err := strconv.Atoi(p[4])
	return Tags{App: p[1], Target: p[2], Life: p[3], Generation: generation}, err == nil
}
