package e2e

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"
)

// bucket is an artifact store that speaks S3 and can be made to keep a request
// until its client goes away: so a stage that takes a millisecond lasts as long
// as a test wants.
type bucket struct {
	backend *s3mem.Backend
	mu      sync.Mutex
	holds   []*hold
	over    chan struct{} // closed at the test's end
}

// hold keeps the first request that fits, for good: reached is closed then. The
// next one like it passes.
type hold struct {
	fits    func(r *http.Request, body []byte) bool
	reached chan struct{}
}

// withBucket makes the lab's store a bucket, and gives the worker and the
// starter a secret to reach it by.
func (l *lab) withBucket(secret string, args ...string) *bucket {
	l.t.Helper()
	b := &bucket{backend: s3mem.New(), over: make(chan struct{})}
	if err := b.backend.CreateBucket("artifacts"); err != nil {
		l.t.Fatal(err)
	}
	fake := gofakes3.New(b.backend, gofakes3.WithoutVersioning()).Server()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !b.held(r) {
			fake.ServeHTTP(w, r)
		}
	}))
	l.t.Cleanup(func() { close(b.over); server.Close() }) // which waits for requests
	l.restartWorker([]string{
		"MORGANA_STORE=s3://artifacts?region=us-east-1&endpoint=" + url.QueryEscape(server.URL),
		"AWS_ACCESS_KEY_ID=e2e", "AWS_SECRET_ACCESS_KEY=" + secret, "AWS_EC2_METADATA_DISABLED=true",
		"AWS_CONFIG_FILE=/dev/null", "AWS_SHARED_CREDENTIALS_FILE=/dev/null", "AWS_PROFILE=", "AWS_REGION=",
	}, args...)
	return b
}

// held keeps a request if it is to be kept, and says so when its client is gone.
func (b *bucket) held(r *http.Request) bool {
	var body []byte
	if r.Method == http.MethodPut {
		body, _ = io.ReadAll(r.Body) // a short body is the fake's to refuse
		r.Body = io.NopCloser(bytes.NewReader(body))
	}
	b.mu.Lock()
	i := slices.IndexFunc(b.holds, func(h *hold) bool { return h.fits(r, body) })
	if i < 0 {
		b.mu.Unlock()
		return false
	}
	h := b.holds[i]
	b.holds = slices.Delete(b.holds, i, i+1)
	b.mu.Unlock()
	close(h.reached)
	select {
	case <-r.Context().Done():
	case <-b.over:
	}
	return true
}

func (b *bucket) hold(fits func(*http.Request, []byte) bool) *hold {
	b.mu.Lock()
	defer b.mu.Unlock()
	h := &hold{fits: fits, reached: make(chan struct{})}
	b.holds = append(b.holds, h)
	return h
}

// kept waits until the request has come.
func (l *lab) kept(h *hold, what string) {
	l.t.Helper()
	select {
	case <-h.reached:
	case <-time.After(waits):
		l.t.Fatalf("not within %v: the store is asked in %s", waits, what)
	}
}

// holdPackage keeps the package stage of an app whose options hold marker.
func (b *bucket) holdPackage(marker string) *hold {
	return b.hold(func(r *http.Request, body []byte) bool {
		return r.Method == http.MethodPut && bytes.Contains(body, []byte(marker)) && bytes.HasPrefix(body, []byte(`{"via"`))
	})
}

// holdRegister keeps the register stage of an app while it fetches its kernel,
// which it does after it has read back its options with marker.
func (b *bucket) holdRegister(marker string, kernel []byte) *hold {
	sum := sha256.Sum256(kernel)
	path := "/" + hex.EncodeToString(sum[:])
	options := ""
	return b.hold(func(r *http.Request, body []byte) bool {
		switch {
		case r.Method == http.MethodPut && bytes.HasPrefix(body, []byte(`{"via"`)) && bytes.Contains(body, []byte(marker)):
			options = r.URL.Path
		case r.Method == http.MethodGet && options != "" && r.URL.Path == options:
			options = "read"
		case r.Method == http.MethodGet && options == "read" && strings.HasSuffix(r.URL.Path, path):
			return true
		}
		return false
	})
}

// objects lists the names of what is in the bucket.
func (b *bucket) objects() (names []string, err error) {
	list, err := b.backend.ListBucket("artifacts", nil, gofakes3.ListBucketPage{})
	if err != nil {
		return nil, err
	}
	for _, o := range list.Contents {
		names = append(names, o.Key)
	}
	return names, nil
}

// read gives an object's bytes.
func (b *bucket) read(t *testing.T, name string) []byte {
	t.Helper()
	object, err := b.backend.GetObject("artifacts", name, nil)
	if err != nil {
		t.Fatal(err)
	}
	content, err := io.ReadAll(object.Contents)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// whole fails the test if the bucket holds anything but whole artifacts.
func (b *bucket) whole(l *lab) {
	l.t.Helper()
	names, err := b.objects()
	if err != nil || len(names) == 0 {
		l.t.Fatalf("artifacts %q, %v", names, err)
	}
	for _, name := range names {
		if sum := sha256.Sum256(b.read(l.t, name)); hex.EncodeToString(sum[:]) != path.Base(name) {
			l.t.Errorf("half-written artifact %q", name)
		}
	}
}
