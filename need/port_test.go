package need_test

import (
	"net"
	"strconv"
	"testing"

	"github.com/morgana-deploy/morgana/need"
)

// A port of Port is nobody's until somebody asks for it by its number.
func TestPort(t *testing.T) {
	at := net.JoinHostPort("127.0.0.1", strconv.Itoa(need.Port(t)))
	if c, err := net.Dial("tcp", at); err == nil {
		_ = c.Close() // nothing was sent
		t.Error("somebody listens")
	}
	for range 2 {
		l, err := net.Listen("tcp", at)
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
}
