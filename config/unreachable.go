package config

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"

	"github.com/morgana-deploy/morgana/step"
)

// Unreachable returns the error of a client that could not connect with options. gRPC's
// error repeats itself, so Unreachable dials the address again for the system's error.
func Unreachable(ctx context.Context, options client.Options, hint string, err error) *step.Error {
	e := &step.Error{Kind: step.NotFound, Op: "connect to Temporal at " + options.HostPort, Hint: hint}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	conn, dialErr := new(net.Dialer).DialContext(ctx, "tcp", options.HostPort)
	var address *net.AddrError
	var name *net.DNSError
	var call *os.SyscallError
	var denied *serviceerror.PermissionDenied
	switch {
	case dialErr == nil:
		_ = conn.Close() // nothing was sent
		e.Err = fmt.Errorf("what listens there is not Temporal: %s", described(Innermost(err)))
		if errors.As(err, &denied) {
			e.Kind, e.Err = step.Unauthorized, denied
		}
	case errors.As(dialErr, &address):
		e.Kind, e.Err = step.InvalidSpec, errors.New(address.Err)
	case errors.As(dialErr, &name):
		e.Err = fmt.Errorf("%s: %s", name.Name, name.Err)
	case errors.As(dialErr, &call):
		e.Err = call.Err
	default:
		e.Err = Innermost(dialErr)
	}
	return e
}

// described returns err's text without gRPC's prefix and quotes.
func described(err error) string {
	text := err.Error()
	if _, quoted, ok := strings.Cut(text, "desc = "); ok {
		if plain, err := strconv.Unquote(quoted); err == nil {
			return plain
		}
	}
	return text
}

// Innermost returns the error inside all wrappers of err. The wrappers of gRPC and of
// Temporal's SDK repeat its text.
func Innermost(err error) error {
	for inner := errors.Unwrap(err); inner != nil; inner = errors.Unwrap(err) {
		err = inner
	}
	return err
}
