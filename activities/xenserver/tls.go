package xenserver

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"
)

// dialTimeout is how long a host may take to accept a connection.
const dialTimeout = 10 * time.Second

// trust is how the certificates of a pool's hosts are verified.
type trust struct {
	// pins are the SHA-256 digests of certificates. With pins nothing else is trusted.
	pins [][32]byte
	// roots are those of a CA; nil are the system's.
	roots *x509.CertPool
}

// untrusted is the error of a certificate that is not trusted.
type untrusted struct {
	host string // with its port
	seen [32]byte
	err  error // of the verification by roots; nil with pins
}

func (u untrusted) Error() string {
	text := fmt.Sprintf("%s has a certificate that is not trusted, with the SHA-256 fingerprint %s", u.host, fingerprint(u.seen))
	if u.err != nil {
		text += ": " + u.err.Error()
	}
	return text
}

func (u untrusted) Unwrap() error { return u.err }

// fingerprint writes a digest as openssl does: "AB:CD:...".
func fingerprint(digest [32]byte) string {
	return strings.ReplaceAll(fmt.Sprintf("% X", digest), " ", ":")
}

// dial connects to a host and verifies its certificate.
func (t *trust) dial(ctx context.Context, network, address string) (net.Conn, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	dialer := tls.Dialer{NetDialer: &net.Dialer{Timeout: dialTimeout}, Config: &tls.Config{
		ServerName: host,
		// Go's own verification knows no pins, and does not tell the fingerprint.
		InsecureSkipVerify: true,
		VerifyConnection:   func(state tls.ConnectionState) error { return t.verify(address, host, state.PeerCertificates) },
	}}
	return dialer.DialContext(ctx, network, address)
}

// verify returns an [untrusted] for certificates that are neither pinned nor signed by the roots.
func (t *trust) verify(address, host string, chain []*x509.Certificate) error {
	seen := sha256.Sum256(chain[0].Raw)
	if slices.Contains(t.pins, seen) {
		return nil
	}
	if len(t.pins) > 0 {
		return untrusted{address, seen, nil}
	}
	between := x509.NewCertPool()
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	if _, err := chain[0].Verify(x509.VerifyOptions{DNSName: host, Roots: t.roots, Intermediates: between}); err != nil {
		return untrusted{address, seen, err}
	}
	return nil
}
