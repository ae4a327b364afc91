package e2e

import (
	"strings"
	"testing"
)

// The main job: a unikernel is deployed from source to a booted machine, and
// destroyed.
func TestDeployFromSourceToAMachine(t *testing.T) {
	l := newLab(t)
	hello := l.hello()
	r := l.deployed(hello)
	for _, stage := range []string{"check", "configure", "build", "package", "register", "boot"} {
		if !strings.Contains(r.out, "hello/dev "+stage) {
			t.Errorf("no line for %s in:\n%s", stage, r.out)
		}
	}
	if n := len(l.machines()); n != 1 {
		t.Errorf("%d machines", n)
	}
	console := l.morgana(hello, "console")
	for _, want := range []string{"hello from a unikernel", "boot mode: pvh", "command line: [stay]"} {
		if !strings.Contains(console.out, want) {
			t.Errorf("console lacks %q:\n%s", want, console.out)
		}
	}
	if s := l.morgana(hello, "status"); !strings.Contains(s.out, "up") || s.code != 0 {
		t.Errorf("status %+v", s)
	}
	if d := l.morgana(hello, "destroy"); d.code != 0 || !strings.Contains(d.out, "removed machine hello.dev.") {
		t.Errorf("destroy %+v", d)
	}
	l.clean()
	if s := l.morgana(hello, "status"); s.out != "" || s.code != 0 {
		t.Errorf("status %+v", s)
	}
}
