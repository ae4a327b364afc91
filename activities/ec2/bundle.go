package ec2

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1" //nolint:gosec // the format's digest
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/xml"
	"errors"
	"fmt"
	"hash"
	"io"
	"time"

	"github.com/morgana-deploy/morgana/files"
)

// A bundle is the form of an S3-backed AMI: the image is put into a tar archive, compressed
// by gzip, encrypted by AES-128-CBC and cut into parts. An XML manifest has the digest of
// each part, and the key twice: encrypted for EC2 and for the user. Amazon's AMI tools
// defined it in 2007.

const (
	// manifestVersion is the one version that EC2 reads.
	manifestVersion = "2007-10-10"
	// bundlePartSize is the size of each part but the last.
	bundlePartSize = 10 << 20
	// bundleName is the image's name in the tar archive, and begins the names of the parts.
	bundleName   = "image"
	manifestName = bundleName + ".manifest.xml"
)

// bundler makes the bundle of an image.
type bundler struct {
	account string
	arch    string // EC2's word
	kernel  string // AKI
	digest  string // of the image: one key for each image
	size    int64
	user    *identity
	cloud   *rsa.PublicKey // EC2's
}

// bundlePart is a part of a bundle.
type bundlePart struct {
	name string
	data []byte // valid until the next part
	sha1 string
}

// write hands the parts of the bundle of image to put, one after another, and returns the
// manifest. The same image and user give the same parts. Memory does not depend on the
// image's size.
func (b *bundler) write(ctx context.Context, image io.Reader, put func(p bundlePart) error) ([]byte, error) {
	key, err := b.secret("key")
	if err != nil {
		return nil, err
	}
	iv, err := b.secret("iv")
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	parts := &splitter{put: put, buf: make([]byte, 0, bundlePartSize)}
	enc := &encrypter{mode: cipher.NewCBCEncrypter(block, iv), to: parts}
	zip := gzip.NewWriter(enc)
	sum := sha1.New() //nolint:gosec // the format's digest
	archive := tar.NewWriter(io.MultiWriter(zip, sum))
	// Everything but the size is constant.
	err = archive.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: bundleName, Mode: 0o644, Size: b.size, ModTime: time.Unix(0, 0), Format: tar.FormatGNU})
	if err == nil {
		_, err = files.Copy(ctx, archive, image)
	}
	for _, end := range []func() error{archive.Close, zip.Close, enc.close, parts.close} {
		if err != nil {
			return nil, err
		}
		err = end()
	}
	if err != nil {
		return nil, err
	}
	return b.manifest(key, iv, sum, parts)
}

// secret derives the key or the IV from the user's private key: nobody else can, and a later
// try makes the same parts.
func (b *bundler) secret(what string) ([]byte, error) {
	return hkdf.Key(sha256.New, x509.MarshalPKCS1PrivateKey(b.user.key), nil, "morgana bundle "+what+" "+b.digest, aes.BlockSize)
}

// encrypter encrypts whole blocks, and pads the last one as PKCS#7 says.
type encrypter struct {
	mode cipher.BlockMode
	to   io.Writer
	rest []byte
}

func (e *encrypter) Write(p []byte) (int, error) {
	e.rest = append(e.rest, p...)
	n := len(e.rest) / aes.BlockSize * aes.BlockSize
	e.mode.CryptBlocks(e.rest[:n], e.rest[:n])
	_, err := e.to.Write(e.rest[:n])
	e.rest = append(e.rest[:0], e.rest[n:]...)
	return len(p), err
}

func (e *encrypter) close() error {
	pad := aes.BlockSize - len(e.rest)%aes.BlockSize
	for range pad {
		e.rest = append(e.rest, byte(pad))
	}
	_, err := e.Write(nil)
	return err
}

// splitter cuts a stream into parts.
type splitter struct {
	put   func(p bundlePart) error
	buf   []byte
	size  int64
	parts []manifestPart
}

func (s *splitter) Write(p []byte) (n int, err error) {
	for len(p) > 0 && err == nil {
		k := min(len(p), bundlePartSize-len(s.buf))
		s.buf, p, n = append(s.buf, p[:k]...), p[k:], n+k
		if len(s.buf) == bundlePartSize {
			err = s.close()
		}
	}
	return n, err
}

// close ends a part.
func (s *splitter) close() error {
	if len(s.buf) == 0 {
		return nil
	}
	sum := sha1.Sum(s.buf) //nolint:gosec // the format's digest
	p := bundlePart{fmt.Sprintf("%s.part.%d", bundleName, len(s.parts)), s.buf, hex.EncodeToString(sum[:])}
	s.parts = append(s.parts, manifestPart{Index: len(s.parts), Name: p.name, Digest: digested{"SHA1", p.sha1}})
	s.size += int64(len(s.buf))
	err := s.put(p)
	s.buf = s.buf[:0]
	return err
}

// digested is a text with the algorithm that made it.
type digested struct {
	Algorithm string `xml:"algorithm,attr"`
	Text      string `xml:",chardata"`
}

type manifestPart struct {
	Index  int      `xml:"index,attr"`
	Name   string   `xml:"filename"`
	Digest digested `xml:"digest"`
}

type manifestParts struct {
	Count int            `xml:"count,attr"`
	Parts []manifestPart `xml:"part"`
}

// manifestImage is the element image of a manifest. Readers of old care for the order.
type manifestImage struct {
	XMLName     xml.Name      `xml:"image"`
	Name        string        `xml:"name"`
	User        string        `xml:"user"`
	Type        string        `xml:"type"`
	Digest      digested      `xml:"digest"` // of the tar archive
	Size        int64         `xml:"size"`
	BundledSize int64         `xml:"bundled_size"`
	CloudKey    digested      `xml:"ec2_encrypted_key"`
	UserKey     digested      `xml:"user_encrypted_key"`
	CloudIV     string        `xml:"ec2_encrypted_iv"`
	UserIV      string        `xml:"user_encrypted_iv"`
	Parts       manifestParts `xml:"parts"`
}

type manifestMachine struct {
	XMLName xml.Name `xml:"machine_configuration"`
	Arch    string   `xml:"architecture"`
	Kernel  string   `xml:"kernel_id,omitempty"`
}

// manifest returns the signed manifest. The key and the IV are encrypted with random
// padding, so it differs each time.
func (b *bundler) manifest(key, iv []byte, sum hash.Hash, parts *splitter) ([]byte, error) {
	var failed error
	wrap := func(secret []byte, to *rsa.PublicKey) string {
		// As hex: so the AMI tools have it.
		text, err := rsa.EncryptPKCS1v15(rand.Reader, to, []byte(hex.EncodeToString(secret))) //nolint:staticcheck // the format's padding
		failed = errors.Join(failed, err)
		return hex.EncodeToString(text)
	}
	const algorithm = "AES-128-CBC"
	user := &b.user.key.PublicKey
	machine, err := xml.Marshal(manifestMachine{Arch: b.arch, Kernel: b.kernel})
	if err != nil {
		return nil, err
	}
	image, err := xml.Marshal(manifestImage{
		Name: bundleName, User: b.account, Type: "machine", Digest: digested{"SHA1", hex.EncodeToString(sum.Sum(nil))}, Size: b.size, BundledSize: parts.size,
		CloudKey: digested{algorithm, wrap(key, b.cloud)}, UserKey: digested{algorithm, wrap(key, user)}, CloudIV: wrap(iv, b.cloud), UserIV: wrap(iv, user),
		Parts: manifestParts{len(parts.parts), parts.parts},
	})
	if err := errors.Join(err, failed); err != nil {
		return nil, err
	}
	signed := append(machine, image...)
	digest := sha1.Sum(signed) //nolint:gosec // the format's digest
	signature, err := rsa.SignPKCS1v15(rand.Reader, b.user.key, crypto.SHA1, digest[:])
	if err != nil {
		return nil, err
	}
	return fmt.Appendf(nil, "%s<manifest><version>%s</version><bundler><name>morgana</name><version>1</version><release></release></bundler>%s<signature>%x</signature></manifest>\n",
		xml.Header, manifestVersion, signed, signature), nil
}
