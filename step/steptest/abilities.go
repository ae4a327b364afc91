package steptest

import (
	"context"
	"io"
	"slices"
	"time"

	"github.com/morgana-deploy/morgana/step"
)

// hostileNames registers images as a hostile third-party step may make them.
func (s *suite) hostileNames() {
	img := s.image(s.checked(nil))
	for _, name := range []string{"../escaped", "../../../../escaped", "/escaped", "a/b", "..", "", "a\nb", "-rf", img.Files[0].Name} {
		bad := img
		bad.Files = append(slices.Clone(img.Files), step.File{Name: name, Artifact: img.Files[0].Artifact})
		bad.Digest = step.DigestOf(bad.Files)
		if _, err := s.target().Register(s.Context(), bad); step.KindOf(err) != step.InvalidSpec {
			s.Errorf("file %q: got error %v, want InvalidSpec", name, err)
		}
	}
	if now := s.resources(); !slices.Equal(now, s.before) {
		s.Errorf("registered %q", now)
	}
}

// destroyMachine removes the machine but not its registration, and boots that again.
func (s *suite) destroyMachine() {
	m := s.booted()
	s.destroy(step.Removal{Spec: m.Registration.Spec, KeepImage: true})
	if o, ok := s.target().(step.Observer); ok {
		if h := must(s, "observe", m, func() (step.Health, error) { return o.Observe(s.Context(), m) }); h.State == step.Running {
			s.Errorf("observed after destroy: %+v", h)
		}
	}
	if again := s.boot(m.Registration); again.Adopted {
		s.Error("the machine that was destroyed is adopted")
	}
}

func (s *suite) observed() {
	o, ok := s.target().(step.Observer)
	if !ok {
		s.Skip("the target does not observe")
	}
	observe := func(m step.Machine) step.Health {
		s.Helper()
		return must(s, "observe", m, func() (step.Health, error) { return o.Observe(s.Context(), m) })
	}
	m := s.booted()
	if h := observe(m); h.State != step.Running || h.How != "" || !slices.Equal(h.Addresses, m.Addresses) {
		s.Errorf("a machine that runs at %v: %+v", m.Addresses, h)
	}
	s.destroy(step.Removal{Spec: m.Registration.Spec})
	if h := observe(m); h.State != step.Gone {
		s.Errorf("a machine that was destroyed: %+v", h)
	}
	if s.c.Ends == nil {
		return
	}
	m = s.boot(s.register(s.image(s.checked(s.c.Ends))))
	h := observe(m)
	for began := time.Now(); h.State == step.Running && time.Since(began) < 20*time.Second; h = observe(m) {
		time.Sleep(100 * time.Millisecond)
	}
	if h.State != step.Ended && h.State != step.Gone {
		s.Errorf("a machine that ended by itself: %+v", h)
	}
}

func (s *suite) listed() {
	l, ok := s.target().(step.Lister)
	if !ok {
		s.Skip("the target does not list")
	}
	m := s.booted()
	tags := m.Registration.Spec.Tags
	for _, asked := range []step.Tags{tags, {App: tags.App, Target: tags.Target}, {}} {
		spec := s.spec()
		spec.Tags = asked
		all := must(s, "list", spec, func() ([]step.Resource, error) { return l.List(s.Context(), spec) })
		if !slices.ContainsFunc(all, func(r step.Resource) bool { return r.Tags == tags && r.Kind != "" && r.ID != "" }) {
			s.Errorf("list of %+v does not have the machine of %+v: %+v", asked, tags, all)
		}
	}
	spec := s.spec()
	spec.Tags = tags
	spec.Life = "ffffffff"
	if all := must(s, "list", spec, func() ([]step.Resource, error) { return l.List(s.Context(), spec) }); len(all) > 0 {
		s.Errorf("list of another life: %+v", all)
	}
}

// listedNothing checks that List returns nothing after Destroy.
func (s *suite) listedNothing(ctx context.Context) {
	l, ok := s.target().(step.Lister)
	if !ok {
		return
	}
	spec := s.spec()
	spec.Life, spec.Generation = "", 0
	if all, err := l.List(ctx, spec); err != nil || len(all) > 0 {
		s.Errorf("list after destroy: %+v, %v", all, err)
	}
}

func (s *suite) forecast() {
	f, ok := s.target().(step.Forecaster)
	if !ok {
		s.Skip("the target does not forecast")
	}
	spec := s.checked(nil)
	acts := must(s, "forecast", spec, func() ([]step.Action, error) { return f.Forecast(s.Context(), spec) })
	if len(acts) == 0 || slices.ContainsFunc(acts, func(a step.Action) bool { return a.Call == "" || a.Why == "" }) {
		s.Errorf("forecast %+v", acts)
	}
	if now := s.resources(); !slices.Equal(now, s.before) {
		s.Errorf("forecast created %q", now)
	}
}

// registerCutOff cancels Register after some bytes of the image, and calls it again
// with its last progress.
func (s *suite) registerCutOff() {
	spec := s.checked(nil)
	whole := s.sentWhole(spec)
	for i, cut := range []func(size int64) int64{
		func(int64) int64 { return 0 }, func(int64) int64 { return 1 },
		func(size int64) int64 { return size / 2 }, func(size int64) int64 { return size - 1 },
	} {
		spec.Generation = 10 + i
		img := s.image(spec)
		var size int64
		for _, f := range img.Files {
			size += f.Artifact.Size
		}
		var sent int64
		if s.c.Sent != nil {
			sent = s.c.Sent(s.T)
		}
		var last *step.Progress
		try := func(ctx context.Context, site step.Site) error {
			ctx = step.WithReporter(ctx, func(p step.Progress) { last = &p }, last)
			_, err := s.c.New(site).Register(ctx, img)
			return err
		}
		ctx, cancel := context.WithCancel(s.Context())
		site := s.site
		store := &cutStore{Store: s.site.Store, left: cut(size), cut: cancel}
		site.Store = store
		if err := try(ctx, site); err == nil && !store.asked {
			cancel()
			s.destroy(step.Removal{Spec: spec})
			s.Skip("register reads artifacts by a way of its own, which is not cut off")
		} else if err == nil {
			s.Errorf("cut off after %d of %d bytes: no error", cut(size), size)
		} else if step.KindOf(err).Final() {
			s.Errorf("cut off after %d of %d bytes: a final error: %v", cut(size), size, err)
		}
		cancel()
		if err := try(s.Context(), s.site); err != nil {
			s.Fatalf("after a cut at %d of %d bytes: %v", cut(size), size, err)
		}
		if s.c.Sent != nil {
			if all := s.c.Sent(s.T) - sent; all > whole {
				s.Errorf("cut off after %d of %d bytes: sent %d, more than the %d of a register that is not cut off", cut(size), size, all, whole)
			}
		}
		s.destroy(step.Removal{Spec: spec})
	}
}

// sentWhole returns how many bytes a Register sends that is not cut off. It may send more
// than its files have, which may be packed.
func (s *suite) sentWhole(spec step.Spec) int64 {
	if s.c.Sent == nil {
		return 0
	}
	spec.Generation = 9
	before := s.c.Sent(s.T)
	s.register(s.image(spec))
	sent := s.c.Sent(s.T) - before
	s.destroy(step.Removal{Spec: spec})
	return sent
}

// cutStore calls cut after left bytes of its artifacts were read.
type cutStore struct {
	step.Store
	left  int64
	cut   context.CancelFunc
	asked bool
}

func (c *cutStore) Open(ctx context.Context, a step.Artifact) (io.ReadCloser, error) {
	c.asked = true
	r, err := c.Store.Open(ctx, a)
	return &cutReader{r, ctx, c}, err
}

func (c *cutStore) Fetch(ctx context.Context, a step.Artifact, path string) error {
	c.asked = true
	if c.left -= a.Size; c.left < 0 {
		c.cut()
		return ctx.Err()
	}
	return c.Store.Fetch(ctx, a, path)
}

type cutReader struct {
	io.ReadCloser
	ctx context.Context
	s   *cutStore
}

func (r *cutReader) Read(p []byte) (int, error) {
	if r.s.left <= 0 {
		r.s.cut()
		return 0, r.ctx.Err()
	}
	n, err := r.ReadCloser.Read(p[:min(int64(len(p)), r.s.left)])
	r.s.left -= int64(n)
	return n, err
}
