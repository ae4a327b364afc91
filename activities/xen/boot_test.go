package xen

import (
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/morgana-deploy/morgana/machine"
	"github.com/morgana-deploy/morgana/step"
)

// A usage text may hold the words of expect: a Solo5 kernel that fails is not ready.
func TestSolo5UsageMatches(t *testing.T) {
	t.Parallel()
	const banner = "            |      ___|\n  __|  _ \\  |  _ \\ __ \\\n"
	hello := regexp.MustCompile("hello")
	for _, test := range []struct {
		name          string
		expect        *regexp.Regexp
		said          []string
		ready, failed string
	}{
		{"usage", hello, []string{banner, "usage: hello\n", "Solo5: solo5_exit(64) called\n"}, "", "solo5_exit(64) called"},
		{"no expect", nil, []string{banner, "usage: hello\n", "Solo5: solo5_exit(64) called\n"}, "", "solo5_exit(64) called"},
		{"abort", hello, []string{banner + "hello\n", "Solo5: solo5_abort() called\n"}, "", "solo5_abort() called"},
		{"success", hello, []string{banner + "hello\n", "Solo5: solo5_exit(0) called\n"}, `console matched "hello"`, ""},
		{"runs on", hello, []string{banner + "hello\n"}, `console matched "hello"`, ""},
		{"another kernel", hello, []string{"hello\n"}, `console matched "hello"`, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			k := &talk{out: make(chan []byte), ended: make(chan struct{})}
			w := &wait{k: k, s: settings{expect: test.expect, timeout: time.Minute}, match: machine.NewMatch(test.expect), began: time.Now(), settled: machine.Settled}
			if test.failed != "" {
				w.settled = time.Hour // it fails, however late its last words come
			}
			go func() {
				for _, piece := range test.said {
					select {
					case k.out <- []byte(piece):
						time.Sleep(machine.Settled / 10)
					case <-t.Context().Done():
					}
				}
			}()
			ready, err := w.run(t.Context())
			if ready != test.ready || (err == nil) != (test.failed == "") {
				t.Fatalf("got %q, %v", ready, err)
			}
			if err != nil && (step.KindOf(err) != step.BootFailed || !strings.Contains(err.Error(), test.failed)) {
				t.Errorf("got %v", err)
			}
		})
	}
}
