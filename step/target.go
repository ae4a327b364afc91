package step

import (
	"context"
	"log/slog"
)

// Toolchain makes a kernel. Its methods are activities. A method may run twice, on
// different hosts, and at the same time as another deploy's. A crash may end it
// anywhere. Its error is an [*Error] or wraps one; any other error is retried.
//
// When ctx is done, a method ends its processes and returns within 5 s. It calls
// [Report] at least every few seconds.
type Toolchain interface {
	// Configure makes a configured source tree of spec.Origin on this host. Unknown
	// options (InvalidSpec) and tools that the host lacks (Unsupported) are refused
	// before any long work. Configure replaces the unfinished tree of an earlier try.
	Configure(ctx context.Context, spec Spec) (Source, error)
	// Build builds the tree and puts the kernel into the store. It checks that this
	// build made the kernel. After [TreeGone] configure runs again. A failed build is
	// BuildFailed: Err is one line, Hint has the last 20 lines and the place of the
	// whole log, and Log is the whole log.
	Build(ctx context.Context, src Source) (Kernel, error)
	// Clean ends the processes in the trees that spec.Tags match on this host, and
	// removes the trees. It is idempotent.
	Clean(ctx context.Context, spec Spec) (Destroyed, error)
}

// Builder is a toolchain that can tell whether it has to build.
type Builder interface {
	// Built looks for the kernel of an earlier build that Build would return. It makes
	// nothing and takes seconds. It needs the digest of spec.Origin, not its bytes.
	Built(ctx context.Context, spec Spec) (Built, error)
}

// Target runs machines in one kind of place. The rules of [Toolchain] hold for it too.
//
// Its methods adopt or create. A resource's name is derived from Tags and digest, and
// it has the Tags from the moment it exists. A method that runs again, as after its
// result was lost, finds the resource and adopts it.
type Target interface {
	// Check tells in seconds whether the deploy can work. It refuses invalid options
	// (InvalidSpec with the field), bad credentials (Unauthorized), an ABI in
	// spec.Origin that cannot boot here (Unsupported), and a resource that is in use,
	// as a port (Conflict). It creates nothing. It returns the completed spec: Host if
	// machines are bound to this host, all options with their defaults, and Alone.
	// Later stages fill in no defaults.
	Check(ctx context.Context, spec Spec) (Spec, error)
	// Package makes the target's image of the kernel and puts it into the store. The
	// same kernel and options give the same Digest on any host. An ABI that cannot
	// boot here is Unsupported.
	Package(ctx context.Context, k Kernel) (Image, error)
	// Register makes the image known to the target. It refuses an image that is not
	// [Image.Valid]: a third-party step may have made it. A later try resumes from
	// what the target has received.
	Register(ctx context.Context, img Image) (Registration, error)
	// Boot starts a machine, or adopts the one that runs, and waits until it is
	// ready. A machine that does not get ready in time is BootFailed with the
	// console's last lines as Hint; Boot leaves it for Destroy. A machine may take
	// over a port from an earlier generation once it is ready.
	Boot(ctx context.Context, r Registration) (Machine, error)
	// Console reads a piece of the machine's console.
	Console(ctx context.Context, from ConsoleFrom) (ConsoleText, error)
	// Destroy removes the machines that [Removal.Match], and their registrations
	// unless KeepImage is set. It finds them by their tags alone: register and boot
	// need not have finished, and Check need not have seen the Spec. It is
	// idempotent; nothing to remove is no error.
	Destroy(ctx context.Context, what Removal) (Destroyed, error)
}

// Observer is a target that can report a machine's state.
type Observer interface {
	// Observe asks the target about the machine. A machine that does not exist is
	// Gone. An error means that the target could not be asked.
	Observe(ctx context.Context, m Machine) (Health, error)
}

// Lister is a target or toolchain that can list its resources.
type Lister interface {
	// List returns the resources that Destroy or Clean would find, unfinished ones
	// included: those in the place of spec that have Morgana's tags and match spec.Tags. With
	// App and Target empty it returns those of all apps.
	List(ctx context.Context, spec Spec) ([]Resource, error)
}

// Forecaster is a target that can list the actions of a rollout beforehand.
type Forecaster interface {
	// Forecast returns the actions of a rollout of a checked spec, in order. It
	// creates nothing and takes seconds.
	Forecast(ctx context.Context, spec Spec) ([]Action, error)
}

// Site describes a worker's host to the targets and toolchains that it serves.
type Site struct {
	// Host is this host's name, as in task queue "qemu@<host>".
	Host string
	// State is the absolute path of the folder for persistent data. A kind uses
	// only State/<kind>.
	State string
	Store Store
	Log   *slog.Logger
}

// Need is something that a target or toolchain needs of this host, for morgana doctor.
type Need struct {
	// For is its purpose, as "boot from a UEFI disk" or "build".
	For string `json:"for"`
	// What is its name, as "grub-mkimage" or "KVM".
	What string `json:"what"`
	// Found is its path or version; empty if it is missing.
	Found string `json:"found,omitempty"`
	// Why says in one line why it is missing; empty if that is not known.
	Why string `json:"why,omitempty"`
	// Fix is the command or the action that provides it, as "apt-get install ovmf".
	Fix string `json:"fix,omitempty"`
	// Optional says that the kind works without it, but less well.
	Optional bool `json:"optional,omitempty"`
}

// Needer is a target or toolchain that can list its needs of this host.
type Needer interface {
	// Needs lists the needs of the kind, met or not. It changes nothing and takes
	// seconds.
	Needs(ctx context.Context) []Need
}
