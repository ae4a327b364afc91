// Package probe probes the app on a machine that has just become ready. Its Prober is the
// activity Probe of every target: it needs no more of a target than Console and Observe.
package probe

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"time"

	"github.com/morgana-deploy/morgana/machine"
	"github.com/morgana-deploy/morgana/step"
)

// longest bounds one probe, whatever the interval.
const longest = 10 * time.Second

// Prober probes the machines of a target.
type Prober struct{ Target step.Target }

// Probe probes the app at each interval until the window ends. An app is unhealthy after so
// many failures in a row, or at once if its machine has ended. Then the error is Unhealthy,
// with the last answer. The window ends with a success.
//
// The time that has passed is a part of the progress: a try after a worker's death goes on
// with the rest of the window.
func (p Prober) Probe(ctx context.Context, in step.Probation) (out step.Probed, err error) {
	defer step.SetOp(fmt.Sprintf("probe generation %d", in.Of().Generation), &err)
	out.Answer, err = p.probe(ctx, in)
	return out, err
}

func (p Prober) probe(ctx context.Context, in step.Probation) (answer string, err error) {
	do, err := p.way(in)
	if err != nil {
		return "", err
	}
	interval, window := in.Probe.Times()
	limit := min(max(interval, time.Second), longest)
	if in.Probe.Console != "" { // it may be read by ssh, which takes seconds
		limit = longest
	}
	began, failed := time.Now(), 0
	if last, ok := step.Resume(ctx); ok {
		began = began.Add(-time.Duration(last.Done) * time.Second)
		_ = json.Unmarshal(last.State, &failed) // of an earlier form: counted anew
	}
	for {
		answer, err = once(ctx, limit, do)
		passed := time.Since(began)
		switch {
		case ctx.Err() != nil:
			return "", ctx.Err()
		case err == nil && passed >= window:
			return answer, nil
		case err == nil:
			failed = 0
		default:
			answer = err.Error()
			if how := p.ended(ctx, in.Machine); how != "" {
				return "", unhealthy("%s; the machine is %s", answer, how)
			}
			if failed++; failed >= in.Probe.Failures {
				return "", unhealthy("%s, %d times in a row", answer, failed)
			}
		}
		state, _ := json.Marshal(failed) // a number
		step.Report(ctx, step.Progress{Done: int64(min(passed, window).Seconds()), Total: int64(window.Seconds()), Unit: "s", State: state, Note: answer})
		pause := interval
		if failed == 0 {
			pause = min(pause, window-passed)
		}
		if err := step.Pause(ctx, pause); err != nil {
			return "", err
		}
	}
}

// addresses is a target that knows before boot where its machines will answer.
type addresses interface {
	// Addresses returns the addresses of a machine of spec; known is false if they turn out
	// at boot.
	Addresses(spec step.Spec) (all []step.Address, known bool)
}

// Check refuses a probe that cannot reach a machine of the spec, as far as the target knows
// that before boot.
func (p Prober) Check(_ context.Context, in step.ProbeCheck) error {
	t, ok := p.Target.(addresses)
	if !ok {
		return nil
	}
	all, known := t.Addresses(in.Spec)
	if !known {
		return nil
	}
	m := step.Machine{Registration: step.Registration{Spec: in.Spec}, Addresses: all}
	if _, err := p.way(step.Probation{Machine: m, Probe: in.Probe}); err != nil {
		return step.During("check the probe", err)
	}
	return nil
}

func unhealthy(format string, args ...any) error {
	return &step.Error{Kind: step.Unhealthy, Err: fmt.Errorf(format, args...)}
}

// way is a way to probe once. It returns the answer, or an error if the app is unhealthy.
type way func(ctx context.Context) (answer string, err error)

func once(ctx context.Context, limit time.Duration, do way) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return do(ctx)
}

// ended returns how the machine has ended, "" if it runs, ended with success, as a batch job
// does, or the target does not tell.
func (p Prober) ended(ctx context.Context, m step.Machine) string {
	o, ok := p.Target.(step.Observer)
	if !ok {
		return ""
	}
	ctx, cancel := context.WithTimeout(ctx, longest)
	defer cancel()
	h, err := o.Observe(ctx, m)
	if err != nil || h.Success || h.State != step.Ended && h.State != step.Gone {
		return ""
	}
	return h.Text()
}

// way returns the way of a probe.
func (p Prober) way(in step.Probation) (way, error) {
	if in.Probe.Console != "" {
		return p.console(in), nil
	}
	port, path := in.Probe.TCP, ""
	if in.Probe.HTTP != "" {
		port, path = in.Probe.Request()
	}
	places, err := p.places(in.Machine, port)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) (string, error) {
		return anyOf(ctx, places, func(ctx context.Context, place string) (string, error) {
			if path == "" {
				return connect(ctx, place)
			}
			return get(ctx, "http://"+place+path)
		})
	}, nil
}

// onHost is a target that can tell whether a machine's ports are those of its host.
type onHost interface {
	OnHost(m step.Machine) bool
}

// places returns where the app may answer: a port of all addresses of the machine. Port 0
// is that of the first TCP address, else 80. On a worker's host an address with a port is
// a way through the host to the machine: another port of it leads to another program.
func (p Prober) places(m step.Machine, port int) (all []string, err error) {
	addresses := m.Addresses
	if o, ok := p.Target.(onHost); ok && len(addresses) == 0 && o.OnHost(m) {
		addresses = []step.Address{{Kind: "ip", Address: "127.0.0.1"}}
	}
	given := port != 0
	if !given {
		port = 80
		if i := slices.IndexFunc(addresses, func(a step.Address) bool { return a.Kind == "tcp" }); i >= 0 {
			addresses, port = addresses[i:i+1], addresses[i].Port
		}
	}
	for _, a := range addresses {
		if m.Of().Host != "" && a.Kind != "ip" && (a.Kind != "tcp" || a.Port != port) {
			continue
		}
		if place := net.JoinHostPort(a.Address, strconv.Itoa(port)); !slices.Contains(all, place) {
			all = append(all, place)
		}
	}
	switch {
	case len(all) > 0:
		return all, nil
	case given && len(addresses) > 0:
		return nil, step.Invalid("health", "a TCP port of the host that leads to the machine; or probe its console: health: {console: ...}",
			"port %d does not lead to the machine, only %s", port, step.Addresses(addresses, ", "))
	}
	return nil, &step.Error{Kind: step.Unsupported, Field: "health", Err: errors.New("the machine has no address to probe"),
		Hint: "probe its console: health: {console: ...}; or give the target an address"}
}

// anyOf probes all places at the same time. One answer is enough: a worker may reach only
// the public or only the private address of an instance.
func anyOf(ctx context.Context, places []string, do func(ctx context.Context, place string) (string, error)) (string, error) {
	type result struct {
		place  int
		answer string
		err    error
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	results := make(chan result, len(places))
	for i, place := range places {
		go func() {
			answer, err := do(ctx, place)
			results <- result{i, answer, err}
		}()
	}
	errs := make([]error, len(places))
	for range places {
		r := <-results
		if r.err == nil {
			return r.answer, nil
		}
		errs[r.place] = r.err
	}
	return "", errs[0]
}

func connect(ctx context.Context, place string) (string, error) {
	c, err := new(net.Dialer).DialContext(ctx, "tcp", place)
	if err != nil {
		return "", fmt.Errorf("connect to %s: %w", place, cause(err))
	}
	return "connected to " + place, c.Close()
}

// client asks as a browser would, but follows no redirect: that is an answer of the app.
var client = http.Client{
	Transport:     &http.Transport{DisableKeepAlives: true},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

func get(ctx context.Context, url string) (string, error) {
	ask, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	ask.Header.Set("User-Agent", "morgana")
	answer, err := client.Do(ask)
	if err == nil {
		_, err = io.Copy(io.Discard, io.LimitReader(answer.Body, 1<<20))
		_ = answer.Body.Close() // only read
	}
	if err != nil {
		return "", fmt.Errorf("GET %s: %w", url, cause(err))
	}
	said := fmt.Sprintf("GET %s: %s", url, answer.Status)
	if answer.StatusCode >= 400 {
		return "", errors.New(said)
	}
	return said, nil
}

// cause returns an error without the address, which the caller tells.
func cause(err error) error {
	if u, ok := errors.AsType[*url.Error](err); ok {
		err = u.Err
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return errors.New("no answer in time")
	}
	if o, ok := errors.AsType[*net.OpError](err); ok {
		err = o.Err
	}
	return err
}

// console returns a way that reads the new text of the console until it matches.
func (p Prober) console(in step.Probation) way {
	match := machine.NewMatch(regexp.MustCompile(in.Probe.Console))
	from := step.ConsoleFrom{Machine: in.Machine}
	matched := fmt.Sprintf("console matched %q", in.Probe.Console)
	return func(ctx context.Context) (string, error) {
		for !match.Found() {
			text, err := p.Target.Console(ctx, from)
			if err != nil {
				return "", fmt.Errorf("read the console: %w", cause(err))
			}
			match.Add([]byte(text.Text))
			from.Offset = text.Next
			if text.Text == "" {
				return "", fmt.Errorf("console did not match %q", in.Probe.Console)
			}
		}
		if how := p.ended(ctx, in.Machine); how != "" {
			return "", errors.New(matched)
		}
		return matched, nil
	}
}
