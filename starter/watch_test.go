package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// status --watch on a terminal: each list fits the window, also one that has become smaller,
// and is drawn over the last one.
func TestWatchFitsTheWindow(t *testing.T) {
	t.Setenv("TERM", "xterm")
	watchPause = time.Millisecond
	ours, theirs := pseudoterminal(t)
	resize := func(columns, rows uint16) {
		t.Helper()
		if err := unix.IoctlSetWinsize(int(ours.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Col: columns, Row: rows}); err != nil {
			t.Fatal(err)
		}
	}
	all := make([]deploymentLine, 20)
	for i := range all {
		all[i] = deploymentLine{App: fmt.Sprintf("app-%02d", i), Target: strings.Repeat("t", 40), State: "up"}
	}
	drawn := make(chan string)
	go func() {
		b, _ := io.ReadAll(ours) // ends with EIO
		drawn <- string(b)
	}()
	resize(100, 10)
	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	looks := 0
	err := (&cli{out: &output{w: theirs}, err: &output{w: io.Discard}}).watch(ctx, "", func() ([]deploymentLine, error) {
		switch looks++; looks {
		case 2:
			resize(50, 6)
		case 3:
			return nil, errors.New("connection refused")
		case 4:
			interrupt()
		}
		return all, nil
	})
	_ = theirs.Close()
	screens := strings.SplitAfter(<-drawn, "\x1b[J")
	if !errors.Is(err, errDetached) || len(screens) != 4 || screens[3] != "" {
		t.Fatalf("%v, drawn %q", err, screens)
	}
	for i, want := range []struct {
		up           string
		lines, width int
		last         string
	}{{"", 9, 99, "app-07"}, {"\x1b[9A", 5, 49, "app-03"}, {"\x1b[5A", 5, 49, "no answer for "}} {
		rest, begins := strings.CutPrefix(screens[i], want.up)
		lines := strings.Split(strings.TrimSuffix(rest, "\x1b[J"), "\x1b[K\r\n")
		if !begins || len(lines) != want.lines+1 || lines[want.lines] != "" || !strings.HasPrefix(lines[want.lines-1], "\r"+want.last) {
			t.Errorf("screen %d: %q", i, screens[i])
		}
		for _, l := range lines {
			if l = strings.TrimSuffix(strings.TrimPrefix(l, "\r"), "\x1b[0m"); len([]rune(l)) > want.width {
				t.Errorf("screen %d: a line of %d characters: %q", i, len(l), l)
			}
		}
	}
}

// Ctrl-C ends status --watch and leaves the terminal as it was, with the cursor below the list.
func TestCtrlCEndsTheWatch(t *testing.T) {
	withServer(t)
	ours, theirs := pseudoterminal(t)
	mode := func() unix.Termios {
		t.Helper()
		m, err := unix.IoctlGetTermios(int(ours.Fd()), unix.TCGETS)
		if err != nil {
			t.Fatal(err)
		}
		return *m
	}
	before := mode()
	cmd := self(t, "status", "--watch")
	cmd.Env = append(cmd.Env, "TERM=xterm")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = theirs, theirs, theirs
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true} // its Ctty is standard input
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var said strings.Builder
	for b := make([]byte, 1024); !strings.Contains(said.String(), "\x1b[J"); {
		n, err := ours.Read(b)
		if err != nil {
			t.Fatalf("%v; it said %q", err, said.String())
		}
		said.Write(b[:n])
	}
	if _, err := ours.Write([]byte{3}); err != nil {
		t.Fatal(err)
	}
	if status, _, _ := ends(t, cmd); status != interrupted {
		t.Errorf("exit %d", status)
	}
	if after := mode(); !reflect.DeepEqual(before, after) {
		t.Errorf("the terminal's mode was %+v and is %+v", before, after)
	}
	if !strings.HasSuffix(strings.SplitAfter(said.String(), "\x1b[J")[0], "\x1b[K\r\n\x1b[J") {
		t.Errorf("the cursor is not below the list: %q", said.String())
	}
}
