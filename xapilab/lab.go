// Package xapilab is a XenAPI on loopback, for tests: a pool with a master and a member
// over HTTPS, whose VMs are machines of a [Hypervisor]. It sends what a xapi sends and
// refuses what a xapi refuses. It misbehaves on demand: see [Fault].
package xapilab

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

// Config is the configuration of a lab. Its zero value is of use.
type Config struct {
	// Hypervisor runs the VMs. Default: a [StandIn] without text.
	Hypervisor Hypervisor
	// Dir is the folder of the disks. Default: a folder of its own, which Close removes.
	Dir string
	// Judge judges all calls and answers, see [Lab.Judged]; nil is none.
	Judge *Judge
	// Version is the hosts' software_version["xapi_build"]. Before 23.9.0 there are no pvh
	// guests, and before 25.14.0 theirs have no vt100 console. Default: 25.14.0.
	Version string
	// NoPV makes it an XCP-ng 8.3, which runs no pv guests.
	NoPV bool
	// Moment is how long an asynchronous start lasts, and a VDI is busy after a broken import.
	// Default: 10 ms.
	Moment time.Duration
}

// Lab is a pool that runs.
type Lab struct {
	// URL is the master's, and Member the URL of the other host of the pool. They have
	// the same port and other addresses on loopback.
	URL, Member string
	// Fingerprint and MemberFingerprint are the SHA-256 digests of the hosts' own
	// certificates, as "AA:BB:...".
	Fingerprint, MemberFingerprint string
	// CA is the path of a PEM file with both certificates.
	CA string
	// User and Password are of the account that all calls use.
	User, Password string
	// SR and Network are the names of the default SR and of the network.
	SR, Network string

	config Config
	dir    string
	port   string
	ctx    context.Context // ends with the lab
	close  context.CancelFunc
	stop   []func() error
	work   sync.WaitGroup

	mu             sync.Mutex // guards what follows
	objects        map[string]*object
	removed        []*object
	change         int64
	changed        chan struct{} // closed at the next change
	master, member *object
	sessions       map[string]string // their roles
	role           string
	guests         map[*object]Running
	domains        int64 // that were started
	faults         []*Fault
	calls          []Call
	judged         []string
}

// Call is a request that came.
type Call struct {
	// Method is as received, "Async.VM.start", or "PUT /import_raw_vdi" and "CONNECT /console".
	Method string
	// Params are as received, without the session: strings, bools, []any and map[string]any.
	// Those of an HTTP request are its query as a map[string]any.
	Params []any
	// Code is of the error that was the answer. It is "lost" if the answer or the request was
	// lost, and the HTTP status if that is not 200.
	Code string
	At   time.Time
}

// Start starts a lab. It ends with Close or with ctx.
func Start(ctx context.Context, c Config) (l *Lab, err error) {
	c.Moment = cmp.Or(c.Moment, 10*time.Millisecond)
	c.Version = cmp.Or(c.Version, "25.14.0")
	if c.Hypervisor == nil {
		c.Hypervisor = StandIn{}
	}
	dir, err := os.MkdirTemp(c.Dir, "xapilab-")
	if err != nil {
		return nil, err
	}
	l = &Lab{
		User: "root", Password: "secret", SR: "Local storage", Network: "Pool-wide network associated with eth0",
		config: c, dir: dir, CA: filepath.Join(dir, "ca.pem"),
		objects: map[string]*object{}, changed: make(chan struct{}), sessions: map[string]string{}, role: roles[0],
		guests: map[*object]Running{},
	}
	l.ctx, l.close = context.WithCancel(ctx)
	l.furnish()
	if err := l.listen(); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// Close ends the lab and its VMs and removes its files.
func (l *Lab) Close() error {
	l.locked(l.close)
	var errs []error
	for _, stop := range l.stop {
		errs = append(errs, stop())
	}
	l.work.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	for vm, guest := range l.guests {
		errs = append(errs, guest.Stop())
		delete(l.guests, vm)
	}
	return errors.Join(append(errs, os.RemoveAll(l.dir))...)
}

func (l *Lab) locked(do func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	do()
}

// unlocked does what takes time while a call goes on.
func (l *Lab) unlocked(do func()) {
	l.mu.Unlock()
	defer l.mu.Lock()
	do()
}

// later does something after a time while the lab is locked, unless the lab has ended.
func (l *Lab) later(d time.Duration, do func()) {
	l.work.Go(func() {
		if l.sleep(d) {
			l.locked(do)
		}
	})
}

// sleep reports whether the lab still runs afterwards.
func (l *Lab) sleep(d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-l.ctx.Done():
		return false
	}
}

// Calls returns the requests that came, in order.
func (l *Lab) Calls() []Call {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.calls)
}

// Judged returns what the judge has against the calls and answers so far.
func (l *Lab) Judged() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.judged)
}

// Resources lists what a deploy may make and leave behind, a sorted line for each, as
// "VM morgana-web-xenserver-1": VMs, VDIs, VBDs, VIFs and tasks that were made by calls.
func (l *Lab) Resources() (all []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, class := range []string{"VM", "VDI", "VBD", "VIF", "task"} {
		for _, o := range l.all(class) {
			if o.called {
				name := o.fields["name_label"]
				if vm := l.objects[fmt.Sprint(o.fields["VM"])]; vm != nil {
					name = fmt.Sprint("of ", vm.fields["name_label"])
				}
				all = append(all, fmt.Sprint(class, " ", name))
			}
		}
	}
	slices.Sort(all)
	return all
}

// Sessions returns the number of sessions that are open.
func (l *Lab) Sessions() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.sessions)
}

// Expire ends all sessions: the next call with one is answered with SESSION_INVALID.
func (l *Lab) Expire() { l.locked(l.expire) }

func (l *Lab) expire() {
	for ref := range l.sessions {
		l.remove(l.objects[ref])
	}
	clear(l.sessions)
}

// Restart is that of xapi, as after an update or on another master. Sessions and tasks are not in its
// database's file, and neither is which objects were removed: event.from does not tell them any more.
// VMs and imports go on.
func (l *Lab) Restart() {
	l.locked(func() {
		l.expire()
		for _, t := range l.all("task") {
			l.remove(t)
		}
		l.removed = nil
	})
}

// Failover makes the member the master, and the master a member.
func (l *Lab) Failover() {
	l.Restart()
	l.locked(func() {
		l.master, l.member = l.member, l.master
		l.set(l.all("pool")[0], "master", l.master.ref)
	})
}

// Role sets the role of the user, such as "vm-operator". Later sessions have it, as those of a
// real pool. It is "pool-admin" at first.
func (l *Lab) Role(name string) { l.locked(func() { l.role = name }) }

// AddSR adds a storage repository of size bytes and returns its reference.
func (l *Lab) AddSR(name string, size int64) (ref string) {
	l.locked(func() { ref = l.addSR(name, size) })
	return ref
}

// AddNetwork adds a network and returns its reference.
func (l *Lab) AddNetwork(name string) (ref string) {
	l.locked(func() { ref = l.add("network", map[string]any{"name_label": name, "bridge": "xenbr9"}).ref })
	return ref
}

// AddVM adds a VM of another user and returns its reference. It has the default of each field
// that is not in fields, with the values of the API: strings, bools, ints, []string and
// map[string]string.
func (l *Lab) AddVM(fields map[string]any) (ref string) {
	l.locked(func() { ref = l.add("VM", fields).ref })
	return ref
}

// AddVDI adds a VDI of another user in the default SR, as AddVM does a VM.
func (l *Lab) AddVDI(fields map[string]any) (ref string) {
	l.locked(func() {
		vdi := l.add("VDI", fields)
		if vdi.text("SR") == null {
			l.set(vdi, "SR", l.all("pool")[0].text("default_SR"))
		}
		ref = vdi.ref
	})
	return ref
}

// Get returns the value of a field of an object, nil if the object does not exist.
func (l *Lab) Get(ref, field string) any {
	l.mu.Lock()
	defer l.mu.Unlock()
	if o := l.objects[ref]; o != nil {
		return l.value(o, field)
	}
	return nil
}

// Set sets a field of an object.
func (l *Lab) Set(ref, field string, value any) {
	l.locked(func() { l.set(l.objects[ref], field, value) })
}

// Ref returns the reference of the only object of a class with a name, "" if there is none or several.
func (l *Lab) Ref(class, name string) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if found := l.with(class, "name_label", name); len(found) == 1 {
		return found[0].ref
	}
	return ""
}
