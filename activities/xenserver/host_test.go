package xenserver

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/xml"
	"fmt"
	"io"
	"maps"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const (
	secret  = "s3cret-passw0rd"
	session = "OpaqueRef:5e551011-aaaa-bbbb-cccc-0123456789ab"
)

// host is a host of a pool whose answers a test writes.
type host struct {
	*httptest.Server
	mu    sync.Mutex
	calls []string
}

// refuse is an answer of a host that is a failure.
type refuse []string

// newHost starts a host. answer returns the value of a method's result, or a refuse; nil is
// the host's own answer to a login.
func newHost(t *testing.T, answer func(method string, args []any) any) *host {
	t.Helper()
	h := &host{}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /{$}", func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		var doc node
		if xml.Unmarshal(body, &doc) != nil {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		method, args := doc.child("methodName").Text, []any{}
		for _, p := range doc.child("params").Children {
			args = append(args, p.child("value").walk())
		}
		h.mu.Lock()
		h.calls = append(h.calls, method)
		h.mu.Unlock()
		v := answer(method, args)
		if v == nil && method == "session.login_with_password" {
			v = session
		}
		answer := map[string]any{"Status": "Success", "Value": v}
		if no, ok := v.(refuse); ok {
			answer = map[string]any{"Status": "Failure", "ErrorDescription": []string(no)}
		}
		_, _ = w.Write(response(value(answer)))
	})
	h.Server = httptest.NewUnstartedServer(mux)
	h.TLS = &tls.Config{Certificates: []tls.Certificate{selfSigned(t)}}
	h.Config.ErrorLog = discard
	h.StartTLS()
	t.Cleanup(h.Close)
	return h
}

// called returns the methods that were called.
func (h *host) called() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.calls)
}

func (h *host) digest() [32]byte { return sha256.Sum256(h.TLS.Certificates[0].Certificate[0]) }

// pool returns the pool of a host whose certificate is pinned, with those of others.
func (h *host) pool(t *testing.T, others ...*host) *pool {
	t.Helper()
	a := access{host: h.URL, user: "root", password: secret, fingerprints: [][32]byte{h.digest()}}
	for _, o := range others {
		a.fingerprints = append(a.fingerprints, o.digest())
	}
	return connected(t, a)
}

func connected(t *testing.T, a access) *pool {
	t.Helper()
	var ps pools
	p, err := ps.connect(a)
	require.NoError(t, err)
	t.Cleanup(func() { _ = ps.close(context.Background()) })
	return p
}

// value writes a value as xapi does: strings without a type.
func value(v any) string {
	var b strings.Builder
	switch v := v.(type) {
	case nil:
	case string:
		_ = xml.EscapeText(&b, []byte(v))
	case bool:
		fmt.Fprintf(&b, "<boolean>%d</boolean>", map[bool]int{true: 1}[v])
	case []string:
		b.WriteString("<array><data>")
		for _, of := range v {
			b.WriteString(value(of))
		}
		b.WriteString("</data></array>")
	case map[string]any:
		b.WriteString("<struct>")
		for _, key := range slices.Sorted(maps.Keys(v)) {
			b.WriteString("<member><name>" + key + "</name>" + value(v[key]) + "</member>")
		}
		b.WriteString("</struct>")
	default:
		panic(fmt.Sprintf("%T", v))
	}
	return "<value>" + b.String() + "</value>"
}

func selfSigned(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	require.NoError(t, err)
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: serial, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true,
	}, &x509.Certificate{}, key.Public(), key)
	require.NoError(t, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}
