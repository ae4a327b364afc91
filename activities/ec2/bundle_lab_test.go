package ec2

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"encoding/pem"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/morgana-deploy/morgana/ec2lab"
)

// forLab makes b's bundles ones that the lab opens.
func forLab(t *testing.T, b *bundler, lab *ec2lab.Lab) {
	t.Helper()
	text, err := lab.CloudCertificate()
	no(t, err)
	path := filepath.Join(t.TempDir(), "ec2.pem")
	no(t, os.WriteFile(path, text, 0o600))
	if b.cloud, err = cloudKey(lab.Region(), path); err != nil {
		t.Fatal(err)
	}
	no(t, lab.Trust(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: b.user.cert.Raw})))
}

// EC2 takes a bundle as it is, and refuses one with a changed part, manifest, key or ACL.
func TestLabRefusesAChangedBundle(t *testing.T) {
	environ(t)
	lab, err := ec2lab.Start(ec2lab.Options{Moment: time.Millisecond})
	no(t, err)
	defer func() {
		if err := lab.Close(); err != nil {
			t.Error(err)
		}
	}()
	lab.MakeBucket("mine", lab.Region(), "ObjectWriter")
	cfg, err := config.LoadDefaultConfig(t.Context(), config.WithBaseEndpoint(lab.URL()))
	no(t, err)
	image := incompressible(t, 1000)
	b, _ := newBundler(t, int64(len(image)))
	forLab(t, b, lab)
	stranger, err := ownIdentity(t.TempDir(), time.Now())
	no(t, err)
	other, err := rsa.GenerateKey(rand.Reader, 1024)
	no(t, err)
	replace := func(old, now string) func([]byte, []byte) []byte {
		return func(manifest, _ []byte) []byte { return regexp.MustCompile(old).ReplaceAll(manifest, []byte(now)) }
	}
	for i, c := range []struct {
		want   string
		bundle func(b *bundler)
		files  func(manifest, part []byte) []byte
		acl    types.ObjectCannedACL
		at     string
	}{
		{want: ""},
		{want: "digest of image.part.0", files: func(m, part []byte) []byte { part[20] ^= 1; return m }},
		{want: "signature is wrong", files: replace("<size>1000", "<size>1001")},
		{want: "signature is wrong", files: replace("<signature>..", "<signature>00")},
		{want: "signature is wrong", bundle: func(b *bundler) { b.user = stranger }},
		{want: "not encrypted for EC2", bundle: func(b *bundler) { b.cloud = &other.PublicKey }},
		{want: "another architecture", bundle: func(b *bundler) { b.account = "999999999999" }},
		{want: "manifest version", files: replace("2007-10-10", "2006-01-01")},
		{want: "no XML", files: replace("</manifest>", "")},
		{want: "HTTP 403", acl: types.ObjectCannedACLPrivate},
		{want: "HTTP 404", at: "mine/none.manifest.xml"},
	} {
		one := *b
		if c.bundle != nil {
			c.bundle(&one)
		}
		parts, manifest := bundled(t, &one, image)
		if c.files != nil {
			manifest = c.files(manifest, parts[0])
		}
		if c.acl == "" {
			c.acl = types.ObjectCannedACLAwsExecRead
		}
		for name, data := range map[string][]byte{"image.part.0": parts[0], manifestName: manifest} {
			no(t, failure(s3.NewFromConfig(cfg).PutObject(t.Context(), &s3.PutObjectInput{Bucket: aws.String("mine"), Key: aws.String("x/" + name), ACL: c.acl, Body: bytes.NewReader(data)})))
		}
		if c.at == "" {
			c.at = "mine/x/" + manifestName
		}
		_, err := ec2.NewFromConfig(cfg).RegisterImage(t.Context(), &ec2.RegisterImageInput{Name: aws.String("bundle " + string(rune('a'+i))), ImageLocation: &c.at,
			Architecture: "x86_64", VirtualizationType: aws.String("paravirtual"), KernelId: aws.String("aki-dc9ed9af")})
		if c.want == "" && err != nil || c.want != "" && (code(err) != "InvalidManifest" || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("want %q: %v", c.want, err)
		}
	}
}
