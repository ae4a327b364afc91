// Package steptest is the conformance suite that every target passes.
//
//	func TestConformance(t *testing.T) {
//		steptest.Run(t, steptest.Case{
//			New:       func(site step.Site) step.Target { return ec2.New(site) },
//			...
//		})
//	}
//
// It calls a target as the workflows do. Each call is on a new target, as in another
// worker, and values pass through JSON between calls.
package steptest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/morgana-deploy/morgana/step"
)

// Case is a target with the inputs of its tests.
type Case struct {
	// New makes the target. All targets of a test have the same site.
	New func(step.Site) step.Target
	// Spec boots Kernel to a machine that keeps running. The suite sets its tags.
	Spec step.Spec
	// Kernel is the path of a kernel that boots, ABIs its ABIs.
	Kernel string
	ABIs   []string
	// Misspelt are options with one wrong name. Nearest is the right name.
	Misspelt json.RawMessage
	Nearest  string
	// Changed are options that give another image than Spec's.
	Changed json.RawMessage
	// NeverReady are options with which the machine starts but does not get ready
	// within 20 s.
	NeverReady json.RawMessage
	// ConsoleHas is a text that the console of Spec's machine has.
	ConsoleHas string
	// Ends are options with which the machine gets ready and ends by itself within
	// 10 s; nil if none do.
	Ends json.RawMessage
	// Sent returns the number of bytes that the receiver has counted from Register
	// so far. It is nil if Register sends none over a network.
	Sent func(t *testing.T) int64
	// Tokens says that a client token makes creating a machine twice one creation. Boots at
	// the same time may then each say that they created the machine.
	Tokens bool
	// Secrets are the keys, passwords and tokens of the environment. Put one where
	// the target looks for credentials.
	Secrets []string
	// Resources lists everything outside the store: folders, processes, machines,
	// images. The suite compares the lists before and after a test.
	Resources func(t *testing.T, site step.Site) []string
}

// stopTime is how long a step may run after its context is done: the 5 s of docs/steps.md,
// and more because a loaded host is slow.
const stopTime = 2 * time.Minute

// Run runs the suite.
func Run(t *testing.T, c Case) {
	tests := []struct {
		name string
		run  func(*suite)
	}{
		{"unknown option is refused", (*suite).unknownOption},
		{"check completes and creates nothing", (*suite).check},
		{"package twice gives one digest", (*suite).packageTwice},
		{"an inserted step's file is taken", (*suite).insertedFile},
		{"a name that leads elsewhere is refused", (*suite).hostileNames},
		{"register twice gives one registration", (*suite).registerTwice},
		{"register cut off goes on", (*suite).registerCutOff},
		{"boot twice gives one machine", (*suite).bootTwice},
		{"boot at the same time gives one machine", (*suite).bootTogether},
		{"console reads to the end", (*suite).console},
		{"destroy finds by tags", (*suite).destroyTags},
		{"destroy keeps the image", (*suite).destroyMachine},
		{"a machine is observed", (*suite).observed},
		{"what is there is listed", (*suite).listed},
		{"a forecast creates nothing", (*suite).forecast},
		{"destroy after register", (*suite).destroyRegistered},
		{"destroy after a boot cut off", (*suite).destroyHalfBooted},
		{"cancelled", (*suite).cancelled},
	}
	for i, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s := &suite{T: t, c: c, life: fmt.Sprintf("%08x", i+1)} // what was destroyed has another life
			s.site = step.Site{Host: "testhost", State: t.TempDir(), Store: NewStore(t),
				Log: slog.New(slog.NewTextHandler(t.Output(), nil))}
			s.before = s.resources()
			t.Cleanup(s.leaveNothing)
			test.run(s)
		})
	}
}

type suite struct {
	*testing.T
	c      Case
	life   string
	site   step.Site
	before []string
}

// target makes a new target, as another worker would.
func (s *suite) target() step.Target { return s.c.New(s.site) }

func (s *suite) resources() []string {
	s.Helper()
	all := s.c.Resources(s.T, s.site)
	slices.Sort(all)
	return all
}

// leaveNothing ends each test. It destroys everything, checks that one more Destroy
// removes nothing, and compares the resources with those before the test.
func (s *suite) leaveNothing() {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	all := step.Removal{Spec: s.spec()}
	all.Spec.Life, all.Spec.Generation = "", 0
	for range 2 {
		must(s, "destroy", all, func() (step.Destroyed, error) { return s.target().Destroy(ctx, all) })
	}
	again, err := s.target().Destroy(ctx, all)
	if err != nil || len(again.Removed) > 0 {
		s.Errorf("destroy of nothing: removed %q, error %v", again.Removed, err)
	}
	s.listedNothing(ctx)
	if after := s.resources(); !slices.Equal(s.before, after) {
		s.Errorf("left outside:\n%s\nbefore:\n%s", strings.Join(after, "\n"), strings.Join(s.before, "\n"))
	}
}

func (s *suite) spec() step.Spec {
	spec := s.c.Spec
	spec.Tags = step.Tags{App: "conformance", Target: "suite", Life: s.life, Generation: 2}
	spec.Host = s.site.Host
	return spec
}

// checked returns the case's spec after Check, with other options unless they are nil.
func (s *suite) checked(options json.RawMessage) step.Spec {
	s.Helper()
	spec := s.spec()
	spec.Host = ""
	if options != nil {
		spec.Options = options
	}
	return must(s, "check", spec, func() (step.Spec, error) { return s.target().Check(s.Context(), spec) })
}

func (s *suite) image(spec step.Spec) step.Image {
	s.Helper()
	f, err := os.Open(s.c.Kernel)
	if err != nil {
		s.Fatal(err)
	}
	file, err := s.site.Store.Put(s.Context(), f)
	if err := errors.Join(err, f.Close()); err != nil {
		s.Fatal(err)
	}
	k := step.Kernel{Spec: spec, File: file, ABIs: s.c.ABIs}
	return must(s, "package", k, func() (step.Image, error) { return s.target().Package(s.Context(), k) })
}

func (s *suite) register(img step.Image) step.Registration {
	s.Helper()
	return must(s, "register", img, func() (step.Registration, error) { return s.target().Register(s.Context(), img) })
}

func (s *suite) boot(r step.Registration) step.Machine {
	s.Helper()
	return must(s, "boot", r, func() (step.Machine, error) { return s.target().Boot(s.Context(), r) })
}

func (s *suite) destroy(what step.Removal) step.Destroyed {
	s.Helper()
	return must(s, "destroy", what, func() (step.Destroyed, error) { return s.target().Destroy(s.Context(), what) })
}

func (s *suite) booted() step.Machine {
	s.Helper()
	return s.boot(s.register(s.image(s.checked(nil))))
}

// must calls a step that has to succeed, and returns its result after a pass through
// JSON. It fails for a changed input, an unknown field or a secret in the result.
func must[In, Out any](s *suite, what string, in In, call func() (Out, error)) Out {
	s.Helper()
	given := encode(s, in)
	out, err := call()
	s.searchError(what, err)
	if err != nil {
		s.Fatalf("%s: %v\nhint: %s", what, err, hintOf(err))
	}
	if now := encode(s, in); !bytes.Equal(given, now) {
		s.Errorf("%s changed its input\nfrom %s\nto   %s", what, given, now)
	}
	b := encode(s, out)
	s.search(what, string(b))
	var back Out
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&back); err != nil {
		s.Fatalf("%s: %v in %s", what, err, b)
	}
	if again := encode(s, back); !bytes.Equal(b, again) {
		s.Errorf("%s: does not survive JSON\n%s\n%s", what, b, again)
	}
	return back
}

func encode[T any](s *suite, v T) []byte {
	s.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		s.Fatal(err)
	}
	return b
}

func hintOf(err error) string {
	var e *step.Error
	if errors.As(err, &e) {
		return e.Hint
	}
	return ""
}

// searchError looks for secrets in the parts of an error that users see.
func (s *suite) searchError(what string, err error) {
	s.Helper()
	if err == nil {
		return
	}
	s.search(what, err.Error())
	var e *step.Error
	if errors.As(err, &e) {
		s.search(what, fmt.Sprintf("%s\n%s\n%s\n%q", e.Op, e.Field, e.Hint, e.Left))
	}
}

func (s *suite) search(what, text string) {
	s.Helper()
	for i, secret := range s.c.Secrets {
		if strings.Contains(text, secret) {
			s.Errorf("%s gives away Secrets[%d]", what, i)
		}
	}
}

// together runs n calls at once.
func together(n int, call func(i int)) {
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() { call(i) })
	}
	all.Wait()
}
