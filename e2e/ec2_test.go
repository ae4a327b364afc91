package e2e

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/morgana-deploy/morgana/ec2lab"
	"github.com/morgana-deploy/morgana/need"
	"github.com/morgana-deploy/morgana/xenlab"
)

// hello boots as an instance of EC2 with BIOS, and with UEFI of an imported disk. An unchanged
// deploy sends nothing; a changed one sends what has changed.
func TestEC2(t *testing.T) {
	t.Parallel()
	need.Tools(t, "grub-mkimage")
	e := newEC2(t, ec2lab.NewMachines(t.TempDir()))
	folder := e.hellos(map[string]string{"bios": "args: stay a=b", "uefi": "args: stay a=b, boot_mode: uefi, backing: import, bucket: " + imports})
	e.deployed(folder, "--all")
	e.prints(folder, "multiboot2", "stay a=b", "bios", "uefi")
	e.holds(2)
	if s := e.morgana(folder, "status"); strings.Count(s.out, " up ") != 2 {
		t.Errorf("status:\n%s", s.out)
	}

	calls := len(e.cloud.Calls())
	if r := e.deployed(folder, "--all"); strings.Count(r.out, "unchanged, generation 1 is kept") != 2 {
		t.Errorf("deployed anew:\n%s", r.out)
	}
	for _, c := range e.cloud.Calls()[calls:] {
		reads := slices.ContainsFunc([]string{"Describe", "Get", "Head", "List"}, func(verb string) bool { return strings.HasPrefix(c.Name, verb) })
		if !reads && c.Params.Get("DryRun") != "true" {
			t.Errorf("an unchanged deploy calls %s", c.Name)
		}
	}

	first := e.has("snapshot", "completed")
	puts := e.count("PutSnapshotBlock")
	e.deployed(folder, "-t", "bios", "--set", "bios.args=stay anew")
	e.prints(folder, "multiboot2", "stay anew", "bios")
	e.holds(2)
	if sent := e.count("PutSnapshotBlock") - puts; sent == 0 || sent > 2 {
		t.Errorf("a changed command line sent %d blocks", sent)
	}
	if now := e.has("snapshot", "completed"); slices.Equal(now, first) {
		t.Errorf("no new snapshot in %q", now)
	}

	// Options of the instance alone make another instance of the same AMI.
	images, instances, puts := e.has("image", "available"), e.has("instance", "running"), e.count("PutSnapshotBlock")
	e.deployed(folder, "-t", "bios", "--set", "bios.args=stay anew", "--set", "bios.user_data=x")
	e.holds(2)
	if n := e.count("PutSnapshotBlock") - puts; n > 0 || !slices.Equal(e.has("image", "available"), images) || slices.Equal(e.has("instance", "running"), instances) {
		t.Errorf("%d blocks sent; AMIs %q, were %q; instances %q, were %q", n, e.has("image", "available"), images, e.has("instance", "running"), instances)
	}

	e.deployed(folder, "-t", "bios", "--set", "bios.args=end", "--set", "bios.expect=shutting down")
	if s := e.morgana(folder, "status", "hello/bios"); !strings.Contains(s.out, " ended ") {
		t.Errorf("status of an instance that has shut itself down:\n%s", s.out)
	}

	e.shrinks("multiboot2", "")
	if r := e.morgana(folder, "destroy", "hello"); r.code != 0 {
		t.Errorf("destroy: %s%s", r.out, r.errOut)
	}
	e.asBefore()
}

// shrinks deploys a kernel with much behind its end, and then without: blocks of its disk
// become zero, which the new snapshot would inherit otherwise.
func (e *onEC2) shrinks(mode, options string) {
	e.t.Helper()
	others := e.has("snapshot", "completed")
	kernel := e.kernel()
	folder := e.project("app: shrinks\ntoolchain: {kind: prebuilt, kernel: kernel}\ntargets: {dev: {kind: ec2, keep: 1, args: stay, expect: staying, " + options + "}}\n")
	mark := bytes.Repeat([]byte("morgana was here"), 4<<16)
	has := func() bool {
		path := filepath.Join(e.t.TempDir(), "snapshot")
		for _, id := range e.has("snapshot", "completed") {
			if slices.Contains(others, id) {
				continue
			}
			if err := e.cloud.WriteSnapshot(id, path); err != nil {
				e.t.Fatal(err)
			}
		}
		f, err := os.Open(path)
		if err != nil {
			e.t.Fatal(err)
		}
		defer f.Close() //nolint:errcheck // only read
		raw := make([]byte, 64<<20)
		n, err := f.Read(raw)
		if err != nil {
			e.t.Fatal(err)
		}
		return bytes.Contains(raw[:n], mark[:16])
	}
	e.write(filepath.Join(folder, "kernel"), string(append(kernel, mark...)))
	e.deployed(folder)
	if !has() {
		e.t.Error("the snapshot lacks the kernel's end")
	}
	puts := e.count("PutSnapshotBlock")
	e.write(filepath.Join(folder, "kernel"), string(kernel))
	e.deployed(folder)
	if has() {
		e.t.Error("the snapshot has blocks of the one before")
	}
	if sent := e.count("PutSnapshotBlock") - puts; sent < len(mark)>>19 {
		e.t.Errorf("%d blocks were sent, fewer than became zero: the snapshot has no parent", sent)
	}
	if r := e.morgana(folder, "console"); !strings.Contains(r.out, "boot mode: "+mode) {
		e.t.Errorf("console: %s%s", r.out, r.errOut)
	}
	e.ends(e.begin(folder, "destroy"), 0)
}

// hello boots as a paravirtual instance, by the pv-grub for either layout. One disk is imported.
func TestXenOfEC2(t *testing.T) {
	t.Parallel()
	need.Lab(t, xenlab.Missing(t.Context()))
	machines := ec2lab.NewMachines(t.TempDir())
	t.Cleanup(func() {
		if err := machines.Close(); err != nil {
			t.Error(err)
		}
	})
	e := newEC2(t, machines)
	const options = "args: stay a=b, virtualization: paravirtual, timeout: 5m"
	folder := e.hellos(map[string]string{"hd0": options, "hd00": options + `, layout: "hd0,0", backing: import, bucket: ` + imports})
	e.deployed(folder, "--all")
	e.prints(folder, "xen-pv", "stay a=b", "hd0", "hd00")
	e.holds(2)
	e.deployed(folder, "-t", "hd0", "--set", "hd0.args=stay anew")
	e.prints(folder, "xen-pv", "stay anew", "hd0")
	e.holds(2)
	e.shrinks("xen-pv", "virtualization: paravirtual, timeout: 5m")
	if r := e.morgana(folder, "destroy", "hello"); r.code != 0 {
		t.Errorf("destroy: %s%s", r.out, r.errOut)
	}
	e.asBefore()
}

// hello boots of volumes that helpers have written, paravirtual and hvm.
func TestXenVolumeOfEC2(t *testing.T) {
	t.Parallel()
	need.Lab(t, xenlab.Missing(t.Context()))
	need.Lab(t, ec2lab.MissingLinux(t.Context()))
	machines := ec2lab.NewMachines(t.TempDir())
	t.Cleanup(func() {
		if err := machines.Close(); err != nil {
			t.Error(err)
		}
	})
	e := newEC2(t, machines)
	const options = "args: stay a=b, backing: volume, timeout: 5m"
	folder := e.hellos(map[string]string{"hd0": options + ", virtualization: paravirtual", "bios": options})
	e.deployed(folder, "--all")
	e.prints(folder, "xen-pv", "stay a=b", "hd0")
	e.prints(folder, "multiboot2", "stay a=b", "bios")
	e.holds(2)
	if r := e.morgana(folder, "destroy", "hello"); r.code != 0 {
		t.Errorf("destroy: %s%s", r.out, r.errOut)
	}
	e.asBefore()
}

// hello boots of an S3-backed AMI, whose bundle a certificate of openssl has signed.
func TestXenBundleOfEC2(t *testing.T) {
	t.Parallel()
	need.Tools(t, "openssl")
	need.Lab(t, xenlab.Missing(t.Context()))
	machines := ec2lab.NewMachines(t.TempDir())
	t.Cleanup(func() {
		if err := machines.Close(); err != nil {
			t.Error(err)
		}
	})
	e := newEC2(t, machines)
	keys := t.TempDir()
	cert, key, cloud := filepath.Join(keys, "cert.pem"), filepath.Join(keys, "pk.pem"), filepath.Join(keys, "ec2.pem")
	if out, err := exec.CommandContext(t.Context(), "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=ann", "-days", "2", "-keyout", key, "-out", cert).CombinedOutput(); err != nil {
		t.Fatalf("openssl: %v\n%s", err, out)
	}
	text, err := os.ReadFile(cert)
	if err != nil {
		t.Fatal(err)
	}
	opens, err := e.cloud.CloudCertificate()
	if err := errors.Join(err, e.cloud.Trust(text), os.WriteFile(cloud, opens, 0o600)); err != nil {
		t.Fatal(err)
	}
	folder := e.hellos(map[string]string{"s3": "args: stay a=b, backing: bundle, bucket: bundles, timeout: 5m, ec2_cert: " + cert + ", ec2_private_key: " + key + ", cloud_cert: " + cloud})
	e.deployed(folder)
	e.prints(folder, "xen-pv", "stay a=b", "s3")
	if r := e.morgana(folder, "destroy", "hello"); r.code != 0 {
		t.Errorf("destroy: %s%s", r.out, r.errOut)
	}
	if left := strings.Join(e.cloud.Resources(), "\n"); strings.Contains(left, "object ") || strings.Contains(left, "image ami-") {
		t.Errorf("left:\n%s", left)
	}
}
