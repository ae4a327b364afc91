package step

import (
	"context"
	"log/slog"
)

// Toolchain makes a kernel. Its methods are activities: each may be run twice,
// on different hosts, at the same time as another deploy's, and may be cut off
// anywhere by a crash. All return an [*Error] or an error that wraps one;
// anything else is taken as passing trouble and retried.
//
// They stop within 5 s of ctx being done, ending every process they started,
// and report their progress with [Report] at least every few seconds of work.
type Toolchain interface {
	// Configure makes a configured source tree of spec.Origin on this host. It
	// refuses options it does not know (InvalidSpec) and says what the host
	// lacks (Unsupported) before it does anything long. A half-made tree of an
	// earlier try is replaced.
	Configure(ctx context.Context, spec Spec) (Source, error)
	// Build builds the tree and puts the kernel into the store. The kernel is
	// checked to exist and to be made by this build. TreeGone says that the
	// tree is gone and configure must run again.
	// A build that fails is BuildFailed: Err says in one line what failed, Hint
	// has the last 20 lines and where the whole log is.
	Build(ctx context.Context, src Source) (Kernel, error)
	// Clean removes the trees of the rollout spec.Tags from this host and ends
	// what still runs in them. It is idempotent.
	Clean(ctx context.Context, spec Spec) (Destroyed, error)
}

// Target is a kind of place that machines run in. The rules given for
// [Toolchain] hold for it as well.
//
// Law one is adopt or create: whatever is created outside has a name derived
// from Tags and digest and carries the Tags from the moment it exists; a method
// called again, or whose answer was lost, finds what it made and adopts it.
type Target interface {
	// Check says in seconds whether this can work at all: options known and
	// sane (InvalidSpec with the field), credentials good (Unauthorized), the
	// kernel's ABI one that can boot here if spec.Origin tells it (Unsupported),
	// what the machine needs is free (Conflict). It creates nothing. It returns
	// the spec completed: Host set if machines are bound to this host, options
	// with every default filled in, so that no later stage knows a default; Alone
	// set if it looked for other lives and found none.
	Check(ctx context.Context, spec Spec) (Spec, error)
	// Package makes of the kernel what the target takes, in the store. It is
	// pure: the same kernel and options give the same Digest on any host.
	// Unsupported if the kernel's ABI cannot boot here.
	Package(ctx context.Context, k Kernel) (Image, error)
	// Register makes the image known to the target. An image that is not
	// [Image.Valid] is refused: a step behind package may have made it. Cut off,
	// it goes on from what the other side has.
	Register(ctx context.Context, img Image) (Registration, error)
	// Boot starts a machine, or adopts the one that runs, and waits until it is
	// ready. One that does not get ready in time is BootFailed with the
	// console's tail as Hint; the machine is left for Destroy. It may take over
	// what an earlier generation holds (a port), never before it is ready.
	Boot(ctx context.Context, r Registration) (Machine, error)
	// Console reads a piece of the machine's console.
	Console(ctx context.Context, from ConsoleFrom) (ConsoleText, error)
	// Destroy removes the machines, and unless KeepImage is set the
	// registrations, that [Removal.Match]. It looks for the tags and remembers
	// nothing: it works when register or boot never finished, and for a Spec that
	// Check never saw. It is idempotent; nothing to remove is no error.
	Destroy(ctx context.Context, what Removal) (Destroyed, error)
}

// Observer is a target that can say how a machine is.
type Observer interface {
	// Observe looks at the machine itself. A machine that is not there is Gone,
	// not an error; an error says that the place could not be asked.
	Observe(ctx context.Context, m Machine) (Health, error)
}

// Lister is a target that can list what it has in a place.
type Lister interface {
	// List gives everything in the place that spec names that carries tags of
	// Morgana and matches spec.Tags; with App and Target empty, everything. It
	// finds what Destroy finds, and what a crash left half made.
	List(ctx context.Context, spec Spec) ([]Resource, error)
}

// Forecaster is a target that can say what a rollout will do.
type Forecaster interface {
	// Forecast gives the acts of a rollout of a checked spec in their order. It
	// creates nothing and takes seconds.
	Forecast(ctx context.Context, spec Spec) ([]Action, error)
}

// Site is where a worker stands; a target or toolchain is made from it.
type Site struct {
	// Host is this host's name, as in task queue "qemu@<host>".
	Host string
	// State is an absolute folder for what must outlive the worker: a kind
	// keeps to State/<kind>.
	State string
	Store Store
	Log   *slog.Logger
}

// Need is something a target or toolchain wants of the host it works on, for morgana doctor.
type Need struct {
	// For is what it is wanted for, as "boot from a UEFI disk" or "build".
	For string `json:"for"`
	// What is wanted, as "grub-mkimage" or "KVM".
	What string `json:"what"`
	// Found is what is there, as a path or a version; empty if it is missing.
	Found string `json:"found,omitempty"`
	// Why says in one line why it is not there, if more is known than that.
	Why string `json:"why,omitempty"`
	// Fix is the command that mends it, as "apt-get install ovmf", or what to do.
	Fix string `json:"fix,omitempty"`
	// Optional says that the kind does without, less well.
	Optional bool `json:"optional,omitempty"`
}

// Needer is a target or toolchain that can say what it needs of this host. It changes nothing,
// takes seconds, and lists what is there as well as what is missing.
type Needer interface {
	Needs(ctx context.Context) []Need
}
