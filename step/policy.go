package step

import (
	"cmp"
	"encoding/json"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// RestartPolicy says when a machine is booted again.
type RestartPolicy string

// The restart policies.
const (
	RestartAlways    RestartPolicy = "always"
	RestartOnFailure RestartPolicy = "on-failure"
	RestartNever     RestartPolicy = "never"
)

// Policy is how a deployment looks after its machine: the keys of a target in morgana.yaml
// that are the same for every kind. It is no part of a [Spec], so a change of the policy
// alone makes no new machine.
type Policy struct {
	// Restart says when the machine is booted again: "always" after it has ended or is
	// gone, "on-failure" unless it ended with success, "never" at no time.
	Restart RestartPolicy `json:"restart" jsonschema:"enum=always,enum=on-failure,enum=never" example:"always"`
	// Health is a probe of the app after boot. A new generation that fails it is removed,
	// and the one before it runs on. Default: none.
	Health *Probe `json:"health,omitempty"`
	// Keep is how many generations stay registered, the running one included, 1 to 50.
	// `morgana rollback` can boot them without a build.
	Keep int `json:"keep"`
}

// Probe tells whether an app is healthy. Exactly one of HTTP, TCP and Console is set.
type Probe struct {
	// HTTP is a path, as "/healthz", which must be answered with a status below 400. The
	// port is that of the machine's first TCP address, or as in ":8080/healthz".
	HTTP string `json:"http,omitempty" example:"/healthz"`
	// TCP is a port that must take a connection.
	TCP int `json:"tcp,omitempty" example:"8080"`
	// Console is a regular expression (RE2) that the console's text since boot must match.
	Console string `json:"console,omitempty" example:"listening"`
	// Interval is the time between two probes.
	Interval string `json:"interval" example:"5s"`
	// Failures is how many probes in a row must fail for the app to be unhealthy.
	Failures int `json:"failures"`
	// Window is how long the app is probed after boot. The deploy waits for its end.
	Window string `json:"window" example:"1m"`
}

// maxKeep bounds the generations that stay registered: each may cost disk space or money.
const maxKeep = 50

// DefaultPolicy returns the policy of a target that gives none.
func DefaultPolicy() Policy { return Policy{Restart: RestartNever, Keep: 2} }

// DefaultProbe returns the defaults of a probe. They are those of no valid probe.
func DefaultProbe() Probe { return Probe{Interval: "5s", Failures: 3, Window: "1m"} }

// ReadPolicy reads a policy with the defaults of the members that raw does not have.
func ReadPolicy(raw json.RawMessage) (Policy, error) {
	p := DefaultPolicy()
	if err := Decode(raw, &p); err != nil {
		return p, err
	}
	if p.Health != nil {
		*p.Health = DefaultProbe()
		if err := Decode(raw, &p); err != nil {
			return p, err
		}
	}
	return p, p.Valid()
}

// Valid returns InvalidSpec for a policy that is not complete or not possible.
func (p Policy) Valid() error {
	switch p.Restart {
	case RestartAlways, RestartOnFailure, RestartNever:
	default:
		return Invalid("restart", OneOf(string(p.Restart), string(RestartAlways), string(RestartOnFailure), string(RestartNever)),
			"%q is no restart policy", p.Restart)
	}
	if p.Keep < 1 || p.Keep > maxKeep {
		return Invalid("keep", "1, the running generation alone, to "+strconv.Itoa(maxKeep), "%d generations cannot be kept", p.Keep)
	}
	if p.Health == nil {
		return nil
	}
	return p.Health.valid()
}

func (p *Probe) valid() error {
	given := 0
	for _, is := range []bool{p.HTTP != "", p.TCP != 0, p.Console != ""} {
		if is {
			given++
		}
	}
	if given != 1 {
		return Invalid("health", "as in `health: {http: /healthz}`", "want one of http, tcp and console, not %d", given)
	}
	if p.HTTP != "" {
		if _, _, ok := p.address(); !ok {
			return Invalid("health.http", "a path as /healthz, or :8080/healthz", "%q is no path", p.HTTP)
		}
	}
	if p.TCP < 0 || p.TCP > 65535 {
		return Invalid("health.tcp", "1 to 65535", "%d is no port", p.TCP)
	}
	if _, err := regexp.Compile(p.Console); err != nil {
		return Invalid("health.console", "https://golang.org/s/re2syntax", "%w", err)
	}
	if p.Failures < 1 || p.Failures > 1000 {
		return Invalid("health.failures", "1 to 1000", "%d failures in a row cannot be counted", p.Failures)
	}
	interval, window := p.Times()
	switch {
	case interval < 100*time.Millisecond || interval > time.Hour:
		return Invalid("health.interval", "100ms to 1h, as 5s", "%q is no time between probes", p.Interval)
	case window < interval || window > 24*time.Hour:
		return Invalid("health.window", "from interval to 24h, as 1m", "%q is no time to probe", p.Window)
	case window < interval*time.Duration(p.Failures-1):
		return Invalid("health.window", "a longer window, a shorter interval or fewer failures",
			"%d probes in %s do not fit into %s", p.Failures, interval*time.Duration(p.Failures-1), window)
	}
	return nil
}

// Times returns the interval and the window of a valid probe; 0 for text that is no time.
func (p *Probe) Times() (interval, window time.Duration) {
	interval, _ = time.ParseDuration(p.Interval) // Valid refuses 0
	window, _ = time.ParseDuration(p.Window)
	return interval, window
}

// Request returns the port and the path of a valid probe by HTTP. The port is 0 if the
// machine's first TCP address decides it.
func (p *Probe) Request() (port int, path string) {
	port, path, _ = p.address()
	return port, path
}

func (p *Probe) address() (port int, path string, ok bool) {
	digits, path, found := strings.Cut(p.HTTP, "/")
	if digits, given := strings.CutPrefix(digits, ":"); given {
		var err error
		port, err = strconv.Atoi(digits)
		found = found && err == nil && port > 0 && port <= 65535
	} else {
		found = found && digits == ""
	}
	clean := !strings.ContainsFunc(path, func(r rune) bool { return r <= ' ' || r == 0x7f })
	return port, "/" + path, found && clean
}

// WithDefaults returns p with the defaults of the members that are zero.
func (p Policy) WithDefaults() Policy {
	d := DefaultPolicy()
	p.Restart, p.Keep = cmp.Or(p.Restart, d.Restart), cmp.Or(p.Keep, d.Keep)
	if p.Health != nil {
		h, d := *p.Health, DefaultProbe()
		h.Interval, h.Failures, h.Window = cmp.Or(h.Interval, d.Interval), cmp.Or(h.Failures, d.Failures), cmp.Or(h.Window, d.Window)
		p.Health = &h
	}
	return p
}
