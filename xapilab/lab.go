// Package xapilab is a XenAPI on loopback, for tests: a pool with a master and a member
// over HTTPS, whose VMs are machines of a [Hypervisor]. It sends what a xapi sends and
// refuses what a xapi refuses. It misbehaves on demand: see [Fault].
package xapilab

import (
	"context"
	"errors"
	"time"
)

// Config is the configuration of a lab. Its zero value is of use.
type Config struct {
	// Hypervisor runs the VMs. Default: a [StandIn] without text.
	Hypervisor Hypervisor
	// Dir is the folder of the disks. Default: a folder of its own, which Close removes.
	Dir string
	// Judge judges all calls and answers, see [Lab.Judged].
	Judge *Judge
	// Version is the host's software_version["xapi_build"]. Default: 23.10.0.
	Version string
	// NoPV makes it an XCP-ng 8.3, which runs no pv guests.
	NoPV bool
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
}

// Call is a request that came.
type Call struct {
	// Method is as received, "Async.VM.start", or "PUT /import_raw_vdi" and "CONNECT /console".
	Method string
	// Params are as received, without the session.
	Params []any
	// Code is of the error that was the answer. It is "lost" if the answer or the request was lost.
	Code string
	At   time.Time
}

// Start starts a lab.
func Start(ctx context.Context, c Config) (*Lab, error) { return nil, errors.New("not there yet") }

// Close ends the lab and its VMs and removes its files.
func (l *Lab) Close() error { return nil }

// Calls returns the requests that came, in order.
func (l *Lab) Calls() []Call { return nil }

// Judged returns what the judge has against the calls and answers so far.
func (l *Lab) Judged() []string { return nil }

// Resources lists what a deploy may make and leave behind, a sorted line for each, as
// "VM morgana-web-xenserver-1": VMs, VDIs, VBDs, VIFs and tasks that were made by calls.
func (l *Lab) Resources() []string { return nil }

// Sessions returns the number of sessions that are open.
func (l *Lab) Sessions() int { return 0 }

// Expire ends all sessions: the next call with one is answered with SESSION_INVALID.
func (l *Lab) Expire() {}

// Role sets the role of the sessions, such as "vm-operator". It is "pool-admin" at first.
func (l *Lab) Role(name string) {}

// AddSR adds a storage repository of size bytes and returns its reference.
func (l *Lab) AddSR(name string, size int64) string { return "" }

// AddNetwork adds a network and returns its reference.
func (l *Lab) AddNetwork(name string) string { return "" }

// AddVM adds a VM of another user and returns its reference. It has the default of each field
// that is not in fields, with the values of the API: strings, bools, int64s, []string and
// map[string]string.
func (l *Lab) AddVM(fields map[string]any) string { return "" }

// AddVDI adds a VDI of another user, as AddVM does a VM.
func (l *Lab) AddVDI(fields map[string]any) string { return "" }

// Get returns the value of a field of an object.
func (l *Lab) Get(ref, field string) any { return nil }

// Set sets a field of an object.
func (l *Lab) Set(ref, field string, value any) {}

// Ref returns the reference of the only object of a class with a name, "" if there is none or several.
func (l *Lab) Ref(class, name string) string { return "" }
