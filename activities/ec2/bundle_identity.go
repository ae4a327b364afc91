package ec2

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"embed"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/morgana-deploy/morgana/step"
)

// identity is a user's certificate and private key. They sign bundles and can open them.
type identity struct {
	cert *x509.Certificate
	key  *rsa.PrivateKey
}

// cloudCerts are EC2's own certificates, as Amazon's AMI tools have them in
// etc/ec2/amitools: cert-ec2.pem, cert-ec2-gov.pem and cert-ec2-cn-north-1.pem. They have
// expired, that of aws in 2006, and EC2 has never replaced them: they hold its public key.
//
//go:embed certs/*.pem
var cloudCerts embed.FS

// partition returns the name of AWS's partition of a region.
func partition(region string) string {
	switch {
	case strings.HasPrefix(region, "cn-"):
		return "aws-cn"
	case strings.HasPrefix(region, "us-gov-"):
		return "aws-us-gov"
	}
	return "aws"
}

// cloudKey returns EC2's public key, of the certificate at path if it is not empty.
func cloudKey(region, path string) (*rsa.PublicKey, error) {
	read := func() ([]byte, error) { return os.ReadFile(path) }
	if path == "" {
		read = func() ([]byte, error) { return cloudCerts.ReadFile("certs/" + partition(region) + ".pem") }
	}
	text, err := read()
	if err != nil {
		return nil, unreadableFile("cloud_cert", err)
	}
	cert, err := certificate("cloud_cert", path, text)
	if err != nil {
		return nil, err
	}
	return cert.PublicKey.(*rsa.PublicKey), nil
}

// certificate parses a certificate with an RSA key.
func certificate(field, path string, text []byte) (*x509.Certificate, error) {
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, step.Invalid(field, "an X.509 certificate as PEM", "%s: %w", path, err)
		}
		if _, ok := cert.PublicKey.(*rsa.PublicKey); !ok {
			return nil, step.Invalid(field, "a certificate of an RSA key: bundles have no other", "%s has a key of another kind", path)
		}
		return cert, nil
	}
	return nil, step.Invalid(field, "an X.509 certificate as PEM, which begins with -----BEGIN CERTIFICATE-----", "%s has no certificate", path)
}

// privateKey parses an RSA key.
func privateKey(field, path string, text []byte) (*rsa.PrivateKey, error) {
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		switch block.Type {
		case "RSA PRIVATE KEY":
			if key, err := x509.ParsePKCS1PrivateKey(block.Bytes); err == nil {
				return key, nil
			}
		case "PRIVATE KEY":
			if key, err := x509.ParsePKCS8PrivateKey(block.Bytes); err == nil {
				if key, ok := key.(*rsa.PrivateKey); ok {
					return key, nil
				}
			}
		}
	}
	// The parser's error might quote the file.
	return nil, step.Invalid(field, "an RSA key as PEM, without a passphrase", "%s has no RSA private key that can be read", path)
}

func unreadableFile(field string, err error) error {
	kind := step.InvalidSpec
	if errors.Is(err, fs.ErrNotExist) {
		kind = step.NotFound
	}
	return &step.Error{Kind: kind, Field: field, Err: err, Hint: "a path on the worker's host, which the worker's user may read"}
}

// readIdentity reads a certificate and the key that belongs to it.
func readIdentity(certPath, keyPath string, now time.Time) (*identity, error) {
	text, err := os.ReadFile(certPath)
	if err != nil {
		return nil, unreadableFile("ec2_cert", err)
	}
	cert, err := certificate("ec2_cert", certPath, text)
	if err != nil {
		return nil, err
	}
	if text, err = os.ReadFile(keyPath); err != nil {
		return nil, unreadableFile("ec2_private_key", err)
	}
	key, err := privateKey("ec2_private_key", keyPath, text)
	switch {
	case err != nil:
		return nil, err
	case !key.PublicKey.Equal(cert.PublicKey):
		return nil, step.Invalid("ec2_private_key", "name the key that the certificate was made with", "%s does not belong to the certificate %s", keyPath, certPath)
	case now.After(cert.NotAfter):
		return nil, step.Invalid("ec2_cert", "make a new one, or leave ec2_cert and ec2_private_key out: then one is made", "%s expired on %s", certPath, cert.NotAfter.UTC().Format(time.DateOnly))
	case now.Before(cert.NotBefore):
		return nil, step.Invalid("ec2_cert", "see that this host's clock is right", "%s is valid only from %s on", certPath, cert.NotBefore.UTC().Format(time.DateOnly))
	}
	return &identity{cert, key}, nil
}

// ownIdentity returns the worker's own identity, which is made once and kept in its state.
// No service knows it: EC2 needs the user's key only to be there.
func ownIdentity(folder string, now time.Time) (*identity, error) {
	path := filepath.Join(folder, "bundle.pem")
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		err = makeIdentity(folder, path, now)
		if err != nil && !errors.Is(err, fs.ErrExist) { // another call made it
			return nil, fmt.Errorf("make a certificate: %w", err)
		}
	}
	return readIdentity(path, path, now)
}

func makeIdentity(folder, path string, now time.Time) (err error) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return err
	}
	like := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "morgana"}, NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(30, 0, 0)}
	der, err := x509.CreateCertificate(rand.Reader, like, like, &key.PublicKey, key)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(folder, ".bundle-") // 0600
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(f.Name())) }()
	for _, block := range []*pem.Block{{Type: "CERTIFICATE", Bytes: der}, {Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}} {
		err = errors.Join(err, pem.Encode(f, block))
	}
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Link(f.Name(), path) // never replaces the file of another call
}

// name tells the identity from others, in the names of its bundles.
func (i *identity) name() string {
	sum := sha256.Sum256(i.cert.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:4])
}
