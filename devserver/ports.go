package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"syscall"
)

// loopback is the only address that is bound. Nothing is authenticated, so
// anybody who can connect can run workflows.
const loopback = "127.0.0.1"

// ports are the ports of the process: two for people and three between the
// server's services.
type ports struct {
	frontend, ui              int
	history, matching, worker int
}

func (p ports) address() string { return address(p.frontend) }
func (p ports) url() string     { return "http://" + address(p.ui) }

func address(port int) string { return net.JoinHostPort(loopback, strconv.Itoa(port)) }

// choosePorts checks the wanted ports and finds free ones for the rest. It binds
// all of them at the same time, so that no two are the same, and releases them:
// the server takes port numbers, not listeners.
func choosePorts(ctx context.Context, frontend, ui int) (ports, error) {
	var p ports
	own := ownPorts()
	listen := func(want int) (net.Listener, error) {
		for want == 0 && len(own) > 0 {
			l, err := new(net.ListenConfig).Listen(ctx, "tcp4", address(own[0]))
			if own = own[1:]; err == nil {
				return l, nil
			}
		}
		return new(net.ListenConfig).Listen(ctx, "tcp4", address(want))
	}
	for _, c := range []struct {
		flag string
		want int
		got  *int
	}{
		{"--port", frontend, &p.frontend},
		{"--ui-port", ui, &p.ui},
		{"a port within", 0, &p.history},
		{"a port within", 0, &p.matching},
		{"a port within", 0, &p.worker},
	} {
		l, err := listen(c.want)
		if errors.Is(err, syscall.EADDRINUSE) {
			return ports{}, inputErrorf("port %d of %s is taken: choose another with %s, or %s 0 for any free one",
				c.want, loopback, c.flag, c.flag)
		} else if err != nil {
			return ports{}, inputErrorf("%s %d: %w", c.flag, c.want, err)
		}
		defer func() { _ = l.Close() }() // it accepted nothing
		*c.got = l.Addr().(*net.TCPAddr).Port
	}
	return p, nil
}

// ownPorts returns ports for this process, by its id: processes at the same time seldom have the
// same. Linux gives these ports to no connection. One that took a port between its release and the
// server's bind would end the server. There are none if Linux is set to give out these ports too.
func ownPorts() (all []int) {
	const first, count, each = 20000, 10000, 8
	if lowest, err := lowestGiven(); err != nil || lowest < first+count {
		return nil
	}
	for i := range each {
		all = append(all, first+os.Getpid()*each%count+i)
	}
	return all
}

// lowestGiven returns the lowest port that Linux gives to connections.
func lowestGiven() (port int, err error) {
	text, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	if err == nil {
		_, err = fmt.Sscan(string(text), &port)
	}
	return port, err
}
