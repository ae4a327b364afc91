package ec2

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ebs"
	"github.com/aws/aws-sdk-go-v2/service/ebs/types"

	"github.com/morgana-deploy/morgana/step"
)

// limits are the limits of an upload, and of what a worker waits for.
type limits struct {
	first, most int           // connections at the beginning, and at most
	attempt     time.Duration // of one call for a block
	patience    time.Duration // how long a block may fail, with all its attempts
	// unlisted is how long a list may lack what was made. It is some seconds as a rule.
	unlisted time.Duration
	// reach is how long a helper that runs may not answer, and grace how long its sshd may
	// refuse the login: it may not be set up yet.
	reach, grace time.Duration
	// detached is how long a volume may take to be detached from a helper that runs.
	detached time.Duration
}

// usual are the limits of Register. The first connections have 4 MiB on the way: a line of
// 2 Mbit/s sends them in an attempt.
var usual = limits{first: 8, most: maxConnections, attempt: callTimeout, patience: 2 * time.Minute,
	unlisted: 30 * time.Second, reach: 5 * time.Minute, grace: 30 * time.Second, detached: time.Minute}

const (
	maxConnections = 64
	// soon is the time within which a block is acknowledged if the line is not full.
	soon = time.Second
	// The pause after a failed attempt, before the next is begun.
	firstPause, maxPause = 100 * time.Millisecond, 5 * time.Second
)

// upload sends blocks of a disk to a snapshot.
//
// AWS takes 1,000 blocks a second of an account, and a line may be slow, so the number of
// connections adapts. It grows by one for each block that is acknowledged soon. It is halved
// when AWS throttles or does not answer, and then grows by one for each round. The SDK's
// adaptive retryer would limit the rate by throttles alone, and a slow line has none.
type upload struct {
	ebs      *ebs.Client
	snapshot string
	disk     io.ReaderAt
	blocks   blocks
	sent     *sent
	note     string // for the progress
	limits
}

// attempt is one call for one block.
type attempt struct {
	position int       // of the block in the list
	since    time.Time // when the block was first tried
	began    time.Time
	err      error
}

// run sends the blocks that are not sent yet. When it returns, no attempt is running.
func (u *upload) run(ctx context.Context) error {
	trying, cancel := context.WithCancel(ctx)
	defer cancel()
	var (
		results = make(chan attempt)
		again   []attempt // tried before any other block
		next    int       // the first position that was never tried
		running int
		line    = window{limit: float64(u.first), most: float64(u.most), knee: float64(u.most)}
		failed  error
		began   = time.Now()
		before  = u.sent.count
		ended   = ctx.Done()
	)
	for {
		pause := time.Until(line.until) // asked once: a pause that ends meanwhile has to end the wait below
		for failed == nil && ctx.Err() == nil && running < int(line.limit) && pause <= 0 {
			var a attempt
			if len(again) > 0 {
				a, again = again[0], again[1:]
			} else if next = u.sent.after(next); next < len(u.blocks) {
				a = attempt{position: next, since: time.Now()}
				next++
			} else {
				break
			}
			a.began = time.Now()
			running++
			go func() {
				err := u.put(trying, a)
				// The end of the patience may cut a call off. The error before it says more.
				if err == nil || a.err == nil || !errors.Is(err, context.DeadlineExceeded) {
					a.err = err
				}
				results <- a
			}()
		}
		switch {
		case running > 0:
		case failed != nil:
			return failed
		case u.sent.all():
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		}
		var resume <-chan time.Time
		if pause > 0 {
			resume = time.After(pause)
		}
		select {
		case a := <-results:
			running--
			err := a.err
			if err == nil { // recorded after a failure too, so that it is not sent again
				line.worked(a)
				err = u.sent.add(a.position)
			} else if err = u.verdict(ctx, a); err == nil {
				line.failed(a)
				again = append(again, a)
			}
			if err != nil && failed == nil {
				failed = err
				cancel()
			}
			u.report(ctx, time.Since(began), before)
		case <-resume:
		case <-ended:
			ended = nil
		}
	}
}

// put sends a block once.
func (u *upload) put(ctx context.Context, a attempt) error {
	ctx, cancel := context.WithTimeout(ctx, min(u.attempt, u.patience-a.began.Sub(a.since)))
	defer cancel()
	b := u.blocks[a.position]
	_, err := u.ebs.PutSnapshotBlock(ctx, &ebs.PutSnapshotBlockInput{
		SnapshotId: &u.snapshot, BlockIndex: &b.index, DataLength: aws.Int32(blockSize), BlockData: u.data(b),
		Checksum: aws.String(b.checksum()), ChecksumAlgorithm: types.ChecksumAlgorithmChecksumAlgorithmSha256,
	})
	return err
}

func (u *upload) data(b block) *io.SectionReader {
	return io.NewSectionReader(u.disk, int64(b.index)*blockSize, blockSize)
}

// The codes of errors of a block that say nothing about the load.
const (
	// wrongChecksum may be the fault of the line. It has HTTP status 403.
	wrongChecksum = "InvalidSignatureException"
	// noSnapshot is also the answer for a snapshot that was just started.
	noSnapshot = "ResourceNotFoundException"
)

// verdict returns nil if the block of a failed attempt is to be tried again.
func (u *upload) verdict(ctx context.Context, a attempt) error {
	b := u.blocks[a.position]
	err := failed(fmt.Sprintf("send block %d to %s", b.index, u.snapshot), a.err)
	what := code(a.err)
	var invalid *types.ValidationException
	if what == wrongChecksum {
		sum := sha256.New()
		if _, err := io.Copy(sum, u.data(b)); err != nil {
			return err
		}
		if !bytes.Equal(sum.Sum(nil), b.sum[:]) {
			return &step.Error{Kind: step.Conflict, Err: fmt.Errorf("block %d of the disk is not the one of the image's file %s", b.index, blocksFile), Hint: "deploy again"}
		}
	}
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.As(a.err, &invalid) && invalid.Reason != types.ValidationExceptionReasonConflictingBlockUpdate:
		return passing(err) // the snapshot is not pending any more: the next try looks
	case invalid != nil: // the request of a killed worker is still served
		err = passing(err)
	case what == noSnapshot:
		err = passing(err)
	}
	if !step.KindOf(err).Final() && time.Since(a.since) < u.patience {
		return nil
	}
	return err
}

// report reports the progress. The blocks before were sent by earlier tries.
func (u *upload) report(ctx context.Context, took time.Duration, before int) {
	const megabyte = 1e6
	p := step.Progress{Done: int64(u.sent.count) * blockSize, Total: int64(len(u.blocks)) * blockSize, Unit: "bytes",
		Note: "sending blocks to " + u.snapshot + u.note, State: u.sent.state(u.snapshot)}
	if n := u.sent.count - before; n > 0 {
		rate := float64(n) * blockSize / took.Seconds()
		left := time.Duration(float64(p.Total-p.Done) / rate * float64(time.Second))
		p.Note += fmt.Sprintf(", %.1f MB/s, %s left", rate/megabyte, left.Round(time.Second))
	}
	step.Report(ctx, p)
}

// window is the number of connections, and the pause after failures.
type window struct {
	limit, most float64
	// knee is the limit after the last cut. Up to it the limit grows by one for each
	// block, above it by one for each round.
	knee     float64
	failures int       // rounds that failed, in a row
	round    time.Time // when the last of them did
	until    time.Time // the pause's end
}

func (w *window) worked(a attempt) {
	w.failures = 0
	switch {
	case time.Since(a.began) > soon:
		return
	case w.limit < w.knee:
		w.limit++
	default:
		w.limit += 1 / w.limit
	}
	w.limit = min(w.limit, w.most)
}

// failed cuts the limit and begins a pause. It does so once for all attempts of a round.
func (w *window) failed(a attempt) {
	if a.began.Before(w.round) {
		return
	}
	if what := code(a.err); what != wrongChecksum && what != noSnapshot {
		w.limit = max(w.limit/2, 1)
		w.knee = w.limit
	}
	w.round = time.Now()
	pause := min(firstPause<<min(w.failures, 10), maxPause)
	w.until = w.round.Add(pause/2 + rand.N(pause/2))
	w.failures++
}
