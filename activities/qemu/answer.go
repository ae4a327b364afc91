package qemu

import (
	"context"
	"net"
	"net/netip"
	"time"
)

// portProbe finds out whether a TCP port of the guest answers. A connection to a forward
// proves nothing: QEMU accepts it before it asks the guest. QEMU's table of connections
// ("info usernet") shows whether the guest has accepted.
type portProbe struct {
	m     guest
	guest uint16

	conn   net.Conn
	opened time.Time
	asked  time.Time
}

const (
	askEvery = 150 * time.Millisecond
	// redial is the age at which an attempt is replaced by a new one. QEMU repeats its
	// SYN ever more slowly, and the guest may not have been up when the first SYN was
	// sent.
	redial = 2 * time.Second
)

// answered are the states of a connection that the guest has accepted.
var answered = map[string]bool{
	"ESTABLISHED": true, "CLOSE_WAIT": true, "FIN_WAIT_1": true, "FIN_WAIT_2": true,
	"CLOSING": true, "LAST_ACK": true, "TIME_WAIT": true,
}

// answers reports whether the guest has accepted a connection. If not, it starts a new
// attempt, unless one younger than redial is under way. It does not wait for the guest.
// An error counts as no answer yet.
func (p *portProbe) answers(ctx context.Context) bool {
	if time.Since(p.asked) < askEvery {
		return false
	}
	p.asked = time.Now()
	rows, err := p.m.usernet(ctx)
	if err != nil {
		return false // QEMU is starting or ending
	}
	way, ok := p.way(rows)
	if !ok {
		// The host chooses the port; takePorts removes forwards that are not wanted.
		_, _ = p.m.monitor(ctx, anyForward(p.guest)) // the next look shows it
		return false
	}
	trying := false
	for _, r := range rows {
		if r.forward.host != way || r.listens() {
			continue
		}
		if answered[r.state] {
			return true
		}
		trying = true
	}
	if !trying || time.Since(p.opened) > redial {
		p.close()
		dialer := net.Dialer{Timeout: time.Second}
		if p.conn, err = dialer.DialContext(ctx, "tcp", way.String()); err != nil {
			p.conn = nil
			return false
		}
		p.opened = time.Now()
	}
	return false
}

// way returns the host's end of a forward on loopback that leads to the port.
func (p *portProbe) way(rows []connection) (netip.AddrPort, bool) {
	for _, r := range rows {
		if r.listens() && r.forward.proto == "tcp" && r.forward.guest == p.guest && r.forward.host.Addr().IsLoopback() {
			return r.forward.host, true
		}
	}
	return netip.AddrPort{}, false
}

func (p *portProbe) close() {
	if p != nil && p.conn != nil {
		_ = p.conn.Close() // it carried nothing
		p.conn = nil
	}
}
