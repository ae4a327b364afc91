// Package step is the contract between a deploy and those who do its work.
//
// A deploy is one sentence, and each word of it is one activity:
//
//	check -> configure -> build -> package -> register -> boot
//
// One typed value goes into a word and another comes out; nothing else passes
// between them:
//
//	check      Spec         -> Spec          can this work at all?
//	configure  Spec         -> Source        a configured source tree
//	build      Source       -> Kernel        one kernel file
//	package    Kernel       -> Image         what the target can take
//	register   Image        -> Registration  the target knows the image
//	boot       Registration -> Machine       a machine runs it, its console said so
//
// Every value carries the Spec it came from, so a step needs no memory of
// earlier ones and may run on another host or be written in another language:
// the values are plain JSON (see testdata), the errors are an [Error].
//
// The package imports only the standard library, and nothing of Temporal.
package step

import (
	"encoding/json"
	"net"
	"strconv"
	"strings"
	"time"
)

// Stage is a word of the sentence.
type Stage string

// The stages, in order.
const (
	Check     Stage = "check"
	Configure Stage = "configure"
	Build     Stage = "build"
	Package   Stage = "package"
	Register  Stage = "register"
	Boot      Stage = "boot"
)

// Stages lists the stages in the order they run.
var Stages = [...]Stage{Check, Configure, Build, Package, Register, Boot}

// Spec is what to deploy and where: the input of check and, completed by it,
// a part of every later value. It holds no secret: credentials are found by
// the worker where the ecosystem keeps them, a Spec only names a profile.
type Spec struct {
	Tags
	// Kind is the kind of the target: its folder under activities, task queue and activity prefix.
	Kind string `json:"kind"`
	// Options are the target's own, decoded strictly by its Check; see [Decode].
	Options json.RawMessage `json:"options,omitempty"`
	// Toolchain says how the kernel is made.
	Toolchain Recipe `json:"toolchain"`
	// Origin is what it is made from.
	Origin Origin `json:"origin"`
	// Host is the host the machine will be bound to, set by the Check of a
	// target whose machines live on a worker's own host. Register, boot,
	// console and destroy then run on task queue "<kind>@<host>".
	Host string `json:"host,omitempty"`
	// Alone is set by a Check that looked and found nothing of another life of
	// this app and target there: a first rollout then has nothing to remove.
	Alone bool `json:"alone,omitempty"`
}

// Recipe names a toolchain and gives its options, decoded strictly by its
// Configure.
type Recipe struct {
	Kind    string          `json:"kind"`
	Options json.RawMessage `json:"options,omitempty"`
}

// Origin is what a kernel is made from. Exactly one of Archive and Kernel is set.
type Origin struct {
	// Project identifies the project wherever it is checked out: its git remote and
	// the folder within it, "example.org/ann/hello#web". Empty if the folder is in
	// no repository with a remote.
	Project string `json:"project,omitempty"`
	// Folder and Host say where the user stood: "/home/ann/hello" on "laptop".
	// No worker reads them.
	Folder string `json:"folder,omitempty"`
	Host   string `json:"host,omitempty"`
	// Archive is the packed source folder (an uncompressed tar whose bytes
	// depend only on the files' names, contents and executable bits).
	Archive *Artifact `json:"archive,omitempty"`
	// Kernel is a kernel that exists already (toolchain prebuilt). ABIs is what
	// its bytes say it can boot as, or what a kernel yet to be built will be
	// where the toolchain's options tell (mirage -t), so that check can refuse it
	// at once.
	Kernel *Artifact `json:"kernel,omitempty"`
	ABIs   []string  `json:"abis,omitempty"`
}

// Source is a configured source tree. It stays on the host that made it.
type Source struct {
	Spec Spec `json:"spec"`
	// Host has the tree; build runs there, on task queue "<toolchain>@<host>".
	// Empty if there is no tree and any host will do.
	Host string `json:"host,omitempty"`
	// Tree is the folder on Host.
	Tree string `json:"tree,omitempty"`
	// Log is what configure printed.
	Log *Artifact `json:"log,omitempty"`
}

// Kernel is one kernel file.
type Kernel struct {
	Spec Spec     `json:"spec"`
	File Artifact `json:"file"`
	// ABIs are the boot protocols that the kernel's bytes declare, by their names in
	// package image ("pvh", "xen-pv", "multiboot2", ...).
	ABIs []string `json:"abis"`
	// Files travel with the kernel: a Solo5 manifest, an .xl.in, ramdisks.
	Files []File `json:"files,omitempty"`
	// Log is what build printed.
	Log *Artifact `json:"log,omitempty"`
	// Cached says that an earlier build of the same source was used.
	Cached bool `json:"cached,omitempty"`
}

// Image is what the target can take: a disk image, a bundle, or the bare kernel
// with its configuration.
type Image struct {
	Spec Spec `json:"spec"`
	// Digest identifies the image: the same kernel and options give the same
	// Digest. See [DigestOf].
	Digest string `json:"digest"`
	// Format is the target's own word: "kernel", "raw", "vhd", "bundle".
	Format string `json:"format"`
	Files  []File `json:"files"`
}

// Registration says that the target knows the image.
type Registration struct {
	Spec   Spec   `json:"spec"`
	Digest string `json:"digest"`
	// ID is the target's name for it: an AMI, a VDI uuid, a folder.
	ID string `json:"id"`
	// Adopted says that it was there already.
	Adopted bool `json:"adopted,omitempty"`
}

// Machine runs an image.
type Machine struct {
	Registration Registration `json:"registration"`
	// ID is the target's name for it: an instance id, a domain's uuid, a pid.
	ID string `json:"id"`
	// Addresses are where it answers.
	Addresses []Address `json:"addresses,omitempty"`
	// Ready says how it was known to be up: `console matched "listening"`.
	Ready string `json:"ready,omitempty"`
	// Adopted says that it ran already.
	Adopted bool `json:"adopted,omitempty"`
	// Ended says that it ran to its end, as a unikernel that does a job does.
	Ended bool `json:"ended,omitempty"`
}

// Address is where a machine answers.
type Address struct {
	// Kind is "tcp" or "udp" for a port, "ip" for a whole address.
	Kind string `json:"kind"`
	// Address is an IP address or a host name.
	Address string `json:"address"`
	// Port is 1 to 65535; 0 for kind "ip".
	Port int `json:"port,omitempty"`
}

// String is "10.0.0.2" or "127.0.0.1:8080"; UDP has its kind, "127.0.0.1:53/udp".
func (a Address) String() string {
	s := a.Address
	if a.Port != 0 {
		s = net.JoinHostPort(a.Address, strconv.Itoa(a.Port))
	}
	if a.Kind == "udp" {
		s += "/udp"
	}
	return s
}

// Addresses writes all in a line.
func Addresses(all []Address, separator string) string {
	texts := make([]string, len(all))
	for i, a := range all {
		texts[i] = a.String()
	}
	return strings.Join(texts, separator)
}

// Removal asks Destroy for what carries tags.
type Removal struct {
	// Spec says where to look and for which tags: an empty Life or a zero
	// Generation matches all.
	Spec Spec `json:"spec"`
	// NotLife is a life to leave alone; with it Spec.Life is empty.
	NotLife string `json:"notLife,omitempty"`
	// KeepImage ends machines and leaves their registrations.
	KeepImage bool `json:"keepImage,omitempty"`
}

// Match reports whether a resource tagged have is to be removed.
func (r Removal) Match(have Tags) bool {
	return r.Spec.Match(have) && (r.NotLife == "" || r.NotLife != have.Life)
}

// ConsoleFrom asks for a machine's console text from a byte offset on.
type ConsoleFrom struct {
	Machine Machine `json:"machine"`
	Offset  int64   `json:"offset"`
	// WaitSeconds is how long to wait for text where there is none yet; 0 not
	// at all.
	WaitSeconds int `json:"waitSeconds,omitempty"`
}

// ConsoleText is a piece of a console, at most 32 KiB.
type ConsoleText struct {
	Text string `json:"text"`
	// Next is the offset to ask for next.
	Next int64 `json:"next"`
	// Ended says that the machine is gone and no more will come.
	Ended bool `json:"ended,omitempty"`
}

// Destroyed lists what Destroy or Clean removed, for people to read.
type Destroyed struct {
	Removed []string `json:"removed,omitempty"`
}

// State is how a machine is.
type State string

// The states of a machine.
const (
	Running State = "running"
	// Ended: it ran to its end or crashed, and is still there to be looked at.
	Ended State = "ended"
	Gone  State = "gone"
)

// Health says how a machine is.
type Health struct {
	State State `json:"state"`
	// How says in one line how it ended: "exit status 1", "crashed". Empty
	// unless it has ended and the target knows.
	How string `json:"how,omitempty"`
	// Since is when it came into that state, zero if the target does not know.
	Since time.Time `json:"since,omitzero"`
	// Addresses are where it answers now.
	Addresses []Address `json:"addresses,omitempty"`
}

// Resource is something in a place that carries Morgana's tags.
type Resource struct {
	Tags Tags `json:"tags"`
	// Kind is the place's own word: "domain", "snapshot", "folder".
	Kind string `json:"kind"`
	// ID is the place's name for it.
	ID string `json:"id"`
	// Created is zero if the place does not say.
	Created time.Time `json:"created,omitzero"`
	// Where is the host or region: "rack7", "eu-west-1".
	Where string `json:"where,omitempty"`
}

// Action is something that a rollout will do.
type Action struct {
	// Call is the command or API call: "xl create", "ec2:RegisterImage".
	Call string `json:"call"`
	// Why says in one line what for.
	Why string `json:"why"`
	// Permission is what it takes: "ec2:RegisterImage", "root"; empty if nothing
	// special.
	Permission string `json:"permission,omitempty"`
	// Cost is what it costs, for people: "$0.05 per GB-month"; empty if nothing.
	Cost string `json:"cost,omitempty"`
}

// Step names the activity that does something, and the task queue its workers poll.
type Step struct {
	Activity  string `json:"activity"`
	TaskQueue string `json:"taskQueue"`
	// OnHost adds "@<host>" to TaskQueue once a host is known.
	OnHost bool `json:"onHost,omitempty"`
}

// Queue is the task queue of s for a host, which may be empty.
func (s Step) Queue(host string) string {
	if s.OnHost && host != "" {
		return s.TaskQueue + "@" + host
	}
	return s.TaskQueue
}

// Route says who does each stage. It is an input of the workflow, so a change
// of defaults never changes what a running deploy does.
type Route struct {
	Check     Step `json:"check"`
	Configure Step `json:"configure"`
	Build     Step `json:"build"`
	Package   Step `json:"package"`
	Register  Step `json:"register"`
	Boot      Step `json:"boot"`
	Console   Step `json:"console"`
	Destroy   Step `json:"destroy"`
	Clean     Step `json:"clean"`
	// Observe, List and Forecast are abilities that a target may lack.
	Observe  Step `json:"observe"`
	List     Step `json:"list"`
	Forecast Step `json:"forecast"`
	// After holds steps inserted behind a stage (sign, scan): each
	// takes that stage's output and gives a value of the same type.
	After map[Stage][]Step `json:"after,omitempty"`
}

// NewRoute is the route in which each kind does its own stages:
// activity "<kind>.Boot" on task queue "<kind>", and so on.
func NewRoute(toolchain, target string) Route {
	anywhere := func(kind, name string) Step { return Step{Activity: kind + "." + name, TaskQueue: kind} }
	onHost := func(kind, name string) Step {
		return Step{Activity: kind + "." + name, TaskQueue: kind, OnHost: true}
	}
	return Route{
		Check:     anywhere(target, "Check"),
		Configure: anywhere(toolchain, "Configure"),
		Build:     onHost(toolchain, "Build"),
		Clean:     onHost(toolchain, "Clean"),
		Package:   anywhere(target, "Package"),
		Register:  onHost(target, "Register"),
		Boot:      onHost(target, "Boot"),
		Console:   onHost(target, "Console"),
		Destroy:   onHost(target, "Destroy"),
		Observe:   onHost(target, "Observe"),
		List:      onHost(target, "List"),
		Forecast:  onHost(target, "Forecast"),
	}
}

// Stage gives a pointer to the step that does stage s, nil for an unknown one.
func (p *Route) Stage(s Stage) *Step {
	switch s {
	case Check:
		return &p.Check
	case Configure:
		return &p.Configure
	case Build:
		return &p.Build
	case Package:
		return &p.Package
	case Register:
		return &p.Register
	case Boot:
		return &p.Boot
	}
	return nil
}
