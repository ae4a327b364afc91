package xen

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/morgana-deploy/morgana/step"
)

func bootFailed(hint, format string, args ...any) error {
	return failedAt(step.BootFailed, "", hint, format, args...)
}

func failedAt(kind step.Kind, field, hint, format string, args ...any) error {
	return &step.Error{Kind: kind, Field: field, Hint: hint, Err: fmt.Errorf(format, args...)}
}

// knownWords classifies xl's errors by text: xl has one exit status for all.
var knownWords = []struct {
	words       string
	kind        step.Kind
	field, hint string
}{
	{"no loader found", step.Unsupported, "type", "leave type out, to go by the kernel's notes; or build it for Xen (MirageOS: -t xen)"},
	{"not capable of booting inside a HVM container", step.Unsupported, "type", "the kernel is PV only: type: pv, or leave it out"},
	{"ELF image is not 32bit", step.Unsupported, "type", "the kernel is no Xen PVH kernel: build it with -t xen"},
	{"Could not find bridge", step.NotFound, "vif", "name a bridge that ip link show type bridge lists there"},
	{"failed to stat", step.NotFound, "disks", "correct the path, or make it there"},
	{"mounted in a guest domain", step.Conflict, "disks", "another domain has it: destroy that one first"},
	{"read-only IDE", step.InvalidSpec, "disks", "vdev: xvde, or access: w"},
	{"too large", step.InvalidSpec, "memory", "more memory: the kernel needs more than that"},
	{"paging mempool", step.InvalidSpec, "memory", "more memory: a pvh or hvm domain needs more than that"},
	{"failed to free memory", step.Conflict, "memory", "less memory, or destroy a domain that is there"},
	{"Out of memory", step.Conflict, "memory", "less memory, or destroy a domain that is there"},
	{"Cannot allocate memory", step.Conflict, "memory", "less memory, or destroy a domain that is there"},
	{"disk specification", step.InvalidSpec, "disks", "see xl-disk-configuration(5)"},
	{"cannot execute /etc/xen/scripts", step.NotFound, "vif", "name a script that is in /etc/xen/scripts there"},
	{"config parsing error", step.InvalidSpec, "extra", "see xl.cfg(5)"},
	{"already exists", step.Conflict, "", "rename or destroy the other one by hand"},
	{"bootloader failed", step.Unsupported, "bootloader", "see /var/log/xen/bootloader.*.log there; or via: kernel"},
	{"device model", step.Unsupported, "type", "install QEMU for Xen there: apt-get install qemu-system-xen; or type: pv"},
	{"privileged command interface", step.Unsupported, "host", "name a host that runs Xen, as ssh://root@xen1; it must be its dom0"},
	{"failed to open file", step.NotFound, "", "deploy again"},
}

var (
	errorLine = regexp.MustCompile(`^(?:[a-z]+: )?(?i:error): *`)
	// The position in the sources of libxc and libxl: "panic: xc_dom_core.c:702: ",
	// "libxl_create.c:1709:domcreate_rebuild_done: Domain 5:"; and xl's own name.
	whereItWas = regexp.MustCompile(`^(?:panic: |libxl: |xl: |[a-z0-9_]+\.c:[0-9]+: ?|[a-z0-9]+_[a-z0-9_]+: |Domain [0-9]+: ?)`)
	noise      = regexp.MustCompile(`^(?i:Parsing config (?:file|from) |warning|[a-z]+: (?:warning|detail|info|notice|debug|progress|verbose): )`)
)

// said returns the final error for the output of an xl or xm that refused. Its text is
// the first error line: later ones follow from it.
func said(stderr string) error {
	cause, marked := causeOf(stderr)
	e := &step.Error{Kind: step.BootFailed, Err: errors.New(cause), Hint: "more may be in xl dmesg and /var/log/xen of the Xen host"}
	if !marked { // only errors of the configuration are not marked
		e.Kind, e.Field, e.Hint = step.InvalidSpec, "extra", "see xl.cfg(5)"
	}
	for _, k := range knownWords {
		if strings.Contains(cause, k.words) {
			e.Kind, e.Field, e.Hint = k.kind, k.field, k.hint
			break
		}
	}
	return e
}

// causeOf returns the line with the cause, without its position in Xen's sources. isError
// reports whether the line was marked as an error.
func causeOf(stderr string) (cause string, isError bool) {
	first, script, plain := "", "", ""
	for line := range strings.Lines(stderr) {
		line = strings.TrimSuffix(strings.TrimSpace(line), ".")
		if line == "" || noise.MatchString(line) {
			continue
		}
		marked := errorLine.MatchString(line)
		line = errorLine.ReplaceAllString(line, "")
		for whereItWas.MatchString(line) && !strings.HasPrefix(line, "script: ") {
			line = whereItWas.ReplaceAllString(line, "")
		}
		switch said, ok := strings.CutPrefix(line, "script: "); {
		case ok && script == "":
			script = said // a hotplug script's own words come after its exit status
		case marked && first == "":
			first = line
		case !marked && plain == "":
			plain = line
		}
	}
	switch exit := strings.Contains(first, "exited with error status"); {
	case exit && script != "":
		return script, true
	case exit && plain != "":
		return plain, true // the reason why the script could not be run
	case first != "":
		return first, true
	case plain != "":
		return plain, false
	}
	return "it ended without a word", true
}
