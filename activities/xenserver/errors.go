package xenserver

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/morgana-deploy/morgana/step"
)

// apiError is a refusal of the pool.
type apiError struct {
	code   string
	params []string
}

// newAPIError returns the error of an ErrorDescription, or of a task's error_info.
func newAPIError(description []string) *apiError {
	if len(description) == 0 {
		return &apiError{code: "INTERNAL_ERROR", params: []string{"an error without a code"}}
	}
	return &apiError{code: description[0], params: description[1:]}
}

// param returns a parameter, "" if the error has not so many.
func (e *apiError) param(i int) string {
	if i < len(e.params) {
		return e.params[i]
	}
	return ""
}

func (e *apiError) Error() string {
	return strings.TrimSpace(e.code + " " + strings.Join(e.params, " "))
}

// code returns the code of a refusal, "" if the pool did not answer.
func code(err error) string {
	var refused *apiError
	if errors.As(err, &refused) {
		return refused.code
	}
	return ""
}

// is reports whether err is a refusal with one of the codes.
func is(err error, codes ...string) bool { return slices.Contains(codes, code(err)) }

// explain returns the error of a call as a [step.Error]; the kind is decided by the code.
func (p *pool) explain(err error, v visit) error {
	var refused *apiError
	if !errors.As(err, &refused) {
		return err
	}
	return &step.Error{Err: refused}
}

// unreachable returns the error of a host that did not answer.
func unreachable(host *url.URL, err error) error {
	var at *url.Error
	if errors.As(err, &at) {
		err = at.Err // its URL may have the session
	}
	var wrong untrusted
	var plain tls.RecordHeaderError
	switch {
	case errors.As(err, &wrong):
		return &step.Error{Kind: step.Unauthorized, Field: "fingerprint", Err: wrong}
	case errors.As(err, &plain):
		return step.Invalid("host", `an https URL of the pool's master`, "%s does not speak TLS", host.Host)
	}
	return &step.Error{Err: fmt.Errorf("%s: %w", host.Host, err)}
}

// foreign returns the error of an answer that is not the XenAPI's.
func foreign(host *url.URL, status int, err error) error {
	if err == nil {
		err = fmt.Errorf("HTTP %d %s", status, http.StatusText(status))
	}
	return &step.Error{Err: fmt.Errorf("%s does not answer as a XenAPI: %w", host.Host, err)}
}
