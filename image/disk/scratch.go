package disk

import (
	"path/filepath"
	"strings"

	"github.com/morgana-deploy/morgana/files"
)

// scratch makes a folder next to path, for a file that is then renamed to path. It
// first removes the folders that killed processes left for the same path.
func scratch(path string) (dir string, done func() error, err error) {
	folder, name := filepath.Split(filepath.Clean(path))
	// A long name is cut off, so that the folder's name is not too long. Then the
	// folders of another path are swept as well, if they are not locked.
	prefix := ".disk-" + name[:min(len(name), 64)] + "-"
	return files.Scratch(filepath.Clean(folder), prefix, func(name string) bool { return strings.HasPrefix(name, prefix) })
}
