package step

import (
	"cmp"
	"encoding/json"
	"fmt"
	"reflect"
	"regexp"
	"strings"
	"unicode"
)

// Value is the input or output of a stage: a Spec, or a value that contains one.
type Value interface {
	// Of returns the spec that the value was made for.
	Of() Spec
	// Valid returns InvalidSpec for tags that name no rollout, and for a malformed
	// kind, host, artifact, digest or file name. Third-party steps make values too,
	// and the names in them become paths and arguments.
	Valid() error
}

// Of returns s itself.
func (s Spec) Of() Spec { return s }

// Of returns the spec that src was made for.
func (src Source) Of() Spec { return src.Spec }

// Of returns the spec that k was made for.
func (k Kernel) Of() Spec { return k.Spec }

// Of returns the spec that i was made for.
func (i Image) Of() Spec { return i.Spec }

// Of returns the spec that r was made for.
func (r Registration) Of() Spec { return r.Spec }

// Of returns the spec that m was made for.
func (m Machine) Of() Spec { return m.Registration.Spec }

// SameOwner returns InvalidSpec if a step changed the spec: before is the spec of
// its input, after the spec of its output. Only stage [Check] may change host,
// options and alone, and only [Fetch] the archive, kernel, abis, networks, blocks and commit
// of the origin. Specs are compared as JSON values.
func SameOwner(stage Stage, before, after Spec) error {
	was, err := members(before)
	if err != nil {
		return err
	}
	is, err := members(after)
	if err != nil {
		return err
	}
	if stage == Fetch {
		for _, origin := range []any{was["origin"], is["origin"]} {
			if o, ok := origin.(map[string]any); ok {
				for _, name := range []string{"archive", "kernel", "abis", "networks", "blocks"} {
					delete(o, name)
				}
				if git, ok := o["git"].(map[string]any); ok {
					delete(git, "commit")
				}
			}
		}
	}
	if stage == Check {
		for _, name := range []string{"host", "options", "alone"} {
			delete(was, name)
			delete(is, name)
		}
	}
	for _, name := range sortedKeys(was) {
		if !reflect.DeepEqual(was[name], is[name]) {
			return Invalid("spec."+name, "a step must return the spec it was given", "changed from %v to %v", was[name], is[name])
		}
	}
	for _, name := range sortedKeys(is) {
		if is[name] != nil && was[name] == nil {
			return Invalid("spec."+name, "a step must return the spec it was given", "set to %v", is[name])
		}
	}
	return nil
}

// members returns a spec's JSON members.
func members(s Spec) (m map[string]any, err error) {
	b, err := json.Marshal(s)
	if err != nil {
		return nil, Invalid("spec", "see step/testdata/spec.json", "%w", err)
	}
	err = json.Unmarshal(b, &m)
	return m, err
}

var (
	digestForm = regexp.MustCompile(`^[0-9a-f]{64}$`)
	hostForm   = regexp.MustCompile(`^[A-Za-z0-9._:-]{0,253}$`)
)

// Valid refuses tags that do not name one rollout, and a kind or host that
// cannot be in the name of a task queue, and an invalid [Git].
func (s Spec) Valid() error {
	_, err := s.Folder()
	if err = cmp.Or(err, CheckName("kind", s.Kind)); err != nil {
		return err
	}
	if !hostForm.MatchString(s.Host) {
		return Invalid("spec.host", "letters, digits, dots, hyphens and colons", "%q is not a host name", s.Host)
	}
	if s.Origin.Git != nil {
		return s.Origin.Git.Valid()
	}
	return nil
}

// Valid refuses an invalid spec, and a host that cannot be in the name of a task queue.
func (src Source) Valid() error {
	if !hostForm.MatchString(src.Host) {
		return Invalid("host", "letters, digits, dots, hyphens and colons", "%q is not a host name", src.Host)
	}
	return src.Spec.Valid()
}

// Valid refuses an invalid spec, and malformed artifacts and file names.
func (k Kernel) Valid() error {
	return cmp.Or(k.Spec.Valid(), k.File.valid("file"), validFiles(k.Files))
}

// Valid refuses an invalid spec, and malformed artifacts, file names and digests.
func (i Image) Valid() error {
	return cmp.Or(i.Spec.Valid(), validDigest("digest", i.Digest), validFiles(i.Files))
}

// Valid refuses an invalid spec and a malformed digest.
func (r Registration) Valid() error {
	return cmp.Or(r.Spec.Valid(), validDigest("digest", r.Digest))
}

// Valid refuses an invalid registration.
func (m Machine) Valid() error { return m.Registration.Valid() }

func (a Artifact) valid(field string) error {
	if a.Size < 0 || a.URI == "" {
		return Invalid(field, "an artifact has a uri and a size", "%q of %d bytes is not an artifact", a.URI, a.Size)
	}
	return validDigest(field+".sha256", a.SHA256)
}

func validDigest(field, digest string) error {
	if digestForm.MatchString(digest) {
		return nil
	}
	return Invalid(field, "64 lower-case hex digits of a SHA-256", "%.80q is not a digest", digest)
}

func validFiles(files []File) error {
	seen := map[string]bool{}
	for i, f := range files {
		field := fmt.Sprintf("files[%d]", i)
		if err := cmp.Or(CheckFileName(field+".name", f.Name), f.Artifact.valid(field+".artifact")); err != nil {
			return err
		}
		if seen[f.Name] {
			return Invalid(field+".name", "each file has a name of its own", "%q is there twice", f.Name)
		}
		seen[f.Name] = true
	}
	return nil
}

// CheckFileName checks that name is a plain file name, which cannot lead out of a
// folder: 1 to 200 bytes of UTF-8, no slash or control character, not starting with
// a dot or a hyphen. The error is InvalidSpec with the given field.
func CheckFileName(field, name string) error {
	if name != "" && len(name) <= 200 && !strings.HasPrefix(name, ".") && !strings.HasPrefix(name, "-") &&
		!strings.ContainsFunc(name, func(r rune) bool { return r == '/' || r == unicode.ReplacementChar || unicode.IsControl(r) }) {
		return nil
	}
	return Invalid(field, "1 to 200 bytes, no slash or control character, not starting with a dot or a hyphen",
		"%.80q is not a file name", name)
}
