package xen

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"

	"github.com/morgana-deploy/morgana/remote"
	"github.com/morgana-deploy/morgana/step"
)

// script runs on the host: dom0.sh and verbs.sh without their comment lines. sh gets it
// as one constant argument.
var script = regexp.MustCompile(`(?m)^\t*#.*\n`).ReplaceAllString(common+verbs, "")

//go:embed dom0.sh
var common string

//go:embed verbs.sh
var verbs string

// The exit statuses of script.
const (
	absent  = 64 // a folder or file of an earlier verb is missing
	foreign = 65 // the domain has another UUID, which is in stderr
	refused = 66 // xl refused; its output is in stderr
	busy    = 67 // another call holds the lock
	corrupt = 68 // a file came incomplete or changed
	noSpace = 69
	noDom0  = 70
	noTool  = 71
	stays   = 72 // the domain does not go
	ended   = 73 // of verbs boot and console: no more console text will come
	notRoot = 74
	noStore = 75
	sharing = 76                        // another domain writes to a disk; stderr has the disk and the domain
	noUtil  = 77                        // a system tool is missing or too old; stderr names it
	badName = 78                        // a name that leads out of its folder
	full    = "No space left on device" // of tar, cp and dd, which have no status for it
)

// dom0 is a Xen host's control domain, where xl runs.
type dom0 struct {
	host *remote.Host
	root string
	tool string
}

func (t *Target) dom0(address, tool string) (*dom0, error) {
	host, err := remote.Open(address)
	if err != nil {
		return nil, err
	}
	return &dom0{host, t.root, tool}, nil
}

// do runs one verb of the script and returns its standard output. See explain for its
// errors.
func (d *dom0) do(ctx context.Context, verb string, args ...string) (string, error) {
	var out bytes.Buffer
	err := d.run(ctx, nil, &out, verb, args...)
	return out.String(), err
}

func (d *dom0) run(ctx context.Context, stdin io.Reader, stdout io.Writer, verb string, args ...string) error {
	return d.explain(d.host.Run(ctx, remote.Command{
		Argv:  append([]string{"/bin/sh", "-c", script, "morgana", d.root, d.tool, verb}, args...),
		Stdin: stdin, Stdout: stdout,
	}))
}

// explain turns an exit status of the script into an error in plain words. A status that
// a caller may handle becomes a verbError.
func (d *dom0) explain(err error) error {
	var exit *remote.Exit
	if !errors.As(err, &exit) {
		return err
	}
	told := strings.TrimSpace(exit.Stderr)
	if strings.Contains(told, full) {
		return &step.Error{Kind: step.NoSpace, Err: fmt.Errorf("%s is full", d.host), Hint: "free space under " + d.root}
	}
	switch exit.Status {
	case absent:
		return &verbError{fmt.Sprintf("%s has no %s any more", d.host, told), exit}
	case busy:
		return &verbError{fmt.Sprintf("another deploy is at work on %s: %s", d.host, told), exit}
	case corrupt:
		return &verbError{fmt.Sprintf("%s: %s", d.host, lastOf(told)), exit}
	case ended:
		return err
	case foreign:
		return &step.Error{Kind: step.Conflict, Err: fmt.Errorf("%s has a domain of this name that is not Morgana's (uuid %s)", d.host, told),
			Hint: "it is left alone: rename or destroy it by hand, then deploy again"}
	case refused:
		return said(told)
	case noSpace:
		return &step.Error{Kind: step.NoSpace, Err: fmt.Errorf("%s is full: %s", d.host, told), Hint: "free space under " + d.root}
	case noDom0:
		return &step.Error{Kind: step.Unsupported, Field: "host", Err: fmt.Errorf("%s is no Xen host: %s", d.host, told),
			Hint: "name a host that runs Xen, as ssh://root@xen1; it must be its dom0"}
	case noTool:
		return &step.Error{Kind: step.Unsupported, Field: "tool", Err: fmt.Errorf("%s has no %s", d.host, told),
			Hint: "install Xen's tools there: apt-get install xen-utils"}
	case notRoot:
		return &step.Error{Kind: step.Unauthorized, Field: "host", Err: fmt.Errorf("user %s of %s may not manage domains", told, d.host),
			Hint: "Xen's tools need root: log in as root, as ssh://root@xen1"}
	case noStore:
		return &step.Error{Kind: step.Unsupported, Field: "host", Err: fmt.Errorf("%s: %s", d.host, told), Hint: "start Xen's daemons there: systemctl start xencommons"}
	case noUtil:
		return &step.Error{Kind: step.Unsupported, Field: "host", Err: fmt.Errorf("%s has no %s", d.host, told),
			Hint: "install it there: docs/targets/xen.md lists what is used"}
	case sharing:
		i := strings.LastIndexByte(told, ' ')
		return writtenBy("disks", told[:max(i, 0)], told[i+1:])
	case badName:
		return step.Invalid("files", "deploy again", "%q is not the name of a file", told)
	case stays:
		return fmt.Errorf("domain %s does not go", told)
	}
	if told == "" {
		told = fmt.Sprintf("a command ended with status %d", exit.Status)
	}
	return &verbError{fmt.Sprintf("%s: %s", d.host, lastOf(told)), exit}
}

// writtenBy returns the Conflict of a disk that another domain writes to.
func writtenBy(field, disk, domain string) error {
	return failedAt(step.Conflict, field, "two domains must not write to one disk: destroy that one first (its deployment with morgana destroy)",
		"domain %s writes to %s", domain, disk)
}

// verbError is an exit in plain words; see exited.
type verbError struct {
	text string
	exit *remote.Exit
}

func (e *verbError) Error() string { return e.text }
func (e *verbError) Unwrap() error { return e.exit }

// exited reports whether err is an exit of the script with this status.
func exited(err error, status int) bool {
	var exit *remote.Exit
	return errors.As(err, &exit) && exit.Status == status
}

func lastOf(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.TrimSpace(lines[len(lines)-1])
}

// facts are the answers to verb facts.
type facts struct {
	info    map[string]string // the output of xl info
	domains []string          // names of all guests
	folders []string          // names of the rollouts' folders
	bridges []bool
	paths   []pathFacts
}

type pathFacts struct {
	kind   string // "block", "file", "other", "missing"
	writer string // the domain that writes to it, "" if none
}

// facts runs verb facts. Bridges and paths are answered in their order.
func (d *dom0) facts(ctx context.Context, name, uuid string, bridges, paths []string) (facts, error) {
	args := append([]string{name, uuid, strconv.Itoa(len(bridges))}, bridges...)
	out, err := d.do(ctx, "facts", append(args, paths...)...)
	f := facts{info: map[string]string{}}
	if err != nil {
		return f, err
	}
	section := ""
	for line := range strings.Lines(out) {
		line = strings.TrimSuffix(line, "\n")
		if s, ok := strings.CutPrefix(line, "== "); ok {
			section = s
			continue
		}
		switch section {
		case "info":
			key, value, _ := strings.Cut(line, ":")
			f.info[strings.TrimSpace(key)] = strings.TrimSpace(value)
		case "domains":
			if words := strings.SplitN(line, " ", 3); len(words) == 3 {
				f.domains = append(f.domains, words[2])
			}
		case "folders":
			f.folders = append(f.folders, line)
		case "bridges":
			f.bridges = append(f.bridges, line == "yes")
		case "paths":
			kind, writer, _ := strings.Cut(line, " ")
			f.paths = append(f.paths, pathFacts{kind, writer})
		}
	}
	if len(f.bridges) != len(bridges) || len(f.paths) != len(paths) {
		return f, fmt.Errorf("%s broke off while it answered", d.host)
	}
	return f, nil
}

func (f facts) number(key string) int {
	n, _ := strconv.Atoi(f.info[key])
	return n
}

// version returns Xen's version, as 4, 17.
func (f facts) version() (major, minor int) { return f.number("xen_major"), f.number("xen_minor") }

// has reports whether xen_caps names an interface, as "hvm-3.0-x86_64".
func (f facts) has(capability string) bool {
	for c := range strings.FieldsSeq(f.info["xen_caps"]) {
		if c == capability {
			return true
		}
	}
	return false
}
