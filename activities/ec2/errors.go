package ec2

import (
	"errors"

	"github.com/aws/smithy-go"

	"github.com/morgana-deploy/morgana/step"
)

// failed returns the error of a call to AWS. Its kind is decided by AWS's code.
func failed(op string, err error) error {
	return step.During(op, err)
}

// code returns AWS's code of an error, "" if AWS did not answer.
func code(err error) string {
	var api smithy.APIError
	if errors.As(err, &api) {
		return api.ErrorCode()
	}
	return ""
}
