package ec2lab

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
)

// shop is a lab with an S3 client.
type shop struct {
	*bench
	s3 *s3.Client
}

func newShop(t *testing.T) *shop {
	b := newBench(t, Options{})
	cfg, err := config.LoadDefaultConfig(b.ctx, config.WithRetryer(func() aws.Retryer { return aws.NopRetryer{} }))
	b.no(err)
	return &shop{b, s3.NewFromConfig(cfg)}
}

var mine = aws.String("mine")

func (s *shop) put(key, text string, change ...func(*s3.PutObjectInput)) error {
	in := &s3.PutObjectInput{Bucket: mine, Key: &key, Body: strings.NewReader(text)}
	for _, c := range change {
		c(in)
	}
	_, err := s.s3.PutObject(s.ctx, in)
	return err
}

// Objects come back as they were sent, and are listed in pages.
func TestS3Objects(t *testing.T) {
	s := newShop(t)
	_, err := s.s3.CreateBucket(s.ctx, &s3.CreateBucketInput{Bucket: mine, ObjectOwnership: types.ObjectOwnershipObjectWriter,
		CreateBucketConfiguration: &types.CreateBucketConfiguration{LocationConstraint: "eu-west-1"}})
	s.no(err)
	s.no(s.put("a/b c+d=ä", "hello", func(in *s3.PutObjectInput) {
		in.ACL, in.Tagging, in.Metadata = types.ObjectCannedACLAwsExecRead, aws.String("x%3Ay=z"), map[string]string{"m": "n"}
	}))
	s.no(s.put("a/z", ""))
	got, err := s.s3.GetObject(s.ctx, &s3.GetObjectInput{Bucket: mine, Key: aws.String("a/b c+d=ä"), ChecksumMode: types.ChecksumModeEnabled})
	s.no(err)
	text, err := io.ReadAll(got.Body)
	s.no(err)
	if string(text) != "hello" || *got.ETag != `"5d41402abc4b2a76b9719d911017c592"` || got.Metadata["m"] != "n" || *got.ChecksumCRC32 != "NhCmhg==" || *got.TagCount != 1 {
		t.Errorf("%q %+v", text, got)
	}
	tags, err := s.s3.GetObjectTagging(s.ctx, &s3.GetObjectTaggingInput{Bucket: mine, Key: aws.String("a/b c+d=ä")})
	s.no(err)
	if *tags.TagSet[0].Key != "x:y" || *tags.TagSet[0].Value != "z" {
		t.Errorf("tags %+v", tags.TagSet)
	}
	acl, err := s.s3.GetObjectAcl(s.ctx, &s3.GetObjectAclInput{Bucket: mine, Key: aws.String("a/b c+d=ä")})
	s.no(err)
	if len(acl.Grants) != 2 || acl.Grants[1].Permission != "READ" {
		t.Errorf("ACL %+v", acl)
	}
	s.Page(1)
	var keys []string
	for p := s3.NewListObjectsV2Paginator(s.s3, &s3.ListObjectsV2Input{Bucket: mine, Prefix: aws.String("a/")}); p.HasMorePages(); {
		page, err := p.NextPage(s.ctx)
		s.no(err)
		for _, o := range page.Contents {
			keys = append(keys, *o.Key)
		}
	}
	if !slices.Equal(keys, []string{"a/b c+d=ä", "a/z"}) {
		t.Errorf("listed %q", keys)
	}
	if all := s.Resources(); !slices.Contains(all, "bucket mine") || !slices.Contains(all, "object mine/a/z") {
		t.Errorf("resources %q", all)
	}
	_, err = s.s3.DeleteObject(s.ctx, &s3.DeleteObjectInput{Bucket: mine, Key: aws.String("a/z")})
	s.no(err)
	_, err = s.s3.DeleteObjects(s.ctx, &s3.DeleteObjectsInput{Bucket: mine, Delete: &types.Delete{Objects: []types.ObjectIdentifier{{Key: aws.String("a/b c+d=ä")}}}})
	s.no(err)
	_, err = s.s3.DeleteBucket(s.ctx, &s3.DeleteBucketInput{Bucket: mine})
	s.no(err)
	if all := s.Resources(); slices.Contains(all, "bucket mine") {
		t.Errorf("resources %q", all)
	}
	Judge(t, s.Calls())
}

// An upload in parts is one object once it is complete, and nothing once it is aborted.
func TestS3Uploads(t *testing.T) {
	s := newShop(t)
	s.MakeBucket("mine", "eu-west-1", "BucketOwnerEnforced")
	key := aws.String("big")
	up, err := s.s3.CreateMultipartUpload(s.ctx, &s3.CreateMultipartUploadInput{Bucket: mine, Key: key, ChecksumAlgorithm: types.ChecksumAlgorithmCrc32})
	s.no(err)
	bodies := [][]byte{bytes.Repeat([]byte("a"), leastPart), []byte("b")}
	var parts []types.CompletedPart
	for i, body := range bodies {
		out, err := s.s3.UploadPart(s.ctx, &s3.UploadPartInput{Bucket: mine, Key: key, UploadId: up.UploadId, PartNumber: aws.Int32(int32(i + 1)), Body: bytes.NewReader(body)})
		s.no(err)
		parts = append(parts, types.CompletedPart{PartNumber: aws.Int32(int32(i + 1)), ETag: out.ETag, ChecksumCRC32: out.ChecksumCRC32})
	}
	listed, err := s.s3.ListParts(s.ctx, &s3.ListPartsInput{Bucket: mine, Key: key, UploadId: up.UploadId})
	s.no(err)
	if len(listed.Parts) != 2 || *listed.Parts[0].Size != leastPart || *listed.Parts[1].ETag != *parts[1].ETag {
		t.Errorf("parts %+v", listed.Parts)
	}
	if !slices.Contains(s.Resources(), "upload mine/big") {
		t.Errorf("resources %q", s.Resources())
	}
	complete := func(parts ...types.CompletedPart) error {
		return failure(s.s3.CompleteMultipartUpload(s.ctx, &s3.CompleteMultipartUploadInput{Bucket: mine, Key: key, UploadId: up.UploadId, MultipartUpload: &types.CompletedMultipartUpload{Parts: parts}}))
	}
	for want, parts := range map[string][]types.CompletedPart{
		"InvalidPartOrder": {parts[1], parts[0]},
		"InvalidPart":      {parts[0], {PartNumber: aws.Int32(9), ETag: parts[1].ETag}},
		"InvalidRequest":   {{PartNumber: aws.Int32(1), ETag: parts[0].ETag}},
	} {
		if got := code(complete(parts...)); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
	s.no(complete(parts...))
	got, err := s.s3.GetObject(s.ctx, &s3.GetObjectInput{Bucket: mine, Key: key, Range: aws.String(fmt.Sprintf("bytes=%d-", leastPart-1))})
	s.no(err)
	if text, err := io.ReadAll(got.Body); string(text) != "ab" || err != nil || !strings.HasSuffix(*got.ETag, `-2"`) {
		t.Errorf("%q %v %s", text, err, *got.ETag)
	}
	if code(complete(parts...)) != "NoSuchUpload" {
		t.Error("the upload is there yet")
	}

	up, err = s.s3.CreateMultipartUpload(s.ctx, &s3.CreateMultipartUploadInput{Bucket: mine, Key: key, ChecksumAlgorithm: types.ChecksumAlgorithmCrc32})
	s.no(err)
	parts = nil
	for i := range 2 {
		out, err := s.s3.UploadPart(s.ctx, &s3.UploadPartInput{Bucket: mine, Key: key, UploadId: up.UploadId, PartNumber: aws.Int32(int32(i + 1)), Body: strings.NewReader("x")})
		s.no(err)
		parts = append(parts, types.CompletedPart{PartNumber: aws.Int32(int32(i + 1)), ETag: out.ETag, ChecksumCRC32: out.ChecksumCRC32})
	}
	if got := code(complete(parts...)); got != "EntityTooSmall" {
		t.Error(got)
	}
	_, err = s.s3.AbortMultipartUpload(s.ctx, &s3.AbortMultipartUploadInput{Bucket: mine, Key: key, UploadId: up.UploadId})
	s.no(err)
	uploads, err := s.s3.ListMultipartUploads(s.ctx, &s3.ListMultipartUploadsInput{Bucket: mine})
	s.no(err)
	if len(uploads.Uploads) != 0 {
		t.Errorf("%+v", uploads.Uploads)
	}
	Judge(t, s.Calls())
}

// S3 refuses what AWS's refuses.
func TestS3Refusals(t *testing.T) {
	s := newShop(t)
	s.MakeBucket("mine", "eu-west-1", "BucketOwnerEnforced")
	s.MakeBucket("far", "us-west-2", "ObjectWriter")
	s.TakeBucket("theirs")
	s.no(s.put("there", "x"))
	create := func(name string) error {
		return failure(s.s3.CreateBucket(s.ctx, &s3.CreateBucketInput{Bucket: &name, CreateBucketConfiguration: &types.CreateBucketConfiguration{LocationConstraint: "eu-west-1"}}))
	}
	head := func(bucket, key string) error {
		return failure(s.s3.HeadObject(s.ctx, &s3.HeadObjectInput{Bucket: &bucket, Key: &key}))
	}
	get := func(bucket, key string) error {
		return failure(s.s3.GetObject(s.ctx, &s3.GetObjectInput{Bucket: &bucket, Key: &key}))
	}
	md5 := "1B2M2Y8AsgTpgAmY7PhCfg==" // of nothing
	for _, c := range []struct {
		want string
		err  error
	}{
		{"BucketAlreadyOwnedByYou", create("mine")},
		{"BucketAlreadyExists", create("theirs")},
		{"InvalidBucketName", create("A.B")},
		{"IllegalLocationConstraintException", func() error {
			return failure(s.s3.CreateBucket(s.ctx, &s3.CreateBucketInput{Bucket: aws.String("new")}))
		}()},
		{"NoSuchBucket", get("none", "x")},
		{"NoSuchKey", get("mine", "x")},
		{"NotFound", head("mine", "x")},
		{"AccessDenied", get("theirs", "x")},
		{"PermanentRedirect", get("far", "x")},
		{"AccessControlListNotSupported", s.put("x", "x", func(in *s3.PutObjectInput) { in.ACL = types.ObjectCannedACLAwsExecRead })},
		{"PreconditionFailed", s.put("there", "x", func(in *s3.PutObjectInput) { in.IfNoneMatch = aws.String("*") })},
		{"BadDigest", s.put("x", "x", func(in *s3.PutObjectInput) { in.ContentMD5 = &md5 })},
		{"BadDigest", s.put("x", "x", func(in *s3.PutObjectInput) {
			in.ChecksumSHA256 = aws.String("47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=")
		})},
		{"InvalidDigest", s.put("x", "x", func(in *s3.PutObjectInput) { in.ContentMD5 = aws.String("AAAA") })},
		{"BucketNotEmpty", func() error { return failure(s.s3.DeleteBucket(s.ctx, &s3.DeleteBucketInput{Bucket: mine})) }()},
	} {
		if got := code(c.err); got != c.want {
			t.Errorf("%s, want %s: %v", got, c.want, c.err)
		}
	}
	where, err := s.s3.GetBucketLocation(s.ctx, &s3.GetBucketLocationInput{Bucket: aws.String("far")})
	s.no(err)
	if where.LocationConstraint != "us-west-2" {
		t.Errorf("far is in %s", where.LocationConstraint)
	}
	_, err = s.s3.PutBucketOwnershipControls(s.ctx, &s3.PutBucketOwnershipControlsInput{Bucket: mine, OwnershipControls: &types.OwnershipControls{
		Rules: []types.OwnershipControlsRule{{ObjectOwnership: types.ObjectOwnershipObjectWriter}}}})
	s.no(err)
	controls, err := s.s3.GetBucketOwnershipControls(s.ctx, &s3.GetBucketOwnershipControlsInput{Bucket: mine})
	s.no(err)
	if controls.OwnershipControls.Rules[0].ObjectOwnership != types.ObjectOwnershipObjectWriter {
		t.Error(controls.OwnershipControls.Rules)
	}
	_, err = s.s3.PutObjectAcl(s.ctx, &s3.PutObjectAclInput{Bucket: mine, Key: aws.String("there"), ACL: types.ObjectCannedACLAwsExecRead})
	s.no(err)
	s.Deny("s3:ListBucket", "s3:PutObjectTagging")
	if got := code(head("mine", "x")); got != "Forbidden" {
		t.Errorf("without ListBucket: %s", got)
	}
	if got := code(s.put("x", "x", func(in *s3.PutObjectInput) { in.Tagging = aws.String("a=b") })); got != "AccessDenied" {
		t.Errorf("without PutObjectTagging: %s", got)
	}
	s.Fault(Fault{Call: "PutObject", Lose: After})
	if s.put("late", "x") == nil {
		t.Error("the answer is not lost")
	}
	s.no(get("mine", "late"))
}

// The body of a client that sends its checksum behind it is read.
func TestS3Chunks(t *testing.T) {
	s := newShop(t)
	s.MakeBucket("mine", "eu-west-1", "BucketOwnerEnforced")
	send := func(sum string) int {
		body := "3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\nx-amz-checksum-crc32:" + sum + "\r\n\r\n"
		r, err := http.NewRequestWithContext(s.ctx, http.MethodPut, s.URL()+"/mine/chunks", strings.NewReader(body))
		s.no(err)
		const hash = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
		for k, v := range map[string]string{"Content-Encoding": "aws-chunked", "X-Amz-Content-Sha256": hash, "X-Amz-Decoded-Content-Length": "5", "X-Amz-Trailer": "x-amz-checksum-crc32"} {
			r.Header.Set(k, v)
		}
		keys := aws.Credentials{AccessKeyID: accessKey, SecretAccessKey: secretKey}
		s.no(v4.NewSigner(func(o *v4.SignerOptions) { o.DisableURIPathEscaping = true }).SignHTTP(s.ctx, keys, r, hash, "s3", region, time.Now()))
		a, err := http.DefaultClient.Do(r)
		s.no(err)
		s.no(a.Body.Close())
		return a.StatusCode
	}
	if got := send("NhCmhg=="); got != 200 {
		t.Errorf("status %d", got)
	}
	if got := send("AAAAAA=="); got != 400 {
		t.Errorf("status %d for a wrong checksum", got)
	}
}
