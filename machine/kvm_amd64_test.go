package machine

import (
	"errors"
	"strings"
	"testing"

	"github.com/morgana-deploy/morgana/need"
)

// What KVM says here of the SSE probe depends on the host; that the machine
// around it is right, a program without SSE shows.
func TestKVM(t *testing.T) {
	if f, why, err := openKVM(); f == nil {
		need.Nil(t, errors.Join(err, errors.New(why)))
	} else if err := f.Close(); err != nil {
		t.Error(err)
	}
	adds := []byte{0x8b, 0x07, 0x01, 0xc0, 0xe6, 0xf4} // mov (%rdi),%eax; add %eax,%eax; out %al,$0xf4
	if why, err := tryProgram(adds); why != "" || err != nil {
		t.Error(why, err)
	}
	for _, bad := range []struct {
		program []byte
		why     string
	}{
		{[]byte{0xeb, 0xfe}, "does not end"}, // jmp itself
		{[]byte{0xf4}, "exit reason"},        // hlt
		{[]byte{0x0f, 0x0b}, "exit reason"},  // ud2: a triple fault
		{[]byte{0xe6, 0xf4}, "wrong number"},
	} {
		if why, err := tryProgram(bad.program); err != nil || !strings.Contains(why, bad.why) {
			t.Errorf("%x: %q, want %q", bad.program, why, bad.why)
		}
	}
	why, err := TryKVM()
	t.Logf("SSE: %q, %v", why, err)
}
