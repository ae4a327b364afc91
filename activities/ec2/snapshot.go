package ec2

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ebs"
	ebstypes "github.com/aws/aws-sdk-go-v2/service/ebs/types"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/morgana-deploy/morgana/image/disk"
	"github.com/morgana-deploy/morgana/machine"
	"github.com/morgana-deploy/morgana/step"
)

const (
	// idleMinutes is how long AWS keeps a snapshot to which no block is sent. A worker
	// may be down for less.
	idleMinutes = 180
	// completing is how long a try waits for a snapshot to be completed.
	completing = 15 * time.Minute
	// completedReads is how often in a row a snapshot must be completed: AWS's answers
	// are not consistent.
	completedReads = 3
	// maxBroken is how many snapshots of a rollout may end in state error.
	maxBroken = 3
	// maxDeleted is how many started snapshots of a rollout may be unknown to AWS.
	maxDeleted = 3
)

// found are the snapshots of this life that concern a rollout.
type found struct {
	all    []types.Snapshot // the newest first
	done   *types.Snapshot  // has the whole image
	begun  *types.Snapshot  // is this rollout's, with a part of the image
	broken []types.Snapshot // are this rollout's, in state error
}

// tooBroken returns an error if too many of the rollout's snapshots have failed.
func (f found) tooBroken() error {
	if n := len(f.broken); n >= maxBroken {
		return &step.Error{Kind: step.Conflict, Err: fmt.Errorf("%d snapshots failed, the last: %s", n, aws.ToString(f.broken[0].StateMessage)),
			Hint: "see the snapshot " + *f.broken[0].SnapshotId + " in AWS's console"}
	}
	return nil
}

func (r *registering) find(ctx context.Context) (f found, err error) {
	f.all, err = gather(ctx, "list snapshots",
		ec2.NewDescribeSnapshotsPaginator(r.cloud.ec2, &ec2.DescribeSnapshotsInput{OwnerIds: []string{"self"}, Filters: matching(r.img.Spec.Tags)}),
		func(page *ec2.DescribeSnapshotsOutput) []types.Snapshot { return page.Snapshots })
	if err != nil {
		return f, err
	}
	slices.SortFunc(f.all, func(a, b types.Snapshot) int {
		return cmp.Or(aws.ToTime(b.StartTime).Compare(aws.ToTime(a.StartTime)), cmp.Compare(*a.SnapshotId, *b.SnapshotId))
	})
	for i, s := range f.all {
		made, _ := owner(s.Tags)
		mine := r.img.Spec.Match(made)
		same := value(s.Tags, tagDigest) == r.digest
		switch {
		case same && s.State == types.SnapshotStateCompleted && f.done == nil:
			f.done = &f.all[i]
		case same && mine && s.State == types.SnapshotStatePending && f.begun == nil:
			f.begun = &f.all[i]
		case mine && s.State == types.SnapshotStateError:
			f.broken = append(f.broken, s)
		}
	}
	return f, nil
}

// snapshot returns the id of a completed snapshot of the image: one that is there, or one
// of the backing. Then it deletes this rollout's broken ones: until then their number tells
// the client token of the next.
func (r *registering) snapshot(ctx context.Context) (id string, err error) {
	f, err := r.find(ctx)
	if err != nil {
		return "", err
	}
	if f.done != nil {
		id = *f.done.SnapshotId
		err = r.adopt(ctx, id)
	} else {
		id, err = backings[r.options.Backing](r, ctx, f)
	}
	if err == nil && r.options.Backing == backingVolume {
		err = r.dropSpares(ctx, id)
	}
	if err != nil {
		return "", err
	}
	r.dropSent(id)
	for _, s := range f.broken {
		if err := r.remove(ctx, *s.SnapshotId); err != nil {
			return "", err
		}
	}
	return id, nil
}

func (r *registering) remove(ctx context.Context, snapshot string) error {
	_, err := r.cloud.ec2.DeleteSnapshot(ctx, &ec2.DeleteSnapshotInput{SnapshotId: &snapshot})
	if err != nil && !gone(err) {
		return failed("delete "+snapshot, err)
	}
	r.dropSent(snapshot)
	return nil
}

// send sends the image to the snapshot that an earlier try began, or to a new one.
func (r *registering) send(ctx context.Context, f found) (id string, err error) {
	if err := f.tooBroken(); err != nil {
		return "", err
	}
	list, err := r.blockList(ctx)
	if err != nil {
		return "", err
	}
	p, err := r.parentOf(ctx, f)
	if err != nil {
		return "", err
	}
	if f.begun != nil {
		id = *f.begun.SnapshotId
		if begunFrom := value(f.begun.Tags, tagParent); begunFrom != p.id {
			// The blocks that it lacks are not known.
			return "", errors.Join(r.remove(ctx, id), fmt.Errorf("the snapshot %s cannot be continued: the blocks of its parent %s are not known", id, begunFrom))
		}
		return id, r.fill(ctx, id, list, &p)
	}
	for deleted := 0; ; deleted++ {
		if id, err = r.start(ctx, len(f.broken), deleted, &p); err != nil {
			return "", err
		}
		// Somebody may have deleted the snapshot that an earlier try started: AWS remembers
		// the token.
		if err = r.fill(ctx, id, list, &p); code(err) != noSnapshot || deleted == maxDeleted {
			return id, err
		}
		r.dropSent(id)
	}
}

// blockList reads the list of the image's blocks.
func (r *registering) blockList(ctx context.Context) (blocks, error) {
	list, err := readBlocks(ctx, r.site.Store, r.file(blocksFile))
	if err == nil && list.end() > r.ami.gibibytes()*gibi {
		err = step.Invalid("", "deploy again", "the image's file %s has a block beyond the disk's end", blocksFile)
	}
	return list, err
}

// parent is the snapshot from which another is begun.
type parent struct {
	id     string // "": none
	blocks blocks
	why    string // why there is none, if an earlier snapshot is there
}

// parentOf chooses the parent of the image's snapshot: that of the begun one, or the newest
// that can be one. An error that may pass is returned: without a parent all blocks are sent.
func (r *registering) parentOf(ctx context.Context, f found) (p parent, err error) {
	only := ""
	if f.begun != nil {
		if only = value(f.begun.Tags, tagParent); only == "" {
			return p, nil
		}
		if f.all, err = r.listed(ctx, f.all, only); err != nil {
			return p, err
		}
	}
	for _, s := range f.all {
		id := *s.SnapshotId
		if s.State != types.SnapshotStateCompleted || only != "" && id != only {
			continue
		}
		var why string
		switch {
		case int64(aws.ToInt32(s.VolumeSize)) > r.ami.gibibytes():
			why = "is larger"
		case aws.ToBool(s.Encrypted) != r.ami.Encrypted:
			why = "is not encrypted alike"
		default:
			why = "has no list of its blocks in the store"
			if a, ok := parseBlocksTag(value(s.Tags, tagBlocks)); ok {
				list, err := readBlocks(ctx, r.site.Store, a)
				if err == nil {
					return parent{id: id, blocks: list}, nil
				}
				if !step.KindOf(err).Final() {
					return p, err
				}
			}
		}
		p.why = cmp.Or(p.why, id+" "+why)
	}
	return p, nil
}

// listed lists the snapshots again until a completed one is among them. A list may lack it.
func (r *registering) listed(ctx context.Context, all []types.Snapshot, id string) ([]types.Snapshot, error) {
	_, err := poll(ctx, visible, func() (bool, error) {
		if slices.ContainsFunc(all, func(s types.Snapshot) bool { return *s.SnapshotId == id && s.State == types.SnapshotStateCompleted }) {
			return true, nil
		}
		step.Report(ctx, step.Progress{Note: "waiting for EC2 to list the parent " + id})
		again, err := r.find(ctx)
		all = again.all
		return false, err
	})
	return all, err
}

// maxTag is the longest value of a tag.
const maxTag = 256

// tagText matches a tag's value that AWS takes everywhere.
var tagText = regexp.MustCompile(`^[\pL\pN +=.:/@_-]*$`)

// blocksTag returns the tag that names a list of blocks, false if a tag cannot.
func blocksTag(a step.Artifact) (types.Tag, bool) {
	text := fmt.Sprintf("%d %s %s", a.Size, a.SHA256, a.URI)
	return tag(tagBlocks, text), len(text) <= maxTag && tagText.MatchString(text)
}

func parseBlocksTag(text string) (a step.Artifact, ok bool) {
	n, err := fmt.Sscanf(text, "%d %s %s", &a.Size, &a.SHA256, &a.URI)
	return a, n == 3 && err == nil
}

// start starts a snapshot. If AWS refuses the parent, the snapshot has none: an account that
// encrypts by default refuses one that is not encrypted, and one with another key may be
// denied. The parent is in the token because a token is good for one request only.
func (r *registering) start(ctx context.Context, broken, deleted int, p *parent) (id string, err error) {
	token, err := r.img.Spec.Token(fmt.Sprintf("snapshot %d %d %s %s", broken, deleted, r.digest, p.id))
	if err != nil {
		return "", err
	}
	in := &ebs.StartSnapshotInput{VolumeSize: aws.Int64(r.ami.gibibytes()), ClientToken: &token,
		Description: aws.String("morgana " + r.folder), Timeout: aws.Int32(idleMinutes)}
	tags := slices.Clone(r.tags)
	if t, ok := blocksTag(r.file(blocksFile)); ok {
		tags = append(tags, t)
	}
	switch { // AWS takes only one of both
	case p.id != "":
		in.ParentSnapshotId = &p.id
		tags = append(tags, tag(tagParent, p.id))
	case r.ami.Encrypted:
		in.Encrypted = aws.Bool(true)
	}
	for _, t := range tags {
		in.Tags = append(in.Tags, ebstypes.Tag{Key: t.Key, Value: t.Value})
	}
	step.Report(ctx, step.Progress{Note: "starting a snapshot"})
	out, err := r.cloud.ebs.StartSnapshot(ctx, in)
	switch what := code(err); {
	case err == nil:
		return aws.ToString(out.SnapshotId), nil
	case p.id != "" && slices.Contains([]string{"ValidationException", "AccessDeniedException", noSnapshot}, what):
		*p = parent{why: "AWS does not take " + p.id + " as parent"}
		return r.start(ctx, broken, deleted, p)
	}
	return "", failed("start a snapshot", err)
}

// fill sends the blocks that differ from the parent's to a snapshot and completes it.
func (r *registering) fill(ctx context.Context, id string, list blocks, p *parent) error {
	list = list.since(p.blocks)
	note := ""
	if p.why != "" {
		note = " (all blocks: " + p.why + ")"
	}
	last, _ := step.Resume(ctx)
	sent, err := openSent(r.uploads(), id, list, last)
	if err != nil {
		return err
	}
	defer sent.file.Close() //nolint:errcheck // each line is written at once
	if !sent.all() {
		if err := r.upload(ctx, id, list, sent, note); err != nil {
			return err
		}
	}
	count := int32(len(list)) //nolint:gosec // indices are int32
	in := &ebs.CompleteSnapshotInput{SnapshotId: &id, ChangedBlocksCount: &count}
	if count > 0 {
		in.Checksum = aws.String(list.checksum())
		in.ChecksumAlgorithm, in.ChecksumAggregationMethod = ebstypes.ChecksumAlgorithmChecksumAlgorithmSha256, ebstypes.ChecksumAggregationMethodChecksumAggregationLinear
	}
	_, err = r.cloud.ebs.CompleteSnapshot(ctx, in)
	limit := completing
	switch code(err) {
	case "ValidationException", "ConflictException", noSnapshot: // an earlier try may have completed it
		err, limit = passing(failed("complete "+id, err)), visible
	default:
		if err != nil {
			return failed("complete "+id, err)
		}
	}
	if done, waited := r.completed(ctx, id, limit); waited != nil {
		return waited
	} else if !done {
		return cmp.Or(err, fmt.Errorf("AWS has not completed the snapshot %s in %s", id, limit))
	}
	return nil
}

// unpack unpacks the disk, sparse and of the snapshot's size. done closes and removes it.
func (r *registering) unpack(ctx context.Context) (f *os.File, done func() error, err error) {
	folder, remove, err := r.machines.Scratch(r.img.Spec.Tags)
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, remove())
		}
	}()
	packed, err := r.site.Store.Open(ctx, r.file(packedDisk))
	if err != nil {
		return nil, nil, err
	}
	path := filepath.Join(folder, "disk")
	step.Report(ctx, step.Progress{Note: "unpacking the disk"})
	if err := errors.Join(disk.Unpack(ctx, packed, path), packed.Close()); err != nil {
		return nil, nil, machine.TooBig(err, folder, "size", fmt.Sprintf("%d GiB", r.ami.gibibytes()))
	}
	// The parent may have blocks behind the disk's end, which are sent as zeros.
	if err := os.Truncate(path, r.ami.gibibytes()*gibi); err != nil {
		return nil, nil, err
	}
	if f, err = os.Open(path); err != nil {
		return nil, nil, err
	}
	return f, func() error { return errors.Join(f.Close(), remove()) }, nil
}

// upload sends the blocks of the disk.
func (r *registering) upload(ctx context.Context, id string, list blocks, sent *sent, note string) (err error) {
	f, done, err := r.unpack(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, done()) }()
	u := &upload{ebs: r.cloud.ebs, snapshot: id, disk: f, blocks: list, sent: sent, note: note, limits: r.limits}
	return u.run(ctx)
}

// awaitSnapshot waits until a snapshot is completed.
func (r *registering) awaitSnapshot(ctx context.Context, id string) error {
	done, err := r.completed(ctx, id, completing)
	if err == nil && !done {
		err = fmt.Errorf("AWS has not completed the snapshot %s in %s", id, completing)
	}
	return err
}

// completed waits until a snapshot is completed. It returns false if that takes longer than
// limit. A snapshot that failed is an error, and the next try starts another.
func (r *registering) completed(ctx context.Context, id string, limit time.Duration) (bool, error) {
	reads := 0
	return poll(ctx, limit, func() (bool, error) {
		out, err := r.cloud.ec2.DescribeSnapshots(ctx, &ec2.DescribeSnapshotsInput{SnapshotIds: []string{id}})
		if gone(err) || err == nil && len(out.Snapshots) == 0 {
			reads = 0
			return false, nil
		}
		if err != nil {
			return false, failed("describe "+id, err)
		}
		s := out.Snapshots[0]
		step.Report(ctx, step.Progress{Note: fmt.Sprintf("waiting for %s: %s %s", id, s.State, aws.ToString(s.Progress))})
		switch s.State {
		case types.SnapshotStateError:
			return false, fmt.Errorf("the snapshot %s failed: %s", id, aws.ToString(s.StateMessage))
		case types.SnapshotStateCompleted:
			reads++
		default:
			reads = 0
		}
		return reads == completedReads, nil
	})
}
