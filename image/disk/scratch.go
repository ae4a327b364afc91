package disk

import (
	"path/filepath"
	"strings"

	"github.com/morgana-deploy/morgana/files"
)

// scratch makes a folder next to path, for what is to become path in one rename.
// What a killed process left for the same path is removed first.
func scratch(path string) (dir string, done func() error, err error) {
	folder, name := filepath.Split(filepath.Clean(path))
	// The whole of a long name would make too long a one. What is swept for
	// another's sake is nobody's either.
	prefix := ".disk-" + name[:min(len(name), 64)] + "-"
	return files.Scratch(filepath.Clean(folder), prefix, func(name string) bool { return strings.HasPrefix(name, prefix) })
}
