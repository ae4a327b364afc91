// Package step is the contract between the workflows and the steps of a deploy.
//
// A deploy has six stages, and each is one activity:
//
//	check -> configure -> build -> package -> register -> boot
//
// A stage takes one typed value and returns another; nothing else passes between
// stages:
//
//	check      Spec         -> Spec          can this work at all?
//	configure  Spec         -> Source        a configured source tree
//	build      Source       -> Kernel        one kernel file
//	package    Kernel       -> Image         what the target takes
//	register   Image        -> Registration  the target knows the image
//	boot       Registration -> Machine       a machine that runs it and is ready
//
// Every value contains the Spec, so a step needs no state of earlier steps. It may run
// on another host or be written in another language: values are JSON (see testdata),
// errors are an [Error].
//
// The package imports only the standard library.
package step

import (
	"encoding/json"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"
)

// Stage is the name of a stage.
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

// Fetch is no stage of a deploy. It comes before the first one if the source is in a git
// repository, and puts the source into the store, as the starter does with a folder.
const Fetch Stage = "fetch"

// Stages lists the stages in the order they run.
var Stages = [...]Stage{Check, Configure, Build, Package, Register, Boot}

// Spec describes a deploy: the app, its target and its toolchain. It is the input of
// check, which completes it, and a part of every later value. It holds no secret: it may
// name a profile, and the worker finds the credentials where the cloud's own tools keep
// them.
type Spec struct {
	Tags
	// Kind is the kind of the target: its task queue and the prefix of its activities.
	Kind string `json:"kind"`
	// Options are the target's own; its Check decodes them with [Decode].
	Options json.RawMessage `json:"options,omitempty"`
	// Toolchain says how the kernel is made.
	Toolchain Recipe `json:"toolchain"`
	// Origin is the source folder or the existing kernel.
	Origin Origin `json:"origin"`
	// Host is the worker's host to which the machine is bound. The Check of a target
	// whose machines run on worker hosts sets it. Register, boot, console and destroy
	// then run on task queue "<kind>@<host>".
	Host string `json:"host,omitempty"`
	// Rebuild makes Configure and Build look up dependencies anew and take no kernel of an
	// earlier build.
	Rebuild bool `json:"rebuild,omitempty"`
	// Alone is set if Check found no resource of another life of this app and target.
	// A first rollout then has nothing to remove.
	Alone bool `json:"alone,omitempty"`
}

// Recipe is a toolchain with its options, which its Configure decodes with [Decode].
type Recipe struct {
	Kind    string          `json:"kind"`
	Options json.RawMessage `json:"options,omitempty"`
}

// Origin is a source folder or an existing kernel. Exactly one of Archive and Kernel is
// set; before a source in Git is fetched, neither is.
type Origin struct {
	// Project identifies the project wherever it is checked out: its git remote and
	// the folder within it, "example.org/ann/hello#web". Empty if the folder is in
	// no repository with a remote.
	Project string `json:"project,omitempty"`
	// Folder and Host are the project's folder and the user's host:
	// "/home/ann/hello" on "laptop". No step reads them.
	Folder string `json:"folder,omitempty"`
	Host   string `json:"host,omitempty"`
	// Git is the repository that the source is fetched from, nil if it is Folder's.
	Git *Git `json:"git,omitempty"`
	// Commit is the commit of the work tree that Folder is in. Changed says that the work
	// tree differs from it. No step reads them.
	Commit  string `json:"commit,omitempty"`
	Changed bool   `json:"changed,omitempty"`
	// Archive is the packed source folder: an uncompressed tar whose bytes depend
	// only on names, contents, executable bits and link targets.
	Archive *Artifact `json:"archive,omitempty"`
	// Kernel is an existing kernel (toolchain prebuilt).
	Kernel *Artifact `json:"kernel,omitempty"`
	// ABIs are those of Kernel, or those that the toolchain's options tell of the
	// kernel to be built (mirage -t). They let check refuse a kernel before the build.
	ABIs []string `json:"abis,omitempty"`
	// Networks and Blocks are the names of the devices of the kernel to be built, if its
	// source tells them all (mirage's config.ml). They let check refuse options that do
	// not give the kernel these devices.
	Networks []string `json:"networks,omitempty"`
	Blocks   []string `json:"blocks,omitempty"`
}

// Revision returns the commit of the source, with "+" behind it if the source differs from
// the commit; empty if there is none.
func (o Origin) Revision() string {
	switch {
	case o.Git != nil:
		return o.Git.Commit
	case o.Changed:
		return o.Commit + "+"
	}
	return o.Commit
}

// Source is a configured source tree. It stays on the host that made it.
type Source struct {
	Spec Spec `json:"spec"`
	// Host is the host of the tree. Build runs there, on task queue
	// "<toolchain>@<host>". Empty if there is no tree; build then runs on any host.
	Host string `json:"host,omitempty"`
	// Tree is the folder on Host.
	Tree string `json:"tree,omitempty"`
	// Log is the output of configure.
	Log *Artifact `json:"log,omitempty"`
}

// Kernel is a built kernel.
type Kernel struct {
	Spec Spec     `json:"spec"`
	File Artifact `json:"file"`
	// ABIs are the boot protocols that the kernel's bytes declare, by their names in
	// package image ("pvh", "xen-pv", "multiboot2", ...).
	ABIs []string `json:"abis"`
	// Files travel with the kernel: a Solo5 manifest, an .xl.in, ramdisks.
	Files []File `json:"files,omitempty"`
	// Log is the output of build.
	Log *Artifact `json:"log,omitempty"`
	// Cached says that the kernel is from an earlier build of the same source.
	Cached bool `json:"cached,omitempty"`
}

// Built is the result of a toolchain's Built.
type Built struct {
	// Kernel is the kernel that Build would return, nil if it would build one.
	Kernel *Kernel `json:"kernel,omitempty"`
	// Host is the host that has the kernel or would build it.
	Host string `json:"host,omitempty"`
}

// Image is the input of a target's Register: a disk image, a bundle, or the kernel with
// its configuration.
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
	// Adopted says that the image was registered already.
	Adopted bool `json:"adopted,omitempty"`
}

// Machine is a machine that runs an image.
type Machine struct {
	Registration Registration `json:"registration"`
	// ID is the target's name for it: an instance id, a domain's uuid, a pid.
	ID string `json:"id"`
	// Addresses are the addresses of its services.
	Addresses []Address `json:"addresses,omitempty"`
	// Ready says how it showed that it is ready: `console matched "listening"`.
	Ready string `json:"ready,omitempty"`
	// Adopted says that it was running already.
	Adopted bool `json:"adopted,omitempty"`
	// Ended says that it has run to its end, as a batch job does.
	Ended bool `json:"ended,omitempty"`
}

// Address is an address of a machine.
type Address struct {
	// Kind is "tcp" or "udp" for a port, "ip" for all ports of an IP address or a host
	// name.
	Kind string `json:"kind"`
	// Address is an IP address or a host name.
	Address string `json:"address"`
	// Port is 1 to 65535; 0 for kind "ip".
	Port int `json:"port,omitempty"`
}

// String returns "10.0.0.2", "127.0.0.1:8080" or, for UDP, "127.0.0.1:53/udp".
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

// Addresses joins the texts of the addresses.
func Addresses(all []Address, separator string) string {
	texts := make([]string, len(all))
	for i, a := range all {
		texts[i] = a.String()
	}
	return strings.Join(texts, separator)
}

// Removal is the input of Destroy.
type Removal struct {
	// Spec gives the place and the tags. An empty Life or a zero Generation matches
	// all.
	Spec Spec `json:"spec"`
	// NotLife is a life whose resources stay; if it is set, Spec.Life is empty.
	NotLife string `json:"notLife,omitempty"`
	// KeepImage says that only machines are removed, not their registrations.
	KeepImage bool `json:"keepImage,omitempty"`
}

// Match reports whether a resource is to be removed; have is its Tags.
func (r Removal) Match(have Tags) bool {
	return r.Spec.Match(have) && (r.NotLife == "" || r.NotLife != have.Life)
}

// ConsoleFrom is the input of Console: a machine and the byte offset to read from.
type ConsoleFrom struct {
	Machine Machine `json:"machine"`
	Offset  int64   `json:"offset"`
	// WaitSeconds is how long to wait if there is no text yet; 0 is not at all.
	WaitSeconds int `json:"waitSeconds,omitempty"`
}

// ConsoleText is a piece of a console, at most 32 KiB.
type ConsoleText struct {
	Text string `json:"text"`
	// Next is the offset to ask for next.
	Next int64 `json:"next"`
	// Ended says that no more text will come.
	Ended bool `json:"ended,omitempty"`
}

// Destroyed lists the resources that Destroy or Clean removed, in words for the user.
type Destroyed struct {
	Removed []string `json:"removed,omitempty"`
}

// State is the state of a machine.
type State string

// The states of a machine.
const (
	Running State = "running"
	// Ended: the machine ran to its end or crashed, and its remains still exist.
	Ended State = "ended"
	Gone  State = "gone"
)

// Health is the result of Observe.
type Health struct {
	State State `json:"state"`
	// How says in one line how the machine ended: "exit status 1", "crashed". Empty
	// if it has not ended or the target does not know.
	How string `json:"how,omitempty"`
	// Success says that the machine is known to have ended as it should: with status 0,
	// or shut down by itself. A machine with restart "on-failure" then stays ended.
	Success bool `json:"success,omitempty"`
	// Since is when that state began, zero if the target does not know.
	Since time.Time `json:"since,omitzero"`
	// Addresses are the addresses of its services now.
	Addresses []Address `json:"addresses,omitempty"`
}

// Text returns the state in words: "ended (exit status 1)".
func (h Health) Text() string {
	if h.How == "" {
		return string(h.State)
	}
	return fmt.Sprintf("%s (%s)", h.State, h.How)
}

// Resource is a resource with Morgana's tags.
type Resource struct {
	Tags Tags `json:"tags"`
	// Kind is the target's own word: "domain", "snapshot", "folder".
	Kind string `json:"kind"`
	// ID is the target's name for it.
	ID string `json:"id"`
	// Created is zero if the target does not know it.
	Created time.Time `json:"created,omitzero"`
	// Where is the host or region: "rack7", "eu-west-1".
	Where string `json:"where,omitempty"`
}

// Action is one action of a rollout.
type Action struct {
	// Call is the command or API call: "xl create", "ec2:RegisterImage".
	Call string `json:"call"`
	// Why is its purpose in one line.
	Why string `json:"why"`
	// Permission is the one it needs: "ec2:RegisterImage", "root"; empty if none.
	Permission string `json:"permission,omitempty"`
	// Cost is its cost in words: "$0.05 per GB-month"; empty if it is free.
	Cost string `json:"cost,omitempty"`
}

// Step is the name of an activity and of the task queue that its workers poll.
type Step struct {
	Activity  string `json:"activity"`
	TaskQueue string `json:"taskQueue"`
	// OnHost adds "@<host>" to TaskQueue once a host is known.
	OnHost bool `json:"onHost,omitempty"`
}

// Queue returns the task queue of s for a host, which may be empty.
func (s Step) Queue(host string) string {
	if s.OnHost && host != "" {
		return s.TaskQueue + "@" + host
	}
	return s.TaskQueue
}

// Route is the Step of each stage. It is an input of the workflow, so a change of
// defaults does not affect a running deploy.
type Route struct {
	// Fetch completes the Origin of a Spec whose Origin has Git.
	Fetch     Step `json:"fetch"`
	Check     Step `json:"check"`
	Configure Step `json:"configure"`
	Build     Step `json:"build"`
	Package   Step `json:"package"`
	Register  Step `json:"register"`
	Boot      Step `json:"boot"`
	Console   Step `json:"console"`
	Destroy   Step `json:"destroy"`
	Clean     Step `json:"clean"`
	// Observe, Watch, Probe, List and Forecast are abilities that a target may lack.
	Observe  Step `json:"observe"`
	Watch    Step `json:"watch"`
	Probe    Step `json:"probe"`
	List     Step `json:"list"`
	Forecast Step `json:"forecast"`
	// After holds the steps inserted after a stage (sign, scan). Each takes the
	// stage's output and returns a value of the same type.
	After map[Stage][]Step `json:"after,omitempty"`
}

// NewRoute returns the route in which each kind does its own stages: activity
// "<kind>.Boot" on task queue "<kind>", and so on.
func NewRoute(toolchain, target string) Route {
	anywhere := func(kind, name string) Step { return Step{Activity: kind + "." + name, TaskQueue: kind} }
	onHost := func(kind, name string) Step { return Step{Activity: kind + "." + name, TaskQueue: kind, OnHost: true} }
	return Route{
		Fetch:     anywhere("source", "Fetch"),
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
		Watch:     onHost(target, "Watch"),
		Probe:     onHost(target, "Probe"),
		List:      onHost(target, "List"),
		Forecast:  onHost(target, "Forecast"),
	}
}

// Stage returns a pointer to the step of stage s or of [Fetch], nil if s is unknown.
func (p *Route) Stage(s Stage) *Step {
	return map[Stage]*Step{Fetch: &p.Fetch, Check: &p.Check, Configure: &p.Configure, Build: &p.Build,
		Package: &p.Package, Register: &p.Register, Boot: &p.Boot}[s]
}
