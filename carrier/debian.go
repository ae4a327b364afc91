package carrier

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/morgana-deploy/morgana/carrier/debian"
	"github.com/morgana-deploy/morgana/step"
)

// cloudKernel is the package of Debian that depends on the newest kernel for clouds.
const cloudKernel = "linux-image-cloud-amd64"

var (
	packageForm = regexp.MustCompile(`^linux-image-[a-z0-9][a-z0-9+.-]*=[A-Za-z0-9][A-Za-z0-9.+~:-]*$`)
	dependsForm = regexp.MustCompile(`(?m)^Depends: .*?(linux-image-[a-z0-9+.-]+) \(= ([^)]+)\)`)
)

// Newest returns the newest cloud kernel that this host's apt knows, as "package=version".
func Newest(ctx context.Context) (string, error) {
	said, err := debian.Apt(ctx, "", "apt-cache", "--no-all-versions", "show", cloudKernel)
	if err != nil {
		return "", ofLinux(err)
	}
	found := dependsForm.FindSubmatch(said)
	if found == nil {
		return "", &step.Error{Kind: step.Unsupported, Field: "linux", Err: fmt.Errorf("apt knows no package %s", cloudKernel), Hint: ownFix}
	}
	return fmt.Sprintf("%s=%s", found[1], found[2]), nil
}

const ownFix = "apt-get update on a Debian host, or linux: /path/to/linux-image-VERSION-cloud-amd64_VERSION_amd64.deb"

// ofLinux gives an error of apt the option that it is about.
func ofLinux(err error) error {
	var e *step.Error
	if errors.As(err, &e) && e.Field == "" {
		e.Field, e.Hint = "linux", ownFix
	}
	return err
}

// linux is the content of a package, unpacked into a folder.
type linux struct {
	kernel  string            // path
	modules map[string]string // path by the module's name
}

// unpackDeb unpacks the kernel and the modules of a Debian package into a folder.
func unpackDeb(ctx context.Context, deb, folder string) (l linux, err error) {
	step.Report(ctx, step.Progress{Note: "unpacking " + filepath.Base(deb)})
	l.modules = map[string]string{}
	var saved error // this host's error, and not the package's
	err = debian.Files(ctx, deb, func(h *tar.Header, data io.Reader) error {
		base := path.Base(h.Name)
		name, isModule := moduleName(base)
		into := filepath.Join(folder, base)
		switch {
		case h.Typeflag != tar.TypeReg:
			return nil
		case strings.HasPrefix(base, "vmlinuz-"):
			l.kernel = into
		case isModule:
			l.modules[name] = into
		default:
			return nil
		}
		saved = save(into, data)
		return saved
	})
	if err == nil && (l.kernel == "" || len(l.modules) == 0) {
		err = errors.New("it has no boot/vmlinuz-* with modules")
	}
	if err != nil && saved == nil {
		err = noPackage(deb, err)
	}
	return l, err
}

func noPackage(deb string, err error) error {
	e := step.Invalid("linux", "a package as linux-image-6.1.0-50-cloud-amd64_6.1.176-1_amd64.deb", "%s is no Linux kernel of Debian: %w", deb, err)
	if errors.Is(err, fs.ErrNotExist) {
		return &step.Error{Kind: step.NotFound, Field: "linux", Err: err, Hint: ownFix}
	}
	return e
}

func save(path string, from io.Reader) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, from)
	return errors.Join(err, f.Close())
}
