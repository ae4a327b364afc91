package store

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"

	"github.com/morgana-deploy/morgana/step"
)

// s3Server speaks S3 and can be made to fail.
type s3Server struct {
	url   string
	mu    sync.Mutex
	calls []string // "PUT /morgana/..." in order
	// before and after answer a request themselves if they return true; after
	// is called when the real answer is known and not yet sent.
	before, after func(w http.ResponseWriter, r *http.Request) bool
}

func newS3(t *testing.T) *s3Server {
	t.Helper()
	backend := s3mem.New()
	if err := backend.CreateBucket("morgana"); err != nil {
		t.Fatal(err)
	}
	fake := gofakes3.New(backend, gofakes3.WithoutVersioning()).Server()
	f := &s3Server{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.mu.Lock()
		f.calls = append(f.calls, r.Method+" "+r.URL.RequestURI())
		before, after := f.before, f.after
		f.mu.Unlock()
		if before != nil && before(w, r) {
			return
		}
		if after == nil {
			fake.ServeHTTP(w, r)
			return
		}
		rec := httptest.NewRecorder()
		fake.ServeHTTP(rec, r)
		if after(w, r) {
			return
		}
		for k, v := range rec.Header() {
			w.Header()[k] = v
		}
		w.WriteHeader(rec.Code)
		_, _ = w.Write(rec.Body.Bytes()) // the client may be gone
	}))
	t.Cleanup(server.Close)
	f.url = server.URL
	t.Setenv("AWS_ACCESS_KEY_ID", "key")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "secret")
	t.Setenv("AWS_CONFIG_FILE", os.DevNull)
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", os.DevNull)
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	t.Setenv("AWS_REGION", "")
	t.Setenv("AWS_PROFILE", "")
	return f
}

func (f *s3Server) location(bucket string) string {
	return "s3://" + bucket + "?region=us-east-1&endpoint=" + url.QueryEscape(f.url)
}

func (f *s3Server) open(t *testing.T) *Store {
	t.Helper()
	s, err := Open(t.Context(), f.location("morgana"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// count is how many requests of a method there were, and forgets them.
func (f *s3Server) count(method string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for _, c := range f.calls {
		if strings.HasPrefix(c, method+" ") {
			n++
		}
	}
	f.calls = nil
	return n
}

func (f *s3Server) disturb(before, after func(http.ResponseWriter, *http.Request) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.before, f.after = before, after
}

// answer is an S3 error. The request is read first: an answer that comes before
// may be lost to a broken connection.
func answer(w http.ResponseWriter, r *http.Request, status int, code string) bool {
	_, _ = io.Copy(io.Discard, r.Body)
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(status)
	_, _ = fmt.Fprintf(w, `<?xml version="1.0"?><Error><Code>%s</Code><Message>it says %s</Message></Error>`, code, code)
	return true
}

func TestS3SameBytesTwiceUploadNothing(t *testing.T) {
	f := newS3(t)
	s := f.open(t)
	a := put(t, s, content(1000))
	if f.count("PUT") != 1 {
		t.Error("the first was not one PUT")
	}
	if b := put(t, s, content(1000)); b != a || b.URI != "s3://morgana/"+key(a.SHA256) {
		t.Errorf("%+v, then %+v", a, b)
	}
	if n := f.count("PUT"); n != 0 {
		t.Errorf("%d PUTs for bytes that are there", n)
	}
}

func TestS3UploadIsRetriedAndBounded(t *testing.T) {
	f := newS3(t)
	s := f.open(t)
	f.count("")
	fails := 1
	f.disturb(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodPut && fails > 0 {
			fails--
			return answer(w, r, 500, "InternalError")
		}
		return false
	}, nil)
	put(t, s, content(1000)) // one 500 is not seen
	if n := f.count("PUT"); n != 2 {
		t.Errorf("%d PUTs, want 2", n)
	}

	fails = uploadAttempts
	_, err := s.Put(t.Context(), bytes.NewReader(content(1001)))
	wantError(t, err, "", "put an artifact into s3://morgana: it says InternalError")
	if n := f.count("PUT"); n != uploadAttempts {
		t.Errorf("%d PUTs, want %d", n, uploadAttempts)
	}
	a := put(t, s, content(1001)) // again, as Temporal would
	if err := s.Fetch(t.Context(), a, filepath.Join(t.TempDir(), "f")); err != nil {
		t.Error(err)
	}
}

func TestS3LostResponse(t *testing.T) {
	f := newS3(t)
	s := f.open(t)
	f.count("")
	f.disturb(nil, func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodPut {
			panic(http.ErrAbortHandler) // stored, and the connection breaks
		}
		return false
	})
	if _, err := s.Put(t.Context(), bytes.NewReader(content(1000))); err == nil {
		t.Error("no error")
	} else {
		wantError(t, err, "", "put an artifact into s3://morgana", "EOF")
	}
	f.disturb(nil, nil)
	f.count("")
	put(t, s, content(1000))
	if n := f.count("PUT"); n != 0 {
		t.Errorf("%d PUTs for what had arrived", n)
	}
}

func TestS3MultipartPartFailsForGood(t *testing.T) {
	f := newS3(t)
	s := f.open(t)
	f.count("")
	f.disturb(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodPut && r.URL.Query().Get("partNumber") == "2" {
			return answer(w, r, 503, "SlowDown")
		}
		return false
	}, nil)
	_, err := s.Put(t.Context(), bytes.NewReader(content(20<<20)))
	wantError(t, err, step.Exhausted, "it says SlowDown", "s3://morgana")
	if n := f.count("DELETE"); n != 1 {
		t.Errorf("%d DELETEs, want the upload to be aborted", n)
	}
	wantEmpty(t, s)
}

func TestS3ReadsAreNotRetried(t *testing.T) {
	f := newS3(t)
	s := f.open(t)
	a := put(t, s, content(1000))
	f.count("")
	f.disturb(func(w http.ResponseWriter, r *http.Request) bool { return answer(w, r, 500, "InternalError") }, nil)
	_, err := s.Open(t.Context(), a)
	wantError(t, err, "", "open artifact "+a.SHA256[:12]+": it says InternalError")
	if n := f.count("GET"); n != 1 {
		t.Errorf("%d GETs, want 1", n)
	}
}

func TestS3ReadBreaksOff(t *testing.T) {
	f := newS3(t)
	s := f.open(t)
	a := put(t, s, content(100_000))
	f.disturb(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodGet {
			return false
		}
		w.Header().Set("Content-Length", "100000")
		_, _ = w.Write(content(100_000)[:50_000])
		panic(http.ErrAbortHandler)
	}, nil)
	dir := t.TempDir()
	err := s.Fetch(t.Context(), a, filepath.Join(dir, "f"))
	wantError(t, err, "", "unexpected EOF") // no kind: worth another try
	if got := filesIn(t, dir); len(got) != 0 {
		t.Errorf("left %q", got)
	}
}

func TestS3DamageAndAbsence(t *testing.T) {
	f := newS3(t)
	s := f.open(t)
	a := put(t, s, content(1000))
	f.disturb(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodGet {
			_, _ = w.Write(content(999))
			return true
		}
		return false
	}, nil)
	wantError(t, s.Fetch(t.Context(), a, filepath.Join(t.TempDir(), "f")), step.Conflict, "ends after 999 of 1000", a.URI)
	f.disturb(nil, nil)
	a.SHA256 = strings.Repeat("0", 64)
	a.URI = s.uri(a.SHA256)
	_, err := s.Open(t.Context(), a)
	wantError(t, err, step.NotFound, "not in store s3://morgana", "MORGANA_STORE")
}

func TestS3OpenFails(t *testing.T) {
	f := newS3(t)
	_, err := Open(t.Context(), f.location("nowhere"))
	wantError(t, err, step.NotFound, "open store s3://nowhere: no such bucket", "MORGANA_STORE")

	for code, want := range map[string]step.Kind{
		"AccessDenied": step.Unauthorized, "InvalidAccessKeyId": step.Unauthorized, "SignatureDoesNotMatch": step.Unauthorized,
		"AuthorizationHeaderMalformed": step.InvalidSpec, "InternalError": "",
	} {
		f.disturb(func(w http.ResponseWriter, r *http.Request) bool { return answer(w, r, 403, code) }, nil)
		_, err := Open(t.Context(), f.location("morgana"))
		wantError(t, err, want, "open store s3://morgana: it says "+code)
	}
	f.disturb(nil, nil)

	_, err = Open(t.Context(), "s3://morgana?region=us-east-1&endpoint=http://127.0.0.1:1")
	wantError(t, err, "", "open store s3://morgana: dial tcp 127.0.0.1:1: connect: connection refused")
	_, err = Open(t.Context(), "s3://morgana?endpoint="+url.QueryEscape(f.url))
	wantError(t, err, step.InvalidSpec, "no region", "AWS_REGION")
	t.Setenv("AWS_ACCESS_KEY_ID", "")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "")
	_, err = Open(t.Context(), f.location("morgana"))
	wantError(t, err, step.Unauthorized, "no AWS credentials", "AWS_PROFILE")
	f.mu.Lock()
	defer f.mu.Unlock()
	if i := slices.IndexFunc(f.calls, func(c string) bool { return !strings.HasPrefix(c, "GET ") }); i >= 0 {
		t.Errorf("Open did %s", f.calls[i])
	}
}
