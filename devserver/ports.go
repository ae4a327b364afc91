package main

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"syscall"
)

// loopback is the one address anything here binds. Nothing is authenticated,
// so whoever could connect could run workflows.
const loopback = "127.0.0.1"

// ports are the listeners of the process: two that people use, and three the
// server's parts use among themselves.
type ports struct {
	frontend, ui              int
	history, matching, worker int
}

func (p ports) address() string { return address(p.frontend) }
func (p ports) url() string     { return "http://" + address(p.ui) }

func address(port int) string { return net.JoinHostPort(loopback, strconv.Itoa(port)) }

// choosePorts checks the wanted ports and finds free ones for the rest. The
// server can only be told numbers, not given listeners, so the ports are let
// go (release) just before it binds them; until then they are all held, so
// that no two are the same.
func choosePorts(frontend, ui int) (p ports, release func(), err error) {
	var held []net.Listener
	release = func() {
		for _, l := range held {
			_ = l.Close() // never accepted anything
		}
	}
	choose := func(flag string, want int) int {
		if err != nil {
			return 0
		}
		var l net.Listener
		l, err = net.Listen("tcp4", address(want))
		switch {
		case errors.Is(err, syscall.EADDRINUSE):
			err = inputErrorf("port %d of %s is taken: choose another with %s, or %s 0 for any free one",
				want, loopback, flag, flag)
			return 0
		case err != nil:
			err = inputError{fmt.Errorf("%s %d: %w", flag, want, err)}
			return 0
		}
		held = append(held, l)
		return l.Addr().(*net.TCPAddr).Port
	}
	p.frontend = choose("--port", frontend)
	p.ui = choose("--ui-port", ui)
	p.history = choose("a free port", 0)
	p.matching = choose("a free port", 0)
	p.worker = choose("a free port", 0)
	if err != nil {
		release()
		return ports{}, nil, err
	}
	return p, release, nil
}
