package ec2

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rsa"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/morgana-deploy/morgana/step"
)

// maxBundled is the largest image of an S3-backed AMI, in bytes.
const maxBundled = 10 << 30

// sumKey is the name of the SHA-1 in the metadata of a part.
const sumKey = "sha1"

// identity returns the user's certificate and key: those of the options, of EC2_CERT and
// EC2_PRIVATE_KEY of the worker, or the worker's own.
func (t *Target) identity(s *settings) (*identity, error) {
	cert, key := s.signing()
	if cert == "" {
		return ownIdentity(t.machines.Root(), time.Now())
	}
	return readIdentity(cert, key, time.Now())
}

// signing returns the paths of the user's certificate and key, "" if there are none.
func (s *settings) signing() (cert, key string) {
	if s.EC2Cert != "" {
		return s.EC2Cert, s.EC2PrivateKey
	}
	if cert, key = os.Getenv("EC2_CERT"), os.Getenv("EC2_PRIVATE_KEY"); cert == "" || key == "" {
		return "", ""
	}
	return cert, key
}

// legacyKeys returns the access key of the variables that EC2's first tools had, nil if they
// are not set or the AWS_ ones are.
func legacyKeys(s settings) aws.CredentialsProvider {
	id, secret := os.Getenv("EC2_ACCESS"), os.Getenv("EC2_ACCESS_SECRET")
	if s.Backing != backingBundle || cmp.Or(s.Profile, os.Getenv("AWS_PROFILE"), os.Getenv("AWS_ACCESS_KEY_ID")) != "" || id == "" || secret == "" {
		return nil
	}
	return credentials.NewStaticCredentialsProvider(id, secret, "")
}

// legacyAccount returns the account of EC2_USER, which may have hyphens.
func legacyAccount(s settings) string {
	if s.Backing != backingBundle {
		return ""
	}
	return strings.ReplaceAll(os.Getenv("EC2_USER"), "-", "")
}

// bundled puts the bundle of the image into the bucket, the manifest last, and returns its
// place. Parts that an earlier try has sent are adopted.
func (r *registering) bundled(ctx context.Context) (place string, err error) {
	if r.ami.Size > maxBundled {
		return "", step.Invalid("size", "backing: direct", "an S3-backed image has at most 10 GiB, and the disk has %d", r.ami.gibibytes())
	}
	user, err := r.identity(&settings{Options: r.options})
	if err != nil {
		return "", err
	}
	cloud, err := cloudKey(r.cloud.region, r.options.CloudCert)
	if err != nil {
		return "", err
	}
	if err := r.cloud.ensureBucket(ctx); err != nil {
		return "", err
	}
	disk, done, err := r.unpack(ctx)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, done()) }()
	// Another user's parts have other names: two workers cannot mix theirs.
	folder := fmt.Sprintf("%s%s/%.12s-%s/", keyPrefix, r.folder, r.digest, user.name())
	return r.sendBundle(ctx, folder, io.NewSectionReader(disk, 0, r.ami.Size), user, cloud)
}

func (r *registering) sendBundle(ctx context.Context, folder string, disk *io.SectionReader, user *identity, cloud *rsa.PublicKey) (string, error) {
	b := &bundler{account: r.cloud.account, arch: r.ami.Architecture, kernel: r.ami.KernelID, digest: r.digest, size: r.ami.Size, user: user, cloud: cloud}
	report := func(note string) {
		at, err := disk.Seek(0, io.SeekCurrent)
		if err == nil {
			step.Report(ctx, step.Progress{Done: at, Total: disk.Size(), Unit: "bytes", Note: note})
		}
	}
	manifest, err := b.write(ctx, disk, func(p bundlePart) error {
		key := folder + p.name
		there, err := r.cloud.partThere(ctx, key, p)
		if err != nil || there {
			report("adopting " + p.name)
			return err
		}
		report(fmt.Sprintf("sending %s to s3://%s/%s", p.name, r.cloud.bucket, folder))
		return r.cloud.putBundled(ctx, key, p.data, p.sha1)
	})
	if err != nil {
		return "", err
	}
	key := folder + manifestName
	if err := r.cloud.putBundled(ctx, key, manifest, ""); err != nil {
		return "", err
	}
	return r.cloud.bucket + "/" + key, nil
}

// partThere reports whether a part is in the bucket. Its ACL came with it.
func (c *cloud) partThere(ctx context.Context, key string, p bundlePart) (bool, error) {
	out, err := c.s3.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &c.bucket, Key: &key, ExpectedBucketOwner: &c.account})
	switch {
	case statusOf(err) == 404:
		return false, nil
	case err != nil:
		return false, failed("look for s3://"+c.bucket+"/"+key, err)
	}
	return out.Metadata[sumKey] == p.sha1 && aws.ToInt64(out.ContentLength) == int64(len(p.data)), nil
}

// putBundled puts a part or a manifest into the bucket, for EC2 to read.
func (c *cloud) putBundled(ctx context.Context, key string, data []byte, sum string) error {
	in := &s3.PutObjectInput{Bucket: &c.bucket, Key: &key, ExpectedBucketOwner: &c.account, ACL: types.ObjectCannedACLAwsExecRead, Body: bytes.NewReader(data)}
	if sum != "" {
		in.Metadata = map[string]string{sumKey: sum}
	}
	if _, err := c.s3.PutObject(ctx, in); err != nil {
		return failed("send s3://"+c.bucket+"/"+key, err)
	}
	return nil
}

const enableACLs = "aws s3api put-bucket-ownership-controls --bucket BUCKET --ownership-controls 'Rules=[{ObjectOwnership=ObjectWriter}]'; or name a bucket that does not exist: it is made"

// bundle refuses a certificate, a key or a bucket that register could not use.
func (k *checker) bundle(ctx context.Context) error {
	if k.Backing != backingBundle {
		return nil
	}
	if cert, key := k.signing(); cert != "" {
		if _, err := readIdentity(cert, key, time.Now()); err != nil {
			return err
		}
	}
	if _, err := cloudKey(k.region, k.CloudCert); err != nil {
		return err
	}
	if there, err := k.bucketThere(ctx); err != nil || !there {
		return err
	}
	out, err := k.s3.GetBucketOwnershipControls(ctx, &s3.GetBucketOwnershipControlsInput{Bucket: &k.bucket, ExpectedBucketOwner: &k.account})
	switch {
	case code(err) == "OwnershipControlsNotFoundError": // as buckets were before there were any
		return nil
	case err != nil:
		return failed("ask whether the objects of bucket "+k.bucket+" can have ACLs", err)
	case len(out.OwnershipControls.Rules) > 0 && out.OwnershipControls.Rules[0].ObjectOwnership == types.ObjectOwnershipBucketOwnerEnforced:
		return unsupported("bucket", strings.Replace(enableACLs, "BUCKET", k.bucket, 1),
			fmt.Errorf("the objects of bucket %s can have no ACLs, and EC2 reads a bundle by its ACL aws-exec-read", k.bucket))
	}
	return nil
}

// bundles removes the objects of S3-backed AMIs that are deregistered, and those of which
// no AMI was made: an AMI needs them for each new instance. images are those of the life,
// and removed tells which of them are gone.
func (d *destroy) bundles(ctx context.Context, images []resource, removed map[string]bool) error {
	folders := map[string]bool{} // with bucket; true: an AMI needs it
	buckets := map[string]bool{}
	if d.s.Backing == backingBundle && d.s.Bucket != "" {
		buckets[d.s.Bucket] = true
	}
	for _, r := range images {
		if bucket, _, ok := strings.Cut(r.place, "/"+keyPrefix); ok {
			folders[path.Dir(r.place)] = !removed[r.id]
			buckets[bucket] = true
		}
	}
	for bucket := range buckets {
		c := *d.c
		c.bucket = bucket
		left, err := c.leftovers(ctx, d.what.Spec.Tags)
		if err != nil {
			return err
		}
		for _, l := range left {
			needed, known := folders[path.Dir(bucket+"/"+l.key)]
			// An older rollout makes no AMI any more.
			older := l.of.Life == d.what.Spec.Life && l.of.Generation < d.what.Spec.Generation
			if known && !needed || !known && (older || d.what.Match(l.of)) {
				d.note(l.String(), c.drop(ctx, l))
			}
		}
	}
	return nil
}
