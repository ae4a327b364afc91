// Package debian reads packages of Debian, which apt on this host fetches.
package debian

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
	"path/filepath"
	"strconv"
	"strings"

	"github.com/morgana-deploy/morgana/image"
	"github.com/morgana-deploy/morgana/step"
)

// Apt runs a program of apt in a folder.
func Apt(ctx context.Context, folder, program string, args ...string) ([]byte, error) {
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
		return nil, &step.Error{Kind: step.Unsupported, Err: fmt.Errorf("%s is not installed, to fetch packages of Debian", program)}
	case err != nil:
		lines := strings.Split(strings.TrimSpace(said.String()), "\n")
		return nil, &step.Error{Err: fmt.Errorf("%s: %s", program, strings.TrimPrefix(lines[len(lines)-1], "E: "))}
	}
	return out, nil
}

// Fetch returns the path of a package, named as "linux-image-6.1.0-50-cloud-amd64=6.1.176-1",
// from the folder cache or from apt's servers. apt verifies it by the signature of the
// repository.
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
	if _, err := Apt(ctx, folder, "apt-get", "-o", "APT::Get::AllowUnauthenticated=false", "-o", "APT::Sandbox::User=", "download", pkg); err != nil {
		return "", err
	}
	found, err := filepath.Glob(filepath.Join(folder, "*.deb"))
	if err != nil || len(found) != 1 {
		return "", errors.Join(err, fmt.Errorf("apt-get download %s made %d packages", pkg, len(found)))
	}
	return path, os.Rename(found[0], path)
}

// Files calls each for every file, folder and link of a package, whose names begin with "./".
func Files(ctx context.Context, deb string, each func(h *tar.Header, data io.Reader) error) error {
	f, err := os.Open(deb)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // only read
	data, err := member(f, "data.tar")
	if err != nil {
		return err
	}
	from, to := io.Pipe()
	go func() {
		_, _, err := image.DecompressTo(ctx, to, data, data.Size())
		_ = to.CloseWithError(err) // never an error
	}()
	defer from.Close() //nolint:errcheck // never an error; it ends the goroutine
	for r := tar.NewReader(from); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = each(h, r)
		}
		if err != nil {
			return err
		}
	}
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

// FetchAll puts packages, and those that they need, into a new folder, and returns their paths.
func FetchAll(ctx context.Context, folder string, packages []string) ([]string, error) {
	if err := os.MkdirAll(filepath.Join(folder, "partial"), 0o755); err != nil {
		return nil, err
	}
	// No package is installed, and no lock of this host's own packages is held.
	installed := filepath.Join(folder, "installed")
	if err := os.WriteFile(installed, nil, 0o600); err != nil {
		return nil, err
	}
	args := []string{"-y", "--download-only", "--no-install-recommends", "-o", "Dir::State::status=" + installed, "-o", "Dir::Cache::archives=" + folder,
		"-o", "Dir::Cache::pkgcache=", "-o", "Dir::Cache::srcpkgcache=", // they are of the packages that are installed
		"-o", "Debug::NoLocking=true", "-o", "APT::Get::AllowUnauthenticated=false", "-o", "APT::Sandbox::User=", "install"}
	if _, err := Apt(ctx, folder, "apt-get", append(args, packages...)...); err != nil {
		return nil, err
	}
	return filepath.Glob(filepath.Join(folder, "*.deb"))
}
