package ec2lab

import (
	"crypto/md5" //nolint:gosec // EC2 has this fingerprint
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"math/big"
	"strings"
)

// keyPair is a key pair.
type keyPair struct {
	base
	ID          string `xml:"keyPairId" filter:"key-pair-id"`
	Name        string `xml:"keyName" filter:"key-name"`
	Fingerprint string `xml:"keyFingerprint" filter:"fingerprint"`
	Type        string `xml:"keyType"`

	public string // as OpenSSH has it
}

var keyPairs = kind{
	word: "key-pair", param: "KeyName", also: "KeyPairId", set: "keySet",
	missing: "InvalidKeyPair.NotFound", text: "The key pair '%s' does not exist",
}

func (k *keyPair) kind() *kind   { return &keyPairs }
func (k *keyPair) id() string    { return k.Name }
func (k *keyPair) label() string { return k.ID }
func (k *keyPair) line() string {
	if k.asked == "" { // it was there from the start
		return ""
	}
	return "key-pair " + k.Name
}

func importKeyPair(r *request) (*keyPair, error) {
	k := &keyPair{ID: newID("key-"), Name: r.get("KeyName")}
	text, err := base64.StdEncoding.DecodeString(r.get("PublicKeyMaterial"))
	if err != nil {
		return nil, refuse("InvalidKey.Format", "Key is not in valid OpenSSH public key format")
	}
	k.public = strings.TrimSpace(string(text))
	if k.Type, k.Fingerprint, err = readPublicKey(k.public); err != nil {
		return nil, refuse("InvalidKey.Format", "Key is not in valid OpenSSH public key format: %v", err)
	}
	if k.Name == "" || len(k.Name) > 255 || !ascii(k.Name) {
		return nil, refuse("InvalidParameterValue", "Value (%s) for parameter KeyName is invalid.", k.Name)
	}
	for o := range kept[*keyPair](r.lab) {
		if o.Name == k.Name {
			return nil, refuse("InvalidKeyPair.Duplicate", "The keypair already exists")
		}
	}
	return k, nil
}

func (k *keyPair) answer() any {
	return struct {
		ID          string `xml:"keyPairId"`
		Name        string `xml:"keyName"`
		Fingerprint string `xml:"keyFingerprint"`
		Tags        tagSet `xml:"tagSet"`
	}{k.ID, k.Name, k.Fingerprint, k.Tags}
}

// readPublicKey returns the type of a public key of OpenSSH and its fingerprint as EC2 says
// it of an imported key: for RSA the MD5 of the DER form, for Ed25519 the SHA-256.
func readPublicKey(text string) (of, fingerprint string, err error) {
	fields := strings.Fields(text)
	if len(fields) < 2 {
		return "", "", errors.New("it has no type and key")
	}
	blob, err := base64.StdEncoding.DecodeString(fields[1])
	if err != nil {
		return "", "", err
	}
	var parts [][]byte
	for rest := blob; len(rest) > 0; {
		if len(rest) < 4 || uint64(binary.BigEndian.Uint32(rest)) > uint64(len(rest)-4) {
			return "", "", errors.New("it is cut off")
		}
		n := 4 + binary.BigEndian.Uint32(rest)
		parts, rest = append(parts, rest[4:n]), rest[n:]
	}
	switch {
	case len(parts) == 0 || string(parts[0]) != fields[0]:
		return "", "", errors.New("its type is another")
	case fields[0] == "ssh-ed25519" && len(parts) == 2 && len(parts[1]) == 32:
		sum := sha256.Sum256(blob)
		return "ed25519", base64.StdEncoding.EncodeToString(sum[:]), nil
	case fields[0] == "ssh-rsa" && len(parts) == 3:
		key := &rsa.PublicKey{N: new(big.Int).SetBytes(parts[2]), E: int(new(big.Int).SetBytes(parts[1]).Int64())}
		if n := key.N.BitLen(); n != 1024 && n != 2048 && n != 4096 {
			return "", "", fmt.Errorf("it has %d bits, not 1024, 2048 or 4096", n)
		}
		der, err := x509.MarshalPKIXPublicKey(key)
		sum := md5.Sum(der) //nolint:gosec // EC2 has this fingerprint
		return "rsa", strings.ReplaceAll(fmt.Sprintf("% x", sum), " ", ":"), err
	}
	return "", "", fmt.Errorf("EC2 takes no key of type %s", fields[0])
}

// deleteKeyPair succeeds without the key pair as well.
func deleteKeyPair(r *request) (any, error) {
	answer, err := remove(func(*request, *keyPair) error { return nil }).do(r)
	if err != nil && err.Error() == keyPairs.notFound(r.or("KeyName", r.get("KeyPairId"))).Error() {
		return done, r.dry()
	}
	return answer, err
}
