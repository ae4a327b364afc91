package ec2

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/morgana-deploy/morgana/step"
)

const (
	// importing is how long a try waits for an import.
	importing = 30 * time.Minute
	// defaultRole is the role that VM Import takes if none is named.
	defaultRole = "vmimport"
)

// The states of an import task. "deleted" is also that of a task that failed.
const (
	taskCompleted = "completed"
	taskDeleting  = "deleting"
	taskDeleted   = "deleted"
)

// importTask is a task that makes a snapshot of an object.
type importTask struct {
	id, state, message, snapshot string
	percent                      int64
	tags                         []types.Tag
}

func (t importTask) over() bool { return t.state == taskCompleted || t.state == taskDeleted }

// ended reports whether Destroy has seen the task's end.
func (t importTask) ended() bool { return value(t.tags, tagEnded) != "" }

func taskOf(id *string, detail *types.SnapshotTaskDetail, tags []types.Tag) importTask {
	t := importTask{id: aws.ToString(id), tags: tags}
	if d := detail; d != nil {
		t.state, t.message, t.snapshot = aws.ToString(d.Status), aws.ToString(d.StatusMessage), aws.ToString(d.SnapshotId)
		t.percent, _ = strconv.ParseInt(aws.ToString(d.Progress), 10, 64) // 0 if there is none
	}
	return t
}

// importTasks lists the import tasks that rollouts made. The call has no documented filter
// by tags.
func (c *cloud) importTasks(ctx context.Context) ([]importTask, error) {
	return gather(ctx, "list import tasks", ec2.NewDescribeImportSnapshotTasksPaginator(c.ec2, &ec2.DescribeImportSnapshotTasksInput{}),
		func(page *ec2.DescribeImportSnapshotTasksOutput) (all []importTask) {
			for _, t := range page.ImportSnapshotTasks {
				if _, ours := owner(t.Tags); ours {
					all = append(all, taskOf(t.ImportTaskId, t.SnapshotTaskDetail, t.Tags))
				}
			}
			return all
		})
}

// importTask returns a task as EC2 lists it, one without an id if EC2 does not list it.
func (c *cloud) importTask(ctx context.Context, id string) (importTask, error) {
	out, err := c.ec2.DescribeImportSnapshotTasks(ctx, &ec2.DescribeImportSnapshotTasksInput{ImportTaskIds: []string{id}})
	switch {
	case code(err) == noTask || err == nil && len(out.ImportSnapshotTasks) == 0:
		return importTask{}, nil
	case err != nil:
		return importTask{}, failed("describe "+id, err)
	}
	t := out.ImportSnapshotTasks[0]
	return taskOf(t.ImportTaskId, t.SnapshotTaskDetail, t.Tags), nil
}

// noTask is AWS's code for a task that does not exist.
const noTask = "InvalidConversionTaskId"

// imported returns a completed snapshot of the image that VM Import made: the object is
// uploaded, imported and removed. A task that an earlier try began is adopted.
func (r *registering) imported(ctx context.Context, _ found) (string, error) {
	all, err := r.cloud.importTasks(ctx)
	if err != nil {
		return "", err
	}
	var begun importTask
	past, broken := 0, 0 // tasks; their number tells the client token of the next
	for _, t := range all {
		if made, _ := owner(t.tags); !r.img.Spec.Match(made) || value(t.tags, tagDigest) != r.digest {
			continue
		}
		if t.ended() {
			past++
		} else if t.state == taskDeleting || t.state == taskDeleted {
			if broken++; broken >= maxBroken {
				return "", &step.Error{Kind: step.Conflict, Err: fmt.Errorf("%d imports failed, the last: %s", broken, t.message),
					Hint: "see the task " + t.id + " by aws ec2 describe-import-snapshot-tasks"}
			}
		} else {
			begun = t
		}
	}
	if begun.id == "" {
		o := &object{cloud: r.cloud, key: fmt.Sprintf("%s%s/%s.raw", keyPrefix, r.folder, r.digest), size: r.ami.Size}
		if err := r.put(ctx, o); err != nil {
			return "", err
		}
		if begun, err = r.begin(ctx, o, past+broken); err != nil {
			return "", err
		}
	}
	return r.follow(ctx, begun.id)
}

// put sees that the object is in the bucket.
func (r *registering) put(ctx context.Context, o *object) (err error) {
	if o.size > maxObject {
		return step.Invalid("size", "backing: direct", "a disk of %d GiB is larger than an object of S3", r.ami.gibibytes())
	}
	if err := r.cloud.ensureBucket(ctx); err != nil {
		return err
	}
	if there, err := o.there(ctx); there || err != nil {
		return err
	}
	disk, done, err := r.unpack(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, done()) }()
	return o.upload(ctx, disk)
}

// begin starts an import of the object.
func (r *registering) begin(ctx context.Context, o *object, before int) (importTask, error) {
	token, err := r.img.Spec.Token(fmt.Sprintf("import %d %s", before, r.digest))
	if err != nil {
		return importTask{}, err
	}
	step.Report(ctx, step.Progress{Note: "starting the import of " + o.String()})
	in := &ec2.ImportSnapshotInput{
		ClientToken: &token, Description: aws.String("morgana " + r.folder), RoleName: aws.String(cmp.Or(r.options.Role, defaultRole)),
		DiskContainer: &types.SnapshotDiskContainer{Format: aws.String("RAW"), UserBucket: &types.UserBucket{S3Bucket: &o.bucket, S3Key: &o.key}},
		// They are the task's. AWS gives the snapshot no tags.
		TagSpecifications: tagged(r.tags, types.ResourceTypeImportSnapshotTask),
	}
	if r.ami.Encrypted {
		in.Encrypted = aws.Bool(true)
	}
	out, err := r.cloud.ec2.ImportSnapshot(ctx, in)
	if err != nil {
		return importTask{}, r.notImported(err)
	}
	return taskOf(out.ImportTaskId, out.SnapshotTaskDetail, r.tags), nil
}

// notImported returns the error of ImportSnapshot. AWS's code is InvalidParameter whatever
// is wrong, so the message has to tell.
func (r *registering) notImported(err error) error {
	e := &step.Error{Op: "import the disk"}
	what := err.Error()
	switch role := cmp.Or(r.options.Role, defaultRole); {
	case code(err) != "InvalidParameter":
		return failed("import the disk", err)
	case strings.Contains(what, "service role"):
		e.Kind, e.Field, e.Err = step.Unauthorized, "role", said{"the role " + role + " does not exist or may not read the bucket", err}
		e.Hint = roleFix(role, r.cloud.bucket)
	case strings.Contains(what, "not local to the region"):
		e.Kind, e.Field, e.Err = step.InvalidSpec, "bucket", said{"bucket " + r.cloud.bucket + " is not in " + r.cloud.region, err}
		e.Hint = "name a bucket of " + r.cloud.region + ", or one that does not exist: it is made"
	case strings.Contains(what, "access to the S3 object"):
		e.Kind, e.Field, e.Err = step.Unauthorized, "bucket", said{"these credentials may not read the object", err}
		e.Hint = "allow s3:GetObject and s3:GetBucketLocation of bucket " + r.cloud.bucket
	default:
		return failed("import the disk", err)
	}
	return e
}

// roleFix returns the commands that make the role, with its two documents.
func roleFix(role, bucket string) string {
	return fmt.Sprintf("aws iam create-role --role-name %s --assume-role-policy-document '%s' && "+
		"aws iam put-role-policy --role-name %s --policy-name %s --policy-document '%s'", role, roleTrust, role, role, strings.ReplaceAll(rolePolicy, "BUCKET", bucket))
}

// The documents of the role, as the user guide of VM Import has them.
const (
	roleTrust = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"Service":"vmie.amazonaws.com"},` +
		`"Action":"sts:AssumeRole","Condition":{"StringEquals":{"sts:Externalid":"vmimport"}}}]}`
	rolePolicy = `{"Version":"2012-10-17","Statement":[` +
		`{"Effect":"Allow","Action":["s3:GetBucketLocation","s3:GetObject","s3:ListBucket"],"Resource":["arn:aws:s3:::BUCKET","arn:aws:s3:::BUCKET/*"]},` +
		`{"Effect":"Allow","Action":["ec2:ModifySnapshotAttribute","ec2:CopySnapshot","ec2:RegisterImage","ec2:Describe*"],"Resource":"*"}]}`
)

// follow waits until a task and its snapshot are completed. The snapshot gets the tags as
// soon as it is known. A task that failed is an error with its message.
func (r *registering) follow(ctx context.Context, id string) (string, error) {
	var last importTask
	claimed := false
	var since time.Time // completed, with a snapshot that EC2 does not list
	done, err := poll(ctx, importing, func() (bool, error) {
		t, err := r.cloud.importTask(ctx, id)
		if err != nil || t.id == "" {
			return false, err
		}
		last = t
		step.Report(ctx, step.Progress{Done: t.percent, Total: 100, Unit: "%", Note: strings.TrimSuffix("import "+id+": "+t.message, ": ")})
		if t.state == taskDeleting || t.state == taskDeleted {
			return false, importFailed(t)
		}
		if t.snapshot != "" && !claimed {
			if claimed, err = r.cloud.claim(ctx, t.snapshot, r.tags); err != nil {
				return false, err
			}
		}
		switch {
		case claimed || t.state != taskCompleted:
		case since.IsZero():
			since = time.Now()
		case time.Since(since) > visible:
			return false, &step.Error{Kind: step.Conflict, Err: fmt.Errorf("somebody has deleted the snapshot %s of the import %s", t.snapshot, id), Hint: "deploy again"}
		}
		return claimed && t.state == taskCompleted, nil
	})
	switch {
	case err != nil:
		return "", err
	case !done:
		return "", fmt.Errorf("AWS has not completed the import %s in %s: %s", id, importing, last.message)
	}
	return last.snapshot, r.awaitSnapshot(ctx, last.snapshot)
}

// importFailed returns the error of a task that failed. Another import of the same disk
// fails as well if AWS blames the client.
func importFailed(t importTask) error {
	e := &step.Error{Op: "import the disk", Err: fmt.Errorf("the import %s failed: %s", t.id, cmp.Or(t.message, "AWS does not say why"))}
	if strings.HasPrefix(t.message, "ClientError") {
		e.Kind, e.Hint = step.Unsupported, "backing: direct needs no import"
	}
	return e
}

// claim gives a snapshot the tags, unless it has an owner. It returns false if EC2 does not
// list the snapshot.
func (c *cloud) claim(ctx context.Context, snapshot string, tags []types.Tag) (bool, error) {
	out, err := c.ec2.DescribeSnapshots(ctx, &ec2.DescribeSnapshotsInput{SnapshotIds: []string{snapshot}})
	switch {
	case gone(err) || err == nil && len(out.Snapshots) == 0:
		return false, nil
	case err != nil:
		return false, failed("describe "+snapshot, err)
	}
	if _, owned := owner(out.Snapshots[0].Tags); owned {
		return true, nil
	}
	if err = c.tag(ctx, tags, snapshot); gone(err) {
		return false, nil
	}
	return err == nil, err
}

// endImport cancels a task and waits until it is over. A snapshot that it made nevertheless
// gets the task's tags, by which it is found. Then the task is tagged: Register does not adopt
// it any more.
func (c *cloud) endImport(ctx context.Context, t importTask) error {
	if t.ended() {
		return nil
	}
	cancelled := t.over()
	listed := time.Duration(0) // how long the snapshot may not be listed: one that was made before is, or is deleted
	if !t.over() {
		listed = visible
	}
	ended, err := poll(ctx, ending, func() (bool, error) {
		if !cancelled && t.state != taskDeleting {
			_, err := c.ec2.CancelImportTask(ctx, &ec2.CancelImportTaskInput{ImportTaskId: &t.id})
			if err != nil && code(err) != "IncorrectState" && code(err) != noTask {
				return false, failed("cancel "+t.id, err)
			}
			cancelled = true
		}
		if !t.over() {
			now, err := c.importTask(ctx, t.id)
			if err != nil || now.id == "" {
				return now.id == "", err
			}
			t = now
		}
		return t.over(), nil
	})
	if err == nil && !ended {
		err = fmt.Errorf("AWS has not ended the import %s within %s", t.id, ending)
	}
	if err == nil && t.snapshot != "" {
		_, err = poll(ctx, listed, func() (bool, error) { return c.claim(ctx, t.snapshot, t.tags) })
	}
	if err != nil {
		return err
	}
	if err = c.tag(ctx, []types.Tag{tag(tagEnded, "yes")}, t.id); code(err) == noTask {
		return nil
	}
	return err
}
