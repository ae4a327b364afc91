package xenserver

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/morgana-deploy/morgana/files"
	"github.com/morgana-deploy/morgana/step"
)

const (
	// apiVersion is the version of the API that a session asks for.
	apiVersion = "2.20"
	// originator names Morgana to the pool: xapi limits the sessions of each originator.
	originator = "morgana"

	loginTimeout  = 30 * time.Second
	logoutTimeout = 5 * time.Second
)

// access is how a pool is reached.
type access struct {
	host           string // URL of the master
	user, password string
	fingerprints   [][32]byte // of the certificates that are trusted
	ca             string     // path of the certificates that sign; "" with fingerprints, or for the system's
}

// pools keeps the sessions of a worker. Its zero value has none.
type pools struct {
	mu  sync.Mutex
	all map[string]*pool
}

// connect returns the pool that s names. Its session lasts until [Target.Close].
func (t *Target) connect(ctx context.Context, s settings) (*pool, error) {
	c, err := s.login()
	if err != nil {
		return nil, err
	}
	p, err := t.pools.connect(access{host: s.Host, user: c.user, password: c.password, fingerprints: s.fingerprints, ca: s.CA})
	if err == nil {
		_, err = p.enter(ctx)
	}
	return p, err
}

// Close ends the sessions.
func (t *Target) Close() error {
	return t.pools.close(context.Background())
}

// connect returns the pool of a, the same one for the same a. Its first call logs in.
func (ps *pools) connect(a access) (*pool, error) {
	host, err := url.Parse(a.host)
	if err != nil || host.Host == "" {
		return nil, step.Invalid("host", `the URL of the pool's master, as "https://xen1.example.org"`, "%q is no URL of a host", a.host)
	}
	host = at(host, host.Hostname())
	t := &trust{pins: a.fingerprints}
	if a.ca != "" {
		pem, err := files.Read(a.ca, 1<<20)
		if err != nil {
			return nil, step.Invalid("ca", "a PEM file that the worker's user may read", "%w", err)
		}
		if t.roots = x509.NewCertPool(); !t.roots.AppendCertsFromPEM(pem) {
			return nil, step.Invalid("ca", "a PEM file, with lines as -----BEGIN CERTIFICATE-----", "%s has no certificate", a.ca)
		}
	}
	key := fmt.Sprintf("%q", []any{a.host, a.user, a.password, a.fingerprints, a.ca})
	ps.mu.Lock()
	defer ps.mu.Unlock()
	if p := ps.all[key]; p != nil {
		return p, nil
	}
	p := &pool{access: a, first: host, trust: t, client: t.client(), grace: verdictTimeout, watch: watch{turn: make(chan struct{}, 1)}}
	if ps.all == nil {
		ps.all = map[string]*pool{}
	}
	ps.all[key] = p
	return p, nil
}

// close ends all sessions.
func (ps *pools) close(ctx context.Context) (err error) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	for _, p := range ps.all {
		err = errors.Join(err, p.logout(ctx))
	}
	ps.all = nil
	return err
}

// pool is a pool of hosts, reached by its master.
type pool struct {
	access access
	first  *url.URL // of the configuration
	trust  *trust
	client *http.Client

	mu    sync.Mutex
	now   visit
	login *login // that goes on; nil if none does

	watch watch
	grace time.Duration // see verdictTimeout
}

// visit is a session at the pool's master.
type visit struct {
	master  *url.URL
	session string
}

// call calls a method of the API. The session goes before args, which are strings, refs,
// booleans, integers, floats, and slices, maps and structs of these. out is a pointer to the
// type of the result, nil if there is none. The error is a [step.Error] without an Op.
func (p *pool) call(ctx context.Context, out any, method string, args ...any) error {
	for again := false; ; again = true {
		v, err := p.enter(ctx)
		if err != nil {
			return err
		}
		err = post(ctx, p.client, v.master, out, method, append([]any{v.session}, args...)...)
		if err == nil {
			return nil
		}
		ended := is(err, "SESSION_INVALID", "HOST_IS_SLAVE")
		// By the role that the user had at the login; but a task may be of an ended session.
		denied := is(err, "RBAC_PERMISSION_DENIED") && !strings.HasPrefix(method, "task.")
		if ended {
			p.leave(v)
		} else if denied && !again || code(err) == "" && v.master != p.first && ctx.Err() == nil { // the pool may have another master by now
			p.forget(ctx, v)
		}
		if again || !ended && !denied {
			return explained(err)
		}
	}
}

// forget ends a session, so that the next call logs in anew.
func (p *pool) forget(ctx context.Context, v visit) {
	p.leave(v)
	_ = p.end(ctx, v) // the pool ends it later
}

// login is a login that goes on. Its result is set when done is closed.
type login struct {
	done   chan struct{}
	cancel context.CancelFunc
	visit  visit
	err    error
}

// enter returns the session. If there is none, it logs in: calls at the same time wait for the
// same login, which does not end with one of them.
func (p *pool) enter(ctx context.Context) (visit, error) {
	p.mu.Lock()
	v, l := p.now, p.login
	if v.session == "" && l == nil {
		l = p.begin(ctx)
	}
	p.mu.Unlock()
	if v.session != "" {
		return v, nil
	}
	select {
	case <-l.done:
		return l.visit, l.err
	case <-ctx.Done():
		return v, explained(unreachable(p.first, ctx.Err()))
	}
}

// begin begins a login. The caller has locked p.mu.
func (p *pool) begin(ctx context.Context) *login {
	l := &login{done: make(chan struct{})}
	ctx, l.cancel = context.WithTimeout(context.WithoutCancel(ctx), loginTimeout)
	p.login = l
	go func() {
		defer close(l.done)
		defer l.cancel()
		l.visit, l.err = p.arrive(ctx)
		p.mu.Lock()
		defer p.mu.Unlock()
		p.now, p.login = l.visit, nil
	}()
	return l
}

// arrive logs in at the pool's master. The visit has no session if there is an error.
func (p *pool) arrive(ctx context.Context) (visit, error) {
	v := visit{master: p.first}
	for followed := false; ; followed = true {
		err := post(ctx, p.client, v.master, &v.session, "session.login_with_password", p.access.user, p.access.password, apiVersion, originator)
		var refused *apiError
		var unknown *step.Error
		switch {
		case err == nil:
			return v, nil
		case !followed && errors.As(err, &refused) && refused.code == "HOST_IS_SLAVE" && refused.param(0) != "":
			v.master = at(p.first, refused.param(0))
			continue
		case followed && errors.As(err, &unknown) && errors.As(err, new(untrusted)):
			unknown.Err = fmt.Errorf("%s is a member of a pool, and its master %w", p.first.Host, unknown.Err)
		}
		return visit{}, explained(err)
	}
}

// leave forgets a session that has ended.
func (p *pool) leave(v visit) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.now == v {
		p.now = visit{}
	}
}

// logout ends the session.
func (p *pool) logout(ctx context.Context) error {
	defer p.client.CloseIdleConnections()
	p.mu.Lock()
	v, l := p.now, p.login
	p.now = visit{}
	p.mu.Unlock()
	if l != nil {
		l.cancel()
		<-l.done
		v = l.visit
		p.leave(v)
	}
	if v.session == "" {
		return nil
	}
	return p.end(ctx, v)
}

// end ends a session, also after the end of ctx.
func (p *pool) end(ctx context.Context, v visit) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), logoutTimeout)
	defer cancel()
	return explained(unless(post(ctx, p.client, v.master, nil, "session.logout", v.session), "SESSION_INVALID"))
}
