package carrier

import (
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"

	"github.com/morgana-deploy/morgana/carrier/ramdisk"
	"github.com/morgana-deploy/morgana/carrier/task"
	"github.com/morgana-deploy/morgana/step"
)

// initProgram is the name of the program of carrier/init on this host.
const initProgram = "morgana-carrier"

const initFix = "install it with the worker: make build makes both"

// findInit finds the init beside this program or in PATH.
func findInit() (string, error) {
	if self, err := os.Executable(); err == nil {
		if path := filepath.Join(filepath.Dir(self), initProgram); isFile(path) {
			return path, nil
		}
	}
	path, err := exec.LookPath(initProgram)
	if err != nil {
		return "", &step.Error{Kind: step.Unsupported, Field: "carrier", Err: fmt.Errorf("%s is neither beside the worker nor in its PATH", initProgram),
			Hint: initFix}
	}
	return path, nil
}

func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}

// libraryFolders are where distributions keep shared libraries for x86_64.
var libraryFolders = []string{"/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64", "/usr/lib64", "/lib", "/usr/lib", "/usr/local/lib"}

// program returns the entries of a program with its dynamic linker and the shared libraries
// of this host that it needs.
func program(path, name, field string) ([]ramdisk.Entry, error) {
	all := []ramdisk.Entry{{Name: name, Mode: 0o755, Path: path}}
	seen := map[string]bool{}
	for queue := []string{path}; len(queue) > 0; queue = queue[1:] {
		f, err := elf.Open(queue[0])
		if err != nil {
			return nil, fmt.Errorf("%s: %w", queue[0], err)
		}
		needs, err := f.ImportedLibraries()
		linker := interpreter(f)
		if err := errors.Join(err, f.Close()); err != nil {
			return nil, fmt.Errorf("%s: %w", queue[0], err)
		}
		if linker != "" && !seen[linker] {
			seen[linker], seen[filepath.Base(linker)] = true, true
			all = append(all, ramdisk.Entry{Name: linker[1:], Mode: 0o755, Path: linker})
		}
		for _, library := range needs {
			if seen[library] {
				continue
			}
			seen[library] = true
			i := slices.IndexFunc(libraryFolders, func(dir string) bool { return isFile(filepath.Join(dir, library)) })
			if i < 0 {
				return nil, &step.Error{Kind: step.Unsupported, Field: field, Err: fmt.Errorf("it needs %s, which this host lacks", library),
					Hint: "link it statically, or install the library on the worker's host"}
			}
			found := filepath.Join(libraryFolders[i], library)
			all = append(all, ramdisk.Entry{Name: task.Libraries[1:] + "/" + library, Mode: 0o644, Path: found})
			queue = append(queue, found)
		}
	}
	return all, nil
}

// interpreter returns the absolute path of a program's dynamic linker, "" for a static one.
func interpreter(f *elf.File) string {
	for _, p := range f.Progs {
		if p.Type != elf.PT_INTERP {
			continue
		}
		path := make([]byte, min(p.Filesz, 4096))
		if n, _ := p.ReadAt(path, 0); n > 1 && path[0] == '/' {
			return string(path[:n-1]) // the last byte is 0
		}
	}
	return ""
}
