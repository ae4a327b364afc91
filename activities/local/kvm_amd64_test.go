package local

import (
	"strings"
	"testing"
)

// What KVM says here of the SSE probe depends on the host; that the machine
// around it is right, a program without SSE shows.
func TestKVM(t *testing.T) {
	if f, why := openKVM(); f == nil {
		skip(t, why)
	} else if err := f.Close(); err != nil {
		t.Error(err)
	}
	adds := []byte{0x8b, 0x07, 0x01, 0xc0, 0xe6, 0xf4} // mov (%rdi),%eax; add %eax,%eax; out %al,$0xf4
	if why := tryProgram(adds); why != "" {
		t.Error(why)
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
		if why := tryProgram(bad.program); !strings.Contains(why, bad.why) {
			t.Errorf("%x: %q, want %q", bad.program, why, bad.why)
		}
	}
	t.Logf("SSE: %q", tryKVM())
}
