package ec2

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/x509"
	_ "embed"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/morgana-deploy/morgana/need"
	"github.com/morgana-deploy/morgana/step"
)

// incompressible is an image of n bytes whose bundle is as large.
func incompressible(t testing.TB, n int) []byte {
	t.Helper()
	image := make([]byte, n)
	no(t, failure(rand.Read(image)))
	return image
}

func newBundler(t *testing.T, size int64) (*bundler, *rsa.PrivateKey) {
	t.Helper()
	user, err := ownIdentity(t.TempDir(), time.Now())
	no(t, err)
	cloud, err := rsa.GenerateKey(rand.Reader, 1024) // as EC2's
	no(t, err)
	return &bundler{account: "111122223333", arch: "x86_64", kernel: "aki-dc9ed9af", digest: "d1", size: size, user: user, cloud: &cloud.PublicKey}, cloud
}

// bundled returns the parts and the manifest of an image.
func bundled(t *testing.T, b *bundler, image []byte) (parts [][]byte, manifest []byte) {
	t.Helper()
	manifest, err := b.write(t.Context(), bytes.NewReader(image), func(p bundlePart) error {
		if sum := sha1.Sum(p.data); hex.EncodeToString(sum[:]) != p.sha1 {
			t.Errorf("the digest of %s is wrong", p.name)
		}
		parts = append(parts, bytes.Clone(p.data))
		return nil
	})
	no(t, err)
	return parts, manifest
}

// The same image, user and digest give the same parts, of 10 MiB; another user or digest
// gives others.
func TestBundlePartsAreTheSameEachTime(t *testing.T) {
	image := incompressible(t, bundlePartSize+1000)
	b, _ := newBundler(t, int64(len(image)))
	first, manifest := bundled(t, b, image)
	if len(first) != 2 || len(first[0]) != bundlePartSize || len(first[1])%16 != 0 {
		t.Fatalf("%d parts", len(first))
	}
	for _, want := range []string{
		`<version>2007-10-10</version>`, `<machine_configuration><architecture>x86_64</architecture><kernel_id>aki-dc9ed9af</kernel_id></machine_configuration><image><name>image</name><user>111122223333</user><type>machine</type><digest algorithm="SHA1">`,
		`<parts count="2"><part index="0"><filename>image.part.0</filename><digest algorithm="SHA1">`,
	} {
		if !strings.Contains(string(manifest), want) {
			t.Errorf("no %s in\n%s", want, manifest)
		}
	}
	same := func(b *bundler) bool {
		again, _ := bundled(t, b, image)
		return bytes.Equal(bytes.Join(first, nil), bytes.Join(again, nil))
	}
	if !same(b) {
		t.Error("the parts differ")
	}
	other := *b
	if other.digest = "d2"; same(&other) {
		t.Error("two images have one key")
	}
	other = *b
	if other.user, _ = ownIdentity(t.TempDir(), time.Now()); same(&other) {
		t.Error("two users have one key")
	}
}

// An error of the receiver or of the image ends the bundle.
func TestBundleFails(t *testing.T) {
	image := incompressible(t, bundlePartSize+1000)
	b, _ := newBundler(t, int64(len(image)))
	broken := errors.New("broken")
	if _, err := b.write(t.Context(), bytes.NewReader(image), func(bundlePart) error { return broken }); !errors.Is(err, broken) {
		t.Errorf("error %v", err)
	}
	if _, err := b.write(t.Context(), bytes.NewReader(image[:100]), func(bundlePart) error { return nil }); err == nil {
		t.Error("an image that is too short is bundled")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := b.write(ctx, bytes.NewReader(image), func(bundlePart) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

var (
	//go:embed testdata/ec2api_requirements.txt
	ec2apiRequirements string
	//go:embed testdata/ec2api.py
	ec2api string
)

// OpenStack's service with EC2's API reads a bundle.
func TestOpenStackReadsTheBundle(t *testing.T) {
	python := need.Python(t, ec2apiRequirements)
	image := incompressible(t, bundlePartSize+1000)
	b, cloud := newBundler(t, int64(len(image)))
	parts, manifest := bundled(t, b, image)
	folder := t.TempDir()
	key := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(cloud)})
	for name, data := range map[string][]byte{"image.part.0": parts[0], "image.part.1": parts[1], manifestName: manifest, "ec2.pem": key} {
		no(t, os.WriteFile(filepath.Join(folder, name), data, 0o600))
	}
	c := exec.CommandContext(t.Context(), python, "-W", "ignore", "-c", ec2api, folder)
	out, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	got, err := os.ReadFile(strings.TrimSpace(string(out)))
	if err != nil || !bytes.Equal(got, image) {
		t.Errorf("another image of %d bytes comes out: %v", len(got), err)
	}
}

// The worker makes its identity once, which nobody else may read.
func TestOwnIdentity(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "ec2")
	first, err := ownIdentity(folder, time.Now())
	no(t, err)
	again, err := ownIdentity(folder, time.Now())
	if err != nil || !first.key.Equal(again.key) || first.name() != again.name() {
		t.Errorf("another identity: %v", err)
	}
	all, err := os.ReadDir(folder)
	if err != nil || len(all) != 1 {
		t.Fatalf("%v, %v", all, err)
	}
	if info, err := all[0].Info(); err != nil || info.Mode() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if err := makeIdentity(folder, filepath.Join(folder, "bundle.pem"), time.Now()); !errors.Is(err, fs.ErrExist) {
		t.Errorf("an identity is replaced: %v", err)
	}
}

// A wrong certificate or key is told with its option and path, and never with its content.
func TestIdentityRefusals(t *testing.T) {
	folder := t.TempDir()
	mine, err := ownIdentity(folder, time.Now())
	no(t, err)
	good := filepath.Join(folder, "bundle.pem")
	no(t, failure(ownIdentity(filepath.Join(folder, "other"), time.Now())))
	other := filepath.Join(folder, "other", "bundle.pem")
	noise := filepath.Join(folder, "noise")
	no(t, os.WriteFile(noise, []byte("-----BEGIN RSA PRIVATE KEY-----\nc2VjcmV0\n-----END RSA PRIVATE KEY-----\n"), 0o600))
	for _, c := range []struct {
		cert, key string
		now       time.Time
		kind      step.Kind
		field     string
		want      string
	}{
		{good, other, time.Now(), step.InvalidSpec, "ec2_private_key", "does not belong to the certificate " + good},
		{good, good, mine.cert.NotAfter.Add(time.Hour), step.InvalidSpec, "ec2_cert", "expired on " + mine.cert.NotAfter.UTC().Format(time.DateOnly)},
		{good, good, mine.cert.NotBefore.Add(-time.Hour), step.InvalidSpec, "ec2_cert", "is valid only from"},
		{noise, good, time.Now(), step.InvalidSpec, "ec2_cert", "has no certificate"},
		{good, noise, time.Now(), step.InvalidSpec, "ec2_private_key", "has no RSA private key"},
		{filepath.Join(folder, "none"), good, time.Now(), step.NotFound, "ec2_cert", "no such file"},
		{good, filepath.Join(folder, "none"), time.Now(), step.NotFound, "ec2_private_key", "no such file"},
	} {
		_, err := readIdentity(c.cert, c.key, c.now)
		var e *step.Error
		if !errors.As(err, &e) || e.Kind != c.kind || e.Field != c.field || !strings.Contains(e.Error(), c.want) || strings.Contains(err.Error(), "c2VjcmV0") {
			t.Errorf("want %s: %v", c.want, err)
		}
	}
}

// EC2's certificates are Amazon's: each has signed itself. One is for each partition.
func TestCloudCertificates(t *testing.T) {
	bits := map[string]int{"eu-west-1": 1024, "us-gov-west-1": 1024, "cn-north-1": 2048}
	for region, want := range bits {
		key, err := cloudKey(region, "")
		if err != nil || key.N.BitLen() != want {
			t.Errorf("%s: %v", region, err)
		}
		user, err := ownIdentity(t.TempDir(), time.Now())
		no(t, err)
		bundled(t, &bundler{digest: "d1", size: 1, user: user, cloud: key}, []byte("x"))
	}
	if _, err := cloudKey("eu-west-1", "/none"); step.KindOf(err) != step.NotFound {
		t.Errorf("error %v", err)
	}
}
