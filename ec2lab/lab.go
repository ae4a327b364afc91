// Package ec2lab is an EC2 on loopback, for tests: the EC2 Query API, the EBS direct
// APIs, and as much of S3, STS and Elastic Load Balancing as a deploy needs. AWS's own SDK
// speaks to it. Its instances are real machines of a [Hypervisor].
//
// The lab refuses what AWS refuses. Each request is checked against the API model that
// the SDK ships, and against the rules that the model lacks. It misbehaves on demand: see
// [Fault].
package ec2lab

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"sync"
	"time"
)

// The lab's one account, user and region. The keys are those of AWS's documentation.
const (
	region    = "eu-west-1"
	account   = "111122223333"
	user      = "arn:aws:iam::" + account + ":user/ann"
	accessKey = "AKIAIOSFODNN7EXAMPLE"
	secretKey = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
)

// Options are the options of a lab.
type Options struct {
	// Hypervisor runs the instances. Without one an instance "runs" without a machine.
	Hypervisor Hypervisor
	// Moment is how long a resource takes from pending to available, from running to
	// terminated and so on. Default: 50 ms.
	Moment time.Duration
	// Delay is the pause before each answer.
	Delay time.Duration
}

// Lab is an EC2 that runs.
type Lab struct {
	options Options
	dir     string // of disks and snapshots
	url     string
	port    int
	server  *http.Server
	ctx     context.Context // ends with the lab
	close   context.CancelFunc
	work    sync.WaitGroup // goroutines that start and stop guests

	mu        sync.Mutex // guards what follows
	resources []resource // in the order of creation
	calls     []Call
	faults    []*Fault
	denied    func(r *request, action, arn string) bool
	withdrawn map[string]bool // "type zone" pairs that are not offered
	hide      time.Duration
	expired   bool
	remember  bool // StartSnapshot knows the tokens of deleted snapshots
	encrypt   bool // encryption by default
	targets   targetGroup
	imports   importRole
	console   func(instance string) string
	late      time.Duration
	trouble   Trouble
	page      int
	addresses int // private ones that were given out
	publics   int // public ones that were given out
	uploads   int // multipart uploads that began
	signers   []*rsa.PublicKey
}

// Call is a request that came.
type Call struct {
	Service string // "ec2", "ebs", "s3", "sts" or "elasticloadbalancing"
	Name    string
	// Params are the parameters of a Query request. Those of an EBS or S3 request are its
	// path's, header's and JSON's members by the API's names.
	Params url.Values
	// Code is that of the error that was the answer. It is "lost" if the answer or the
	// request was lost.
	Code string
	At   time.Time
}

// Start starts a lab on a free port of loopback.
func Start(o Options) (*Lab, error) {
	if o.Moment == 0 {
		o.Moment = 50 * time.Millisecond
	}
	if _, err := moduleDirs(); err != nil { // now, and not as an answer to a request
		return nil, err
	}
	dir, err := os.MkdirTemp("", "ec2lab-")
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		cancel()
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	l := &Lab{
		options: o, dir: dir, url: "http://" + listener.Addr().String(), port: listener.Addr().(*net.TCPAddr).Port, ctx: ctx, close: cancel,
		denied:    func(*request, string, string) bool { return false },
		withdrawn: map[string]bool{},
		console:   func(string) string { return "" },
	}
	l.furnish()
	l.server = &http.Server{Handler: l, ReadHeaderTimeout: time.Minute}
	l.work.Go(func() { _ = l.server.Serve(listener) })
	return l, nil
}

// Close ends the lab and its instances and removes its files.
func (l *Lab) Close() error {
	l.set(l.close)
	err := l.server.Close()
	l.work.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range kept[*instance](l) {
		if i.running != nil {
			err = errors.Join(err, i.running.Stop())
			i.running = nil
		}
	}
	l.tend()
	for _, r := range l.resources {
		if s, ok := r.(*snapshot); ok {
			err = errors.Join(err, s.file.Close())
		}
	}
	return errors.Join(err, os.RemoveAll(l.dir))
}

// URL is the endpoint of each service.
func (l *Lab) URL() string { return l.url }

// Region is the region of the lab.
func (l *Lab) Region() string { return region }

// Account is the account of the lab's keys.
func (l *Lab) Account() string { return account }

// Env is the environment of an SDK that speaks to the lab and to nothing else.
func (l *Lab) Env() []string {
	return []string{
		"AWS_ACCESS_KEY_ID=" + accessKey, "AWS_SECRET_ACCESS_KEY=" + secretKey, "AWS_SESSION_TOKEN=",
		"AWS_REGION=" + region, "AWS_ENDPOINT_URL=" + l.url, "AWS_PROFILE=", "AWS_CA_BUNDLE=",
		"AWS_EC2_METADATA_DISABLED=true", "AWS_CONFIG_FILE=/dev/null", "AWS_SHARED_CREDENTIALS_FILE=/dev/null",
	}
}

// Calls returns the requests that came, in order.
func (l *Lab) Calls() []Call {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.calls)
}

// Resources lists what exists and costs or is visible, a sorted line for each, as
// "snapshot snap-0a1b completed". A terminated instance is not in it.
func (l *Lab) Resources() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.settle()
	var lines []string
	for _, r := range l.resources {
		if line := r.line(); line != "" && !r.root().gone {
			lines = append(lines, line)
		}
	}
	for b := range kept[*bucket](l) {
		for key := range b.objects {
			lines = append(lines, "object "+b.name+"/"+key)
		}
		for _, u := range b.uploads {
			lines = append(lines, "upload "+b.name+"/"+u.key)
		}
	}
	slices.Sort(lines)
	return lines
}

// SetConsole says what the console of an instance has, in a lab without a hypervisor.
func (l *Lab) SetConsole(text func(instance string) string) { l.set(func() { l.console = text }) }

// ConsoleDelay makes GetConsoleOutput without Latest empty until an instance is that old.
func (l *Lab) ConsoleDelay(d time.Duration) { l.set(func() { l.late = d }) }

// Hide makes each new resource invisible to EC2's calls for a time.
func (l *Lab) Hide(d time.Duration) { l.set(func() { l.hide = d }) }

// Page makes the pages of the Describe calls that short. They are cut before the filters
// have effect: so a page may be empty, and there are more.
func (l *Lab) Page(items int) { l.set(func() { l.page = items }) }

// Expire makes the lab's keys expired ones.
func (l *Lab) Expire() { l.set(func() { l.expired = true }) }

// EncryptByDefault sets the account's encryption by default.
func (l *Lab) EncryptByDefault() { l.set(func() { l.encrypt = true }) }

// Withdraw ends the offer of an instance type in a zone.
func (l *Lab) Withdraw(instanceType, zone string) {
	l.set(func() { l.withdrawn[instanceType+" "+zone] = true })
}

// Deny takes permissions from the user, as "ec2:RegisterImage". The others stay.
func (l *Lab) Deny(actions ...string) {
	l.set(func() { l.denied = func(_ *request, a, _ string) bool { return slices.Contains(actions, a) } })
}

func (l *Lab) set(change func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	change()
}

// after changes the lab a moment later.
func (l *Lab) after(stuck bool, change func()) {
	if !stuck {
		l.later(l.options.Moment, func() { l.set(change) })
	}
}

// later does something after a time, unless the lab has ended.
func (l *Lab) later(d time.Duration, do func()) {
	l.work.Go(func() {
		select {
		case <-time.After(d):
			do()
		case <-l.ctx.Done():
		}
	})
}

// newID returns an id such as snap-0123456789abcdef0.
func newID(prefix string) string {
	random := make([]byte, 8)
	_, _ = rand.Read(random)
	return prefix + "0" + hex.EncodeToString(random)
}

// nextAddress returns an address on loopback, so that a test can listen where an instance
// is said to be. The lab's port, which no other lab has, is in it.
func (l *Lab) nextAddress() string {
	l.publics++
	return fmt.Sprintf("127.%d.%d.%d", l.port>>8, l.port&255, 1+l.publics%254)
}
