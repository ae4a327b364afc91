package config

import (
	"fmt"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Template returns a commented, valid morgana.yaml for morgana init. app is a valid
// name, kind the kind of the target. With toolchain [Prebuilt], kernel is the path of a
// kernel file, relative to the morgana.yaml. With any other, the file has toolchain
// command and kernel is the file that `make` builds.
func Template(app, toolchain, kernel, kind string) []byte {
	made := `toolchain:
  kind: command
  # Commands are lists of words that no shell reads.
  # configure: [[./configure]]
  build: [[make]]
  # The file that the build makes, relative to source.
  kernel: %s
`
	source := `source: .   # the folder to build, relative to this file
`
	if toolchain == Prebuilt {
		source, made = "", `toolchain:
  kind: prebuilt
  # The kernel's file, relative to this one.
  kernel: %s
`
	}
	target, known := targets[kind]
	if !known {
		target = "    kind: " + kind + "\n"
	}
	text := `# What to deploy and where. "morgana deploy" does it.
app: %s
` + source + `
` + made + `
# Where to run it: names of your choice, each with the kind of place it is.
targets:
  dev:
` + target + `    # expect: "listening"   # the machine is up when its console says so (a regular expression)
`
	return fmt.Appendf(nil, text, scalarText(app), scalarText(kernel))
}

// targets are the lines of a target, by kind.
var targets = map[string]string{
	"qemu": `    kind: qemu
    memory: 64   # MiB
    # ports: ["8080:80"]    # 127.0.0.1:8080 on this host is port 80 of the machine
`,
	"xen": `    kind: xen
    # host: ssh://root@xen1   # the Xen host's dom0; without it, this host is one
    memory: 64   # MiB
    # vif: [{bridge: xenbr0}]   # a network device on that bridge of the Xen host
`,
	"ec2": `    kind: ec2
    region: eu-west-1
    # profile: prod             # of ~/.aws/config on the worker's host
    # instance_type: t3.micro   # t1.micro for a Xen PV kernel
`,
	"local": `    kind: local
    # args: ["--ipv4=10.0.0.2/24"]
    # networks: [{name: service, tap: auto, address: 10.0.0.1/24}]   # as the kernel's manifest names it
`,
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
