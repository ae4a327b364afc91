package local

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"

	"github.com/morgana-deploy/morgana/image"
	"github.com/morgana-deploy/morgana/machine"
)

// The values of Network.By.
const (
	byName = "name"
	byFD   = "fd"
)

const (
	kernelFile  = "kernel"
	blockPrefix = "block-"
	// firstFD is the descriptor of the first tap: 0 is /dev/null, 1 and 2 are the console, 3
	// is the machine's lock.
	firstFD = 4
)

var placeholder = regexp.MustCompile(`\{(tap|block):([^{}]*)\}`)

// program is the program that the supervisor starts: Path with Args and Env, in the
// machine's folder.
type program struct {
	Path string
	Args []string
	Env  []string
}

// command returns the program that runs the machine. ifaces are the taps' interface names.
// Taps handed over by descriptor are open from firstFD on, in order.
func (s *settings) command(m machine.Machine, tender string, ifaces []string) (program, error) {
	folder, err := filepath.EvalSymlinks(m.Path)
	if err != nil {
		return program{}, err
	}
	var given []string // the tap's name or descriptor, per network
	next := firstFD
	for i, n := range s.Networks {
		if s.byFD(n) {
			given = append(given, strconv.Itoa(next))
			next++
		} else {
			given = append(given, ifaces[i])
		}
	}
	fill := func(word string) string {
		return placeholder.ReplaceAllStringFunc(word, func(found string) string {
			p := placeholder.FindStringSubmatch(found)
			if p[1] == "block" {
				return m.File(blockPrefix + p[2])
			}
			for i, n := range s.Networks {
				if n.Name == p[2] {
					return given[i]
				}
			}
			return found // not reached: checkWord refuses unknown names
		})
	}
	p := program{Path: m.File(kernelFile)}
	if s.ABI != image.LinuxExecutable {
		p.Path, p.Args = tender, s.tenderArgs(given)
	}
	for _, a := range s.Args {
		p.Args = append(p.Args, fill(a))
	}
	p.Env = inherited()
	for _, name := range slices.Sorted(maps.Keys(s.Env)) {
		p.Env = append(p.Env, name+"="+fill(s.Env[name]))
	}
	p.Env = append(p.Env, markVariable+"="+folder) // last, so that it replaces one in s.Env
	return p, nil
}

// byFD reports whether the program gets a tap as a descriptor. A tender gets every tap by
// name: since Solo5 0.10.0 it refuses a descriptor ("Could not attach interface: @4"),
// because it learns the MTU from the name only.
func (s *settings) byFD(n Network) bool { return n.By == byFD && s.ABI == image.LinuxExecutable }

// inherited are the variables of the worker's environment that programs get.
func inherited() (env []string) {
	for _, name := range []string{"PATH", "HOME", "TMPDIR", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH"} {
		if v, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+v)
		}
	}
	return env
}

// tenderArgs is the command line of solo5-spt and solo5-hvt up to the kernel's arguments:
// see Solo5's docs/building.md and the usage of their modules. Paths are relative to the
// machine's folder: a tender reads them with scanf's %s, which stops at a blank.
func (s *settings) tenderArgs(given []string) []string {
	var args []string
	if s.Memory > 0 {
		args = append(args, fmt.Sprintf("--mem=%d", s.Memory))
	}
	for i, n := range s.Networks {
		args = append(args, "--net:"+n.Name+"="+given[i])
	}
	for _, b := range s.Blocks {
		args = append(args, "--block:"+b.Name+"="+blockPrefix+b.Name)
	}
	return append(args, "--", "."+string(filepath.Separator)+kernelFile)
}
