package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"syscall"

	"github.com/aws/smithy-go"
	"gocloud.dev/gcerrors"

	"github.com/morgana-deploy/morgana/step"
)

// fail turns an error of the store's folder or bucket into a *step.Error, nil into nil.
func (s *Store) fail(op string, err error) error {
	if s.folder != "" {
		return failIn(s.folder, op, err)
	}
	return failAt(s.base, op, err)
}

// failIn is fail for an error of a file in folder.
func failIn(folder, op string, err error) error {
	e := asError(op, err)
	if e == nil {
		return nil
	}
	if e.Kind != "" {
		return e
	}
	var p *fs.PathError
	if errors.As(err, &p) {
		e.Err = p // without the text of its wrappers
	}
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		e.Kind, e.Hint = step.NoSpace, "free space in "+folder
		if p != nil {
			e.Err = p.Err // without the name of a file of the store
		}
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		e.Kind, e.Hint = step.Unauthorized, "the process needs read and write permission in "+folder
	case errors.Is(err, fs.ErrNotExist):
		e.Kind, e.Hint = step.NotFound, "make the folder "+folder
	case errors.Is(err, syscall.ENOTDIR), errors.Is(err, syscall.EISDIR), errors.Is(err, fs.ErrExist):
		e.Kind, e.Hint = step.Conflict, "a file stands where the store needs a folder, or the reverse: move it out of "+folder
	}
	return e
}

// failAt is fail for an error of the S3 store at base.
func failAt(base, op string, err error) error {
	e := asError(op, err)
	if e == nil {
		return nil
	}
	if e.Kind != "" {
		return e
	}
	var code string
	var api smithy.APIError
	var web *url.Error
	switch {
	case errors.As(err, &api):
		code = api.ErrorCode()
		if e.Err = error(brief{api.ErrorMessage(), err}); api.ErrorMessage() == "" {
			e.Err = brief{code, err}
		}
	case errors.As(err, &web):
		e.Err = brief{web.Err.Error(), err} // without the signed URL
	}
	switch code {
	case "NoSuchBucket", "NotFound":
		e.Kind, e.Hint = step.NotFound, "make the bucket first, or correct MORGANA_STORE"
		e.Err = brief{"no such bucket", err}
	case "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken":
		e.Kind, e.Hint = step.Unauthorized, "correct the AWS credentials (AWS_PROFILE or AWS_ACCESS_KEY_ID)"
	case "SlowDown", "ServiceUnavailable", "RequestLimitExceeded", "TooManyRequests":
		e.Kind, e.Hint = step.Exhausted, "S3 request rate of "+base
	case "PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException":
		e.Kind, e.Hint = step.InvalidSpec, fmt.Sprintf("the bucket is in another region: add ?region=... to %s", base)
	case "QuotaExceeded", "XMinioStorageFull":
		e.Kind, e.Hint = step.NoSpace, "free space in "+base
	default:
		if gcerrors.Code(err) == gcerrors.PermissionDenied {
			e.Kind = step.Unauthorized
			e.Hint = "allow s3:ListBucket, s3:GetObject, s3:PutObject and s3:AbortMultipartUpload on " + base
		}
	}
	return e
}

// asError returns the *step.Error in err, with op if it has none, or makes one of op and
// err. The error for a cancellation does not have the text of the wrappers around it.
func asError(op string, err error) *step.Error {
	if err == nil {
		return nil
	}
	var e *step.Error
	if errors.As(err, &e) {
		if e.Op == "" {
			c := *e
			c.Op = op
			return &c
		}
		return e
	}
	for _, done := range []error{context.Canceled, context.DeadlineExceeded} {
		if errors.Is(err, done) {
			return &step.Error{Op: op, Err: done}
		}
	}
	return &step.Error{Op: op, Err: err}
}

// brief replaces the text of an error by a shorter one.
type brief struct {
	text string
	err  error
}

func (b brief) Error() string { return b.text }
func (b brief) Unwrap() error { return b.err }
