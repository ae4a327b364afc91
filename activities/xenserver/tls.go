package xenserver

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// dialTimeout is how long a host may take to accept a connection.
const dialTimeout = 10 * time.Second

// trust is how the certificates of a pool's hosts are verified.
type trust struct {
	// pins are the SHA-256 digests of certificates. With pins roots are not used.
	pins [][32]byte
	// roots are those of a CA; nil are the system's.
	roots *x509.CertPool

	mu   sync.Mutex
	told [][32]byte // digests of the members' certificates, by the master's word
}

// knows reports whether a certificate is pinned or the master has told it.
func (t *trust) knows(digest [32]byte) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Contains(t.pins, digest) || slices.Contains(t.told, digest)
}

// untrusted is the error of a certificate that is not trusted.
type untrusted struct {
	host string // with its port
	seen [32]byte
	err  error // of the verification by roots; nil with pins
	// cure says what to set if the certificate is the host's own.
	cure string
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

// fingerprints writes digests as option fingerprint has them in YAML.
func fingerprints(digests [][32]byte) string {
	var all []string
	for _, d := range digests {
		all = append(all, fingerprint(d))
	}
	return strconv.Quote(strings.Join(all, " "))
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
	if t.knows(seen) {
		return nil
	}
	if len(t.pins) > 0 {
		return untrusted{address, seen, nil, "set fingerprint: " + fingerprints(append(slices.Clone(t.pins), seen))}
	}
	between := x509.NewCertPool()
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	signed := x509.VerifyOptions{Roots: t.roots, Intermediates: between}
	cure := "set fingerprint: " + fingerprints([][32]byte{seen})
	if t.roots != nil {
		cure += " instead of ca, or add the certificate to the file that ca names"
	}
	if _, err := chain[0].Verify(signed); err != nil {
		return untrusted{address, seen, err, cure}
	}
	if err := chain[0].VerifyHostname(host); err != nil {
		return untrusted{address, seen, err, cure}
	}
	return nil
}

// dial connects to a host of the pool. A host that the configuration does not trust may be
// one of those whose certificates the master tells.
func (p *pool) dial(ctx context.Context, host *url.URL) (net.Conn, error) {
	conn, err := p.trust.dial(ctx, "tcp", host.Host)
	if err == nil || !errors.As(err, new(untrusted)) {
		return conn, err
	}
	certificates, told := all[certificateRecord](ctx, p, "Certificate")
	if told != nil {
		return nil, err // a pool of before XenServer 8 has none
	}
	var digests [][32]byte
	for _, c := range certificates {
		if digest, bad := hex.DecodeString(strings.ReplaceAll(c.Fingerprint, ":", "")); bad == nil && len(digest) == sha256.Size && c.Type != "ca" {
			digests = append(digests, [32]byte(digest))
		}
	}
	p.trust.mu.Lock()
	p.trust.told = digests
	p.trust.mu.Unlock()
	return p.trust.dial(ctx, "tcp", host.Host)
}
