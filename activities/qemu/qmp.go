package qemu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/morgana-deploy/morgana/machine"
	"github.com/morgana-deploy/morgana/qmp"
)

// qmpPatience bounds a whole conversation with QEMU. QEMU serves one client at
// a time, and a conversation takes a millisecond, on a host that is not busy.
const qmpPatience = 10 * time.Second

// conversation is one on QEMU's control socket.
type conversation struct {
	*qmp.Client
	conn net.Conn
	stop func() bool
}

// guest is a machine whose process is QEMU.
type guest struct{ machine.Machine }

// talk opens a conversation with the machine's QEMU.
func (m guest) talk(ctx context.Context) (*conversation, error) {
	dir, err := os.Open(m.Path)
	if err != nil {
		return nil, err
	}
	defer dir.Close() //nolint:errcheck // only read
	// A socket's path holds 107 bytes, a state folder's may be longer.
	short := fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), qmpFile)
	conn, err := dial(ctx, short)
	if err != nil {
		return nil, err
	}
	c := &conversation{conn: conn}
	c.stop = context.AfterFunc(ctx, func() { _ = conn.Close() }) // ends a read; close closes again
	err = conn.SetDeadline(time.Now().Add(qmpPatience))
	if err == nil {
		c.Client = qmp.New(conn, nil)
		_, err = c.Execute("qmp_capabilities", nil)
	}
	if err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

// dial connects to QEMU, and waits while another client is connected.
func dial(ctx context.Context, path string) (net.Conn, error) {
	limited, cancel := context.WithTimeout(ctx, qmpPatience)
	defer cancel()
	every := time.NewTicker(10 * time.Millisecond)
	defer every.Stop()
	for {
		var dialer net.Dialer
		conn, err := dialer.DialContext(limited, "unix", path)
		if !errors.Is(err, syscall.EAGAIN) { // QEMU's queue holds one client
			return conn, err
		}
		select {
		case <-limited.Done():
			return nil, err
		case <-every.C:
		}
	}
}

func (c *conversation) close() {
	c.stop()
	_ = c.conn.Close() // nothing was left to write
}

// monitor runs a line of the human monitor. The answer is text without a code, so callers
// look at the state afterwards instead.
func (m guest) monitor(ctx context.Context, line string) (string, error) {
	c, err := m.talk(ctx)
	if err != nil {
		return "", err
	}
	defer c.close()
	return c.Human(line)
}

// quit asks QEMU to end. QEMU may be gone before it answers.
func (m guest) quit(ctx context.Context) error {
	c, err := m.talk(ctx)
	if err != nil {
		return err
	}
	defer c.close()
	_, err = c.Execute("quit", nil)
	return err
}

// status is QEMU's own word for the machine's state: "running", "paused",
// "internal-error".
func (m guest) status(ctx context.Context) (string, error) {
	c, err := m.talk(ctx)
	if err != nil {
		return "", err
	}
	defer c.close()
	raw, err := c.Execute("query-status", nil)
	if err != nil {
		return "", err
	}
	var answer struct {
		Status string `json:"status"`
	}
	err = json.Unmarshal(raw, &answer)
	return answer.Status, err
}

// connection is a row of "info usernet": a listening forward or a connection.
type connection struct {
	forward forward
	state   string // "HOST_FORWARD", "SYN_SENT", "ESTABLISHED", ...
}

func (c connection) listens() bool { return c.state == "HOST_FORWARD" }

// usernetRow matches a row of "info usernet":
//
//	Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ
//	TCP[HOST_FORWARD]  15       127.0.0.1 18081       10.0.2.15    80     0     0
var usernetRow = regexp.MustCompile(`(?m)^\s*(TCP|UDP)\[([^\]]+)\]\s+-?\d+\s+(\S+)\s+(\d+)\s+\S+\s+(\d+)\s`)

// usernet lists the user network's forwards and connections, nothing if there is no such
// network.
func (m guest) usernet(ctx context.Context) ([]connection, error) {
	text, err := m.monitor(ctx, "info usernet")
	if err != nil {
		return nil, err
	}
	return parseUsernet(text), nil
}

func parseUsernet(text string) []connection {
	var rows []connection
	for _, p := range usernetRow.FindAllStringSubmatch(text, -1) {
		address := p[3]
		if address == "*" {
			address = "0.0.0.0"
		}
		ip, ipErr := netip.ParseAddr(address)
		port, portErr := strconv.ParseUint(p[4], 10, 16)
		guest, guestErr := strconv.ParseUint(p[5], 10, 16)
		if errors.Join(ipErr, portErr, guestErr) != nil {
			continue
		}
		rows = append(rows, connection{
			forward{strings.ToLower(p[1]), netip.AddrPortFrom(ip, uint16(port)), uint16(guest)}, p[2]})
	}
	return rows
}

// netdev is the id of the user network on QEMU's command line.
const netdev = "n0"

func (m guest) addForward(ctx context.Context, f forward) error {
	said, err := m.monitor(ctx, fmt.Sprintf("hostfwd_add %s %s-:%d", netdev, f.at(), f.guest))
	if err != nil {
		return err
	}
	rows, err := m.usernet(ctx)
	if err != nil {
		return err
	}
	for _, r := range rows {
		if r.listens() && r.forward == f {
			return nil
		}
	}
	return fmt.Errorf("forward %s to %s: %s", f.at(), m.Name(), strings.TrimSpace(said))
}

func (m guest) removeForward(ctx context.Context, f forward) error {
	said, err := m.monitor(ctx, fmt.Sprintf("hostfwd_remove %s %s", netdev, f.at()))
	if err != nil {
		return err
	}
	rows, err := m.usernet(ctx)
	if err != nil {
		return err
	}
	if _, has := overlapping(rows, f); has {
		return fmt.Errorf("take %s from %s: %s", f.at(), m.Name(), strings.TrimSpace(said))
	}
	return nil
}

// anyForward is the monitor's line for a forward from a port that the host chooses.
func anyForward(guest uint16) string {
	return fmt.Sprintf("hostfwd_add %s tcp:127.0.0.1:0-:%d", netdev, guest)
}
