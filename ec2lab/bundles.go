package ec2lab

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"math/big"
	"os"
	"path"
	"path/filepath"
	"sync"
	"time"
)

// cloudKey is EC2's private key, which opens bundles. It is that of all labs of a process.
var cloudKey = sync.OnceValues(func() (*rsa.PrivateKey, error) { return rsa.GenerateKey(rand.Reader, 1024) })

// CloudCertificate returns EC2's certificate as PEM, for those who make bundles. It expired
// long ago, as Amazon's has.
func (l *Lab) CloudCertificate() ([]byte, error) {
	key, err := cloudKey()
	if err != nil {
		return nil, err
	}
	was := time.Date(2006, 8, 9, 0, 0, 0, 0, time.UTC)
	like := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: was.AddDate(-1, 0, 0), NotAfter: was}
	der, err := x509.CreateCertificate(rand.Reader, like, like, &key.PublicKey, key)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), err
}

// Trust gives the account the signing certificate of a user, as PEM: IAM keeps these for
// bundles. A bundle that no such certificate has signed is refused.
func (l *Lab) Trust(text []byte) error {
	block, _ := pem.Decode(text)
	if block == nil {
		return errors.New("no PEM")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return err
	}
	key, ok := cert.PublicKey.(*rsa.PublicKey)
	if !ok {
		return errors.New("no RSA key")
	}
	l.set(func() { l.signers = append(l.signers, key) })
	return nil
}

// manifest is the manifest of a bundle.
type manifest struct {
	Version string `xml:"version"`
	Arch    string `xml:"machine_configuration>architecture"`
	Image   struct {
		User   string `xml:"user"`
		Type   string `xml:"type"`
		Digest string `xml:"digest"`
		Size   int64  `xml:"size"`
		Whole  int    `xml:"bundled_size"`
		Key    string `xml:"ec2_encrypted_key"`
		IV     string `xml:"ec2_encrypted_iv"`
		Parts  struct {
			Count int `xml:"count,attr"`
			Parts []struct {
				Name   string `xml:"filename"`
				Digest string `xml:"digest"`
			} `xml:"part"`
		} `xml:"parts"`
	} `xml:"image"`
	Signature string `xml:"signature"`
}

func badManifest(format string, a ...any) error { return refuse("InvalidManifest", format, a...) }

// fetch reads an object of a bundle as EC2 does.
func (l *Lab) fetch(bucket, key string) ([]byte, error) {
	url := "http://s3.amazonaws.com:80/" + bucket + "/" + key
	o, err := l.objectOf(bucket, key)
	var refused *refusal
	switch {
	case errors.As(err, &refused) && refused.status == 301:
		return nil, badManifest("HTTP 301 (Moved Permanently) response for URL %s: check your manifest path is correct and in the correct region.", url)
	case err != nil:
		return nil, badManifest("HTTP 404 (Not Found) response for URL %s: check your manifest path is correct and in the correct region.", url)
	case o.acl != "aws-exec-read":
		return nil, badManifest("HTTP 403 (Forbidden) response for URL %s: check your S3 ACLs are correct.", url)
	}
	return os.ReadFile(o.file)
}

// unbundle writes the image of a bundle to a file and returns its path. It refuses a bundle
// that is not as its manifest says. The lab is locked.
func (l *Lab) unbundle(location, arch string) (string, error) {
	bucket, key, ok := bytes.Cut([]byte(location), []byte("/"))
	if !ok {
		return "", badManifest("The manifest location %s is malformed.", location)
	}
	text, err := l.fetch(string(bucket), string(key))
	if err != nil {
		return "", err
	}
	var m manifest
	image := &m.Image
	switch err := xml.Unmarshal(text, &m); {
	case err != nil:
		return "", badManifest("The manifest is no XML: %s", err)
	case m.Version != "2007-10-10":
		return "", badManifest("Unsupported manifest version %s", m.Version)
	case m.Arch != arch, image.User != account, image.Type != "machine", image.Parts.Count != len(image.Parts.Parts):
		return "", badManifest("The manifest is of another architecture, user or type, or lacks parts")
	case !l.signed(text, m.Signature):
		return "", badManifest("The manifest's signature is wrong.")
	}
	var whole []byte
	for _, p := range image.Parts.Parts {
		part, err := l.fetch(string(bucket), path.Join(path.Dir(string(key)), p.Name))
		if err != nil {
			return "", err
		}
		if sum := sha1.Sum(part); hex.EncodeToString(sum[:]) != p.Digest {
			return "", badManifest("The digest of %s does not match.", p.Name)
		}
		whole = append(whole, part...)
	}
	secret, err := open(image.Key)
	if err != nil {
		return "", err
	}
	iv, err := open(image.IV)
	if err != nil {
		return "", err
	}
	block, err := aes.NewCipher(secret)
	if err != nil || len(iv) != aes.BlockSize || len(whole) != image.Whole || len(whole)%aes.BlockSize != 0 || len(whole) == 0 {
		return "", badManifest("The key, the IV or the size is wrong.")
	}
	cipher.NewCBCDecrypter(block, iv).CryptBlocks(whole, whole)
	whole = whole[:len(whole)-min(len(whole), int(whole[len(whole)-1]))]
	return l.unpack(whole, m)
}

// signed reports whether a user of the account has signed a manifest: the text of its
// elements machine_configuration and image, as it is.
func (l *Lab) signed(text []byte, signature string) bool {
	from, to := bytes.Index(text, []byte("<machine_configuration>")), bytes.Index(text, []byte("</image>"))
	sign, err := hex.DecodeString(signature)
	if from < 0 || to < from || err != nil {
		return false
	}
	sum := sha1.Sum(text[from : to+len("</image>")])
	for _, key := range l.signers {
		if rsa.VerifyPKCS1v15(key, crypto.SHA1, sum[:], sign) == nil {
			return true
		}
	}
	return false
}

// open decrypts a secret: it is hex within, and without.
func open(text string) ([]byte, error) {
	key, err := cloudKey()
	if err != nil {
		return nil, err
	}
	wrapped, _ := hex.DecodeString(text)
	inner, err := rsa.DecryptPKCS1v15(nil, key, wrapped) //nolint:staticcheck // the format's padding
	if err != nil {
		return nil, badManifest("The key is not encrypted for EC2.")
	}
	secret, err := hex.DecodeString(string(inner))
	if err != nil {
		return nil, badManifest("The key is no hexadecimal text.")
	}
	return secret, nil
}

// unpack writes the image of a compressed archive.
func (l *Lab) unpack(archive []byte, m manifest) (string, error) {
	zip, err := gzip.NewReader(bytes.NewReader(archive))
	if err != nil {
		return "", badManifest("The image is not compressed: %s", err)
	}
	sum := sha1.New()
	in := io.TeeReader(zip, sum)
	t := tar.NewReader(in)
	h, err := t.Next()
	if err != nil || h.Size != m.Image.Size {
		return "", badManifest("The archive has no image of %d bytes.", m.Image.Size)
	}
	f, err := os.Create(filepath.Join(l.dir, newID("bundle-")))
	if err != nil {
		return "", err
	}
	_, err = io.Copy(f, t)
	if err == nil {
		_, err = io.Copy(io.Discard, in)
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return "", badManifest("The archive is broken: %s", err)
	}
	if got := fmt.Sprintf("%x", sum.Sum(nil)); got != m.Image.Digest {
		return "", badManifest("The digest of the image does not match.")
	}
	return f.Name(), nil
}
