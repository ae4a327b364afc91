package xenserver

import (
	"context"
	"encoding/pem"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/morgana-deploy/morgana/step"
)

var discard = log.New(io.Discard, "", 0)

// told checks the kind and parts of the text of an error, and that it has no secret.
func told(t *testing.T, err error, kind step.Kind, parts ...string) {
	t.Helper()
	var e *step.Error
	require.ErrorAs(t, err, &e)
	assert.Equal(t, kind, e.Kind, err)
	for _, part := range parts {
		assert.Contains(t, e.Field+": "+e.Error()+"\n"+e.Hint, part)
	}
	for _, never := range []string{secret, session, "OpaqueRef"} {
		assert.NotContains(t, err.Error()+e.Hint, never)
	}
}

func TestCallsShareOneSession(t *testing.T) {
	h := newHost(t, func(method string, args []any) any {
		switch method {
		case "session.login_with_password":
			assert.Equal(t, []any{"root", secret, apiVersion, originator}, args)
		case "VM.get_record":
			assert.Equal(t, []any{session, "OpaqueRef:vm"}, args)
			return map[string]any{"name_label": "", "power_state": "Running", "other_config": map[string]any{"": "", "a": "1"}, "domid": "-1"}
		}
		return nil
	})
	var ps pools
	a := access{host: h.URL, user: "root", password: secret, fingerprints: [][32]byte{h.digest()}}
	var calls sync.WaitGroup
	for range 8 {
		calls.Go(func() {
			p, err := ps.connect(a)
			if assert.NoError(t, err) {
				vm, err := one[vmRecord](t.Context(), p, "VM", "OpaqueRef:vm")
				assert.NoError(t, err)
				assert.Equal(t, "Running", vm.PowerState)
				assert.Equal(t, "1", vm.OtherConfig["a"])
			}
		})
	}
	calls.Wait()
	require.NoError(t, ps.close(t.Context()))
	methods := strings.Join(h.called(), " ")
	assert.Equal(t, 1, strings.Count(methods, "session.login_with_password"))
	assert.True(t, strings.HasSuffix(methods, "session.logout"), methods)
}

func TestSessionIsRenewedOnce(t *testing.T) {
	var refused atomic.Int32
	for _, c := range []struct {
		times int32
		works bool
	}{{1, true}, {2, false}} {
		refused.Store(c.times)
		h := newHost(t, func(method string, args []any) any {
			if method == "VM.unpause" && refused.Add(-1) >= 0 {
				return refuse{"SESSION_INVALID", session}
			}
			return nil
		})
		err := h.pool(t).call(t.Context(), nil, "VM.unpause", ref("OpaqueRef:vm"))
		if c.works {
			require.NoError(t, err)
		} else {
			told(t, err, "", "the session has ended")
		}
		assert.Equal(t, []string{"session.login_with_password", "VM.unpause", "session.login_with_password", "VM.unpause"}, h.called())
	}
}

// The answer to a call that a later xapi does not have any more names no call.
func TestRemovedCallIsNamed(t *testing.T) {
	h := newHost(t, func(method string, args []any) any {
		if method == "VM.unpause" {
			return refuse{"MESSAGE_REMOVED"}
		}
		return nil
	})
	told(t, h.pool(t).call(t.Context(), nil, "VM.unpause", ref("OpaqueRef:vm")), step.Unsupported, "does not know VM.unpause")
}

func TestSlaveIsFollowedOnce(t *testing.T) {
	master := newHost(t, func(method string, args []any) any { return nil })
	slave := newHost(t, func(method string, args []any) any { return refuse{"HOST_IS_SLAVE", master.Listener.Addr().String()} })
	require.NoError(t, slave.pool(t, master).call(t.Context(), nil, "VM.unpause"))
	assert.Equal(t, []string{"session.login_with_password", "VM.unpause"}, master.called())

	// The master is not trusted because a member names it.
	told(t, slave.pool(t).call(t.Context(), nil, "VM.unpause"), step.Unauthorized, "is a member of a pool, and its master", fingerprint(master.digest()))
	assert.Len(t, master.called(), 2)

	second := newHost(t, func(method string, args []any) any { return refuse{"HOST_IS_SLAVE", slave.Listener.Addr().String()} })
	told(t, second.pool(t, slave).call(t.Context(), nil, "VM.unpause"), step.InvalidSpec, "host: ", "a member of a pool")
}

// A pool whose master ends gets another one: the host of the configuration knows it.
func TestMasterThatEndsIsForgotten(t *testing.T) {
	was := newHost(t, func(string, []any) any { return nil })
	is := newHost(t, func(string, []any) any { return nil })
	var at atomic.Value
	at.Store(was)
	slave := newHost(t, func(string, []any) any { return refuse{"HOST_IS_SLAVE", at.Load().(*host).Listener.Addr().String()} })
	p := slave.pool(t, was, is)
	require.NoError(t, p.call(t.Context(), nil, "VM.unpause"))
	at.Store(is)
	was.Close()
	told(t, p.call(t.Context(), nil, "VM.unpause"), "", was.Listener.Addr().String())
	require.NoError(t, p.call(t.Context(), nil, "VM.unpause"))
	assert.Equal(t, []string{"session.login_with_password", "VM.unpause"}, is.called())
}

func TestTrust(t *testing.T) {
	h := newHost(t, func(string, []any) any { return nil })
	own := filepath.Join(t.TempDir(), "own.pem")
	require.NoError(t, os.WriteFile(own, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: h.TLS.Certificates[0].Certificate[0]}), 0o600))
	other := filepath.Join(t.TempDir(), "other.pem")
	require.NoError(t, os.WriteFile(other, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: selfSigned(t).Certificate[0]}), 0o600))

	require.NoError(t, connected(t, access{host: h.URL, fingerprints: [][32]byte{{1}, h.digest()}}).call(t.Context(), nil, "VM.unpause"))
	require.NoError(t, connected(t, access{host: h.URL, ca: own}).call(t.Context(), nil, "VM.unpause"))
	seen := len(h.called())
	localhost, now := strings.Replace(h.URL, "127.0.0.1", "localhost", 1), fingerprint(h.digest())
	for name, c := range map[string]struct {
		access
		field, cure string
	}{
		"another pin":  {access{host: h.URL, fingerprints: [][32]byte{{1}}}, "fingerprint: ", `, set fingerprint: "` + fingerprint([32]byte{1}) + " " + now + `"`},
		"another CA":   {access{host: h.URL, ca: other}, "fingerprint: ", `, set fingerprint: "` + now + `" instead of ca, or add the certificate to the file`},
		"the system":   {access{host: h.URL}, "fingerprint: ", `, set fingerprint: "` + now + `"`},
		"another name": {access{host: localhost, ca: own}, "host: ", "set host to a name that the certificate has; or "},
		"both":         {access{host: localhost, ca: other}, "fingerprint: ", "instead of ca"},
	} {
		t.Run(name, func(t *testing.T) {
			told(t, connected(t, c.access).call(t.Context(), nil, "VM.unpause"), step.Unauthorized, c.field, "has a certificate that is not trusted", now, c.cure)
		})
	}
	assert.Len(t, h.called(), seen, "no password goes to a host that is not trusted")

	for name, path := range map[string]string{"no file": filepath.Join(t.TempDir(), "none"), "no certificate": "tls.go"} {
		t.Run(name, func(t *testing.T) {
			_, err := new(pools).connect(access{host: h.URL, ca: path})
			told(t, err, step.InvalidSpec, "ca: ")
		})
	}
}

func TestHostsThatAreNone(t *testing.T) {
	plain := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(plain.Close)
	for name, c := range map[string]struct {
		answer http.HandlerFunc
		url    string
		kind   step.Kind
		text   string
	}{
		"down":       {url: "https://127.0.0.1:1", text: "connection refused"},
		"no name":    {url: "https://xen1.invalid", text: "xen1.invalid"},
		"no TLS":     {url: "https://" + plain.Listener.Addr().String(), kind: step.InvalidSpec, text: "does not speak TLS"},
		"a web page": {answer: func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write([]byte("<html></html>")) }, kind: step.InvalidSpec, text: "does not answer as a XenAPI"},
		"no page":    {answer: http.NotFound, kind: step.InvalidSpec, text: "HTTP 404"},
		"a redirect": {answer: func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, plain.URL, http.StatusFound) }, kind: step.InvalidSpec, text: "HTTP 302"},
		"it starts":  {answer: func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) }, text: "HTTP 503"},
		"a cut answer": {answer: func(w http.ResponseWriter, r *http.Request) {
			_, _ = w.Write([]byte("<methodResponse><params><param><value><struct><member>"))
		}, text: "session.login_with_password"},
		"a fault": {answer: func(w http.ResponseWriter, r *http.Request) {
			_, _ = w.Write([]byte("<methodResponse><fault><value><struct><member><name>faultString</name><value>no such method</value></member></struct></value></fault></methodResponse>"))
		}, text: "no such method"},
		"a cut connection": {answer: func(w http.ResponseWriter, r *http.Request) { panic(http.ErrAbortHandler) }, text: "EOF"},
	} {
		t.Run(name, func(t *testing.T) {
			a := access{host: c.url, user: "root", password: secret}
			if c.answer != nil {
				s := httptest.NewTLSServer(c.answer)
				t.Cleanup(s.Close)
				s.Config.ErrorLog = discard
				a.host, a.fingerprints = s.URL, [][32]byte{(&host{Server: s}).digest()}
			}
			told(t, connected(t, a).call(t.Context(), nil, "VM.unpause"), c.kind, map[step.Kind]string{step.InvalidSpec: "host: "}[c.kind], c.text)
		})
	}
}

func TestCallEndsWithItsContext(t *testing.T) {
	quiet, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = quiet.Close() })
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	p := connected(t, access{host: "https://" + quiet.Addr().String()})
	told(t, p.call(ctx, nil, "VM.unpause"), "", "no answer in time")
	cancel()
	assert.ErrorIs(t, p.call(ctx, nil, "VM.unpause"), context.DeadlineExceeded)
}

// sees is a transport that sees a request, which fails.
type sees func(*http.Request)

func (s sees) RoundTrip(r *http.Request) (*http.Response, error) {
	s(r)
	return nil, io.ErrUnexpectedEOF
}

// A call that makes a VDI may take longer than others.
func TestTimeouts(t *testing.T) {
	for method, want := range map[string]time.Duration{"VDI.create": makeTimeout, "VDI.destroy": callTimeout} {
		var left time.Duration
		client := &http.Client{Transport: sees(func(r *http.Request) {
			if end, limited := r.Context().Deadline(); limited {
				left = time.Until(end)
			}
		})}
		told(t, post(t.Context(), client, &url.URL{Scheme: "https", Host: "xen1"}, nil, method), "", "EOF")
		assert.True(t, left <= want && left > want-time.Minute, "%s: %s", method, left)
	}
}

// Callers that come together share the outcome of one login.
func TestCallersShareAFailedLogin(t *testing.T) {
	var logins atomic.Int32
	all := make(chan struct{})
	h := newHost(t, func(method string, _ []any) any {
		logins.Add(1)
		<-all
		return refuse{"SESSION_AUTHENTICATION_FAILED"}
	})
	p := h.pool(t)
	var callers, wait sync.WaitGroup
	for range 4 {
		wait.Add(1)
		callers.Go(func() {
			_, err := p.enter(waiting{t.Context(), wait.Done})
			told(t, err, step.Unauthorized, "the user or the password")
		})
	}
	wait.Wait()
	close(all)
	callers.Wait()
	assert.EqualValues(t, 1, logins.Load())
}

// waiting is a context that tells when somebody waits for its end.
type waiting struct {
	context.Context
	tell func()
}

func (w waiting) Done() <-chan struct{} {
	w.tell()
	return w.Context.Done()
}

// A call that is cancelled keeps the session at a master that was followed. One that the master
// does not answer ends it.
func TestSessionAtAFollowedMaster(t *testing.T) {
	lost, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{}) // the call is
	master := newHost(t, func(method string, _ []any) any {
		switch method {
		case "VM.pause":
			cancel()
			<-ended
		case "VM.unpause":
			panic(http.ErrAbortHandler)
		}
		return nil
	})
	p := newHost(t, func(string, []any) any { return refuse{"HOST_IS_SLAVE", master.Listener.Addr().String()} }).pool(t, master)
	assert.ErrorIs(t, p.call(lost, nil, "VM.pause"), context.Canceled)
	close(ended)
	told(t, p.call(t.Context(), nil, "VM.unpause"), "", "EOF")
	assert.Equal(t, []string{"session.login_with_password", "VM.pause", "VM.unpause", "session.logout"}, master.called())
}

// A text that XML cannot carry is a mistake of the user's.
func TestCallThatCannotBeWritten(t *testing.T) {
	p := newHost(t, func(string, []any) any { return nil }).pool(t)
	told(t, p.call(t.Context(), nil, "VM.set_name_label", "a\x01"), step.InvalidSpec, "VM.set_name_label")
}

func TestAt(t *testing.T) {
	for _, c := range []struct{ first, address, want string }{
		{"https://xen1", "xen1", "https://xen1:443/"},
		{"https://[fd00::1]", "fd00::1", "https://[fd00::1]:443/"},
		{"https://xen1:8443/", "192.0.2.7", "https://192.0.2.7:8443/"},
		{"https://xen1:8443/", "192.0.2.7:443", "https://192.0.2.7:443/"},
		{"https://xen1", "fd00::1", "https://[fd00::1]:443/"},
	} {
		p, err := new(pools).connect(access{host: c.first})
		require.NoError(t, err)
		assert.Equal(t, c.want, at(p.first, c.address).String())
	}
}
