package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/feature/s3/transfermanager"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"gocloud.dev/blob"
	"gocloud.dev/blob/fileblob"
	"gocloud.dev/blob/s3blob"
	"golang.org/x/sys/unix"

	"github.com/morgana-deploy/morgana/files"
	"github.com/morgana-deploy/morgana/step"
)

const urlForms = `a store is "file:///absolute/folder" or "s3://bucket?region=eu-west-1"`

// Open opens the store at location:
//
//	file:///abs/folder   a folder, made (mode 0700) if it is missing; a bare
//	                     absolute path is the same
//	s3://bucket          a bucket, which must exist
//
// The parameters of s3:// are region, profile and endpoint (the URL of another service
// that speaks S3, addressed path-style); without them the AWS environment variables and
// profiles decide, as they do for credentials. It needs s3:ListBucket, s3:GetObject,
// s3:PutObject and s3:AbortMultipartUpload, and morgana sweep needs s3:DeleteObject.
//
// Open checks that the folder or bucket can be used. Its error is InvalidSpec, NotFound
// (no such bucket), Unauthorized, NoSpace, Conflict (a file in the place of the folder),
// Exhausted, or has no kind.
func Open(ctx context.Context, location string) (*Store, error) {
	// A path may contain "?" and "#", so it is not parsed as a URL.
	if filepath.IsAbs(location) {
		return openFolder(ctx, location)
	}
	invalid := func(format string, args ...any) error {
		return &step.Error{Kind: step.InvalidSpec, Op: fmt.Sprintf("open store %q", location),
			Err: fmt.Errorf(format, args...), Hint: urlForms}
	}
	u, err := url.Parse(location)
	switch {
	case err != nil:
		return nil, invalid("not a URL")
	case u.User != nil:
		location = u.Scheme + "://...@" + u.Host // errors show location, and u.User may be a secret
		return nil, invalid("a store's URL holds no credentials")
	case u.Scheme == fileblob.Scheme && (u.Host != "" && u.Host != "localhost" || !filepath.IsAbs(u.Path)):
		return nil, invalid("the folder is not absolute")
	case u.Scheme == fileblob.Scheme && (u.RawQuery != "" || u.Fragment != ""):
		return nil, invalid("file:// takes no parameters")
	case u.Scheme == fileblob.Scheme:
		return openFolder(ctx, u.Path)
	case u.Scheme == s3blob.Scheme && u.Host == "":
		return nil, invalid("no bucket")
	case u.Scheme == s3blob.Scheme && (strings.Trim(u.Path, "/") != "" || u.Fragment != ""):
		return nil, invalid("only a whole bucket can be a store")
	case u.Scheme == s3blob.Scheme:
		q, err := url.ParseQuery(u.RawQuery)
		if err != nil {
			return nil, invalid("parameters: %w", err)
		}
		for _, name := range slices.Sorted(maps.Keys(q)) {
			if name != "region" && name != "profile" && name != "endpoint" {
				return nil, invalid("unknown parameter %q", name)
			}
		}
		return openS3(ctx, u.Host, q.Get("region"), q.Get("profile"), q.Get("endpoint"))
	case u.Scheme == "":
		return nil, invalid("a relative path")
	}
	return nil, invalid("unknown scheme %q", u.Scheme)
}

func openFolder(ctx context.Context, folder string) (*Store, error) {
	folder = filepath.Clean(folder)
	s := &Store{folder: folder, base: (&url.URL{Scheme: fileblob.Scheme, Path: folder}).String()}
	op := "open store " + s.base
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return nil, s.fail(op, err)
	}
	if err := unix.Access(folder, unix.R_OK|unix.W_OK|unix.X_OK); err != nil {
		return nil, s.fail(op, &fs.PathError{Op: "write", Path: folder, Err: err})
	}
	b, err := fileblob.OpenBucket(folder, &fileblob.Options{
		DirFileMode: 0o700,
		Metadata:    fileblob.MetadataDontWrite,
		// A rename is atomic only within one file system.
		NoTempDir: true,
	})
	if err != nil {
		return nil, s.fail(op, err)
	}
	s.bucket = b
	sweep(ctx, folder)
	return s, nil
}

var tempForm = regexp.MustCompile(`^[0-9a-f]{64}\.[0-9a-f]+\.tmp$`)

// sweep removes the temporary files of killed Puts. The lock of such a file is free.
// Errors do not matter: leftovers do no harm, and the next Open tries again.
func sweep(ctx context.Context, folder string) {
	_ = filepath.WalkDir(filepath.Join(folder, "sha256"), func(path string, d fs.DirEntry, err error) error {
		if ctx.Err() != nil {
			return fs.SkipAll
		}
		if err != nil || !d.Type().IsRegular() || !tempForm.MatchString(d.Name()) {
			return nil //nolint:nilerr // as said above
		}
		f, err := os.OpenFile(path, os.O_RDWR, 0) // a lock on NFS wants it writable
		if err != nil {
			return nil //nolint:nilerr // as said above
		}
		if files.Lock(f) == nil {
			_ = os.Remove(path)
		}
		_ = f.Close() // nothing was written
		return nil
	})
}

// uploadAttempts is how often each request of an upload is tried. A large upload is
// many requests, and one failure must not restart it. A read is one request, which the
// caller retries.
const uploadAttempts = 3

// abortTimeout is how long a cancelled upload may take to remove its parts. S3 charges
// for parts that are left.
const abortTimeout = 3 * time.Second

func openS3(ctx context.Context, bucket, region, profile, endpoint string) (*Store, error) {
	s := &Store{base: "s3://" + bucket}
	op := "open store " + s.base
	// Empty values leave the choice to the environment.
	cfg, err := config.LoadDefaultConfig(ctx, config.WithRegion(region), config.WithSharedConfigProfile(profile))
	if err != nil {
		return nil, &step.Error{Kind: step.InvalidSpec, Op: op, Err: err, Hint: "see the AWS_* variables and ~/.aws/config"}
	}
	if cfg.Region == "" {
		return nil, &step.Error{Kind: step.InvalidSpec, Op: op, Err: errors.New("no region"),
			Hint: fmt.Sprintf("set AWS_REGION or add ?region=... to %s", s.base)}
	}
	if _, err := cfg.Credentials.Retrieve(ctx); err != nil && ctx.Err() == nil {
		return nil, &step.Error{Kind: step.Unauthorized, Op: op, Err: brief{"no AWS credentials", err},
			Hint: "set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"}
	}
	client := func(attempts int) *s3.Client {
		return s3.NewFromConfig(cfg, func(o *s3.Options) {
			o.RetryMaxAttempts = attempts
			// Every read verifies the artifact's SHA-256. Some S3 services
			// do not support AWS's newer checksums.
			o.RequestChecksumCalculation = aws.RequestChecksumCalculationWhenRequired
			o.ResponseChecksumValidation = aws.ResponseChecksumValidationWhenRequired
			if endpoint != "" {
				o.BaseEndpoint = aws.String(endpoint)
				o.UsePathStyle = true
			}
		})
	}
	if s.bucket, err = s3blob.OpenBucket(ctx, client(1), bucket, nil); err != nil {
		return nil, s.fail(op, err)
	}
	s.uploader = transfermanager.New(client(uploadAttempts), func(o *transfermanager.Options) {
		o.RequestChecksumCalculation = aws.RequestChecksumCalculationWhenRequired
		o.FailTimeout = abortTimeout
	})
	if _, _, err := s.bucket.ListPage(ctx, blob.FirstPageToken, 1, nil); err != nil {
		return nil, s.fail(op, errors.Join(err, s.Close()))
	}
	return s, nil
}
