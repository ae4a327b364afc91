package carrier

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/morgana-deploy/morgana/image"
	"github.com/morgana-deploy/morgana/step"
)

// cloudKernel is the package of Debian that depends on the newest kernel for clouds.
const cloudKernel = "linux-image-cloud-amd64"

var (
	packageForm = regexp.MustCompile(`^linux-image-[a-z0-9][a-z0-9+.-]*=[A-Za-z0-9][A-Za-z0-9.+~:-]*$`)
	dependsForm = regexp.MustCompile(`(?m)^Depends: .*?(linux-image-[a-z0-9+.-]+) \(= ([^)]+)\)`)
)

// newest returns the newest cloud kernel that this host's apt knows, as "package=version".
func newest(ctx context.Context) (string, error) {
	said, err := apt(ctx, "", "apt-cache", "--no-all-versions", "show", cloudKernel)
	if err != nil {
		return "", err
	}
	found := dependsForm.FindSubmatch(said)
	if found == nil {
		return "", &step.Error{Kind: step.Unsupported, Field: "linux", Err: fmt.Errorf("apt knows no package %s", cloudKernel), Hint: ownFix}
	}
	return fmt.Sprintf("%s=%s", found[1], found[2]), nil
}

const ownFix = "apt-get update on a Debian host, or linux: /path/to/linux-image-VERSION-cloud-amd64_VERSION_amd64.deb"

// apt runs a program of apt in a folder.
func apt(ctx context.Context, folder, program string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = folder
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case errors.Is(err, exec.ErrNotFound):
		return nil, &step.Error{Kind: step.Unsupported, Field: "linux", Err: fmt.Errorf("%s is not installed, to fetch Debian's kernel", program), Hint: ownFix}
	case err != nil:
		lines := strings.Split(strings.TrimSpace(said.String()), "\n")
		return nil, &step.Error{Field: "linux", Err: fmt.Errorf("%s: %s", program, strings.TrimPrefix(lines[len(lines)-1], "E: ")), Hint: ownFix}
	}
	return out, nil
}

// Fetch returns the path of a package, as in Carriage.Linux, from the folder cache or from apt's servers. apt
// verifies it by the signature of the repository.
func Fetch(ctx context.Context, cache, pkg string) (string, error) {
	name, version, _ := strings.Cut(pkg, "=")
	path := filepath.Join(cache, name+"_"+strings.ReplaceAll(url.QueryEscape(version), "%7E", "~")+"_amd64.deb")
	if _, err := os.Stat(path); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return path, err
	}
	step.Report(ctx, step.Progress{Note: "fetching " + pkg})
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", err
	}
	folder, err := os.MkdirTemp(cache, ".fetch-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(folder) //nolint:errcheck // only a download
	if _, err := apt(ctx, folder, "apt-get", "-o", "APT::Get::AllowUnauthenticated=false", "-o", "APT::Sandbox::User=", "download", pkg); err != nil {
		return "", err
	}
	found, err := filepath.Glob(filepath.Join(folder, "*.deb"))
	if err != nil || len(found) != 1 {
		return "", errors.Join(err, fmt.Errorf("apt-get download %s made %d packages", pkg, len(found)))
	}
	return path, os.Rename(found[0], path)
}

// linux is the content of a package, unpacked into a folder.
type linux struct {
	kernel  string            // path
	modules map[string]string // path by the module's name
}

// unpackDeb unpacks the kernel and the modules of a Debian package into a folder.
func unpackDeb(ctx context.Context, deb, folder string) (l linux, err error) {
	f, err := os.Open(deb)
	if err != nil {
		return l, noPackage(deb, err)
	}
	defer f.Close() //nolint:errcheck // only read
	data, err := member(f, "data.tar")
	if err != nil {
		return l, noPackage(deb, err)
	}
	step.Report(ctx, step.Progress{Note: "unpacking " + filepath.Base(deb)})
	from, to := io.Pipe()
	go func() {
		_, _, err := image.DecompressTo(ctx, to, data, data.Size())
		_ = to.CloseWithError(err) // never an error
	}()
	defer from.Close() //nolint:errcheck // never an error; it ends the goroutine
	l.modules = map[string]string{}
	for r := tar.NewReader(from); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return l, noPackage(deb, err)
		}
		base := path.Base(h.Name)
		name, isModule := moduleName(base)
		into := filepath.Join(folder, base)
		switch {
		case h.Typeflag != tar.TypeReg:
			continue
		case strings.HasPrefix(base, "vmlinuz-"):
			l.kernel = into
		case isModule:
			l.modules[name] = into
		default:
			continue
		}
		if err := save(into, r); err != nil {
			return l, err
		}
	}
	if l.kernel == "" || len(l.modules) == 0 {
		return l, noPackage(deb, errors.New("it has no boot/vmlinuz-* with modules"))
	}
	return l, nil
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

// member finds the member of an ar archive whose name begins with prefix.
func member(f *os.File, prefix string) (*io.SectionReader, error) {
	const magic, headSize = "!<arch>\n", 60
	head := make([]byte, headSize)
	if _, err := io.ReadFull(f, head[:len(magic)]); err != nil || string(head[:len(magic)]) != magic {
		return nil, errors.New("it is no ar archive")
	}
	for at := int64(len(magic)); ; {
		if _, err := f.ReadAt(head, at); err != nil {
			return nil, fmt.Errorf("it has no %s", prefix)
		}
		size, err := strconv.ParseInt(strings.TrimSpace(string(head[48:58])), 10, 64)
		if err != nil || size < 0 {
			return nil, errors.New("the archive is damaged")
		}
		if at += headSize; strings.HasPrefix(string(head), prefix) {
			return io.NewSectionReader(f, at, size), nil
		}
		at += size + size&1
	}
}
