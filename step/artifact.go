package step

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"slices"
	"strings"
)

// Artifact identifies a file in the store. Workflow history holds Artifacts, never
// the bytes.
type Artifact struct {
	// URI is the file's place: "file:///var/lib/morgana/store/sha256/ab/ab12...".
	URI string `json:"uri"`
	// SHA256 is the lower-case hex digest of the bytes.
	SHA256 string `json:"sha256"`
	// Size is in bytes.
	Size int64 `json:"size"`
}

// File is a named artifact. The target gives the name its meaning.
type File struct {
	Name     string   `json:"name"`
	Artifact Artifact `json:"artifact"`
}

// Store keeps artifacts, and the same bytes only once. It is safe for concurrent
// use. Package store implements it.
type Store interface {
	// Put stores all of r, from its start. It reads r twice, and writes nothing
	// if the store has the bytes already. An interrupted Put leaves no artifact.
	Put(ctx context.Context, r io.ReadSeeker) (Artifact, error)
	// Open reads an artifact. The reader's last Read fails if the bytes do not
	// match a.SHA256. A missing artifact is NotFound.
	Open(ctx context.Context, a Artifact) (io.ReadCloser, error)
	// Fetch writes an artifact to the file at path, with mode 0644 less the umask.
	// It verifies the bytes, and replaces an existing file atomically.
	Fetch(ctx context.Context, a Artifact, path string) error
}

// DigestOf returns the digest of a set of named files: the hex SHA-256 over the
// sorted lines "<sha256>  <name>\n", the output of sha256sum.
func DigestOf(files []File) string {
	lines := make([]string, 0, len(files))
	for _, f := range files {
		lines = append(lines, fmt.Sprintf("%s  %s\n", f.Artifact.SHA256, f.Name))
	}
	slices.Sort(lines)
	sum := sha256.Sum256([]byte(strings.Join(lines, "")))
	return hex.EncodeToString(sum[:])
}

// FileNamed returns the artifact of the file with that name, false if there is none.
func FileNamed(files []File, name string) (Artifact, bool) {
	for _, f := range files {
		if f.Name == name {
			return f.Artifact, true
		}
	}
	return Artifact{}, false
}

// Companion returns the file of this name that came with the kernel. If there is none,
// the error is InvalidSpec with the given field.
func (k Kernel) Companion(field, name string) (Artifact, error) {
	a, ok := FileNamed(k.Files, name)
	if ok {
		return a, nil
	}
	names := make([]string, 0, len(k.Files))
	for _, f := range k.Files {
		names = append(names, f.Name)
	}
	hint := fmt.Sprintf(`no file comes with the kernel; toolchain command brings some: files: [%s], and a build command that makes or copies it`, name)
	if near := Nearest(name, names); near != "" {
		hint = fmt.Sprintf("did you mean %q?", near)
	} else if len(names) > 0 {
		hint = "with the kernel come: " + strings.Join(names, ", ")
	}
	return a, &Error{Kind: InvalidSpec, Field: field, Hint: hint, Err: fmt.Errorf("no file %q comes with the kernel", name)}
}
