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

// Artifact is a file in the store, known by its SHA-256. Workflow history
// carries this, never the bytes.
type Artifact struct {
	// URI is where it is: "file:///var/lib/morgana/store/sha256/ab/ab12...".
	URI string `json:"uri"`
	// SHA256 is the lower-case hex digest of the bytes.
	SHA256 string `json:"sha256"`
	// Size is in bytes.
	Size int64 `json:"size"`
}

// File is an artifact with a name and the name's meaning left to the target.
type File struct {
	Name     string   `json:"name"`
	Artifact Artifact `json:"artifact"`
}

// Store keeps artifacts. The same bytes twice are stored once. Implemented by
// package store; safe for concurrent use.
type Store interface {
	// Put stores what r holds from its start and returns its artifact. It
	// reads r twice, and writes nothing if the store has the bytes already.
	// An interrupted Put leaves no artifact.
	Put(ctx context.Context, r io.ReadSeeker) (Artifact, error)
	// Open reads an artifact. The reader's last Read fails if the bytes are
	// not those of a.SHA256. An artifact that is not there is NotFound.
	Open(ctx context.Context, a Artifact) (io.ReadCloser, error)
	// Fetch writes an artifact to a file, verified and atomically: path holds
	// all of it or is as it was. The file's mode is 0644 less the umask.
	Fetch(ctx context.Context, a Artifact, path string) error
}

// DigestOf identifies a set of named files: the hex SHA-256 over the sorted
// lines "<sha256>  <name>\n", which is what sha256sum prints.
func DigestOf(files []File) string {
	lines := make([]string, 0, len(files))
	for _, f := range files {
		lines = append(lines, fmt.Sprintf("%s  %s\n", f.Artifact.SHA256, f.Name))
	}
	slices.Sort(lines)
	sum := sha256.Sum256([]byte(strings.Join(lines, "")))
	return hex.EncodeToString(sum[:])
}

// FileNamed finds a file by its name.
func FileNamed(files []File, name string) (Artifact, bool) {
	for _, f := range files {
		if f.Name == name {
			return f.Artifact, true
		}
	}
	return Artifact{}, false
}

// Companion is a file that came with the kernel, asked for by an option: field,
// which is to blame (InvalidSpec) if there is none of that name.
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
