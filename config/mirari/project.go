package mirari

import (
	"bytes"
	"cmp"
	"fmt"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// The addresses of a guest on QEMU's user network.
const (
	userAddress = "10.0.2.15/24"
	userGateway = "10.0.2.2"
)

// Project writes the morgana.yaml of the unikernel, under the name app. The
// target xen is there as a comment: its lines less "  # " are the target.
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
	c.xen(line)
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
	if memory, ok := c.ofXL("memory"); ok {
		line("    memory: %s   # MiB, from xl-memory", number(memory))
	} else {
		line("    memory: 64   # MiB")
	}
	if cpus, ok := c.ofXL("vcpus"); ok {
		line("    cpus: %s", number(cpus))
	}
}

func (c *Conf) qemuNetwork(line writeLine) {
	var args string
	extra, _ := c.ofXL("extra")
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
	if args = strings.TrimSpace(args + " " + extra); args != "" {
		line("    args: %s", scalar(args))
	}
}

// bootArgs sets an address the way MirageOS does since 4.5: not when the kernel
// is configured but when it boots.
func bootArgs(address, gateway string) string {
	return fmt.Sprintf("--ipv4=%s --ipv4-gateway=%s", address, gateway)
}

// xen writes the xl- lines as the target that they were for.
func (c *Conf) xen(line writeLine) {
	if len(c.XL) == 0 {
		return
	}
	line("  # The xl- lines, for the kind xen, which is not built yet. Memory is in MiB,")
	line("  # the rest is as in xl.cfg(5).")
	line("  # xen:")
	if c.networked() && c.Static != nil {
		extra, _ := c.ofXL("extra")
		line("  #   args: %s", scalar(strings.TrimSpace(bootArgs(c.Static.Address.String(), c.Static.Gateway.String())+" "+extra)))
	} else if extra, ok := c.ofXL("extra"); ok {
		line("  #   args: %s", scalar(extra))
	}
	for _, l := range c.XL {
		switch l.Key {
		case "extra":
		case "vcpus":
			line("  #   cpus: %s", number(l.Value))
		case "memory":
			line("  #   memory: %s", number(l.Value))
		default:
			line("  #   %s: %s", l.Key, pythonish(l.Value))
		}
	}
}

func (c *Conf) ofXL(key string) (string, bool) {
	for _, l := range c.XL {
		if l.Key == key {
			return l.Value, true
		}
	}
	return "", false
}

// number writes a whole number that Parse has checked without leading zeros.
func number(digits string) string { return cmp.Or(strings.TrimLeft(digits, "0"), "0") }

// pythonish writes a value of xl.cfg(5), a number, a word or a list of quoted
// strings, as YAML.
func pythonish(value string) string {
	if _, err := strconv.ParseUint(value, 10, 31); err == nil {
		return number(value)
	}
	var list []string
	if strings.HasPrefix(value, "[") && yaml.Unmarshal([]byte(value), &list) == nil {
		quoted := make([]string, len(list))
		for i, item := range list {
			quoted[i] = scalar(item)
		}
		return "[" + strings.Join(quoted, ", ") + "]"
	}
	return scalar(strings.Trim(value, `'"`))
}

// scalar writes text, which prints, as a string of YAML on one line.
func scalar(text string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\t", `\t`, "\n", `\n`).Replace(text) + `"`
}
