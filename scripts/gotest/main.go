// Gotest runs go test and records the time of each test:
//
//	gotest FILE [flags and packages of go test]
//
// Its output and exit status are those of go test. For each test it appends a line to
// FILE: its seconds, without those of its subtests, and its name.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
)

// event is a line of go test -json; see go doc test2json.
type event struct {
	Action, Package, Test, Output string
	Elapsed                       float64
}

func main() {
	// Ignores interrupts: go test gets them, too, and its last output must be printed.
	signal.Notify(make(chan os.Signal, 1), os.Interrupt)
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: gotest FILE [flags and packages of go test]")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2:]); err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) { // go test has said why
			os.Exit(max(1, exit.ExitCode()))
		}
		fmt.Fprintln(os.Stderr, "gotest:", err)
		os.Exit(1)
	}
}

func run(file string, args []string) error {
	times, err := os.OpenFile(file, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	cmd := exec.Command("go", append([]string{"test", "-json"}, args...)...) //nolint:noctx // it ends by the same signals
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	told := tell(os.Stdout, times, out, slices.Contains(args, "-v"))
	_, _ = io.Copy(io.Discard, out) // so that go test is not stopped by a full pipe
	return errors.Join(told, cmd.Wait(), times.Close())
}

// tell prints the output in events as go test without -json would, and writes the times
// of the tests. If all is set it prints as go test -v would.
func tell(w, times io.Writer, events io.Reader, all bool) error {
	said := map[string]string{}     // output of tests that have not ended
	seconds := map[string]float64{} // minus the time of subtests that have ended
	in := bufio.NewReader(events)
	for {
		line, err := in.ReadString('\n')
		if line == "" {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		var e event
		if json.Unmarshal([]byte(line), &e) != nil {
			e = event{Output: line} // output of go test itself
		}
		top, _, isSub := strings.Cut(e.Test, "/")
		key, whole := e.Package+"."+e.Test, e.Package+"."+top
		text := ""
		switch {
		case e.Output != "" && all:
			text = e.Output
		case e.Test == "" && e.Output != "PASS\n":
			if strings.HasPrefix(e.Output, "FAIL") {
				// Show the output of tests that did not end because the process died.
				for _, k := range slices.Sorted(maps.Keys(said)) {
					if strings.HasPrefix(k, e.Package+".") {
						text += said[k]
						delete(said, k)
					}
				}
			}
			text += e.Output
		case e.Action == "output" && !strings.HasPrefix(e.Output, "=== "):
			said[whole] += e.Output
		case e.Action == "pass", e.Action == "fail", e.Action == "skip":
			if _, err := fmt.Fprintf(times, "%.2f s %s\n", max(0, e.Elapsed+seconds[key]), key); err != nil {
				return err
			}
			delete(seconds, key)
			if isSub {
				seconds[key[:strings.LastIndex(key, "/")]] -= e.Elapsed
				break
			}
			if e.Action == "fail" {
				text = said[whole]
			}
			delete(said, whole)
		}
		if _, err := io.WriteString(w, text); err != nil {
			return err
		}
	}
}
