package ec2

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/morgana-deploy/morgana/ec2lab"
	"github.com/morgana-deploy/morgana/machine"
	"github.com/morgana-deploy/morgana/step"
	"github.com/morgana-deploy/morgana/store"
)

// TestRegisterCutOff cuts off the upload of a child in the middle. Another worker goes on
// with the snapshot, or begins another if the parent's blocks are not known any more.
func TestRegisterCutOff(t *testing.T) {
	environ(t)
	before, after := map[int32]byte{500: 1}, map[int32]byte{}
	for i := range 150 {
		before[int32(i)], after[int32(2*i)] = 1, 2 // half of before's become zero
	}
	const changed = 150 + 75 + 1
	for name, test := range map[string]struct{ lost, unread bool }{
		"plainly":              {},
		"parent lost":          {lost: true},
		"parent's list unread": {unread: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRegistry(t)
			first, second := r.image(1, gibi, before, nil), r.image(2, gibi, after, nil)
			r.register(first)
			last := r.cutOff(second)
			list, _ := step.FileNamed(first.Files, blocksFile)
			if test.lost {
				no(t, os.Remove(strings.TrimPrefix(list.URI, "file://")))
			}
			r.site = siteOf(t, t.TempDir(), r.store)
			if test.unread {
				r.site.Store = &failsOnce{Store: r.site.Store, list: list}
			}
			r.last = &last
			reg, _ := r.register(second)
			_, snapshot := r.ami(reg.ID)
			r.same(snapshot, after)
			want, slack, starts := changed, maxConnections, 2
			if test.lost {
				want, slack, starts = len(after), 0, 3
			}
			if n := r.count("StartSnapshot"); n != starts {
				t.Errorf("%d snapshots were started, not %d", n, starts)
			}
			if sent := r.lab.Puts(snapshot); len(sent) != want || puts(sent) > want+slack {
				t.Errorf("%d blocks were sent %d times, want %d and at most %d again", len(sent), puts(sent), want, slack)
			}
			if made := r.made(); !slices.Equal(made, []string{"image available", "image available", "snapshot completed", "snapshot completed"}) {
				t.Errorf("made %q", made)
			}
		})
	}
}

// cutOff registers an image, and cancels that after 100 of more than 200 blocks.
func (r *registry) cutOff(img step.Image) (last step.Progress) {
	r.Helper()
	r.lab.Fault(ec2lab.Fault{Call: "PutSnapshotBlock", Times: -1, Delay: 5 * time.Millisecond})
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	_, err := New(r.site).Register(step.WithReporter(ctx, func(p step.Progress) {
		if p.Done > 100*blockSize {
			cancel()
		}
		if p.State != nil {
			last = p
		}
	}, nil), img)
	if err == nil || ctx.Err() == nil || last.Done > 200*blockSize {
		r.Fatalf("register: %v, progress %+v: it was not cut off in the middle", err, last)
	}
	return last
}

// failsOnce is a store that cannot open a list once.
type failsOnce struct {
	step.Store
	list   step.Artifact
	failed bool
}

func (f *failsOnce) Open(ctx context.Context, a step.Artifact) (io.ReadCloser, error) {
	if a.SHA256 == f.list.SHA256 && !f.failed {
		f.failed = true
		return nil, errors.New("503 Slow Down")
	}
	return f.Store.Open(ctx, a)
}

// TestParentMissingInAList does not give up the parent that one list lacks.
func TestParentMissingInAList(t *testing.T) {
	environ(t)
	r := newRegistry(t)
	first := r.image(1, gibi, map[int32]byte{0: 1}, nil)
	reg, _ := r.register(first)
	_, parent := r.ami(reg.ID)
	g := &registering{Target: New(r.site), img: r.image(2, gibi, map[int32]byte{0: 2}, nil)}
	no(t, g.prepare(t.Context()))
	got, err := g.parentOf(t.Context(), found{begun: &types.Snapshot{Tags: []types.Tag{tag(tagParent, parent)}}})
	if err != nil || got.id != parent {
		t.Errorf("the parent is %+v, %v; not %s", got, err, parent)
	}
}

// TestRegisterDeletedSnapshot starts another snapshot if somebody has deleted the one that
// was half sent. The client token of that is used up.
func TestRegisterDeletedSnapshot(t *testing.T) {
	environ(t)
	r := newRegistry(t)
	r.lab.RememberTokens()
	content := map[int32]byte{}
	for i := range 220 {
		content[int32(i)] = 1
	}
	img := r.image(1, gibi, content, nil)
	r.cutOff(img)
	g := &registering{Target: New(r.site), img: img, digest: machine.ContentDigest(img), limits: usual}
	g.limits.patience = 2 * time.Second
	no(t, g.prepare(t.Context()))
	f, err := g.find(t.Context())
	if err == nil {
		err = g.remove(t.Context(), *f.begun.SnapshotId)
	}
	no(t, err)
	id, err := g.send(t.Context(), found{})
	if err != nil { // as Temporal does
		t.Logf("try again: %v", err)
		id, err = g.send(t.Context(), found{})
	}
	if err != nil || id == *f.begun.SnapshotId {
		t.Fatalf("sent to %s: %v", id, err)
	}
	r.same(id, content)
}

// killed has the [victim] of a process of this test.
const killed = "EC2_REGISTERS"

func TestMain(m *testing.M) {
	if text := os.Getenv(killed); text != "" {
		if err := registerHere(text); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// victim is the work of a process that is killed.
type victim struct {
	Image        step.Image
	State, Store string
	Hasty        bool
}

// victim is a process that registers an image, and that a done context kills.
func (r *registry) victim(ctx context.Context, img step.Image, hasty bool) (c *exec.Cmd, out *bytes.Buffer) {
	r.Helper()
	self, err := os.Executable()
	no(r, err)
	text, err := json.Marshal(victim{img, r.site.State, r.store, hasty})
	no(r, err)
	out = &bytes.Buffer{}
	c = exec.CommandContext(ctx, self)
	c.Env, c.Stdout, c.Stderr = append(os.Environ(), killed+"="+string(text)), out, out
	return c, out
}

func registerHere(text string) error {
	var v victim
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		return err
	}
	s, err := store.Open(context.Background(), v.Store)
	if err != nil {
		return err
	}
	target := New(step.Site{Host: "testhost", State: v.State, Store: s})
	if v.Hasty {
		target = hasty(target.site)
	}
	_, err = target.Register(context.Background(), v.Image)
	return err
}

// TestRegisterKilled kills the process at random moments. The next one goes on, and sends
// at most those blocks again that were on the way.
func TestRegisterKilled(t *testing.T) {
	total := 20
	if testing.Short() {
		total = 5
	}
	kills := total
	environ(t)
	r := newRegistry(t)
	content := map[int32]byte{}
	for i := range 150 {
		content[int32(3*i)] = byte(i + 1)
	}
	inside, worst := 0, 0
	for round := 0; kills > 0; round++ {
		img := r.image(1, 500*blockSize, content, nil)
		img.Spec.App = fmt.Sprintf("hello%d", round)
		for twice, done := 0, false; !done; {
			r.lab.Heal()
			r.lab.Fault(ec2lab.Fault{Call: "PutSnapshotBlock", Times: -1, Delay: 20 * time.Millisecond})
			// Half of the kills wait for a number of blocks, the first kill too, the others for a time.
			after, more, byBlocks := rand.N(time.Second), 1+rand.N(len(content)/4), kills > 0 && kills%2 == total%2
			if byBlocks { // the next block waits for the kill
				r.lab.Fault(ec2lab.Fault{Call: "PutSnapshotBlock", Skip: more, Times: -1, Delay: time.Hour, Lose: ec2lab.Before})
			}
			more += puts(r.putsOf(img.Spec.App))
			c, out := r.victim(t.Context(), img, false)
			no(t, c.Start())
			ended := make(chan error, 1)
			go func() { ended <- c.Wait() }()
			err, running := error(nil), true
			for began := time.Now(); running; {
				select {
				case err = <-ended:
					running = false
				case <-time.After(2 * time.Millisecond):
					if byBlocks && puts(r.putsOf(img.Spec.App)) >= more || !byBlocks && kills > 0 && time.Since(began) > after {
						kills--
						_ = c.Process.Kill() // it may have ended
						err, running = <-ended, false
					}
				}
			}
			if done = err == nil; !done && c.ProcessState.Exited() {
				t.Fatalf("register: %v\n%s", err, out.String())
			}
			time.Sleep(100 * time.Millisecond) // the lab still takes what was on the way
			sent := r.putsOf(img.Spec.App)
			if len(sent) > 0 && len(sent) < len(content) {
				inside++
			}
			now := puts(sent) - len(sent)
			if worst = max(worst, now-twice); now-twice > maxConnections {
				t.Errorf("%d blocks were sent again after a kill at block %d or %s, more than can have been on the way", now-twice, more, after)
			}
			twice = now
		}
		r.lab.Heal()
		reg, err := New(r.site).Register(t.Context(), img)
		if err != nil || !reg.Adopted {
			t.Fatalf("register again: %+v, %v", reg, err)
		}
		_, snapshot := r.ami(reg.ID)
		r.same(snapshot, content)
		if made, want := r.made(), slices.Sorted(slices.Values(slices.Repeat(oneOfEach, round+1))); !slices.Equal(made, want) {
			t.Errorf("made %q, want %q", made, want)
		}
	}
	t.Logf("%d kills were in the middle of the blocks; at most %d blocks were sent again after one", inside, worst)
	if inside == 0 {
		t.Error("no kill was in the middle of the blocks")
	}
}

// putsOf returns how often each block of an app's only snapshot was sent.
func (r *registry) putsOf(app string) map[int]int {
	r.Helper()
	out, err := r.cloud.ec2.DescribeSnapshots(r.Context(), &ec2.DescribeSnapshotsInput{OwnerIds: []string{"self"},
		Filters: []types.Filter{filter("tag:"+tagApp, app)}})
	if err != nil || len(out.Snapshots) > 1 {
		r.Fatalf("the snapshots of %s: %v, %v", app, out, err)
	}
	if len(out.Snapshots) == 0 {
		return nil
	}
	return r.lab.Puts(*out.Snapshots[0].SnapshotId)
}

// TestImportKilled kills the process in the upload, while it polls, and at random moments.
func TestImportKilled(t *testing.T) {
	kills := 16
	if testing.Short() {
		kills = 4
	}
	environ(t)
	r := newRegistry(t)
	const part, look = "UploadPart", "DescribeImportSnapshotTasks"
	inUpload, inPoll := 0, 0
	for round := 0; kills > 0; round++ {
		img := r.importing(r.image(1, 150*blockSize, fewContent, nil))
		img.Spec.App = fmt.Sprintf("hello%d", round)
		uploads, imports := r.count("CreateMultipartUpload"), r.count("ImportSnapshot")
		for done := false; !done; {
			r.lab.Heal()
			for _, call := range []string{part, look} {
				r.lab.Fault(ec2lab.Fault{Call: call, Times: -1, Delay: 50 * time.Millisecond})
			}
			ctx, cancel := context.WithCancel(t.Context())
			c, out := r.victim(ctx, img, false)
			at := ec2lab.Fault{Call: part, Skip: rand.N(5), Times: -1, Delay: time.Hour, Lose: ec2lab.Before} // it waits for the kill
			switch after := rand.N(1200 * time.Millisecond); {
			case kills == 0:
			case kills%2 == 1:
				time.AfterFunc(after, cancel)
			default:
				if kills%4 != 0 {
					at.Call, at.Skip = look, 1 // the first is before the upload
				}
				r.lab.Fault(at)
				go func(before int) {
					for ctx.Err() == nil && r.came(at.Call) <= before+at.Skip {
						time.Sleep(2 * time.Millisecond)
					}
					cancel()
				}(r.came(at.Call))
			}
			err := c.Run()
			cancel()
			if done = err == nil; done {
				break
			}
			if c.ProcessState.Exited() {
				t.Fatalf("register: %v\n%s", err, out.String())
			}
			kills--
			time.Sleep(60 * time.Millisecond) // the lab still takes what was on the way
			switch lines := strings.Join(r.lab.Resources(), "\n"); {
			case strings.Contains(lines, "upload "):
				inUpload++
			case r.count("ImportSnapshot") > imports:
				inPoll++
			}
		}
		r.lab.Heal()
		reg, err := New(r.site).Register(t.Context(), img)
		if err != nil || !reg.Adopted {
			t.Fatalf("register again: %+v, %v", reg, err)
		}
		_, snapshot := r.ami(reg.ID)
		r.same(snapshot, fewContent)
		r.tidy()
		if made, want := r.made(), slices.Sorted(slices.Values(slices.Repeat(oneOfEach, round+1))); !slices.Equal(made, want) {
			t.Errorf("made %q, want %q", made, want)
		}
		if u, i := r.count("CreateMultipartUpload")-uploads, r.count("ImportSnapshot")-imports; u != 1 || i != 1 {
			t.Errorf("round %d: %d uploads and %d imports", round, u, i)
		}
	}
	t.Logf("%d kills left an upload unfinished, %d came after the import began", inUpload, inPoll)
	if inUpload == 0 || inPoll == 0 {
		t.Error("no kill was in the upload, or none while it polled")
	}
}
