package qemu

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/morgana-deploy/morgana/step"
)

func (s *settings) readPorts() error {
	for i, p := range s.Ports {
		f, err := parseForward(p)
		if err != nil {
			return step.Invalid(fmt.Sprintf("ports[%d]", i), `[address:]hostPort:guestPort[/tcp|/udp], as "8080:80"`, "%q: %w", p, err)
		}
		for _, other := range s.forwards {
			if f.overlaps(other) {
				return step.Invalid(fmt.Sprintf("ports[%d]", i), "", "%s is forwarded twice", f.at())
			}
		}
		s.forwards = append(s.forwards, f)
	}
	s.Ports = nil
	for _, f := range s.forwards {
		s.Ports = append(s.Ports, f.String())
	}
	return nil
}

// forward is one port of the host that leads into the machine.
type forward struct {
	proto string // "tcp" or "udp"
	host  netip.AddrPort
	guest uint16
}

func parseForward(s string) (forward, error) {
	f := forward{proto: "tcp"}
	rest := s
	if r, proto, ok := strings.Cut(s, "/"); ok {
		rest, f.proto = r, proto
	}
	if f.proto != "tcp" && f.proto != "udp" {
		return f, fmt.Errorf("unknown protocol %q", f.proto)
	}
	at := strings.LastIndexByte(rest, ':')
	if at < 0 {
		return f, errors.New("no guest port")
	}
	guest, err := parsePort(rest[at+1:])
	if err != nil {
		return f, err
	}
	address := "127.0.0.1"
	host := rest[:at]
	if at := strings.LastIndexByte(host, ':'); at >= 0 {
		address, host = host[:at], host[at+1:]
	}
	port, err := parsePort(host)
	if err != nil {
		return f, err
	}
	ip, err := netip.ParseAddr(address)
	if err != nil || !ip.Is4() { // QEMU 7 forwards from IPv4 only
		return f, fmt.Errorf("%q is no IPv4 address", address)
	}
	f.host, f.guest = netip.AddrPortFrom(ip, port), guest
	return f, nil
}

func parsePort(s string) (uint16, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("%q is no port", s)
	}
	return uint16(n), nil
}

// String is the form parseForward reads.
func (f forward) String() string { return fmt.Sprintf("%s:%d/%s", f.host, f.guest, f.proto) }

// at is the host's end, as QEMU and people write it: "tcp:127.0.0.1:8080".
func (f forward) at() string { return f.proto + ":" + f.host.String() }

// address is the host's end, where the machine answers.
func (f forward) address() step.Address {
	return step.Address{Kind: f.proto, Address: f.host.Addr().String(), Port: int(f.host.Port())}
}

// overlaps reports whether the host cannot have both.
func (f forward) overlaps(g forward) bool {
	a, b := f.host.Addr(), g.host.Addr()
	return f.proto == g.proto && f.host.Port() == g.host.Port() &&
		(a == b || a.IsUnspecified() || b.IsUnspecified())
}

// free returns the error of binding the host's end now.
func (f forward) free(ctx context.Context) error {
	var lc net.ListenConfig
	if f.proto == "udp" {
		c, err := lc.ListenPacket(ctx, "udp4", f.host.String())
		if err != nil {
			return err
		}
		return c.Close()
	}
	l, err := lc.Listen(ctx, "tcp4", f.host.String())
	if err != nil {
		return err
	}
	return l.Close()
}

// checkPorts checks that the machine with these tags can get its ports. Each port must be
// free, or be held by a machine of the same deployment, which gives it up when the new
// one is ready.
func (t *Target) checkPorts(ctx context.Context, tags step.Tags, wanted []forward) error {
	for i, f := range wanted {
		field := fmt.Sprintf("ports[%d]", i)
		err := f.free(ctx)
		switch {
		case err == nil:
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, syscall.EADDRINUSE):
			if err := t.checkHolder(ctx, tags, f, field); err != nil {
				return err
			}
		case errors.Is(err, fs.ErrPermission):
			return &step.Error{Kind: step.Unauthorized, Field: field, Err: fmt.Errorf("bind %s: permission denied", f.at()),
				Hint: "choose a host port above 1023"}
		case errors.Is(err, syscall.EADDRNOTAVAIL):
			return step.Invalid(field, "127.0.0.1, 0.0.0.0 or an address of "+t.site.Host, "%s is no address of this host", f.host.Addr())
		default:
			return &step.Error{Field: field, Err: err}
		}
	}
	return nil
}

// checkHolder accepts f if a machine of the same deployment has it; else Conflict.
func (t *Target) checkHolder(ctx context.Context, tags step.Tags, f forward, field string) error {
	holder, err := t.holder(ctx, f)
	switch {
	case err != nil:
		return err
	case holder == nil:
		return &step.Error{Kind: step.Conflict, Field: field, Err: fmt.Errorf("%s is taken by another program", f.at()),
			Hint: fmt.Sprintf("choose another host port, or see who has it: ss -lnp 'sport = :%d'", f.host.Port())}
	case holder.Tags.App == tags.App && holder.Tags.Target == tags.Target:
		return nil
	default:
		return &step.Error{Kind: step.Conflict, Field: field, Err: fmt.Errorf("%s is taken by the machine %s", f.at(), holder.Name()),
			Hint: fmt.Sprintf("choose another host port, or morgana destroy %s/%s", holder.Tags.App, holder.Tags.Target)}
	}
}

// holder returns the machine on this host that forwards f or an overlapping port, nil if
// there is none.
func (t *Target) holder(ctx context.Context, f forward) (*guest, error) {
	all, err := t.machines.All(func(step.Tags) bool { return true })
	if err != nil {
		return nil, err
	}
	for _, one := range all {
		m := guest{one}
		rows, err := m.usernet(ctx)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err != nil {
			continue // it does not run, or is just ending
		}
		if _, ok := overlapping(rows, f); ok {
			return &m, nil
		}
	}
	return nil, nil
}

func overlapping(rows []connection, f forward) (connection, bool) {
	for _, r := range rows {
		if r.listens() && r.forward.overlaps(f) {
			return r, true
		}
	}
	return connection{}, false
}

// takePorts makes m forward exactly the wanted ports, and takes them from other machines of
// the same deployment. A call that was cut off can be repeated.
func (t *Target) takePorts(ctx context.Context, m guest, wanted []forward) error {
	rows, err := m.usernet(ctx)
	if err != nil {
		return err
	}
	for _, r := range rows {
		if r.listens() && !slices.Contains(wanted, r.forward) {
			if err := m.removeForward(ctx, r.forward); err != nil {
				return err
			}
		}
	}
	for _, f := range wanted {
		if r, ok := overlapping(rows, f); ok && r.forward == f {
			continue
		}
		if err := t.takePort(ctx, m, f); err != nil {
			return err
		}
	}
	return nil
}

func (t *Target) takePort(ctx context.Context, m guest, f forward) error {
	others, err := t.machines.All(func(have step.Tags) bool {
		return have.App == m.Tags.App && have.Target == m.Tags.Target && have != m.Tags
	})
	if err != nil {
		return err
	}
	var undo []func() error
	for _, other := range others {
		o := guest{other}
		rows, err := o.usernet(ctx)
		if err != nil {
			continue // it does not run; if it does, adding will fail
		}
		if r, ok := overlapping(rows, f); ok {
			if err := o.removeForward(ctx, r.forward); err != nil {
				return err
			}
			undo = append(undo, func() error { return o.addForward(ctx, r.forward) })
		}
	}
	err = m.addForward(ctx, f)
	if err == nil {
		return nil
	}
	for _, give := range undo {
		err = errors.Join(err, give())
	}
	return err
}

// returnPorts is called after a machine was destroyed. It gives the newest ready machine
// of the same life back those of its ports that are free.
func (t *Target) returnPorts(ctx context.Context, tags step.Tags) error {
	if tags.Life == "" {
		return nil // all lives are being removed
	}
	life := step.Tags{App: tags.App, Target: tags.Target, Life: tags.Life}
	all, err := t.machines.All(life.Match)
	if err != nil {
		return err
	}
	var newest *guest
	for _, m := range all {
		pid, err := m.Pid()
		if err != nil {
			return err
		}
		if _, ready := m.Ready(); pid != 0 && ready && (newest == nil || m.Tags.Generation > newest.Tags.Generation) {
			newest = &guest{m}
		}
	}
	if newest == nil {
		return nil
	}
	rec, err := newest.Record()
	if err != nil {
		return err
	}
	s, err := read(rec.Options)
	if err != nil || len(s.forwards) == 0 {
		return err
	}
	rows, err := newest.usernet(ctx)
	if err != nil {
		return err
	}
	for _, f := range s.forwards {
		if _, has := overlapping(rows, f); has || f.free(ctx) != nil {
			continue
		}
		if err := newest.addForward(ctx, f); err != nil {
			return err
		}
		t.site.Log.InfoContext(ctx, "port returned", "machine", newest.Name(), "port", f.at())
	}
	return nil
}
