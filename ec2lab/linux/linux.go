// Package linux makes the Linux of ec2lab's instances of Amazon Linux: a kernel and a
// ramdisk of Debian's packages, with a shell, the usual programs, sshd and sudo. It needs no
// root. It is made once, and kept in the user's cache folder.
package linux

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/morgana-deploy/morgana/carrier"
	"github.com/morgana-deploy/morgana/carrier/debian"
	"github.com/morgana-deploy/morgana/carrier/ramdisk"
)

// Image is a Linux for QEMU.
type Image struct{ Kernel, Ramdisk string }

// User may log in and become root.
const User = "ec2-user"

// packages are what the ramdisk is made of; apt adds what they need.
var packages = []string{"openssh-server", "sudo", "bash", "coreutils", "util-linux", "fdisk", "e2fsprogs", "mount", "gzip", "xz-utils",
	"iproute2", "kmod", "procps", "sed", "grep", "findutils", "mawk", "tar"}

// without are the folders and files of the packages that the ramdisk does without. What needs
// perl is Debian's installation.
var without = []string{"boot/", "usr/share/", "usr/include/", "usr/games/", "usr/lib/x86_64-linux-gnu/gconv/", "usr/lib/x86_64-linux-gnu/perl",
	"usr/lib/x86_64-linux-gnu/libperl", "usr/bin/perl", "usr/lib/systemd/", "usr/lib/udev/", "usr/lib/locale/", "var/", "usr/bin/dpkg", "usr/sbin/dpkg"}

//go:embed init
var initScript []byte

// modules are those of the devices that the lab gives to its machines; NVMe is built in.
var modules = []string{"virtio_pci", "virtio_blk", "virtio_net"}

const (
	passwd  = "root:*:0:0:root:/root:/bin/bash\nsshd:*:100:65534::/run/sshd:/usr/sbin/nologin\nnobody:*:65534:65534::/nonexistent:/usr/sbin/nologin\n" + User + ":*:1000:1000::/home/" + User + ":/bin/bash\n"
	groups  = "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n" + User + ":x:1000:\n"
	sudoers = User + " ALL=(ALL) NOPASSWD:ALL\n"
	// sshd's path is that of Amazon Linux.
	sshd = "PasswordAuthentication no\nUsePAM no\nUseDNS no\nPrintMotd no\nSetEnv PATH=/usr/local/bin:/usr/bin:/usr/local/sbin:/usr/sbin\nSubsystem sftp /usr/lib/openssh/sftp-server\n"
	pam  = "auth sufficient pam_permit.so\naccount sufficient pam_permit.so\nsession optional pam_permit.so\n"
	off  = "#!/bin/sh\necho o >/proc/sysrq-trigger\n"
)

// files are the files that Debian makes when it installs the packages, and our own.
var files = []ramdisk.Entry{
	{Name: "init", Mode: 0o755, Data: initScript},
	{Name: "bin", Mode: fs.ModeSymlink | 0o777, Data: []byte("usr/bin")},
	{Name: "sbin", Mode: fs.ModeSymlink | 0o777, Data: []byte("usr/sbin")},
	{Name: "lib", Mode: fs.ModeSymlink | 0o777, Data: []byte("usr/lib")},
	{Name: "lib64", Mode: fs.ModeSymlink | 0o777, Data: []byte("usr/lib64")},
	{Name: "usr/bin/sh", Mode: fs.ModeSymlink | 0o777, Data: []byte("bash")},
	{Name: "usr/bin/awk", Mode: fs.ModeSymlink | 0o777, Data: []byte("mawk")},
	{Name: "usr/sbin/poweroff", Mode: 0o755, Data: []byte(off)},
	{Name: "etc/passwd", Mode: 0o644, Data: []byte(passwd)},
	{Name: "etc/group", Mode: 0o644, Data: []byte(groups)},
	{Name: "etc/hosts", Mode: 0o644, Data: []byte("127.0.0.1 localhost (none)\n")},
	{Name: "etc/model", Mode: 0o644, Data: []byte("Amazon Elastic Block Store              \n")},
	{Name: "etc/sudoers.d/90-cloud-init-users", Mode: 0o440, Data: []byte(sudoers)},
	{Name: "etc/pam.d/other", Mode: 0o644, Data: []byte(pam)},
	{Name: "etc/pam.d/sudo", Mode: 0o644, Data: []byte(pam)},
	{Name: "etc/ssh/sshd_config", Mode: 0o600, Data: []byte(sshd)},
	{Name: "root", Mode: fs.ModeDir | 0o700},
	{Name: "home/" + User, Mode: fs.ModeDir | 0o700, Owner: 1000},
	{Name: "dev", Mode: fs.ModeDir | 0o755}, {Name: "proc", Mode: fs.ModeDir | 0o755}, {Name: "sys", Mode: fs.ModeDir | 0o755},
}

// folder returns the folder of the image, and whether the image is there.
func folder() (dir string, made bool, err error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", false, err
	}
	key := sha256.New()
	key.Write(fmt.Appendf(nil, "%q %q %q", packages, without, modules))
	if err := ramdisk.Write(key, files); err != nil {
		return "", false, err
	}
	dir = filepath.Join(cache, "morgana", "ec2lab", fmt.Sprintf("%x", key.Sum(nil))[:16])
	_, err = os.Stat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return dir, false, nil
	}
	return dir, err == nil, err
}

// Build returns the image, and makes it if it is not there.
func Build(ctx context.Context) (Image, error) {
	dir, made, err := folder()
	if err == nil && !made {
		err = build(ctx, dir)
	}
	return Image{filepath.Join(dir, "linux"), filepath.Join(dir, "ramdisk")}, err
}

func build(ctx context.Context, dir string) (err error) {
	top := filepath.Dir(dir)
	if err := os.MkdirAll(top, 0o755); err != nil {
		return err
	}
	left, err := filepath.Glob(filepath.Join(top, ".making-*"))
	if err != nil {
		return err
	}
	for _, dir := range left {
		if info, err := os.Stat(dir); err == nil && time.Since(info.ModTime()) > time.Hour { // of a killed build
			if err := os.RemoveAll(dir); err != nil {
				return err
			}
		}
	}
	making, err := os.MkdirTemp(top, ".making-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(making)) }()
	linux, err := carrier.Newest(ctx)
	if err != nil {
		return err
	}
	_, drivers, err := carrier.Kernel(ctx, filepath.Join(top, "packages"), making, linux, modules)
	if err != nil {
		return err
	}
	debs, err := debian.FetchAll(ctx, filepath.Join(making, "debs"), packages)
	if err != nil {
		return err
	}
	all := append(slices.Clone(files[1:5]), drivers...) // the links first: what follows is behind them
	for _, deb := range debs {
		if all, err = unpack(ctx, all, deb); err != nil {
			return fmt.Errorf("%s: %w", filepath.Base(deb), err)
		}
	}
	if err := write(filepath.Join(making, "ramdisk"), slices.Concat(all, files)); err != nil {
		return err
	}
	if err := os.RemoveAll(filepath.Join(making, "debs")); err != nil {
		return err
	}
	if err := os.Rename(making, dir); !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil // another process was faster
}

// unpack adds the files of a package.
func unpack(ctx context.Context, all []ramdisk.Entry, deb string) ([]ramdisk.Entry, error) {
	err := debian.Files(ctx, deb, func(h *tar.Header, data io.Reader) error {
		e := ramdisk.Entry{Name: merged(h.Name), Mode: h.FileInfo().Mode()}
		if e.Name == "" || slices.ContainsFunc(without, func(w string) bool { return strings.HasPrefix(e.Name, w) }) {
			return nil
		}
		var err error
		switch h.Typeflag {
		case tar.TypeReg:
			e.Data, err = io.ReadAll(data)
		case tar.TypeSymlink:
			e.Data = []byte(h.Linkname)
		case tar.TypeLink:
			e.Mode, e.Data = fs.ModeSymlink|0o777, []byte("/"+merged(h.Linkname))
		default: // folders are added
			return nil
		}
		all = append(all, e)
		return err
	})
	return all, err
}

// merged returns the place of a package's file in a system whose /bin is /usr/bin.
func merged(name string) string {
	name = strings.TrimPrefix(path.Clean("/"+name), "/")
	switch top, _, _ := strings.Cut(name, "/"); top {
	case "bin", "sbin", "lib", "lib64":
		return "usr/" + name
	}
	return name
}

func write(path string, entries []ramdisk.Entry) (err error) {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	buffered := bufio.NewWriter(f)
	return errors.Join(ramdisk.Write(buffered, entries), buffered.Flush())
}

// Login is what a machine gets when it starts.
type Login struct {
	// Key is the public key that may log in as [User], as OpenSSH has it; "" is none.
	Key string
	// Host are the files in /etc/ssh of the host's keys. Without one the machine makes a key.
	Host map[string]string
}

// Ramdisk returns the bytes that follow those of the image's ramdisk.
func (l Login) Ramdisk() ([]byte, error) {
	home := "home/" + User + "/.ssh"
	all := []ramdisk.Entry{{Name: home, Mode: fs.ModeDir | 0o700, Owner: 1000}, {Name: home + "/authorized_keys", Mode: 0o600, Data: []byte(l.Key + "\n"), Owner: 1000}}
	for name, text := range l.Host {
		all = append(all, ramdisk.Entry{Name: "etc/ssh/" + name, Mode: 0o600, Data: []byte(text)})
	}
	var b bytes.Buffer
	err := ramdisk.Write(&b, all)
	return b.Bytes(), err
}
