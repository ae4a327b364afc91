package xenserver

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/morgana-deploy/morgana/step"
	"github.com/morgana-deploy/morgana/xapilab"
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

// uploads is a pool of the lab with a VDI.
type uploads struct {
	*testing.T
	lab  *xapilab.Lab
	p    *pool
	vdi  ref
	file string // of the VDI
	disk []byte
	sent []int64
}

func newUploads(t *testing.T) *uploads {
	t.Helper()
	dir := t.TempDir()
	u := &uploads{T: t, lab: newLab(t, xapilab.Config{Dir: dir}), disk: bytes.Repeat([]byte("0123456789abcdef"), 1<<18)}
	pin, err := hex.DecodeString(strings.ReplaceAll(u.lab.Fingerprint, ":", ""))
	require.NoError(t, err)
	u.p = connected(t, access{host: u.lab.URL, user: u.lab.User, password: u.lab.Password, fingerprints: [][32]byte{[32]byte(pin)}})
	require.NoError(t, u.p.call(t.Context(), &u.vdi, "VDI.create", newVDI{SR: ref(u.lab.Ref("SR", u.lab.SR)), VirtualSize: int64(len(u.disk)), Type: "user"}))
	files, err := filepath.Glob(filepath.Join(dir, "*", u.lab.Get(string(u.vdi), "uuid").(string)))
	require.NoError(t, err)
	require.Len(t, files, 1)
	u.file = files[0]
	return u
}

// upload sends the disk, and no more of it than there is in has.
func (u *uploads) upload(ctx context.Context, has []byte) error {
	return u.p.upload(ctx, u.vdi, "morgana-hello", "raw", int64(len(u.disk)),
		func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(has)), nil }, func(n int64) { u.sent = append(u.sent, n) })
}

// noTask checks that no task is left.
func (u *uploads) noTask() {
	u.Helper()
	assert.Equal(u, []string{"VDI "}, u.lab.Resources())
}

func TestUpload(t *testing.T) {
	u := newUploads(t)
	require.NoError(t, u.upload(t.Context(), u.disk))
	got, err := os.ReadFile(u.file)
	require.NoError(t, err)
	assert.True(t, bytes.Equal(u.disk, got))
	assert.Greater(t, len(u.sent), 10)
	assert.Equal(t, int64(len(u.disk)), u.sent[len(u.sent)-1])
	u.noTask()
}

// A redirect is followed to a host whose certificate the master tells, and to no other.
func TestUploadIsRedirected(t *testing.T) {
	u := newUploads(t)
	u.lab.Fault(xapilab.Fault{Call: "PUT /import_raw_vdi", Redirect: true, Times: 2})
	remove := u.lab.Fault(xapilab.Fault{Call: "Certificate.get_all_records", Error: []string{"MESSAGE_METHOD_UNKNOWN", "Certificate.get_all_records"}})
	told(t, u.upload(t.Context(), u.disk), step.Unauthorized, "fingerprint: ", u.lab.MemberFingerprint)
	assert.Empty(t, u.sent)
	u.noTask()
	remove()
	require.NoError(t, u.upload(t.Context(), u.disk))
	got, err := os.ReadFile(u.file)
	require.NoError(t, err)
	assert.True(t, bytes.Equal(u.disk, got))
	u.noTask()
}

func TestUploadFails(t *testing.T) {
	const put = "PUT /import_raw_vdi"
	u := newUploads(t)
	for _, c := range []struct {
		name  string
		fault xapilab.Fault
		short int
		kind  step.Kind
		text  string
	}{
		{"another session", xapilab.Fault{Status: http.StatusUnauthorized}, 0, "", "HTTP 401"},
		{"another role", xapilab.Fault{Status: http.StatusForbidden}, 0, step.Unauthorized, "HTTP 403"},
		{"no such VDI", xapilab.Fault{Status: http.StatusInternalServerError}, 0, "", "HTTP 500"},
		{"a lost answer", xapilab.Fault{Lose: xapilab.Before}, 0, "", "EOF"},
		{"a cut", xapilab.Fault{Cut: 1 << 20}, 0, "", "could not write the disk"},
		{"a cut at once", xapilab.Fault{Cut: 1}, 0, "", "could not write the disk"},
		{"an SR that fills", xapilab.Fault{TaskError: []string{"SR_BACKEND_FAILURE_44", "", "no space", ""}}, 0, step.NoSpace, "the SR is full"},
		{"a short disk", xapilab.Fault{Delay: 1}, 1 << 20, "", "could not write the disk"},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.fault.Call = put
			u.lab.Fault(c.fault)
			told(t, u.upload(t.Context(), u.disk[c.short:]), c.kind, c.text)
			u.noTask()
			for { // the VDI is in use for a while
				err := u.upload(t.Context(), u.disk)
				if err == nil {
					break
				}
				require.ErrorContains(t, err, "the VDI is in use")
			}
		})
	}
	assert.Equal(t, 2, strings.Count(fmt.Sprint(u.lab.Calls()), "session.login"), "after HTTP 401 it logs in")
}

// A host that does not say where a session goes does not get it.
func TestUploadIsNotRedirectedToPlainHTTP(t *testing.T) {
	h := newHost(t, func(method string, args []any) any { return nil })
	h.Config.Handler.(*http.ServeMux).HandleFunc("PUT /import_raw_vdi", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "http://"+r.Host+r.URL.RequestURI(), http.StatusFound)
	})
	err := h.pool(t).upload(t.Context(), "OpaqueRef:vdi", "morgana-hello", "raw", 5, nil, nil)
	told(t, err, "", "HTTP 302")
}

// A host that ends after the last byte leaves its task pending.
func TestUploadWithoutVerdict(t *testing.T) {
	u := newUploads(t)
	x := newBetween(t, u.lab)
	x.after = func(method, answer string) string {
		if method == "task.get_record" {
			answer = strings.ReplaceAll(answer, "success", "pending")
		}
		return answer
	}
	pin := sha256.Sum256(x.Certificate().Raw)
	u.p = connected(t, access{host: x.URL, user: u.lab.User, password: u.lab.Password, fingerprints: [][32]byte{pin}})
	u.p.grace = time.Second
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	told(t, u.upload(ctx, u.disk), "", "the host ended the connection, and the import's task goes on")
	u.noTask()
}

func TestUploadEndsWithItsContext(t *testing.T) {
	u := newUploads(t)
	ctx, cancel := context.WithCancel(t.Context())
	r, w := io.Pipe()
	go func() { _, _ = w.Write(u.disk[:1<<20]); cancel(); _ = w.Close() }()
	err := u.p.upload(ctx, u.vdi, "morgana-hello", "raw", int64(len(u.disk)), func() (io.ReadCloser, error) { return r, nil }, func(int64) {})
	assert.ErrorIs(t, err, context.Canceled)
	u.noTask()
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
