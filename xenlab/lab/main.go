// Command lab starts a real Xen on this machine to try Morgana on: see
// xenlab/README.md.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"

	"github.com/morgana-deploy/morgana/xenlab"
)

const usage = `usage: lab COMMAND [DIR]

  up          start a lab that goes on in the background, building it if need be
  down        end it and remove its disk
  status      say whether it runs, and how to use it
  ssh [CMD]   a shell in dom0, or a command
  build       only build what labs are started from

DIR, or $MORGANA_XENLAB, is the lab's folder, one for each lab;
the default is $XDG_CACHE_HOME/morgana/xenlab/lab.
`

var errUsage = errors.New("usage")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	var exit *exec.ExitError
	switch {
	case errors.Is(err, errUsage):
		fmt.Fprint(os.Stderr, usage)
		os.Exit(2)
	case errors.As(err, &exit):
		os.Exit(exit.ExitCode())
	case err != nil:
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return errUsage
	}
	command, args := args[0], args[1:]
	dir, err := folder()
	if err != nil {
		return err
	}
	if command != "ssh" && len(args) > 0 {
		dir = args[0]
	}
	switch command {
	case "build":
		cache, err := xenlab.Build(ctx)
		if err == nil {
			fmt.Println(cache)
		}
		return err
	case "up":
		l, err := xenlab.Open(dir)
		if errors.Is(err, xenlab.ErrDown) {
			l, err = xenlab.Up(ctx, dir)
		}
		if err == nil {
			describe(l)
		}
		return err
	case "status":
		l, err := xenlab.Open(dir)
		if err == nil {
			describe(l)
		}
		return err
	case "down":
		l, err := xenlab.Open(dir)
		if err != nil && !errors.Is(err, xenlab.ErrDown) {
			return err
		}
		return l.Close() // one that crashed has left its disk
	case "ssh":
		l, err := xenlab.Open(dir)
		if err != nil {
			return err
		}
		if len(args) == 1 {
			args = []string{"sh", "-c", args[0]} // a command line for the shell, as with ssh
		}
		cmd := l.Command(ctx, args...)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
		return cmd.Run()
	}
	return errUsage
}

func folder() (string, error) {
	if dir := os.Getenv("MORGANA_XENLAB"); dir != "" {
		return dir, nil
	}
	cache, err := os.UserCacheDir()
	return filepath.Join(cache, "morgana", "xenlab", "lab"), err
}

func describe(l *xenlab.Lab) {
	fmt.Printf(`Xen runs. To deploy to it:

  export MORGANA_SSH_CONFIG=%s

and in morgana.yaml, under targets:

  xen: {kind: xen, host: %q}

Look around: ssh -F "$MORGANA_SSH_CONFIG" %s xl list
What it prints: %s
`, quote(l.Config), l.Host, xenlab.Alias, filepath.Join(l.Dir, "console.log"))
}

var plain = regexp.MustCompile(`^[\w@%+=:,./-]+$`)

// quote quotes a word for sh.
func quote(word string) string {
	if plain.MatchString(word) {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}
