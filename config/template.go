package config

import (
	"fmt"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Template describes a morgana.yaml for morgana init.
type Template struct {
	App       string // a valid name
	Toolchain string // prebuilt, mirage, or command for any other
	Kernel    string // relative to the morgana.yaml: the kernel file, or the file that make builds
	Kind      string // of the target
	Solo5     bool   // the kernel is a Solo5 kernel: OCaml needs more memory than the others
	// Networks and Disks are the names of the devices that the kernel wants.
	Networks, Disks []string
}

// YAML returns a commented, valid morgana.yaml.
func (t Template) YAML() []byte {
	made := map[string]string{
		Prebuilt: `toolchain:
  kind: prebuilt
  # The kernel's file, relative to this one.
  kernel: ` + scalarText(t.Kernel) + "\n",
		"mirage": `toolchain:
  kind: mirage
  # target: spt     # of mirage configure -t; without it, as the target's kind needs
  # switch: 5.2.1   # the opam switch; without it, the current one
`,
	}[t.Toolchain]
	source := ""
	if t.Toolchain != Prebuilt {
		source = "source: .   # the folder to build, relative to this file\n"
	}
	if made == "" {
		made = `toolchain:
  kind: command
  # Commands are lists of words that no shell reads.
  # configure: [[./configure]]
  build: [[make]]
  # The file that the build makes, relative to source.
  kernel: ` + scalarText(t.Kernel) + "\n"
	}
	return []byte(`# What to deploy and where. "morgana deploy" does it.
app: ` + scalarText(t.App) + `
` + source + `
` + made + `
# Where to run it: names of your choice, each with the kind of place it is.
targets:
  dev:
` + t.target() + `    # expect: "listening"   # the machine is up when its console says so (a regular expression)
`)
}

// target returns the lines of the target.
func (t Template) target() string {
	memory := "    memory: 64   # MiB\n"
	if t.Solo5 {
		memory = "    memory: 256   # MiB\n"
	}
	switch t.Kind {
	case "qemu":
		return "    kind: qemu\n" + memory +
			devices("networks", t.Networks, "kind: user", "") +
			devices("disks", t.Disks, "size: 64MiB", "") +
			`    # ports: ["8080:80"]    # 127.0.0.1:8080 on this host is port 80 of the machine
` + t.ifNetwork(`    # args: "--ipv4=10.0.2.15/24 --ipv4-gateway=10.0.2.2"   # of a MirageOS stack without DHCP
`)
	case "xen":
		return `    kind: xen
    # host: ssh://root@xen1   # the Xen host's dom0; without it, this host is one
` + memory + devices("vif", t.Networks, "bridge: xenbr0", "    # vif: [{bridge: xenbr0}]   # a network device on that bridge of the Xen host\n") +
			devices("# disks", t.Disks, "path: /dev/vg/data#", "")
	case "ec2":
		return `    kind: ec2
    region: eu-west-1
    # profile: prod             # of ~/.aws/config on the worker's host
    # instance_type: t3.micro   # t1.micro for a Xen PV kernel
`
	case "xenserver":
		return `    kind: xenserver
    host: https://xen1.example.org   # the pool's master; user and password are in ~/.xe of the worker
    # fingerprint: "3F:A2:..."       # of its certificate: openssl x509 -noout -fingerprint -sha256
    # network: Pool-wide network associated with eth0
`
	case "local":
		return "    kind: local\n" +
			devices("networks", t.Networks, "address: 10.0.#.1/24", "    # networks: [{name: service, tap: auto, address: 10.0.0.1/24}]   # as the kernel's manifest names it\n") +
			devices("blocks", t.Disks, "size: 64", "") +
			`    # args: ["--ipv4=10.0.0.2/24"]
`
	}
	return "    kind: " + t.Kind + "\n"
}

// ifNetwork returns line if the kernel has a network.
func (t Template) ifNetwork(line string) string {
	if len(t.Networks) == 0 {
		return ""
	}
	return line
}

// devices returns the line of an option that lists devices, each with its settings, in
// which # stands for the device's number. Without devices it returns other.
func devices(option string, names []string, settings, other string) string {
	if len(names) == 0 {
		return other
	}
	all := make([]string, 0, len(names))
	for i, name := range names {
		all = append(all, "{name: "+scalarText(name)+", "+strings.ReplaceAll(settings, "#", strconv.Itoa(i))+"}")
	}
	return "    " + option + ": [" + strings.Join(all, ", ") + "]\n"
}

// scalarText returns s as a YAML string on one line.
func scalarText(s string) string {
	node := yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: s}
	if strings.ContainsAny(s, "\n\r\u0085\u2028\u2029") {
		node.Style = yaml.DoubleQuotedStyle
	}
	out, err := yaml.Marshal(&node)
	if err != nil {
		return fmt.Sprintf("%q", s)
	}
	return strings.TrimSpace(string(out))
}
