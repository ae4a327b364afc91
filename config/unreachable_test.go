package config

import (
	"errors"
	"fmt"
	"net"
	"testing"

	"go.temporal.io/sdk/client"

	"github.com/morgana-deploy/morgana/step"
)

func TestUnreachable(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	listening := l.Addr().String()
	defer l.Close() //nolint:errcheck // nobody spoke to it
	for address, c := range map[string]struct {
		kind step.Kind
		want string
	}{
		"127.0.0.1:1": {step.NotFound, "connect to Temporal at 127.0.0.1:1: connection refused"},
		"nonsense":    {step.InvalidSpec, "connect to Temporal at nonsense: missing port in address"},
		listening:     {step.NotFound, "connect to Temporal at " + listening + ": what listens there is not Temporal: what gRPC said"},
	} {
		told := fmt.Errorf("dial: %w", errors.New(`connection error: desc = "what gRPC said"`))
		got := Unreachable(t.Context(), client.Options{HostPort: address}, "do this", told)
		wantError(t, got, c.kind, c.want, "do this")
	}
}
