package xenserver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"reflect"
	"strings"
	"time"

	"github.com/morgana-deploy/morgana/step"
)

const (
	// callTimeout is the limit of one call. Long work is in tasks.
	callTimeout = 2 * time.Minute
	// makeTimeout is the limit of VDI.create: an SR may be slow, or busy with other VDIs. xapi makes
	// the VDI of a call that was given up too, and the next try makes another, as slowly.
	makeTimeout = 15 * time.Minute
	// maxAnswer is the limit of an answer: that of VDI.get_all_records of a large pool has
	// some 2 KiB for each VDI.
	maxAnswer = 64 << 20
)

// ref is a reference of an object of the pool, as "OpaqueRef:...".
type ref string

// null is the reference of no object.
const null ref = "OpaqueRef:NULL"

// client makes a client of HTTP that follows no redirect: it would send a session to a host
// that was not verified.
func (t *trust) client() *http.Client {
	return &http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			DialTLSContext: t.dial, MaxIdleConnsPerHost: 4,
			// A connection that the host has just ended costs a try of the step.
			IdleConnTimeout: 10 * time.Second,
			// Compression would hide the size of an answer.
			DisableCompression: true,
		},
	}
}

// post makes one call to a host, with the session among args. out is a pointer to the type
// of the result, nil if there is none. The error is an [apiError] if the host answered.
func post(ctx context.Context, client *http.Client, host *url.URL, out any, method string, args ...any) error {
	body, err := encode(method, args)
	if err != nil {
		return step.Invalid("", "", "%s: %w", method, err)
	}
	limit := callTimeout
	if method == "VDI.create" {
		limit = makeTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, host.String(), bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "text/xml")
	req.Header.Set("User-Agent", originator)
	resp, err := client.Do(req)
	if err != nil {
		return unreachable(host, err)
	}
	defer resp.Body.Close() //nolint:errcheck // only read
	if resp.StatusCode != http.StatusOK {
		return foreign(host, resp)
	}
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case err != nil:
		return unreachable(host, err)
	case len(answer) > maxAnswer:
		return fmt.Errorf("%s: the answer of %s has more than %d MiB", host.Host, method, maxAnswer>>20)
	}
	return result(host, method, answer, out)
}

// result decodes the answer of a call into out.
func result(host *url.URL, method string, answer []byte, out any) error {
	fields := []reflect.StructField{
		{Name: "Status", Type: reflect.TypeFor[string]()},
		{Name: "ErrorDescription", Type: reflect.TypeFor[[]string]()},
		{Name: "Fault", Type: reflect.TypeFor[string](), Tag: `xmlrpc:"faultString"`},
	}
	if out != nil {
		fields = append(fields, reflect.StructField{Name: "Value", Type: reflect.TypeOf(out).Elem()})
	}
	got := reflect.New(reflect.StructOf(fields))
	if err := decode(answer, got.Interface()); err != nil {
		return unreadable(host, method, answer, err)
	}
	switch status := got.Elem().Field(0).String(); {
	case status == "Success" && out != nil:
		reflect.ValueOf(out).Elem().Set(got.Elem().FieldByName("Value"))
		return nil
	case status == "Success":
		return nil
	case status == "Failure":
		refused := newAPIError(got.Elem().Field(1).Interface().([]string))
		if strings.HasPrefix(refused.code, "MESSAGE_") && len(refused.params) == 0 {
			refused.params = []string{method}
		}
		return refused
	}
	return unreadable(host, method, answer, errors.New("no status "+got.Elem().FieldByName("Fault").String()))
}

// at returns the URL of another host of the pool. It has the port of the first unless the
// address has one.
func at(first *url.URL, address string) *url.URL {
	u := &url.URL{Scheme: first.Scheme, Host: address, Path: "/"}
	if _, _, err := net.SplitHostPort(address); err == nil {
		return u
	}
	port := first.Port()
	if port == "" {
		port = "443"
	}
	u.Host = net.JoinHostPort(address, port)
	return u
}
