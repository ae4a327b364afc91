package mirari

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
)

// The addresses of a guest on QEMU's user network.
const (
	userAddress = "10.0.2.15/24"
	userGateway = "10.0.2.2"
)

// Project writes the morgana.yaml of the unikernel, under the name app. It
// has a target xen if there are xl- lines.
func (c *Conf) Project(app string) []byte {
	w := new(bytes.Buffer)
	line := func(format string, args ...any) { fmt.Fprintf(w, format+"\n", args...) }
	line("# Made by morgana import from %s, a configuration of mirari.", c.shown)
	line("app: %s", scalar(app))
	line("source: .")
	line("toolchain:")
	line("  kind: mirage   # MirageOS 4: config.ml says what the unikernel is made of")
	line("")
	line("targets:")
	line("  # A -t virtio kernel in QEMU, on this host.")
	line("  qemu:")
	c.sizes(line)
	c.qemuNetwork(line)
	line("  # A -t unix program, a process of this host.")
	line("  local:")
	line("    kind: local")
	if c.networked() {
		line("    # It has this host's sockets. mirari run --unix gave it a tap; that is the key")
		line("    # `net: ocaml` under toolchain.keys, and here:")
		if s := c.Static; s != nil {
			line("    # networks: [{name: service, tap: tap0, address: %s/%d}]", s.Gateway, s.Address.Bits())
			line("    # args: [\"--ipv4=%s\", \"--ipv4-gateway=%s\"]", s.Address, s.Gateway)
		} else {
			line("    # networks: [{name: service, tap: tap0}]")
		}
	}
	if c.xen != nil {
		c.xen.target(c, line)
	}
	if len(c.Notes) > 0 {
		line("")
		line("# What has no counterpart, or one that differs:")
		for _, n := range c.Notes {
			line("#   %s", n)
		}
	}
	return w.Bytes()
}

type writeLine func(format string, args ...any)

// sizes writes memory and processors as the .xl file had them.
func (c *Conf) sizes(line writeLine) {
	d := c.domain()
	if d.memory > 0 {
		line("    memory: %d   # MiB, from xl-memory", d.memory)
	} else {
		line("    memory: 64   # MiB")
	}
	if d.vcpus > 0 {
		line("    cpus: %d", d.vcpus)
	}
}

// domain is what the xl- lines say, which may be nothing.
func (c *Conf) domain() domain {
	if c.xen == nil {
		return domain{}
	}
	return *c.xen
}

func (c *Conf) qemuNetwork(line writeLine) {
	var args string
	if c.networked() {
		if c.HTTP != nil {
			host := int(c.HTTP.Port)
			if host < 1024 { // not for everybody to bind
				host += 8000
			}
			line("    ports: [\"%d:%d\"]   # 127.0.0.1:%d here is port %d of the unikernel", host, c.HTTP.Port, host, c.HTTP.Port)
			line("    expectPort: %d", c.HTTP.Port)
		} else {
			line("    network: user")
		}
		if !c.DHCP {
			if c.Static != nil {
				line("    # %s, gateway %s in %s; QEMU's user network has these:", c.Static.Address, c.Static.Gateway, c.shown)
			}
			args = bootArgs(userAddress, userGateway)
		}
	}
	if args = strings.TrimSpace(args + " " + c.domain().args); args != "" {
		line("    args: %s", scalar(args))
	}
}

// bootArgs sets an address the way MirageOS does since 4.5: not when the kernel
// is configured but when it boots.
func bootArgs(address, gateway string) string {
	return fmt.Sprintf("--ipv4=%s --ipv4-gateway=%s", address, gateway)
}

// target writes the target xen that the xl- lines describe.
func (d *domain) target(c *Conf, line writeLine) {
	line("  # A -t xen kernel, the domain that the xl- lines describe.")
	line("  xen:")
	line("    kind: xen")
	line("    # host: ssh://root@xen1   # the Xen host, reached by ssh; without it the worker's own")
	if d.memory > 0 {
		line("    memory: %d   # MiB", d.memory)
	}
	if d.vcpus > 0 {
		line("    vcpus: %d", d.vcpus)
	}
	args := d.args
	if s := c.Static; s != nil {
		args = strings.TrimSpace(bootArgs(s.Address.String(), s.Gateway.String()) + " " + args)
	}
	if args != "" {
		line("    args: %s", scalar(args))
	}
	switch {
	case len(d.vifs) > 0:
		line("    vif:")
		for _, v := range d.vifs {
			line("      - %s", v)
		}
	case c.networked():
		line("    vif: [{bridge: xenbr0}]   # no xl-vif; this is xl's own default")
	}
	if len(d.disks) > 0 {
		line("    disks:")
		for _, v := range d.disks {
			line("      - %s", v)
		}
	}
	if d.onCrash != "" {
		line("    on_crash: %s", d.onCrash)
	}
	if len(d.extra) > 0 {
		line("    extra:   # lines of xl.cfg(5)")
		for _, e := range d.extra {
			line("      - %s", scalar(e))
		}
	}
}

// flow writes keys and texts, those that are not empty, as a mapping of YAML on
// one line.
func flow(pairs ...string) string {
	var all []string
	for p := range slices.Chunk(pairs, 2) {
		if p[1] != "" {
			all = append(all, p[0]+": "+scalar(p[1]))
		}
	}
	return "{" + strings.Join(all, ", ") + "}"
}

// scalar writes text as a string of YAML on one line. Of what does not print it
// has only what a string of xl.cfg(5) can escape.
func scalar(text string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\t", `\t`, "\n", `\n`,
		"\a", `\a`, "\b", `\b`, "\f", `\f`, "\r", `\r`, "\v", `\v`).Replace(text) + `"`
}
