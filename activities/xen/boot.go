package xen

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"time"

	"github.com/morgana-deploy/morgana/machine"
	"github.com/morgana-deploy/morgana/step"
)

// silence is how long a silent domain without option expect must run to be ready.
const silence = time.Second

// Boot creates the domain, or adopts the one that is there, and waits until it is ready.
// A domain is created anew if its creation was cut off or its host has rebooted. A domain
// that ran to its end is not started again: it is returned as Ended if it was ready, else
// the error is BootFailed. An error of xl is final, and only its first error line is
// returned.
func (t *Target) Boot(ctx context.Context, r step.Registration) (_ step.Machine, err error) {
	name, id, err := identify(r.Spec.Tags)
	if err != nil {
		return step.Machine{}, step.During("boot", err)
	}
	defer step.SetOp("boot domain "+name, &err)
	return t.boot(ctx, r, name, id)
}

func (t *Target) boot(ctx context.Context, r step.Registration, name, id string) (step.Machine, error) {
	m := step.Machine{Registration: r, ID: id}
	s, err := read(r.Spec.Options)
	if err != nil {
		return m, err
	}
	d, err := t.dom0(s.Host, s.Tool)
	if err != nil {
		return m, err
	}
	step.Report(ctx, step.Progress{Note: s.Tool + " create"})
	// A killed xl leaves a domain without a name, so a cancelled call lets xl end for 15
	// minutes. The next call waits for the lock.
	k, stop := d.talk(ctx, 15*time.Minute, "boot", name, id)
	defer stop()
	how, err := k.line(ctx)
	if err == nil {
		m.Ready, err = k.line(ctx)
	}
	if exited(err, absent) {
		return m, &step.Error{Kind: step.NotFound, Err: fmt.Errorf("%s is not registered on %s", name, d.host), Hint: "deploy again"}
	}
	if err != nil {
		return m, err
	}
	m.Adopted, m.Ended = how != "created", how == "ended"
	if m.Ready == "" {
		w := &wait{k: k, d: d, s: s, name: name, uuid: id, match: machine.NewMatch(s.expect), began: time.Now(), settled: machine.Settled,
			awaited: "the console", unmet: "it printed nothing"}
		if s.expect != nil {
			w.awaited, w.unmet = fmt.Sprintf("the console to match %q", s.expect), fmt.Sprintf("its console did not match %q", s.expect)
		}
		if m.Ready, err = w.run(ctx); err != nil {
			return m, err
		}
		if m.Ended, err = w.keep(ctx, m.Ready); err != nil {
			return m, err
		}
	}
	if m.Ended {
		m.Ready += "; the domain has ended"
	}
	m.Addresses = s.addresses()
	return m, nil
}

// Addresses returns the addresses in option vif.
func (*Target) Addresses(spec step.Spec) (all []step.Address, known bool) {
	s, err := read(spec.Options)
	return s.addresses(), err == nil
}

// addresses returns the addresses in option vif; the domain reports none.
func (s *settings) addresses() (all []step.Address) {
	for _, v := range s.Vif {
		if v.IP != "" {
			all = append(all, step.Address{Kind: "ip", Address: v.IP})
		}
	}
	return all
}

// wait is the part of a Boot call after the domain was created or found.
type wait struct {
	k          *talk // verb boot, which prints the console
	d          *dom0
	s          settings
	name, uuid string
	match      *machine.Match
	began      time.Time
	settled    time.Duration
	// awaited names what w waits for, and unmet says that it did not come.
	awaited, unmet string
}

func (w *wait) run(ctx context.Context) (string, error) {
	piece, over := w.k.said, false
	var found time.Time
	for {
		w.match.Add(piece)
		if w.match.Found() {
			if found.IsZero() {
				found = time.Now()
			}
			left := w.settled - time.Since(found)
			if status := machine.Solo5Failure(w.match.Tail()); status != "" {
				return "", bootFailed(w.tail(), "the kernel ended: %s", status)
			}
			if over || left <= 0 || !w.match.Solo5() {
				return cmp.Or(machine.Met(w.s.expect, 0), "console printed"), nil
			}
			var err error
			if piece, over, err = w.next(ctx, left); err != nil {
				return "", err
			}
			continue
		}
		left := w.s.timeout - time.Since(w.began)
		if len(piece) == 0 && time.Since(w.began) > time.Second || over {
			if how, err := w.silent(ctx, over); how != "" || err != nil {
				return how, err
			}
		}
		if left <= 0 {
			return "", bootFailed(w.tail(), "%s within %s", w.unmet, w.s.timeout)
		}
		step.Report(ctx, step.Progress{Note: fmt.Sprintf("waiting for %s (%s)", w.awaited, time.Since(w.began).Round(time.Second))})
		var err error
		if piece, over, err = w.next(ctx, left); err != nil {
			return "", err
		}
	}
}

// next returns the next piece of the console, or nil after a pause. Without option expect
// it pauses for silence; otherwise for left, but at most for longest. over reports that
// the process on the host that reads the console has ended.
func (w *wait) next(ctx context.Context, left time.Duration) (piece []byte, over bool, err error) {
	pause := min(left, longest*time.Second)
	if w.s.expect == nil {
		pause = min(pause, silence)
	}
	select {
	case piece = <-w.k.out:
	case <-time.After(pause):
	case <-w.k.ended:
		if !exited(w.k.err, ended) {
			return nil, false, cmp.Or(w.k.err, io.ErrUnexpectedEOF)
		}
		over = true
	case <-ctx.Done():
	}
	return piece, over, ctx.Err()
}

// keep records on the host how the domain became ready. over reports that the domain has
// ended.
func (w *wait) keep(ctx context.Context, how string) (over bool, err error) {
	_, _ = io.WriteString(w.k.in, how+"\n") // fails if the verb has ended
	if err := w.k.end(); err == nil || !exited(err, ended) {
		return false, err
	}
	out, err := w.d.do(ctx, "ready", w.name, w.uuid, how)
	return out != "", err
}

// silent asks for the state of a domain that prints nothing. It returns how the domain is
// ready, or "" to wait on. unread means that nothing reads its console any more.
func (w *wait) silent(ctx context.Context, unread bool) (string, error) {
	h, err := w.d.health(ctx, w.name, w.uuid)
	switch {
	case err != nil:
		return "", err
	case h.State != step.Running:
		return "", bootFailed(w.tail(), "the domain %s and %s", cmp.Or(h.How, "ended"), w.unmet)
	case w.s.expect == nil && time.Since(w.began) > silence:
		return fmt.Sprintf("ran for %s", silence), nil
	case w.s.expect != nil && unread:
		return "", bootFailed(w.tail(), "its console is kept no longer (64 MiB, or xenconsoled or its reader was ended) and %s", w.unmet)
	}
	return "", nil
}

// tail returns the console's last lines as an error's hint.
func (w *wait) tail() string {
	if text := w.match.Tail(); text != "" {
		return "the console's last lines:\n" + text
	}
	return "the console is empty: the kernel printed nothing"
}
