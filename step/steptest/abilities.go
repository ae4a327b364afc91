package steptest

import (
	"context"
	"io"
	"math"
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

// destroyMachine removes the machine but not its registration, and boots that again. Then it
// registers and boots the image as a later generation, as a rollback does.
func (s *suite) destroyMachine() {
	img := s.image(s.checked(nil))
	m := s.boot(s.register(img))
	machine := step.Removal{Spec: m.Registration.Spec, KeepImage: true}
	s.destroy(machine)
	if o, ok := s.target().(step.Observer); ok {
		if h := must(s, "observe", m, func() (step.Health, error) { return o.Observe(s.Context(), m) }); h.State == step.Running {
			s.Errorf("observed after destroy: %+v", h)
		}
	}
	if again := s.boot(m.Registration); again.Adopted {
		s.Error("the machine that was destroyed is adopted")
	}
	s.destroy(machine)

	var sent int64
	if s.c.Sent != nil {
		sent = s.c.Sent(s.T)
	}
	later := img
	later.Spec.Generation += 2
	r := s.register(later)
	if s.c.Sent != nil && s.c.Sent(s.T) != sent {
		s.Errorf("an image that is registered was sent again: %d bytes", s.c.Sent(s.T)-sent)
	}
	s.boot(r)
	s.destroy(step.Removal{Spec: m.Registration.Spec})
	if again := s.boot(r); !again.Adopted {
		s.Error("destroy of the earlier generation ended the later one's machine")
	}
	s.destroy(step.Removal{Spec: r.Spec, KeepImage: true})
	if again := s.boot(r); again.Adopted {
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
	for began := time.Now(); h.State == step.Running && time.Since(began) < 2*time.Minute; h = observe(m) {
		time.Sleep(100 * time.Millisecond)
	}
	if h.State != step.Ended && h.State != step.Gone || h.Success != (h.State == step.Ended) {
		s.Errorf("a machine that ended by itself, with success: %+v", h)
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
	size, whole := s.registerWhole(spec)
	if size == 0 {
		s.Skip("register reads artifacts by a way of its own, which is not cut off")
	}
	for i, cut := range []func(size int64) int64{
		func(int64) int64 { return 0 }, func(int64) int64 { return 1 },
		func(size int64) int64 { return size / 2 }, func(size int64) int64 { return size - 1 },
	} {
		spec.Generation = 10 + i
		img := s.image(spec)
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
		if err := try(ctx, site); err == nil {
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

// registerWhole returns how many bytes of artifacts a Register reads that is not cut off,
// and how many it sends. It may send more, because artifacts may be packed.
func (s *suite) registerWhole(spec step.Spec) (read, sent int64) {
	spec.Generation = 9
	img := s.image(spec)
	if s.c.Sent != nil {
		sent = -s.c.Sent(s.T)
	}
	site, store := s.site, &cutStore{Store: s.site.Store, left: math.MaxInt64}
	site.Store = store
	must(s, "register", img, func() (step.Registration, error) { return s.c.New(site).Register(s.Context(), img) })
	if s.c.Sent != nil {
		sent += s.c.Sent(s.T)
	}
	s.destroy(step.Removal{Spec: spec})
	return math.MaxInt64 - store.left, sent
}

// cutStore calls cut after left bytes of its artifacts were read.
type cutStore struct {
	step.Store
	left int64
	cut  context.CancelFunc
}

func (c *cutStore) Open(ctx context.Context, a step.Artifact) (io.ReadCloser, error) {
	r, err := c.Store.Open(ctx, a)
	return &cutReader{r, ctx, c}, err
}

func (c *cutStore) Fetch(ctx context.Context, a step.Artifact, path string) error {
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
