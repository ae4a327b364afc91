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

import "encoding/json"

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
}

// Recipe names a toolchain and gives its options, decoded strictly by its
// Configure.
type Recipe struct {
	Kind    string          `json:"kind"`
	Options json.RawMessage `json:"options,omitempty"`
}

// Origin is what a kernel is made from. Exactly one of Archive and Kernel is set.
type Origin struct {
	// Folder and Host say where the user stood: "/home/ann/hello" on "laptop".
	// They identify the project; no worker reads them.
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
	// ABIs is what its bytes say it can boot as, in package image's words
	// ("pvh", "xen-pv", "multiboot2", ...).
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
	// Addresses are where it answers, as host:port or host.
	Addresses []string `json:"addresses,omitempty"`
	// Ready says how it was known to be up: `console matched "listening"`.
	Ready string `json:"ready,omitempty"`
	// Adopted says that it ran already.
	Adopted bool `json:"adopted,omitempty"`
	// Ended says that it ran to its end, as a unikernel that does a job does.
	Ended bool `json:"ended,omitempty"`
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
