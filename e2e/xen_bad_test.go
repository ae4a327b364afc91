package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// undone fails and cancels first deploys where they have made something; each
// time the host must be as it was.
func (x *onXen) undone() {
	c := x.client()
	const never = "args: stay, expect: never said, vif: [{}]"
	silent := x.begin(x.on("silent", xenDev(never)), "deploy", "--set", "dev.timeout=10s")
	if r := x.over(silent); r.code != 1 || !strings.Contains(r.errOut, `its console did not match "never said" within 10s`) ||
		!strings.Contains(r.errOut, "command line: [stay]") || strings.Contains(r.errOut, "left:") {
		x.t.Errorf("exit status %d\n%s%s", r.code, r.out, r.errOut)
	}
	before := x.there()
	for _, how := range []string{"cancel", "destroy"} {
		sent := x.large("sent-"+how, never)
		made, booted := x.on("made-"+how, xenDev(never)), x.on("booted-"+how, xenDev(never))
		deploys := []*running{x.begin(sent, "deploy")}
		_, goOn := x.midway()
		deploys = append(deploys, x.begin(booted, "deploy"))
		x.await(`grep -qs staying /var/lib/morgana/domains/booted-` + how + `.*/console.log`)
		letGo := x.hold("create.made-" + how)
		deploys = append(deploys, x.begin(made, "deploy"))
		x.isHeld("create.made-" + how)
		var destroys []*running
		for app, folder := range map[string]string{"sent-": sent, "made-": made, "booted-": booted} {
			if how == "destroy" {
				destroys = append(destroys, x.begin(folder, "destroy"))
			} else if err := c.CancelWorkflow(x.t.Context(), rollout(app+how, 1), ""); err != nil {
				x.t.Fatal(err)
			}
		}
		goOn()
		letGo()
		for _, d := range deploys {
			if r := x.over(d); r.code != 1 || !strings.Contains(r.errOut, "cancelled") || strings.Contains(r.errOut, "left:") {
				x.t.Errorf("%s: exit status %d\n%s%s", how, r.code, r.out, r.errOut)
			}
		}
		x.done(destroys...)
		x.asBefore(before)
	}
}

// onHosts are further hosts of the ssh configuration: the lab under other names.
const onHosts = `
Host stranger changed
	HostName 127.0.0.1
	Port PORT
	User root
	IdentityFile KEY
Host stranger
	UserKnownHostsFile /dev/null
Host changed
	UserKnownHostsFile KNOWN
Host guest nobody
	HostName 127.0.0.1
	Port PORT
	IdentityFile KEY
	UserKnownHostsFile LAB/known_hosts
Host guest
	User guest
Host nobody
	User nobody-here
Host down
	HostName 127.0.0.1
	Port 1
	User root
`

// hosts makes known to ssh what onHosts lists, and a user guest to the lab.
func (x *onXen) hosts() {
	x.t.Helper()
	config := x.read(x.host.Config)
	word := func(key string) string {
		return strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(lineWith(config, key+" ")), key))
	}
	known := filepath.Join(x.t.TempDir(), "known")
	key := filepath.Join(x.t.TempDir(), "key")
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key).CombinedOutput(); err != nil {
		x.t.Fatalf("ssh-keygen: %v\n%s", err, out)
	}
	x.write(known, "[127.0.0.1]:"+word("Port")+" "+x.read(key+".pub"))
	more := strings.NewReplacer("PORT", word("Port"), "KEY", word("IdentityFile"), "KNOWN", known, "LAB", x.host.Dir).Replace(onHosts)
	x.write(x.host.Config, config+more)
	x.t.Cleanup(func() { x.write(x.host.Config, config) })
	x.dom0(`grep -q ^guest: /etc/passwd || echo guest:x:1000:100::/home/guest:/bin/bash >>/etc/passwd
install -d -o 1000 /home/guest /home/guest/.ssh
install -o 1000 -m 600 /root/.ssh/authorized_keys /home/guest/.ssh/`)
}

// without is hello's kernel without some of its notes.
func (x *onXen) without(notes string) string {
	x.t.Helper()
	folder := x.hello()
	edit := exec.Command("sed", "-i", "-E", "/XEN_NOTE_.*("+notes+"),/d", filepath.Join(folder, "headers.S"))
	build := exec.Command("make", "-s", "-B")
	build.Dir = folder
	for _, cmd := range []*exec.Cmd{edit, build} {
		if out, err := cmd.CombinedOutput(); err != nil {
			x.t.Fatalf("%v: %v\n%s", cmd.Args, err, out)
		}
	}
	kernel, err := os.ReadFile(filepath.Join(folder, "hello"))
	if err != nil {
		x.t.Fatal(err)
	}
	return string(kernel)
}

// refuses gives a deploy what cannot work: each time that is told in one line,
// and nothing is made.
func (x *onXen) refuses() {
	x.hosts()
	pv, pvh := x.without("PHYS32_ENTRY"), x.without("XEN_VERSION|LOADER|VIRT_BASE|ELFNOTE_ENTRY|HYPERCALL_PAGE|PADDR_OFFSET|PAE_MODE|FEATURES")
	cases := x.refusals(pv, pvh)
	before := x.there()
	var deploys []*running
	for i, c := range cases {
		yaml := fmt.Sprintf("app: bad%d\ntoolchain: {kind: prebuilt, kernel: k}\ntargets:\n  dev:\n    kind: xen\n", i) + c.in.yaml
		kernel := c.in.files["k"]
		if kernel == "" {
			kernel = string(x.kernel)
		}
		deploys = append(deploys, x.begin(x.beside(input{yaml, map[string]string{"k": kernel}}), "deploy"))
	}
	for i, d := range deploys {
		r := x.over(d)
		x.t.Run(cases[i].name, func(t *testing.T) { cases[i].matches(t, r) })
	}
	x.asBefore(before)
	x.foreign()
}

func (x *onXen) refusals(pv, pvh string) []refusal {
	const lab = "    host: ssh://xenlab\n"
	at := func(name, options, line, hint string) refusal {
		return refusal{name: name, code: 2, in: input{yaml: options}, line: line, hint: hint}
	}
	of := func(kernel string, r refusal) refusal {
		r.in.files = map[string]string{"k": kernel}
		return r
	}
	all := []refusal{
		at("unknown host key", "    host: ssh://stranger\n", "morgana.yaml:6: host: ssh://stranger: its host key is not in known_hosts", "ssh-keygen -lf"),
		at("changed host key", "    host: ssh://changed\n", "morgana.yaml:6: host: ssh://changed: its host key is not the one in known_hosts", "ssh-keygen -R"),
		at("unknown user", "    host: ssh://nobody\n", "morgana.yaml:6: host: ssh://nobody: nobody-here@127.0.0.1: Permission denied (publickey,keyboard-interactive)", "ssh-copy-id"),
		at("wrong user", "    host: ssh://guest\n", "morgana.yaml:6: host: user guest of ssh://guest may not manage domains", "ssh://root@xen1"),
		at("host down", "    host: ssh://down\n", "morgana.yaml:6: host: ssh://down: 127.0.0.1 port 1: Connection refused", "ssh"),
		at("no dom0", "    memory: 32\n", "morgana.yaml:4: host: this host is no Xen host: it does not run on Xen", "ssh://root@xen1"),
		at("no address", "    host: xenlab\n", `morgana.yaml:6: host: "xenlab" does not begin with ssh://`, "ssh://user@host"),
		at("misspelt option", lab+"    memroy: 64\n", "morgana.yaml:7: memroy: unknown field", `"memory"?`),
		at("too little memory", lab+"    memory: 100000\n", "morgana.yaml:7: memory: 100000 MiB is more than ssh://xenlab has: 2559 MiB", "less memory"),
		at("too little free memory", lab+"    memory: 2000\n", "morgana.yaml:7: memory: 2000 MiB is more than ssh://xenlab has free: "+strings.TrimSpace(x.dom0("xl info free_memory"))+" MiB", "destroy a domain"),
		at("missing bridge", lab+"    vif: [{}, {bridge: nobr0}]\n", "morgana.yaml:7: vif[1].bridge: ssh://xenlab has no bridge nobr0", "ip link"),
		at("missing disk", lab+"    disks: [{path: /dev/vg/none}]\n", "morgana.yaml:7: disks[0].path: ssh://xenlab has no file or block device /dev/vg/none", "make it there"),
		at("missing pv-grub", lab+"    via: disk\n    expect: staying\n    bootloader: /boot/none.gz\n", "morgana.yaml:9: bootloader: ssh://xenlab has no file or block device /boot/none.gz", "make it there"),
		at("bad extra", lab+"    extra: ['cpus = \"2-3']\n", "morgana.yaml:7: extra[0]: want \" at the string's end", "xl.cfg(5)"),
		at("extra of ours", lab+"    extra: ['kernel = \"/boot/x\"']\n", "morgana.yaml:7: extra[0]: kernel is set by Morgana", "leave it out"),
		at("hvm by kernel", lab+"    type: hvm\n", "morgana.yaml:4: via: an hvm domain boots from a disk", "via: disk"),
		of(pv, at("PV as PVH", lab+"    type: pvh\n", "morgana.yaml:7: type: the kernel is PV only: it has no PVH note (18)", "type: pv")),
		of(pvh, at("PVH as PV", lab+"    type: pv\n", "morgana.yaml:7: type: the kernel is PVH only: it has no PV notes", "type: pvh")),
		at("memory that xl refuses", lab+"    memory: 1\n", "morgana.yaml:7: memory: segment kernel too large (0xf > 0x100 - 0x100 pages): Out of memory", "more memory"),
		at("extra that xl refuses", lab+"    extra: ['cpus = \"x\"']\n", "morgana.yaml:7: extra: Invalid pcpu range: x", "xl.cfg(5)"),
		of("hello\n", at("text", lab, "morgana.yaml:2: toolchain.kernel: this is text, not a kernel", elfHint)),
		of(readAll(x.t, "/bin/true"), at("program", lab, "morgana.yaml:4: check xen target: xen cannot boot a Linux program: it is no kernel", "-t xen")),
	}
	return slices.Clip(all)
}

// foreign has somebody else's domain under the name that the next generation
// would have: it is never touched.
func (x *onXen) foreign() {
	x.t.Helper()
	folder := x.on("named", xenDev("args: stay, expect: staying"))
	x.done(x.begin(folder, "deploy"))
	out := x.dom0(`set -e
cd /var/lib/morgana/domains/named.*
name=$(basename "$PWD")
sed -e "s/$name/${name%-1}-2/" -e 's/^uuid = .*/uuid = "6f0b2a2e-0000-4000-8000-000000000001"/' domain.cfg >/root/foreign.cfg
xl create -q /root/foreign.cfg
xl domid "${name%-1}-2"
echo "${name%-1}-2"`)
	is := strings.Fields(out)
	if len(is) != 2 {
		x.t.Fatalf("the foreign domain: %q", out)
	}
	refused := x.over(x.begin(folder, "deploy", "--set", "dev.memory=40"))
	refusal{code: 2, line: "check xen target: ssh://xenlab has a domain of this name that is not Morgana's (uuid 6f0b2a2e-0000-4000-8000-000000000001)",
		hint: "left alone"}.matches(x.t, refused)
	r := x.over(x.begin(folder, "destroy"))
	if r.code == 0 || !strings.Contains(r.errOut, "not Morgana's") {
		x.t.Errorf("destroy: exit status %d\n%s%s", r.code, r.out, r.errOut)
	}
	if got := x.domains(); !slices.Equal(got, is[1:]) {
		x.t.Errorf("domains %q, want the foreign one, %q", got, is[1])
	}
	if id := strings.TrimSpace(x.dom0("xl domid " + is[1])); id != is[0] {
		x.t.Errorf("the foreign domain is %s, it was %s", id, is[0])
	}
	x.dom0("xl destroy " + is[1])
	x.done(x.begin(folder, "destroy"))
}
