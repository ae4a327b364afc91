package xenlab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/morgana-deploy/morgana/image/disk"
	"github.com/morgana-deploy/morgana/qmp"
)

// Domains runs domains in a lab that starts with the first of them. All end with this process.
type Domains struct {
	dir     string
	prepare func(context.Context, *Lab) error

	mu   sync.Mutex // held while a domain is created
	lab  *Lab
	lent bool
}

// NewDomains returns the domains of a lab in dir. It calls prepare, unless that is nil, once
// the lab has started.
func NewDomains(dir string, prepare func(context.Context, *Lab) error) *Domains {
	return &Domains{dir: dir, prepare: prepare}
}

// DomainsOf returns the domains of a lab that runs and outlasts them.
func DomainsOf(lab *Lab, dir string) *Domains { return &Domains{dir: dir, lab: lab, lent: true} }

// Domain says how to make a domain.
type Domain struct {
	Name string
	// Disk is the path of its raw disk, which is copied to dom0. Device is its name there,
	// such as "xvda".
	Disk, Device string
	// Config has lines of an xl.cfg, without name and disk.
	Config []string
	// Paused leaves the domain paused.
	Paused bool
}

// createDomain makes domain NAME by xl create with an option in a folder of its own. Its disk
// comes as an archive on stdin, and the lines of its configuration are the other arguments.
const createDomain = `set -e
name=$1 paused=$2
shift 2
mkdir -p "/root/$name"
cd "/root/$name"
tar -xS
printf '%s\n' "$@" >cfg
xl create $paused cfg >&2`

// followConsole prints the console of domain NAME until the domain has ended.
const followConsole = `tail -c +1 -s 0.5 --pid=$$ -F "/var/log/xen/console/guest-$1.log" &
while xl domid "$1" >/dev/null 2>&1; do sleep 1; done`

// destroyDomain removes what there is of domain NAME.
const destroyDomain = `xl domid "$1" >/dev/null 2>&1 && xl destroy "$1"
rm -rf "/root/$1" "/var/log/xen/console/guest-$1.log" "/var/log/xen/xl-$1.log"`

// Started is a domain that was made. It has ended when its [qmp.Process] has.
type Started struct {
	qmp.Process
	ctx  context.Context
	lab  *Lab
	name string
}

// Start makes a domain. It keeps its files in a folder of its name in the folder of the lab's.
func (d *Domains) Start(ctx context.Context, c Domain) (_ *Started, err error) {
	d.mu.Lock() // libxl's hotplug scripts wait for each other, ten seconds at most
	defer d.mu.Unlock()
	if err := d.open(ctx); err != nil {
		return nil, err
	}
	s := &Started{qmp.Process{Dir: filepath.Join(d.dir, c.Name)}, context.WithoutCancel(ctx), d.lab, c.Name}
	if err := os.MkdirAll(s.Dir, 0o700); err != nil {
		return nil, err
	}
	paused := ""
	if c.Paused {
		paused = "-p"
	}
	lines := append(slices.Clone(c.Config), fmt.Sprintf("name='%s'", c.Name), fmt.Sprintf("disk=['/root/%s/disk.raw,raw,%s,w']", c.Name, c.Device))
	create := d.lab.Command(ctx, append([]string{"sh", "-c", createDomain, "sh", c.Name, paused}, lines...)...)
	packed, w := io.Pipe()
	go func() { w.CloseWithError(disk.Pack(ctx, w, c.Disk)) }()
	var said strings.Builder
	create.Stdin, create.Stderr = packed, &said
	err = create.Run()
	_ = packed.Close() // ends Pack
	if err != nil {
		err = fmt.Errorf("create domain %s: %w: %s", c.Name, err, strings.TrimSpace(said.String()))
	} else {
		err = s.Start(d.lab.Command(s.ctx, "sh", "-c", followConsole, "sh", c.Name))
	}
	if err != nil {
		return nil, errors.Join(err, s.destroy(), os.RemoveAll(s.Dir))
	}
	return s, nil
}

// open starts the lab, unless it runs.
func (d *Domains) open(ctx context.Context) error {
	if d.lab != nil {
		return nil
	}
	lab, err := Start(context.WithoutCancel(ctx), filepath.Join(d.dir, "xen"))
	if err != nil {
		return err
	}
	if d.prepare != nil {
		if err := d.prepare(ctx, lab); err != nil {
			return errors.Join(err, lab.Close())
		}
	}
	d.lab = lab
	return nil
}

// Lab returns the lab, nil before the first domain.
func (d *Domains) Lab() *Lab { return d.lab }

// Close ends the lab, and so the domains.
func (d *Domains) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.lab == nil || d.lent {
		return nil
	}
	return d.lab.Close()
}

// Pause stops the processors of the domain.
func (s *Started) Pause() error { return s.xl("pause") }

// Unpause continues them.
func (s *Started) Unpause() error { return s.xl("unpause") }

func (s *Started) xl(verb string) error {
	_, err := s.lab.Run(s.ctx, "xl", verb, s.name)
	return err
}

func (s *Started) destroy() error {
	_, err := s.lab.Run(s.ctx, "sh", "-c", destroyDomain, "sh", s.name)
	if err != nil && s.lab.ended() {
		return nil // the domain ended with it
	}
	return err
}

// ended reports whether the lab's QEMU has ended, as it does with Ctrl-C. The end of its
// connections comes a moment earlier.
func (l *Lab) ended() bool {
	select {
	case <-l.vm.ended:
		return true
	case <-time.After(time.Second):
		return false
	}
}

// Stop ends the domain and removes what there is of it.
func (s *Started) Stop() error { return errors.Join(s.destroy(), s.Process.Stop()) }
