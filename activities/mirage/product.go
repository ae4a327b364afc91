package mirage

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/morgana-deploy/morgana/image"
	"github.com/morgana-deploy/morgana/tree"
)

// The names of the files that travel with a kernel.
const (
	// Manifest is Solo5's manifest.json: the devices that the kernel wants.
	Manifest = "manifest.json"
	// XLIn is the template of Xen's configuration. It has placeholders: @NAME@, @KERNEL@,
	// @MEMORY@, @NETWORK:n@ and @BLOCK:f@.
	XLIn = "xl.in"
)

// find looks for the kernel by the target's extension, because config.ml chooses its
// name. The source's own dist/ and mirage/ were removed before the build, so no old file
// is taken for the kernel.
func (o *Options) find(root *os.Root) (tree.Product, error) {
	ext := extensions[o.Target]
	kernels, err := list(root, o.beside("dist"), func(info fs.FileInfo) bool {
		if ext != "" {
			return strings.HasSuffix(info.Name(), ext)
		}
		return info.Mode()&0o111 != 0 // NAME.xl and dune's own files are not executable
	})
	if err != nil {
		return tree.Product{}, err
	}
	switch len(kernels) {
	case 0:
		return tree.Product{}, fmt.Errorf("make build succeeded and made no %s for target %s", o.beside("dist/*"+ext), o.Target)
	case 1:
	default:
		return tree.Product{}, fmt.Errorf("make build made %d kernels: %s", len(kernels), strings.Join(kernels, ", "))
	}
	p := tree.Product{Kernel: kernels[0]}
	switch o.Target {
	case "hvt", "spt", "virtio", "muen", "genode":
		p.Files = append(p.Files, tree.File{Path: o.beside("mirage/manifest.json"), Name: Manifest})
	case "xen", "qubes": // its manifest has no devices, and Xen does not read it
		p.Files = append(p.Files, tree.File{Path: o.beside("mirage/manifest.json"), Name: Manifest, Optional: true})
	}
	// The template is named after the unikernel, even if -o names the kernel.
	templates, err := list(root, o.beside("mirage"), func(info fs.FileInfo) bool { return strings.HasSuffix(info.Name(), ".xl.in") })
	if err != nil {
		return tree.Product{}, err
	}
	switch {
	case len(templates) == 1:
		p.Files = append(p.Files, tree.File{Path: templates[0], Name: XLIn})
	case len(templates) > 1:
		return tree.Product{}, fmt.Errorf("mirage configure made %d templates: %s", len(templates), strings.Join(templates, ", "))
	}
	return p, nil
}

// list returns the paths of the files in a folder that want accepts, none if the folder
// is missing.
func list(root *os.Root, folder string, want func(fs.FileInfo) bool) ([]string, error) {
	entries, err := fs.ReadDir(root.FS(), folder)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("look for the kernel in %s: %w", folder, tree.Cause(err))
	}
	var all []string
	for _, e := range entries {
		name := path.Join(folder, e.Name())
		info, err := root.Stat(name) // a link may be the kernel
		if err == nil && info.Mode().IsRegular() && want(named{info, e.Name()}) {
			all = append(all, name)
		}
	}
	return all, nil
}

// named is a file that keeps the name it has in its folder.
type named struct {
	fs.FileInfo
	name string
}

func (n named) Name() string { return n.name }

// accept refuses a kernel that was made for another target.
func (o *Options) accept(info image.Info) error {
	for _, abi := range image.MirageABIs(o.Target) {
		if !slices.Contains(info.ABIs, abi) {
			return fmt.Errorf("is no kernel of target %s: it is %s, not %s", o.Target,
				strings.Join(info.ABIs, ", "), strings.Join(image.MirageABIs(o.Target), ", "))
		}
	}
	return nil
}
