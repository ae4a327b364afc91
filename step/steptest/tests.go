package steptest

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/morgana-deploy/morgana/step"
)

func (s *suite) unknownOption() {
	spec := s.spec()
	spec.Options = s.c.Misspelt
	_, err := s.target().Check(s.Context(), spec)
	s.searchError("check", err)
	var e *step.Error
	if !errors.As(err, &e) || e.Kind != step.InvalidSpec || e.Field == "" {
		s.Fatalf("options %s: got error %v, want InvalidSpec with the field", spec.Options, err)
	}
	if !strings.Contains(e.Hint, s.c.Nearest) {
		s.Errorf("hint %q does not name %q", e.Hint, s.c.Nearest)
	}
}

func (s *suite) check() {
	spec := s.checked(nil)
	if spec.Tags != s.spec().Tags {
		s.Errorf("check changed the tags to %+v", spec.Tags)
	}
	if spec.Host != "" && spec.Host != s.site.Host {
		s.Errorf("check set host %q, not the site's", spec.Host)
	}
	if now := s.resources(); !slices.Equal(now, s.before) {
		s.Errorf("check created %q", now)
	}
	again := must(s, "check", spec, func() (step.Spec, error) { return s.target().Check(s.Context(), spec) })
	if a, b := encode(s, spec), encode(s, again); string(a) != string(b) {
		s.Errorf("check of a checked spec changed it\nfrom %s\nto   %s", a, b)
	}
}

func (s *suite) packageTwice() {
	spec := s.checked(nil)
	first := s.image(spec)
	if first.Digest == "" {
		s.Fatal("no digest")
	}
	later := spec
	later.Generation, later.Life, later.Host = 7, "ffff0000", "elsewhere"
	if second := s.image(later); second.Digest != first.Digest {
		s.Errorf("digest %s, then %s in another generation on another host", first.Digest, second.Digest)
	}
	if other := s.image(s.checked(s.c.Changed)); other.Digest == first.Digest {
		s.Errorf("options %s and %s give the same digest", s.c.Spec.Options, s.c.Changed)
	}
}

// insertedFile is an example of a step inserted after package: it adds a file, such as a
// signature, and computes the digest anew.
func (s *suite) insertedFile() {
	img := s.image(s.checked(nil))
	added, err := s.site.Store.Put(s.Context(), strings.NewReader("a signature"))
	if err != nil {
		s.Fatal(err)
	}
	img.Files = append(img.Files, step.File{Name: "conformance.sig", Artifact: added})
	img.Digest = step.DigestOf(img.Files)
	r := s.register(img)
	if r.Digest != img.Digest {
		s.Errorf("registered digest %s, want %s", r.Digest, img.Digest)
	}
	s.boot(r)
}

func (s *suite) registerTwice() {
	img := s.image(s.checked(nil))
	first := s.register(img)
	once := s.resources()
	second := s.register(img)
	if first.ID == "" || second.ID != first.ID {
		s.Errorf("registered as %q, then as %q", first.ID, second.ID)
	}
	if first.Adopted || !second.Adopted {
		s.Errorf("adopted %v, then %v; want false, then true", first.Adopted, second.Adopted)
	}
	if first.Digest != img.Digest || second.Digest != img.Digest {
		s.Errorf("digests %s and %s, want %s", first.Digest, second.Digest, img.Digest)
	}
	together(3, func(int) {
		if _, err := s.target().Register(s.Context(), img); err != nil {
			s.Errorf("register at the same time: %v", err)
		}
	})
	if now := s.resources(); !slices.Equal(now, once) {
		s.Errorf("registered once: %q\nagain: %q", once, now)
	}
}

func (s *suite) bootTwice() {
	r := s.register(s.image(s.checked(nil)))
	first := s.boot(r)
	once := s.resources()
	second := s.boot(r)
	if first.ID == "" || second.ID != first.ID {
		s.Errorf("booted %q, then %q", first.ID, second.ID)
	}
	if first.Adopted || !second.Adopted {
		s.Errorf("adopted %v, then %v; want false, then true", first.Adopted, second.Adopted)
	}
	if first.Ready == "" {
		s.Error("ready does not say how it is known")
	}
	// Register runs again if an activity's result was lost.
	if again := s.register(s.image(s.checked(nil))); again.ID != r.ID || !again.Adopted {
		s.Errorf("registering under a running machine: %+v", again)
	}
	if now := s.resources(); !slices.Equal(now, once) {
		s.Errorf("booted once: %q\ntwice: %q", once, now)
	}
}

func (s *suite) bootTogether() {
	r := s.register(s.image(s.checked(nil)))
	const calls = 3
	machines := make([]step.Machine, calls)
	together(calls, func(i int) {
		var err error
		if machines[i], err = s.target().Boot(s.Context(), r); err != nil {
			s.Errorf("boot: %v", err)
		}
	})
	created := 0
	for _, m := range machines {
		if m.ID != machines[0].ID {
			s.Errorf("two machines, %q and %q", m.ID, machines[0].ID)
		}
		if !m.Adopted {
			created++
		}
	}
	if created < 1 || created > 1 && !s.c.Tokens {
		s.Errorf("%d of %d boots say that they created the machine", created, calls)
	}
	once := s.resources()
	s.boot(r)
	if now := s.resources(); !slices.Equal(now, once) {
		s.Errorf("booted together: %q\nonce more: %q", once, now)
	}
}

func (s *suite) console() {
	m := s.booted()
	var text strings.Builder
	from := step.ConsoleFrom{Machine: m, WaitSeconds: 2}
	for began := time.Now(); !strings.Contains(text.String(), s.c.ConsoleHas); {
		if time.Since(began) > 2*time.Minute {
			s.Fatalf("console does not have %q:\n%s", s.c.ConsoleHas, text.String())
		}
		piece := must(s, "console", from, func() (step.ConsoleText, error) { return s.target().Console(s.Context(), from) })
		if len(piece.Text) > 32<<10 {
			s.Errorf("a piece of %d bytes", len(piece.Text))
		}
		if piece.Ended {
			s.Fatalf("console of a running machine ended:\n%s", text.String())
		}
		text.WriteString(piece.Text)
		from.Offset = piece.Next
	}
	again := step.ConsoleFrom{Machine: m}
	piece := must(s, "console", again, func() (step.ConsoleText, error) { return s.target().Console(s.Context(), again) })
	if !strings.HasPrefix(text.String(), piece.Text) && !strings.HasPrefix(piece.Text, text.String()) {
		s.Errorf("read anew the console begins with %q, first with %q", piece.Text, text.String())
	}
	spec := m.Registration.Spec
	s.destroy(step.Removal{Spec: spec})
	_, err := s.target().Console(s.Context(), from)
	s.searchError("console", err)
	if step.KindOf(err) != step.NotFound {
		s.Errorf("console of a destroyed machine: error %v, want NotFound", err)
	}
}

func (s *suite) destroyTags() {
	m := s.booted()
	once := s.resources()
	for _, change := range []func(*step.Removal){
		func(r *step.Removal) { r.Spec.Generation++ },
		func(r *step.Removal) { r.Spec.Life = "ffffffff" },
		func(r *step.Removal) { r.Spec.App += "x" },
		func(r *step.Removal) { r.Spec.Target += "x" },
		func(r *step.Removal) { r.NotLife, r.Spec.Life, r.Spec.Generation = r.Spec.Life, "", 0 },
	} {
		other := step.Removal{Spec: m.Registration.Spec}
		change(&other)
		got := s.destroy(other)
		if now := s.resources(); !slices.Equal(now, once) || len(got.Removed) > 0 {
			s.Fatalf("destroy of %+v, not life %q, removed %q; left of %q: %q", other.Spec.Tags, other.NotLife, got.Removed, once, now)
		}
	}
	// Destroy must work without Toolchain and Origin.
	bare := step.Spec{Tags: m.Registration.Spec.Tags, Kind: s.c.Spec.Kind, Options: s.c.Spec.Options, Host: s.site.Host}
	got := s.destroy(step.Removal{Spec: bare})
	if len(got.Removed) == 0 {
		s.Error("destroy does not list what it removed")
	}
}

// destroyRegistered tests the Destroy of leaveNothing, and so does destroyHalfBooted.
func (s *suite) destroyRegistered() { s.register(s.image(s.checked(nil))) }

func (s *suite) destroyHalfBooted() {
	r := s.register(s.image(s.checked(s.c.NeverReady)))
	ctx, cancel := context.WithTimeout(s.Context(), 1500*time.Millisecond)
	defer cancel()
	if m, err := s.target().Boot(ctx, r); err == nil {
		s.Errorf("boot with options %s gave %+v", s.c.NeverReady, m)
	}
}

func (s *suite) cancelled() {
	spec := s.checked(s.c.NeverReady)
	img := s.image(spec)
	r := s.register(img)
	m := step.Machine{Registration: r}
	broken := s.site
	broken.Store = stalled{}
	kernel := step.Kernel{Spec: spec, File: img.Files[0].Artifact, ABIs: s.c.ABIs}
	elsewhere := img
	elsewhere.Spec.Generation++
	for _, test := range []struct {
		name string
		call func(context.Context) error
	}{
		{"check", func(ctx context.Context) error { _, err := s.target().Check(ctx, spec); return err }},
		{"package", func(ctx context.Context) error { _, err := s.c.New(broken).Package(ctx, kernel); return err }},
		{"register", func(ctx context.Context) error { _, err := s.c.New(broken).Register(ctx, elsewhere); return err }},
		{"boot", func(ctx context.Context) error { _, err := s.target().Boot(ctx, r); return err }},
		{"console", func(ctx context.Context) error {
			_, err := s.target().Console(ctx, step.ConsoleFrom{Machine: m, Offset: 1 << 30, WaitSeconds: 600})
			return err
		}},
		{"destroy", func(ctx context.Context) error {
			_, err := s.target().Destroy(ctx, step.Removal{Spec: spec})
			return err
		}},
	} {
		for _, after := range []time.Duration{0, 300 * time.Millisecond} {
			ctx, cancel := context.WithCancel(s.Context())
			stop := time.AfterFunc(after, cancel)
			began := time.Now()
			err := test.call(ctx)
			cut := ctx.Err() != nil // an earlier end is not the cancellation's: no machine may have been made
			if took := time.Since(began) - after; took > stopTime {
				s.Errorf("%s went on for %s after it was cancelled", test.name, took)
			}
			s.searchError(test.name, err)
			if cut && err != nil && step.KindOf(err).Final() {
				s.Errorf("%s cancelled: a final error: %v", test.name, err)
			}
			stop.Stop()
			cancel()
		}
	}
}
