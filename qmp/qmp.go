// Package qmp starts QEMU and speaks to it by its machine protocol.
package qmp

import (
	"encoding/json"
	"fmt"
	"io"
	"os/exec"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

// Client is a conversation with QEMU.
type Client struct {
	mu      sync.Mutex // held during a command
	out     *json.Encoder
	replies chan message
	err     error // that ended the conversation; set before replies is closed
}

type message struct {
	Return json.RawMessage
	Error  *struct{ Desc string }
	Event  string
	Data   json.RawMessage
}

// New begins a conversation, whose first command must be qmp_capabilities. It calls event,
// unless that is nil, for each event.
func New(conn io.ReadWriter, event func(name string, data json.RawMessage)) *Client {
	c := &Client{out: json.NewEncoder(conn), replies: make(chan message, 1)}
	go func() {
		defer close(c.replies)
		for in := json.NewDecoder(conn); ; {
			var m message
			switch c.err = in.Decode(&m); {
			case c.err != nil:
				return
			case m.Event != "" && event != nil:
				event(m.Event, m.Data)
			case m.Return != nil || m.Error != nil:
				c.replies <- m
			}
		}
	}()
	return c
}

// Execute runs a command. It fails when QEMU ends.
func (c *Client) Execute(command string, arguments any) (json.RawMessage, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	request := map[string]any{"execute": command}
	if arguments != nil {
		request["arguments"] = arguments
	}
	if err := c.out.Encode(request); err != nil {
		return nil, fmt.Errorf("QMP %s: %w", command, err)
	}
	switch m, ok := <-c.replies; {
	case !ok:
		return nil, fmt.Errorf("QMP %s: %w", command, c.err)
	case m.Error != nil:
		return nil, fmt.Errorf("QMP %s: %s", command, m.Error.Desc)
	default:
		return m.Return, nil
	}
}

// Human runs a command that QMP lacks in the human monitor. What it says is usually an error.
func (c *Client) Human(line string) (said string, err error) {
	raw, err := c.Execute("human-monitor-command", map[string]string{"command-line": line})
	if err != nil {
		return "", err
	}
	return said, json.Unmarshal(raw, &said)
}

var forwarded = regexp.MustCompile(`TCP\[HOST_FORWARD\]\s+\d+\s+127\.0\.0\.1\s+(\d+)`)

// Forwarded returns the port of 127.0.0.1 that QEMU picked to forward to the machine.
func (c *Client) Forwarded() (int, error) {
	said, err := c.Human("info usernet")
	if err != nil {
		return 0, err
	}
	m := forwarded.FindStringSubmatch(said)
	if m == nil {
		return 0, fmt.Errorf("QEMU forwards no port: %q", said)
	}
	return strconv.Atoi(m[1])
}

// Start starts a QEMU, or a process that stands for one. It ends with this process, unless
// cmd.SysProcAttr says otherwise. The channel is closed when it has ended, with any status.
func Start(cmd *exec.Cmd) (ended chan struct{}, err error) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	}
	started := make(chan error)
	ended = make(chan struct{})
	go func() {
		// Pdeathsig fires when the starting thread ends; it must last as long as cmd.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // a guest may end QEMU with any status
			close(ended)
		}
	}()
	return ended, <-started
}

// Option quotes a value of the key=value options on QEMU's command line.
func Option(value string) string { return strings.ReplaceAll(value, ",", ",,") }
