package xenserver

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"testing"

	"github.com/morgana-deploy/morgana/step"
	"github.com/morgana-deploy/morgana/xapilab"
)

// between is a proxy before the lab's master.
type between struct {
	*httptest.Server
	lab    *xapilab.Lab
	before func(method string)                       // sees each call before the lab does; may be nil
	after  func(method, answer string) (sent string) // may change its answer; may be nil
}

var methodOf = regexp.MustCompile(`<methodName>(.*?)</methodName>`)

func newBetween(t testing.TB, lab *xapilab.Lab) *between {
	x := &between{lab: lab}
	to, err := url.Parse(lab.URL)
	if err != nil {
		t.Fatal(err)
	}
	trusting := &tls.Config{InsecureSkipVerify: true} //nolint:gosec // of the lab
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: trusting}}
	t.Cleanup(client.CloseIdleConnections)
	x.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost {
			relay(w, r, func() (*tls.Conn, error) { return tls.Dial("tcp", to.Host, trusting) })
			return
		}
		body, _ := io.ReadAll(r.Body) // the lab refuses half a call
		method := ""
		if found := methodOf.FindSubmatch(body); found != nil {
			method = string(found[1])
		}
		if x.before != nil {
			x.before(method)
		}
		resp, err := client.Post(lab.URL, "text/xml", bytes.NewReader(body))
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		defer resp.Body.Close() //nolint:errcheck // only read
		answer, err := io.ReadAll(resp.Body)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		if x.after != nil {
			answer = []byte(x.after(method, string(answer)))
		}
		_, _ = w.Write(answer) // the client may be gone
	}))
	x.StartTLS()
	t.Cleanup(x.Close)
	return x
}

// relay passes on a request whose connection then carries something else.
func relay(w http.ResponseWriter, r *http.Request, dial func() (*tls.Conn, error)) {
	conn, in, err := w.(http.Hijacker).Hijack()
	if err != nil {
		return
	}
	defer conn.Close() //nolint:errcheck // it carries nothing more
	to, err := dial()
	if err != nil {
		return
	}
	defer to.Close() //nolint:errcheck // likewise
	length := ""
	if r.ContentLength > 0 {
		length = fmt.Sprintf("Content-Length: %d\r\n", r.ContentLength)
	}
	_, _ = fmt.Fprintf(to, "%s %s HTTP/1.1\r\nHost: lab\r\nConnection: close\r\n%s\r\n", r.Method, r.RequestURI, length)
	go func() { _, _ = io.Copy(to, in); _ = to.CloseWrite() }()
	_, _ = io.Copy(conn, to)
}

// through returns the registration of a rollout that reaches the lab by the proxy.
func (x *between) through(r step.Registration) step.Registration {
	r.Spec.Options = x.options(r.Spec.Options)
	return r
}

// options returns options with the proxy as host.
func (x *between) options(of json.RawMessage) json.RawMessage {
	var o map[string]any
	if err := json.Unmarshal(of, &o); err != nil {
		panic(err)
	}
	o["host"], o["profile"] = x.URL, profile(x.URL)
	o["fingerprint"] = fingerprint(sha256.Sum256(x.Certificate().Raw)) + " " + x.lab.Fingerprint + " " + x.lab.MemberFingerprint
	return must(json.Marshal(o))
}
