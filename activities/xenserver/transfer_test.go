package xenserver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/morgana-deploy/morgana/step"
)

func task(status, result string, info ...string) map[string]any {
	return map[string]any{"status": status, "progress": "0.5", "result": result, "error_info": info}
}

func TestAwait(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		tasks []map[string]any
		want  string
		err   string
		kind  step.Kind
	}{
		"success":      {[]map[string]any{task("pending", ""), task("pending", ""), task("success", "<value>OpaqueRef:vm</value>")}, "OpaqueRef:vm", "", ""},
		"no result":    {[]map[string]any{task("success", "")}, "", "", ""},
		"empty result": {[]map[string]any{task("success", "<value></value>")}, "", "", ""},
		"failure":      {[]map[string]any{task("pending", ""), task("failure", "", "SR_FULL", "2097152", "1048576")}, "", "the disk needs 2 MiB", step.NoSpace},
		"cancelled":    {[]map[string]any{task("cancelling", ""), task("cancelled", "")}, "", "another user has cancelled the task", ""},
		"lost answers": {[]map[string]any{nil, nil, task("pending", ""), nil, task("success", "<value>OpaqueRef:vm</value>")}, "OpaqueRef:vm", "", ""},
		"a new status": {[]map[string]any{task("exploded", "", "INTERNAL_ERROR", "why")}, "", "why", ""},
	} {
		t.Run(name, func(t *testing.T) {
			left, destroys := c.tasks, 0
			h := newHost(t, func(method string, args []any) any {
				if method == "task.destroy" {
					if destroys++; destroys == 1 { // the verdict is not lost with this answer
						panic(http.ErrAbortHandler)
					}
				}
				if method != "task.get_record" {
					return nil
				}
				now := left[0]
				if left = left[1:]; now == nil {
					panic(http.ErrAbortHandler)
				}
				return now
			})
			var done []float64
			got, err := h.pool(t).await(t.Context(), "OpaqueRef:task", func(f float64) { done = append(done, f) })
			if c.err == "" {
				require.NoError(t, err)
			} else {
				told(t, err, c.kind, c.err)
			}
			assert.Equal(t, c.want, got)
			asked := slices.DeleteFunc(slices.Clone(c.tasks), func(t map[string]any) bool { return t == nil })
			assert.Len(t, done, len(asked)-1)
			assert.Equal(t, 2, destroys)
		})
	}
}

// A host that is gone is not asked for ever.
func TestAwaitGivesUp(t *testing.T) {
	t.Parallel()
	h := newHost(t, func(method string, args []any) any {
		if method == "task.get_record" {
			panic(http.ErrAbortHandler)
		}
		return nil
	})
	_, err := h.pool(t).await(t.Context(), "OpaqueRef:task", nil)
	told(t, err, "", "EOF")
	assert.Equal(t, maxMissed+1, strings.Count(strings.Join(h.called(), " "), "task.get_record"))
}

// importer is the import of a host. It acts as xapi: 200 before the body, and the verdict is
// in the task.
type importer struct {
	mu     sync.Mutex
	status string // of the task
	info   []string
	got    bytes.Buffer
	query  string
	header http.Header

	redirect string // the other host's URL
	code     int    // instead of 200
	cut      int64  // the connection ends after so many bytes
}

func (i *importer) answer(method string, _ []any) any {
	i.mu.Lock()
	defer i.mu.Unlock()
	switch method {
	case "task.create":
		i.status = "pending"
		return "OpaqueRef:task"
	case "task.get_record":
		return task(i.status, "", i.info...)
	}
	return nil
}

func (i *importer) serve(w http.ResponseWriter, r *http.Request, verdict *importer) {
	switch {
	case i.redirect != "":
		w.Header().Set("Location", i.redirect+r.URL.RequestURI())
		w.WriteHeader(http.StatusFound)
		return
	case i.code != 0:
		w.WriteHeader(i.code)
		return
	}
	conn, in, err := w.(http.Hijacker).Hijack()
	if err != nil {
		panic(err)
	}
	defer func() { _ = conn.Close() }()
	_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nConnection: close\r\nCache-Control: no-cache, no-store\r\n\r\n")
	time.Sleep(20 * time.Millisecond) // a client that takes the 200 for the end is gone by now
	i.mu.Lock()
	defer i.mu.Unlock()
	i.query, i.header = r.URL.RawQuery, r.Header
	n, _ := io.CopyN(&i.got, in, min(r.ContentLength, max(i.cut, 0)+(1<<40)*map[bool]int64{true: 1}[i.cut == 0]))
	end, info := "success", []string(nil)
	if n < r.ContentLength {
		end, info = "failure", []string{"VDI_IO_ERROR", "Device I/O errors"}
	}
	if verdict == i {
		i.status, i.info = end, info
		return
	}
	verdict.mu.Lock()
	defer verdict.mu.Unlock()
	verdict.status, verdict.info = end, info
}

func newImporter(t *testing.T, i, verdict *importer) *host {
	t.Helper()
	h := newHost(t, i.answer)
	h.Config.Handler.(*http.ServeMux).HandleFunc("PUT /import_raw_vdi", func(w http.ResponseWriter, r *http.Request) { i.serve(w, r, verdict) })
	return h
}

// bodyOf is a body that tells how often it was opened.
func bodyOf(b []byte, opened *int) func() (io.ReadCloser, error) {
	return func() (io.ReadCloser, error) { *opened++; return io.NopCloser(bytes.NewReader(b)), nil }
}

func TestUpload(t *testing.T) {
	b := bytes.Repeat([]byte("0123456789abcdef"), 200_000)
	size := int64(len(b))
	verdict := &importer{}
	h := newImporter(t, verdict, verdict)
	var opened int
	var sent []int64
	require.NoError(t, h.pool(t).upload(t.Context(), "OpaqueRef:vdi", "morgana-hello", "vhd", size, bodyOf(b, &opened), func(n int64) { sent = append(sent, n) }))
	assert.True(t, bytes.Equal(b, verdict.got.Bytes()))
	assert.Equal(t, "format=vhd&session_id="+strings.ReplaceAll(session, ":", "%3A")+"&task_id=OpaqueRef%3Atask&vdi=OpaqueRef%3Avdi", verdict.query)
	assert.Empty(t, verdict.header["Transfer-Encoding"])
	assert.Equal(t, fmt.Sprint(size), verdict.header.Get("Content-Length"))
	assert.Equal(t, 1, opened)
	assert.Greater(t, len(sent), 10)
	assert.Equal(t, size, sent[len(sent)-1])
	assert.Equal(t, "task.destroy", h.called()[len(h.called())-1])
}

// A redirect is followed to a host whose certificate is pinned, or that the master tells.
func TestUploadIsRedirected(t *testing.T) {
	for name, c := range map[string]struct {
		pinned, told bool
	}{"pinned": {true, false}, "told": {false, true}, "neither": {}} {
		t.Run(name, func(t *testing.T) {
			first := &importer{}
			second := &importer{}
			member := newImporter(t, second, first)
			first.redirect = member.URL
			var master *host
			master = newHost(t, func(method string, args []any) any {
				switch {
				case method == "Certificate.get_all_records" && c.told:
					return map[string]any{"OpaqueRef:c": map[string]any{"type": "host", "fingerprint": fingerprint(member.digest())}}
				case method == "Certificate.get_all_records":
					return map[string]any{"OpaqueRef:c": map[string]any{"type": "host", "fingerprint": fingerprint(master.digest())},
						"OpaqueRef:d": map[string]any{"type": "ca", "fingerprint": fingerprint(member.digest())}}
				}
				return first.answer(method, args)
			})
			master.Config.Handler.(*http.ServeMux).HandleFunc("PUT /import_raw_vdi", func(w http.ResponseWriter, r *http.Request) { first.serve(w, r, first) })
			p := master.pool(t)
			if c.pinned {
				p = master.pool(t, member)
			}
			var opened int
			err := p.upload(t.Context(), "OpaqueRef:vdi", "morgana-hello", "raw", 5, bodyOf([]byte("hello"), &opened), func(int64) {})
			assert.Contains(t, master.called(), "task.destroy")
			if !c.pinned && !c.told {
				told(t, err, step.Unauthorized, "fingerprint: ", fingerprint(member.digest()))
				assert.Zero(t, opened)
				return
			}
			require.NoError(t, err)
			assert.Equal(t, "hello", second.got.String())
			assert.Contains(t, second.query, "task_id=OpaqueRef%3Atask")
			assert.Equal(t, 1, opened)
		})
	}
}

func TestUploadFails(t *testing.T) {
	plain := "http://127.0.0.1:1"
	big := make([]byte, 8<<20)
	for name, c := range map[string]struct {
		host *importer
		body io.Reader
		kind step.Kind
		text string
	}{
		"another session": {&importer{code: http.StatusUnauthorized}, nil, "", "HTTP 401"},
		"another role":    {&importer{code: http.StatusForbidden}, nil, step.Unauthorized, "HTTP 403"},
		"no such VDI":     {&importer{code: http.StatusInternalServerError}, nil, "", "HTTP 500"},
		"not by HTTPS":    {&importer{redirect: plain}, nil, "", "HTTP 302"},
		"a cut":           {&importer{cut: 1 << 20}, nil, "", "could not write the disk"},
		"a cut at once":   {&importer{cut: -1}, nil, "", "could not write the disk"},
		"a short body":    {&importer{}, bytes.NewReader(big[:1<<20]), "", "could not write the disk"},
	} {
		t.Run(name, func(t *testing.T) {
			i := c.host
			h := newImporter(t, i, i)
			if c.body == nil {
				c.body = bytes.NewReader(big)
			}
			p := h.pool(t)
			err := p.upload(t.Context(), "OpaqueRef:vdi", "morgana-hello", "raw", int64(len(big)),
				func() (io.ReadCloser, error) { return io.NopCloser(c.body), nil }, func(int64) {})
			told(t, err, c.kind, c.text)
			assert.Contains(t, h.called(), "task.destroy")
			if i.code == http.StatusUnauthorized {
				require.NoError(t, p.call(t.Context(), nil, "VM.unpause"))
				assert.Equal(t, 2, strings.Count(strings.Join(h.called(), " "), "session.login"), "the next call logs in")
			}
		})
	}
}

// A task that stays pending does not hide why the connection broke.
func TestUploadWithoutBody(t *testing.T) {
	i := &importer{}
	h := newImporter(t, i, i)
	gone := errors.New("the disk is gone")
	err := h.pool(t).upload(t.Context(), "OpaqueRef:vdi", "morgana-hello", "raw", 5, func() (io.ReadCloser, error) { return nil, gone }, func(int64) {})
	if code(err) == "" { // else the host was quicker with its verdict
		assert.ErrorIs(t, err, gone)
	}
	assert.Contains(t, h.called(), "task.destroy")
}

func TestUploadEndsWithItsContext(t *testing.T) {
	i := &importer{}
	h := newImporter(t, i, i)
	ctx, cancel := context.WithCancel(t.Context())
	r, w := io.Pipe()
	defer func() { _ = w.Close() }()
	go func() { _, _ = w.Write(make([]byte, 1<<20)); cancel(); _ = w.Close() }()
	err := h.pool(t).upload(ctx, "OpaqueRef:vdi", "morgana-hello", "raw", 8<<20, func() (io.ReadCloser, error) { return r, nil }, func(int64) {})
	assert.ErrorIs(t, err, context.Canceled)
	assert.Contains(t, h.called(), "task.destroy")
}

func TestConsole(t *testing.T) {
	lines := make(chan string)
	member := newHost(t, func(string, []any) any { return nil })
	status := "200 OK"
	member.Config.Handler.(*http.ServeMux).HandleFunc("CONNECT /console", func(w http.ResponseWriter, r *http.Request) {
		assert.Equal(t, "OpaqueRef:console", r.URL.Query().Get("ref"))
		assert.Equal(t, session, r.URL.Query().Get("session_id"))
		conn, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			panic(err)
		}
		defer func() { _ = conn.Close() }()
		_, _ = io.WriteString(conn, "HTTP/1.1 "+status+"\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\nfirst ")
		for l := range lines {
			_, _ = io.WriteString(conn, l)
		}
	})
	master := newHost(t, func(method string, args []any) any {
		switch method {
		case "console.get_record":
			return map[string]any{"protocol": "vt100", "VM": "OpaqueRef:vm", "location": ""}
		case "VM.get_resident_on":
			return "OpaqueRef:host"
		case "host.get_address":
			return member.Listener.Addr().String()
		}
		return nil
	})
	p := master.pool(t, member)
	ctx, cancel := context.WithCancel(t.Context())
	r, err := p.console(ctx, "OpaqueRef:console")
	require.NoError(t, err)
	got := make([]byte, len("first line\x1b[0m"))
	go func() { lines <- "line"; lines <- "\x1b[0m" }()
	_, err = io.ReadFull(r, got)
	require.NoError(t, err)
	assert.Equal(t, "first line\x1b[0m", string(got))
	cancel()
	_, err = r.Read(got)
	require.ErrorIs(t, err, context.Canceled)
	_ = r.Close()
	close(lines)

	status = "404 Not Found"
	_, err = p.console(t.Context(), "OpaqueRef:console")
	told(t, err, "", "HTTP 404")
}
