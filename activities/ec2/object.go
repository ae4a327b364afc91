package ec2

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/morgana-deploy/morgana/step"
)

const (
	// keyPrefix and a rollout's folder name begin the keys of its objects.
	keyPrefix = "morgana/"
	// maxParts is how many parts an object has at most, and leastPart their size in bytes.
	maxParts, leastPart = 10_000, 8 << 20
	// partsAtOnce is the number of parts on the way.
	partsAtOnce = 4
	// maxObject is the largest object that every service with S3's API takes, in bytes.
	maxObject = 5 << 40
)

// partSize returns the size of the parts of an object. It depends on the object's size
// alone, so a later try has the same parts.
func partSize(size int64) int64 {
	const mebi = 1 << 20
	return max(leastPart, ((size+maxParts-1)/maxParts+mebi-1)/mebi*mebi)
}

// object is a disk's object in the bucket.
type object struct {
	*cloud
	key  string
	size int64
}

func (o *object) String() string { return "s3://" + o.bucket + "/" + o.key }

// there reports whether the object is complete. Its key has the digest of the image.
func (o *object) there(ctx context.Context) (bool, error) {
	out, err := o.s3.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &o.bucket, Key: &o.key, ExpectedBucketOwner: &o.account})
	switch {
	case statusOf(err) == 404:
		return false, nil
	case err != nil:
		return false, failed("look for "+o.String(), err)
	}
	return aws.ToInt64(out.ContentLength) == o.size, nil
}

// upload sends the object in parts. It adopts the upload that an earlier try began, with the
// parts that arrived. The SDK reads the parts from disk: it has none of them in memory.
func (o *object) upload(ctx context.Context, disk io.ReaderAt) error {
	id, err := o.begun(ctx)
	if err != nil {
		return err
	}
	parts, err := o.parts(ctx, id)
	if err != nil {
		return err
	}
	if err := o.send(ctx, id, disk, parts); err != nil {
		return err
	}
	list := make([]types.CompletedPart, len(parts))
	for i := range parts {
		number := int32(i + 1) //nolint:gosec // at most maxParts
		list[i] = types.CompletedPart{ETag: &parts[i], PartNumber: &number}
	}
	_, err = o.s3.CompleteMultipartUpload(ctx, &s3.CompleteMultipartUploadInput{Bucket: &o.bucket, Key: &o.key, UploadId: &id,
		ExpectedBucketOwner: &o.account, MultipartUpload: &types.CompletedMultipartUpload{Parts: list}})
	return failed("complete the upload of "+o.String(), err)
}

// begun returns the id of the first upload of the object, or begins one. An upload whose
// id was lost is among the others, which [cloud.sweep] aborts.
func (o *object) begun(ctx context.Context) (string, error) {
	all, err := o.uploads(ctx, o.key)
	if err != nil {
		return "", err
	}
	for _, u := range all {
		if aws.ToString(u.Key) == o.key {
			return aws.ToString(u.UploadId), nil
		}
	}
	out, err := o.s3.CreateMultipartUpload(ctx, &s3.CreateMultipartUploadInput{Bucket: &o.bucket, Key: &o.key, ExpectedBucketOwner: &o.account})
	if err != nil {
		return "", failed("begin the upload of "+o.String(), err)
	}
	return aws.ToString(out.UploadId), nil
}

// uploads lists the unfinished uploads whose keys have a prefix, the oldest first.
func (c *cloud) uploads(ctx context.Context, prefix string) ([]types.MultipartUpload, error) {
	out, err := c.s3.ListMultipartUploads(ctx, &s3.ListMultipartUploadsInput{Bucket: &c.bucket, Prefix: &prefix, ExpectedBucketOwner: &c.account})
	if err != nil {
		return nil, failed("list the uploads to bucket "+c.bucket, err)
	}
	slices.SortStableFunc(out.Uploads, func(a, b types.MultipartUpload) int {
		return aws.ToTime(a.Initiated).Compare(aws.ToTime(b.Initiated))
	})
	return out.Uploads, nil
}

// parts returns the ETags of an upload's parts, "" for those that are not there.
func (o *object) parts(ctx context.Context, id string) ([]string, error) {
	all := make([]string, (o.size+partSize(o.size)-1)/partSize(o.size))
	list := s3.NewListPartsPaginator(o.s3, &s3.ListPartsInput{Bucket: &o.bucket, Key: &o.key, UploadId: &id, ExpectedBucketOwner: &o.account})
	for list.HasMorePages() {
		page, err := list.NextPage(ctx)
		if err != nil {
			return nil, failed("list the parts of "+o.String(), err)
		}
		for _, p := range page.Parts {
			if i := int(aws.ToInt32(p.PartNumber)) - 1; i >= 0 && i < len(all) && aws.ToInt64(p.Size) == o.length(i) {
				all[i] = aws.ToString(p.ETag)
			}
		}
	}
	return all, nil
}

// length returns the length of a part.
func (o *object) length(i int) int64 {
	return min(partSize(o.size), o.size-int64(i)*partSize(o.size))
}

// send sends the parts without an ETag, and sets it. After the first error the parts on the
// way are still awaited.
func (o *object) send(ctx context.Context, id string, disk io.ReaderAt, parts []string) (err error) {
	var (
		mu      sync.Mutex
		all     sync.WaitGroup
		slots   = make(chan struct{}, partsAtOnce)
		done    int64
		before  int64
		began   = time.Now()
		sending = "sending the disk to " + o.String()
	)
	for i, tag := range parts {
		if tag != "" {
			done += o.length(i)
		}
	}
	before = done
	report := func() {
		p := step.Progress{Done: done, Total: o.size, Unit: "bytes", Note: sending}
		if took := time.Since(began).Seconds(); done > before {
			rate := float64(done-before) / took
			p.Note += fmt.Sprintf(", %.1f MB/s, %s left", rate/1e6, time.Duration(float64(o.size-done)/rate*float64(time.Second)).Round(time.Second))
		}
		step.Report(ctx, p)
	}
	report()
	stop := func() bool {
		mu.Lock()
		defer mu.Unlock()
		return err != nil || ctx.Err() != nil
	}
	for i, tag := range parts {
		if tag != "" {
			continue
		}
		slots <- struct{}{}
		if stop() {
			break
		}
		all.Go(func() {
			defer func() { <-slots }()
			number := int32(i + 1) //nolint:gosec // at most maxParts
			out, failure := o.s3.UploadPart(ctx, &s3.UploadPartInput{Bucket: &o.bucket, Key: &o.key, UploadId: &id, PartNumber: &number,
				ExpectedBucketOwner: &o.account, Body: io.NewSectionReader(disk, int64(i)*partSize(o.size), o.length(i))})
			mu.Lock()
			defer mu.Unlock()
			if failure == nil {
				parts[i] = aws.ToString(out.ETag)
				done += o.length(i)
				report()
			} else if err == nil {
				err = failed(fmt.Sprintf("send part %d of %s", number, o), failure)
			}
		})
	}
	all.Wait()
	if err == nil {
		err = ctx.Err()
	}
	return err
}

// ensureBucket makes the bucket unless it is there.
func (c *cloud) ensureBucket(ctx context.Context) error {
	if there, err := c.bucketThere(ctx); there || err != nil {
		return err
	}
	in := &s3.CreateBucketInput{Bucket: &c.bucket}
	if c.backing == backingBundle { // EC2 reads its objects by their ACL
		in.ObjectOwnership = types.ObjectOwnershipObjectWriter
	}
	if c.region != "us-east-1" { // S3 does not take it by its name
		in.CreateBucketConfiguration = &types.CreateBucketConfiguration{LocationConstraint: types.BucketLocationConstraint(c.region)}
	}
	_, err := c.s3.CreateBucket(ctx, in)
	if err != nil && code(err) != "BucketAlreadyOwnedByYou" {
		return failed("make bucket "+c.bucket, err)
	}
	return nil
}

// bucketThere reports whether the bucket exists. It refuses a bucket of another region or
// account. The answer has no body, so its status alone tells.
func (c *cloud) bucketThere(ctx context.Context) (bool, error) {
	out, err := c.s3.HeadBucket(ctx, &s3.HeadBucketInput{Bucket: &c.bucket, ExpectedBucketOwner: &c.account})
	elsewhere := func(region string) error {
		return step.Invalid("bucket", "name a bucket of "+c.region+", or one that does not exist: it is made",
			"bucket %s is in %s, and EC2 reads objects of its own region %s only", c.bucket, region, c.region)
	}
	switch status := statusOf(err); {
	case err == nil && aws.ToString(out.BucketRegion) != "" && *out.BucketRegion != c.region:
		return true, elsewhere(*out.BucketRegion)
	case err == nil:
		return true, nil
	case status == 404:
		return false, nil
	case status == 301 || status == 400 && bucketRegion(err) != "" && bucketRegion(err) != c.region:
		return true, elsewhere(cmp.Or(bucketRegion(err), "another region"))
	case status == 403:
		return true, &step.Error{Kind: step.Unauthorized, Field: "bucket", Err: said{"bucket " + c.bucket + " may not be read", err},
			Hint: "if it is of account " + c.account + ", allow s3:ListBucket; else choose another name: the names of buckets are shared by all accounts"}
	}
	return false, failed("look for bucket "+c.bucket, err)
}

// bucketRegion returns the region that S3 names in a refusal, "" if none.
func bucketRegion(err error) string {
	var r *smithyhttp.ResponseError
	if errors.As(err, &r) && r.Response != nil {
		return r.Response.Header.Get("X-Amz-Bucket-Region")
	}
	return ""
}

// leftover is an object or an unfinished upload of a rollout.
type leftover struct {
	of      step.Tags
	key     string
	upload  string // its id; "" for an object
	created time.Time
}

// leftovers returns the objects and uploads of t's app and target. A bucket that does not
// exist or is in another region has none.
func (c *cloud) leftovers(ctx context.Context, t step.Tags) (all []leftover, err error) {
	prefix := keyPrefix
	if t.App != "" || t.Target != "" {
		prefix += t.App + "." + t.Target + "."
	}
	add := func(key, upload *string, created *time.Time) {
		folder, _, _ := strings.Cut(strings.TrimPrefix(aws.ToString(key), keyPrefix), "/")
		if of, ok := step.ParseFolder(folder); ok {
			all = append(all, leftover{of, aws.ToString(key), aws.ToString(upload), aws.ToTime(created)})
		}
	}
	list := s3.NewListObjectsV2Paginator(c.s3, &s3.ListObjectsV2Input{Bucket: &c.bucket, Prefix: &prefix, ExpectedBucketOwner: &c.account})
	for list.HasMorePages() {
		page, err := list.NextPage(ctx)
		switch {
		case statusOf(err) == 404, statusOf(err) == 301:
			return nil, nil
		case err != nil:
			return nil, failed("list the objects of bucket "+c.bucket, err)
		}
		for _, o := range page.Contents {
			add(o.Key, nil, o.LastModified)
		}
	}
	uploads, err := c.uploads(ctx, prefix)
	if err != nil {
		return nil, err
	}
	for _, u := range uploads {
		add(u.Key, u.UploadId, u.Initiated)
	}
	return all, nil
}

func (l leftover) String() string {
	if l.upload != "" {
		return kindUpload + " " + l.key
	}
	return kindObject + " " + l.key
}

// drop deletes an object or aborts an upload.
func (c *cloud) drop(ctx context.Context, l leftover) (err error) {
	if l.upload == "" {
		_, err = c.s3.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: &c.bucket, Key: &l.key, ExpectedBucketOwner: &c.account})
	} else {
		_, err = c.s3.AbortMultipartUpload(ctx, &s3.AbortMultipartUploadInput{Bucket: &c.bucket, Key: &l.key, UploadId: &l.upload, ExpectedBucketOwner: &c.account})
	}
	if err != nil && statusOf(err) != 404 {
		return failed("remove "+l.String(), err)
	}
	return nil
}

// sweep removes the objects and uploads of a rollout.
func (c *cloud) sweep(ctx context.Context, t step.Tags) error {
	all, err := c.leftovers(ctx, t)
	for _, l := range all {
		if err == nil && l.of == t {
			err = c.drop(ctx, l)
		}
	}
	return err
}
