package ec2

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/morgana-deploy/morgana/step"
)

// bare is a server that takes blocks and checks nothing. It takes a time for each request,
// and refuses as it is told.
type bare struct {
	delay time.Duration
	// refuse returns the HTTP status and AWS's code with which the n-th request for a
	// block is refused while others are served at the same time. 0 takes it, and never
	// does not answer.
	refuse func(index, n, atOnce int) (status int, code string)

	sync.Mutex
	puts   map[int]int // requests for each block
	took   map[int]int // those of them that were not refused
	atOnce int
	most   int
}

func (s *bare) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	_, err := io.Copy(io.Discard, r.Body)
	index, number := strconv.Atoi(path.Base(r.URL.Path))
	if number != nil || err != nil {
		http.Error(w, r.URL.Path, http.StatusBadRequest)
		return
	}
	s.Lock()
	s.puts[index]++
	n := s.puts[index]
	s.atOnce++
	s.most = max(s.most, s.atOnce)
	now := s.atOnce
	s.Unlock()
	defer func() {
		s.Lock()
		s.atOnce--
		s.Unlock()
	}()
	select {
	case <-time.After(s.delay):
	case <-r.Context().Done():
		return
	}
	if s.refuse != nil {
		if status, code := s.refuse(index, n, now); status == never {
			<-r.Context().Done()
			return
		} else if status != 0 {
			w.Header().Set("x-amzn-ErrorType", code)
			w.WriteHeader(status)
			_, _ = io.WriteString(w, `{"Message":"as told"}`)
			return
		}
	}
	s.Lock()
	s.took[index]++
	s.Unlock()
	w.Header().Set("x-amz-Checksum", r.Header.Get("x-amz-Checksum"))
	w.Header().Set("x-amz-Checksum-Algorithm", "SHA256")
	w.WriteHeader(http.StatusCreated)
}

const never = -1

// serve starts a bare server and lets the SDK find it.
func serve(t testing.TB, s *bare) (*cloud, string) {
	t.Helper()
	s.puts, s.took = map[int]int{}, map[int]int{}
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	for _, v := range []string{"AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"} {
		t.Setenv(v, os.DevNull)
	}
	for _, v := range []string{"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"} {
		t.Setenv(v, "test")
	}
	c, err := open(t.Context(), settings{Options: Options{Region: "eu-west-1", Endpoint: server.URL}})
	no(t, err)
	return c, server.URL
}

// newUpload returns an upload of a disk with n blocks.
func newUpload(t testing.TB, c *cloud, n int) *upload {
	t.Helper()
	content := map[int32]byte{}
	for i := range n {
		content[int32(2*i)] = byte(i%255 + 1)
	}
	name := sparse(t, int64(2*n)*blockSize, content)
	f, err := os.Open(name)
	no(t, err)
	t.Cleanup(func() { _ = f.Close() }) // only read
	u := &upload{ebs: c.ebs, snapshot: "snap-0a1b", disk: f, blocks: list(t, name), limits: usual}
	if u.sent, err = openSent(t.TempDir(), u.snapshot, u.blocks, step.Progress{}); err != nil {
		t.Fatal(err)
	}
	return u
}

func TestUpload(t *testing.T) {
	const n = 60
	for _, test := range []struct {
		name   string
		refuse func(index, n, atOnce int) (int, string)
		kind   step.Kind // "": it succeeds
		most   int       // requests for one block at most; 0: any
	}{
		{"taken", nil, "", 1},
		{"throttled above 3 at once", func(_, _, atOnce int) (int, string) {
			if atOnce > 3 {
				return 400, "RequestThrottledException"
			}
			return 0, ""
		}, "", 0},
		{"a wrong checksum once for each", func(_, n, _ int) (int, string) {
			if n == 1 {
				return 403, "InvalidSignatureException"
			}
			return 0, ""
		}, "", 2},
		{"the first five fail", func(index, n, _ int) (int, string) {
			if index < 10 && n < 3 {
				return 500, "InternalServerException"
			}
			return 0, ""
		}, "", 3},
		{"not visible yet", func(_, n, _ int) (int, string) {
			if n == 1 {
				return 404, "ResourceNotFoundException"
			}
			return 0, ""
		}, "", 2},
		{"no answer at first", func(index, n, _ int) (int, string) {
			if index < 20 && n == 1 {
				return never, ""
			}
			return 0, ""
		}, "", 0},
		{"access denied", func(index, _, _ int) (int, string) {
			if index == 40 {
				return 403, "AccessDeniedException"
			}
			return 0, ""
		}, step.Unauthorized, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := &bare{delay: 2 * time.Millisecond, refuse: test.refuse}
			c, _ := serve(t, s)
			u := newUpload(t, c, n)
			short := strings.HasPrefix(test.name, "no answer")
			if u.attempt = time.Minute; short { // a slow answer may come after it, too
				u.attempt = 2 * time.Second
			}
			if err := u.run(t.Context()); step.KindOf(err) != test.kind || (err == nil) != (test.kind == "") {
				t.Fatalf("run: %v (%s), want kind %q", err, step.KindOf(err), test.kind)
			}
			s.Lock() // for answers that nobody waits for
			defer s.Unlock()
			for index, puts := range s.puts {
				if s.took[index] > 1 && !short || test.most > 0 && puts > test.most {
					t.Errorf("block %d was sent %d times, %d of them taken", index, puts, s.took[index])
				}
			}
			if test.kind == "" && (len(s.took) != n || !u.sent.all()) {
				t.Errorf("%d blocks of %d were taken, %d recorded", len(s.took), n, u.sent.count)
			}
		})
	}
}

// TestUploadGivesUp ends when a block has failed for too long. The step is then retried.
func TestUploadGivesUp(t *testing.T) {
	var others sync.WaitGroup // that are taken before this block fails
	others.Add(9)
	s := &bare{refuse: func(index, _, _ int) (int, string) {
		if index == 4 {
			others.Wait()
			return 503, "ServiceUnavailable"
		}
		others.Done()
		return 0, ""
	}}
	c, _ := serve(t, s)
	u := newUpload(t, c, 10)
	u.patience = 5 * time.Second
	if err := u.run(t.Context()); err == nil || step.KindOf(err).Final() {
		t.Errorf("run: %v, of kind %q", err, step.KindOf(err))
	}
	if u.sent.count != 9 || s.puts[4] > 10 {
		t.Errorf("%d other blocks are sent, want 9; the one that fails was tried %d times", u.sent.count, s.puts[4])
	}
}

// TestUploadCancelled ends soon and has recorded every block that was acknowledged.
func TestUploadCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	s := &bare{delay: 20 * time.Millisecond, refuse: func(index, _, _ int) (int, string) {
		if index > 2*40 { // an earlier block is recorded by now
			cancel()
		}
		return 0, ""
	}}
	c, _ := serve(t, s)
	u := newUpload(t, c, 200)
	began := time.Now()
	if err := u.run(ctx); err == nil || ctx.Err() == nil || time.Since(began) > 2*time.Minute {
		t.Fatalf("run: %v after %s", err, time.Since(began))
	}
	if u.sent.count == 0 || u.sent.count == 200 {
		t.Fatalf("%d blocks of 200 are sent: the test was not cut off in the middle", u.sent.count)
	}
	first := u.sent.count
	again, err := openSent(t.TempDir(), u.snapshot, u.blocks, step.Progress{State: u.sent.state(u.snapshot)})
	if err != nil || again.count != first {
		t.Fatalf("the state has %d blocks, want %d; %v", again.count, first, err)
	}
	if err := u.run(t.Context()); err != nil || len(s.took) != 200 {
		t.Fatalf("run again: %v, %d blocks", err, len(s.took))
	}
	twice := 0
	for _, n := range s.puts {
		twice += n - 1
	}
	if twice > maxConnections {
		t.Errorf("%d blocks were sent twice, more than can be on the way", twice)
	}
}

// TestUploadOtherDisk refuses a disk whose bytes are not those of the list.
func TestUploadOtherDisk(t *testing.T) {
	s := &bare{refuse: func(int, int, int) (int, string) { return 403, wrongChecksum }}
	c, _ := serve(t, s)
	u := newUpload(t, c, 3)
	u.blocks = slices.Clone(u.blocks)
	u.blocks[1].sum[0]++
	if err := u.run(t.Context()); step.KindOf(err) != step.Conflict {
		t.Errorf("run: %v", err)
	}
}

// TestWindow grows to its bound, and shrinks once for each round of failures.
func TestWindow(t *testing.T) {
	w := window{limit: 8, most: 64, knee: 64}
	for range 100 {
		w.worked(attempt{began: time.Now()})
	}
	if w.limit != 64 {
		t.Errorf("the limit is %v after 100 blocks, want 64", w.limit)
	}
	round := time.Now()
	for range 64 {
		w.failed(attempt{began: round, err: io.ErrUnexpectedEOF})
	}
	if w.limit != 32 || time.Until(w.until) <= 0 {
		t.Errorf("the limit is %v after a round of failures, want 32; the pause ends at %v", w.limit, w.until)
	}
	for range 32 {
		w.worked(attempt{began: time.Now()})
	}
	if w.limit < 32.9 || w.limit > 33 {
		t.Errorf("the limit is %v after a round of successes, want 33", w.limit)
	}
	w.worked(attempt{began: time.Now().Add(-2 * soon)})
	if w.limit > 33 {
		t.Error("the limit grows although the line is slow")
	}
}
