package e2e

import (
	"os/exec"
	"path/filepath"
	"strings"
)

const (
	onQEMU   = "targets: {dev: {kind: qemu, memory: 64}}\n"
	twoNames = "app: bad\ntoolchain: {kind: prebuilt, kernel: k}\ntargets:\n  dev: {kind: qemu}\n  prod: {kind: qemu}\n"
	nameHint = "a name is a lower-case letter, then at most 39"
	elfHint  = "a kernel is an ELF file"
)

// made is a project whose make runs a recipe that should make file k.
func made(recipe string) input {
	return input{"app: bad\ntoolchain:\n  kind: command\n  build: [[make]]\n  kernel: k\n" + onQEMU, map[string]string{"Makefile": "k:\n\t" + recipe + "\n"}}
}

// readyMade is a project whose kernel is made already.
func readyMade(kernel, target string) input {
	return input{"app: bad\ntoolchain:\n  kind: prebuilt\n  kernel: k\ntargets:\n  dev:\n    kind: qemu\n    memory: 64\n" + target,
		map[string]string{"k": kernel}}
}

// xenOnly is a kernel that only Xen boots, by its notes.
const xenOnly = `
	.section .note.Xen, "a", @note
	.long 4, 8, 6
	.asciz "Xen"
	.asciz "linux"
	.balign 4
	.long 4, 8, 5
	.asciz "Xen"
	.asciz "xen-3.0"
	.text
	.globl _start
_start:	hlt
`

func refusedFiles() []refusal {
	hello := func(replace, by string) string {
		const whole = "app: bad\ntoolchain:\n  kind: command\n  build: [[make]]\n  kernel: k\ntargets:\n  dev:\n    kind: qemu\n    memory: 64\n"
		return strings.Replace(whole, replace, by, 1)
	}
	return []refusal{
		{name: "no file", code: 2, line: "no morgana.yaml in FOLDER or a folder above it", hint: "morgana init"},
		{name: "no YAML", in: input{yaml: "app: bad\n toolchain: {\n"}, code: 2, line: "morgana.yaml:2: not YAML: mapping values are not allowed in this context"},
		{name: "unknown key", in: input{yaml: hello("toolchain", "tolchain")}, code: 2, line: "morgana.yaml:2: tolchain: unknown key", hint: `"toolchain"?`},
		{name: "unknown toolchain option", in: input{yaml: hello("build", "biuld")}, code: 2, line: "morgana.yaml:4: toolchain.biuld: unknown field", hint: `"build"?`},
		{name: "unknown target option", in: input{yaml: hello("memory", "memroy")}, code: 2, line: "morgana.yaml:9: memroy: unknown field", hint: `"memory"?`},
		{name: "wrong type", in: input{yaml: hello("bad", "[bad]")}, code: 2, line: "morgana.yaml:1: app: want a string, not a list"},
		{name: "wrong type in toolchain", in: input{yaml: hello("[[make]]", "make")}, code: 2, line: "morgana.yaml:4: toolchain.build: want a list, not a string", hint: `a list, as [["make"]]`},
		{name: "wrong type in a list", in: input{yaml: hello("[[make]]", "\n    - [make]\n    - - sleep\n      - 10")}, code: 2, line: "morgana.yaml:7: toolchain.build[1][1]: want a string, not a number", hint: `in quotes, as "10"`},
		{name: "wrong type in target", in: input{yaml: hello("64", "lots")}, code: 2, line: "morgana.yaml:9: memory: want a whole number, not a string", hint: "as 64"},
		{name: "no name", in: input{yaml: hello("bad", "Bad_name")}, code: 2, line: `morgana.yaml:1: app: "Bad_name" is not a valid name`, hint: nameHint},
		{name: "no source", in: input{yaml: "source: nowhere\n" + hello("", "")}, code: 2, line: "morgana.yaml:1: source: no such folder: nowhere", hint: "start from its folder"},
		{name: "no build tool", in: input{yaml: hello("[[make]]", "[[nosuchmake]]")}, code: 2, line: "look for build tools on HOST: nosuchmake is not installed", hint: "PATH"},
	}
}

func refusedKernels(kernel, program string) []refusal {
	const cannot, only = "qemu cannot boot a Linux program: it is no kernel", "build it as a kernel (MirageOS: -t virtio)"
	return []refusal{
		{name: "no kernel", in: input{yaml: "app: bad\ntoolchain:\n  kind: prebuilt\n  kernel: k\n" + onQEMU}, code: 2,
			line: "morgana.yaml:4: toolchain.kernel: no such file: k", hint: "start from its folder"},
		{name: "text", code: 2, line: "morgana.yaml:4: toolchain.kernel: this is text, not a kernel", hint: elfHint, in: readyMade("hello\n", "")},
		{name: "gzip", code: 2, line: "morgana.yaml:4: toolchain.kernel: the file is damaged or cut off: it ends inside its gzip data", hint: "copy it again", in: readyMade("\x1f\x8b\b\x00\x00\x00", "")},
		{name: "empty", code: 2, line: "morgana.yaml:4: toolchain.kernel: the file is empty", hint: elfHint, in: readyMade("", "")},
		{name: "cut off", code: 2, line: "morgana.yaml:4: toolchain.kernel: the file is damaged or cut off: it ends inside its ELF headers",
			hint: "copy it again", in: readyMade(kernel[:100], "")},
		{name: "zeros", code: 2, line: "morgana.yaml:4: toolchain.kernel: this is no kind of kernel that is known here", hint: elfHint,
			in: readyMade(strings.Repeat("\x00", 100_000), "")},
		{name: "program", code: 2, line: "morgana.yaml:6: check qemu target: " + cannot, hint: only, in: readyMade(program, "")},

		{name: "built text", code: 1, line: "build: k: this is text, not a kernel", hint: elfHint, in: made("echo hi > k")},
		{name: "built gzip", code: 1, line: "build: k: in the gzip file: this is text, not a kernel", hint: elfHint, in: made("echo hi | gzip > k")},
		{name: "built nothing in it", code: 1, line: "build: k: the file is empty", hint: elfHint, in: made("touch k")},
		{name: "built program", code: 2, line: "morgana.yaml:6: package for qemu: " + cannot, hint: only, in: made("cp /bin/true k")},
		{name: "built for Xen", code: 2, line: "morgana.yaml:3: package for qemu: qemu cannot boot a Xen PV kernel", hint: "kind xen",
			in: input{"app: bad\ntoolchain: {kind: command, build: [[gcc, -nostdlib, -static, -o, k, k.S]], kernel: k}\n" + onQEMU,
				map[string]string{"k.S": xenOnly}}},
		{name: "build fails", code: 1, line: "build: make: exit status 2", hint: "no cheese", in: made("@seq 100 130; echo no cheese >&2; false")},
		{name: "no artifact", code: 1, line: "build: the commands succeeded and made no k", hint: "helo", in: made("@echo fine; touch helo")},
	}
}

func refusedSettings() []refusal {
	project := func(r refusal) refusal {
		r.code = 2
		r.in = readyMade("\x7fELF", "")
		return r
	}
	store := func(url, line, hint string) refusal {
		return refusal{name: "store " + url, env: []string{"MORGANA_STORE=" + url}, code: 2, line: line, hint: hint, args: "deploy", in: made("true")}
	}
	all := []refusal{
		store("nonsense", `MORGANA_STORE: want a URL, not "nonsense"`, "file:///var/lib"),
		store("ftp://a/b", `open store "ftp://a/b": unknown scheme "ftp"`, "s3://bucket"),
		store("file:///proc/x", "open store file:///proc/x: mkdir /proc/x: no such file or directory", "/proc/x"),
		{name: "unknown target", in: input{yaml: twoNames}, args: "deploy -t prd", line: `morgana.yaml: no target "prd"`, hint: `"prod"?`},
		{name: "which target", in: input{yaml: twoNames}, line: "FOLDER/morgana.yaml has 2 targets", hint: "--target (dev, prod), or --all"},
		project(refusal{name: "--set of no value", args: "deploy --set dev.memory", line: "--set dev.memory: want <target>.<field>=<value>", hint: "dev.memory=128"}),
		project(refusal{name: "--set of no target", args: "deploy --set dv.memory=1", line: `--set dv.memory=1: no target "dv"`, hint: `"dev"?`}),
		project(refusal{name: "--output", args: "deploy -o yaml", line: `--output: "yaml" is no output format`, hint: "text or json"}),
		project(refusal{name: "--app", args: "deploy --app X", line: `--app: "X" is not a valid name`, hint: nameHint}),
	}
	all = append(all,
		refusal{name: "--set of no option", in: made("true"), args: "deploy --set dev.memroy=1",
			line: "--set dev.memroy=1: memroy: unknown field", hint: `"memory"?`},
		refusal{name: "--set of a number", in: made("true"), args: "deploy --set dev.args=10",
			line: "--set dev.args=10: args: want a string, not a number", hint: `--set 'dev.args="10"'`})
	for i := range all {
		all[i].code = 2
	}
	return all
}

func refusedCommands() []refusal {
	return []refusal{
		{name: "unknown flag", args: "deploy --targt x", code: 2, line: "unknown flag: --targt", hint: `"--target"?`},
		{name: "unknown command", args: "dploy", code: 2, line: `unknown command "dploy"`, hint: `"deploy"?`},
		{name: "unknown dev command", args: "dev upp", code: 2, line: `unknown command "upp"`, hint: `"up"?`},
		{name: "extra argument", args: "deploy now", code: 2, line: `unexpected argument "now"`, hint: "morgana deploy --help"},
		{name: "no namespace", args: "status", env: []string{"TEMPORAL_NAMESPACE=none"}, code: 2, line: `use Temporal: no namespace "none"`, hint: "--namespace"},
		{name: "console of nothing", args: "console bad", code: 2, line: "bad is not deployed", hint: "morgana status"},
		{name: "destroy of nothing", args: "destroy bad/dev", code: 2, line: "bad/dev is not deployed", hint: "morgana status"},
	}
}

// refusedXen is what the xen target refuses before it asks the host.
func refusedXen(l *lab) []refusal {
	at := func(name, kernel, options, line, hint string) refusal {
		return refusal{name: "xen: " + name, code: 2, line: line, hint: hint, in: input{
			"app: bad\ntoolchain: {kind: prebuilt, kernel: k}\ntargets:\n  dev:\n    kind: xen\n" + options, map[string]string{"k": kernel}}}
	}
	const away = "    host: ssh://nowhere.invalid\n"
	hello := string(l.kernel())
	pv, pvh := l.without("PHYS32_ENTRY"), l.without("XEN_VERSION|LOADER|VIRT_BASE|ELFNOTE_ENTRY|HYPERCALL_PAGE|PADDR_OFFSET|PAE_MODE|FEATURES")
	return []refusal{
		at("no dom0", hello, "    memory: 32\n", "morgana.yaml:4: host: this host is no Xen host: it does not run on Xen", "ssh://root@xen1"),
		at("no address", hello, "    host: xenlab\n", `morgana.yaml:6: host: "xenlab" does not begin with ssh://`, "ssh://user@host"),
		at("misspelt option", hello, away+"    memroy: 64\n", "morgana.yaml:7: memroy: unknown field", `"memory"?`),
		at("bad extra", hello, away+"    extra: ['cpus = \"2-3']\n", "morgana.yaml:7: extra[0]: want \" at the string's end", "xl.cfg(5)"),
		at("extra of ours", hello, away+"    extra: ['kernel = \"/boot/x\"']\n", "morgana.yaml:7: extra[0]: kernel is set by Morgana", "leave it out"),
		at("hvm by kernel", hello, away+"    type: hvm\n", "morgana.yaml:4: via: an hvm domain boots from a disk", "via: disk"),
		at("PV as PVH", pv, away+"    type: pvh\n", "morgana.yaml:7: type: the kernel is PV only: it has no PVH note (18)", "type: pv"),
		at("PVH as PV", pvh, away+"    type: pv\n", "morgana.yaml:7: type: the kernel is PVH only: it has no PV notes", "type: pvh"),
		at("program", readAll(l.t, "/bin/true"), away, "morgana.yaml:4: check xen target: xen cannot boot a Linux program: it is no kernel", "-t xen"),
	}
}

// without is hello's kernel without some of its notes for Xen.
func (l *lab) without(notes string) string {
	l.t.Helper()
	folder := l.hello()
	edit := exec.Command("sed", "-i", "-E", "/XEN_NOTE_.*("+notes+"),/d", filepath.Join(folder, "headers.S"))
	build := exec.Command("make", "-s", "-B", "-C", folder)
	for _, cmd := range []*exec.Cmd{edit, build} {
		if out, err := cmd.CombinedOutput(); err != nil {
			l.t.Fatalf("%v: %v\n%s", cmd.Args, err, out)
		}
	}
	return readAll(l.t, filepath.Join(folder, "hello"))
}
