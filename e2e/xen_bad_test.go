package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// undone fails, cancels and destroys first deploys that have made something on the host.
// The host must then be as before.
func (x *onXen) undone() {
	c, before := x.client(), x.there()
	const never = "args: stay, expect: never said, vif: [{}]"
	sent := x.large("sent", never)
	made, booted := x.on("made", xenDev(never)), x.on("booted", xenDev(never))
	deploys := []*running{x.begin(sent, "deploy")}
	_, goOn := x.midway()
	deploys = append(deploys, x.begin(booted, "deploy"))
	silent := x.begin(x.on("silent", xenDev(never)), "deploy", "--set", "dev.timeout=20s")
	x.await(`grep -qs staying /var/lib/morgana/domains/booted.*/console.log`)
	letGo := x.hold("create.made")
	deploys = append(deploys, x.begin(made, "deploy"))
	x.isHeld("create.made")
	for _, app := range []string{"sent", "booted"} {
		if err := c.CancelWorkflow(x.t.Context(), rollout(app, 1), ""); err != nil {
			x.t.Fatal(err)
		}
	}
	destroy := x.begin(made, "destroy")
	goOn()
	letGo()
	for _, d := range deploys {
		if r := x.over(d); r.code != 1 || !strings.Contains(r.errOut, "cancelled") || strings.Contains(r.errOut, "left:") {
			x.t.Errorf("%q: exit status %d\n%s%s", d.cmd.Dir, r.code, r.out, r.errOut)
		}
	}
	x.done(destroy)
	if r := x.over(silent); r.code != 1 || !strings.Contains(r.errOut, `its console did not match "never said" within 20s`) ||
		!strings.Contains(r.errOut, "command line: [stay]") || strings.Contains(r.errOut, "left:") {
		x.t.Errorf("exit status %d\n%s%s", r.code, r.out, r.errOut)
	}
	x.asBefore(before)
}

// onHosts are further hosts of the ssh configuration: the lab under other names.
const onHosts = `
Host stranger guest
	HostName 127.0.0.1
	Port PORT
	IdentityFile KEY
Host stranger
	User root
	UserKnownHostsFile /dev/null
Host guest
	User guest
	UserKnownHostsFile LAB/known_hosts
Host down
	HostName 127.0.0.1
	Port 1
	User root
`

// hosts adds onHosts to the ssh configuration, and a user guest to the lab.
func (x *onXen) hosts() {
	x.t.Helper()
	config := x.read(x.host.Config)
	word := func(key string) string {
		return strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(lineWith(config, key+" ")), key))
	}
	more := strings.NewReplacer("PORT", word("Port"), "KEY", word("IdentityFile"), "LAB", x.host.Dir).Replace(onHosts)
	x.write(x.host.Config, config+more)
	x.t.Cleanup(func() { x.write(x.host.Config, config) })
	x.dom0(`grep -q ^guest: /etc/passwd || echo guest:x:1000:100::/home/guest:/bin/bash >>/etc/passwd
install -d -o 1000 /home/guest /home/guest/.ssh
install -o 1000 -m 600 /root/.ssh/authorized_keys /home/guest/.ssh/`)
}

// refuses deploys with errors that only a host can find. Each is reported in one
// line, and nothing is made.
func (x *onXen) refuses() {
	x.hosts()
	const lab = "    host: ssh://xenlab\n"
	cases := []refusal{
		{name: "unknown host key", in: input{yaml: "    host: ssh://stranger\n"}, line: "6: host: ssh://stranger: its host key is not in known_hosts", hint: "ssh-keygen -lf"},
		{name: "wrong user", in: input{yaml: "    host: ssh://guest\n"}, line: "6: host: user guest of ssh://guest may not manage domains", hint: "ssh://root@xen1"},
		{name: "host down", in: input{yaml: "    host: ssh://down\n"}, line: "6: host: ssh://down: 127.0.0.1 port 1: Connection refused", hint: "ssh"},
		{name: "bridge", in: input{yaml: lab + "    vif: [{}, {bridge: nobr0}]\n"}, line: "7: vif[1].bridge: ssh://xenlab has no bridge nobr0", hint: "ip link"},
		{name: "disk", in: input{yaml: lab + "    disks: [{path: /dev/vg/none}]\n"}, line: "7: disks[0].path: ssh://xenlab has no file or block device /dev/vg/none", hint: "make it there"},
		{name: "memory", in: input{yaml: lab + "    memory: 100000\n"}, line: "7: memory: 100000 MiB is more than ssh://xenlab has: 2559 MiB", hint: "less memory"},
		{name: "extra that xl refuses", in: input{yaml: lab + "    extra: ['cpus = \"x\"']\n"}, line: "7: extra: Invalid pcpu range: x", hint: "xl.cfg(5)"},
	}
	before := x.there()
	var deploys []*running
	for i, c := range cases {
		c.in.yaml = fmt.Sprintf("app: bad%d\ntoolchain: {kind: prebuilt, kernel: k}\ntargets:\n  dev:\n    kind: xen\n", i) + c.in.yaml
		c.in.files = map[string]string{"k": string(x.kernel)}
		deploys = append(deploys, x.begin(x.beside(c.in), "deploy"))
	}
	for i, d := range deploys {
		r := x.over(d)
		x.t.Run(cases[i].name, func(t *testing.T) {
			c := cases[i]
			c.code = 2
			c.at("morgana.yaml:").matches(t, r)
		})
	}
	x.asBefore(before)
	x.foreign()
}

// foreign creates a domain that is not Morgana's, with the name of the next
// generation. The domain is never touched.
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
