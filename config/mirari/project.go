package mirari

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// The addresses of a guest on QEMU's user network.
const (
	userAddress = "10.0.2.15/24"
	userGateway = "10.0.2.2"
)

// mostNotes keeps the file within the size that package config reads.
const mostNotes = 100

type writeLine func(format string, args ...any)

// Project writes the morgana.yaml of the unikernel, under the name app. It
// has a target xen if there are xl- lines.
func (c *Conf) Project(app string) []byte {
	w := new(bytes.Buffer)
	line := func(format string, args ...any) { fmt.Fprintf(w, format+"\n", args...) }
	line("# Made by morgana import from %s, a configuration of mirari.", c.shown)
	line("app: %s", strconv.Quote(app))
	line("source: .")
	line("toolchain:")
	line("  kind: mirage   # MirageOS 4: config.ml says what the unikernel is made of")
	line("")
	line("targets:")
	c.qemu(line)
	c.local(line)
	if c.xen != nil {
		c.domain(line)
	}
	if len(c.Notes) > 0 {
		line("")
		line("# Lines without a counterpart, or with one that differs:")
		for _, n := range c.Notes[:min(len(c.Notes), mostNotes)] {
			line("#   %s", n)
		}
	}
	return w.Bytes()
}

func (c *Conf) qemu(line writeLine) {
	line("  # A -t virtio kernel in QEMU, on this host.")
	line("  qemu:")
	args, memory := "", uint64(64)
	if d := c.xen; d != nil {
		args = d.args
		if d.memory > 0 {
			memory = d.memory
		}
	}
	line("    memory: %d   # MiB", memory)
	switch {
	case c.httpPort != 0:
		host := int(c.httpPort)
		if host < 1024 { // needs root
			host += 8000
		}
		line("    ports: [\"%d:%d\"]   # 127.0.0.1:%d here is port %d of the unikernel", host, c.httpPort, host, c.httpPort)
		line("    expectPort: %d", c.httpPort)
	case c.networked():
		line("    network: user")
	}
	if c.networked() && !c.dhcp {
		if c.static != nil {
			line("    # %s, gateway %s in %s; QEMU's user network has these:", c.static.address, c.static.gateway, c.shown)
		}
		args = bootArgs(userAddress, userGateway, args)
	}
	option(line, "args", args)
}

func (c *Conf) local(line writeLine) {
	line("  # A -t unix program, a process of this host.")
	line("  local:")
	line("    kind: local")
	if !c.networked() {
		return
	}
	line("    # It has this host's sockets. mirari run --unix gave it a tap; that is the key")
	line("    # `net: ocaml` under toolchain.keys, and here:")
	if s := c.static; s != nil {
		line("    # networks: [{name: service, tap: tap0, address: %s/%d}]", s.gateway, s.address.Bits())
		line("    # args: [\"--ipv4=%s\", \"--ipv4-gateway=%s\"]", s.address, s.gateway)
	} else {
		line("    # networks: [{name: service, tap: tap0}]")
	}
}

// domain writes the target xen that the xl- lines describe.
func (c *Conf) domain(line writeLine) {
	d := c.xen
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
	if s := c.static; s != nil {
		args = bootArgs(s.address.String(), s.gateway.String(), args)
	}
	option(line, "args", args)
	option(line, "on_crash", d.onCrash)
	vifs := d.vifs
	if len(vifs) == 0 && c.networked() { // the kernel's xl.in asks for one
		vifs = []string{"{bridge: xenbr0}   # xl's own default"}
	}
	list(line, "vif", vifs)
	list(line, "disks", d.disks)
	list(line, "extra", d.extra)
}

// bootArgs returns arguments that set the address at boot, as MirageOS does since 4.5;
// older versions set it when the kernel was configured.
func bootArgs(address, gateway, more string) string {
	return strings.TrimSpace(fmt.Sprintf("--ipv4=%s --ipv4-gateway=%s %s", address, gateway, more))
}

// option writes an option that is not empty.
func option(line writeLine, key, text string) {
	if text != "" {
		line("    %s: %s", key, strconv.Quote(text))
	}
}

// list writes a list of elements that are YAML already.
func list(line writeLine, key string, elements []string) {
	if len(elements) > 0 {
		line("    %s:", key)
	}
	for _, e := range elements {
		line("      - %s", e)
	}
}

// flow returns pairs of key and text as a YAML mapping on one line, without empty texts.
// Parse takes only printable text, so Go's quotes are valid YAML.
func flow(pairs ...string) string {
	var all []string
	for p := range slices.Chunk(pairs, 2) {
		if p[1] != "" {
			all = append(all, p[0]+": "+strconv.Quote(p[1]))
		}
	}
	return "{" + strings.Join(all, ", ") + "}"
}
