package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"

	"github.com/morgana-deploy/morgana/config"
	"github.com/morgana-deploy/morgana/config/mirari"
	"github.com/morgana-deploy/morgana/docs"
)

const root = "../.."

func TestCommittedFilesAreFresh(t *testing.T) {
	made, err := files(root)
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range made {
		if read(t, filepath.Join(root, path)) != string(want) {
			t.Errorf("%s is not what the options and their comments say: go run ./docs/schema", path)
		}
		if _, row, found := strings.Cut(string(want), " |  |\n"); found {
			t.Errorf("%s: an option without a meaning, above %.60s", path, row)
		}
	}
}

// TestEverythingIsDescribed fails for an option without a comment.
func TestEverythingIsDescribed(t *testing.T) {
	var whole struct {
		Defs map[string]struct {
			Properties map[string]struct {
				Description string
				Ref         string `json:"$ref"`
				Const       any
			}
		} `json:"$defs"`
	}
	if err := json.Unmarshal(docs.Schema, &whole); err != nil {
		t.Fatal(err)
	}
	seen := 0
	for def, d := range whole.Defs {
		if !strings.Contains(def, ".") {
			continue
		}
		for option, p := range d.Properties {
			seen++
			if p.Description == "" && p.Ref == "" && option != "kind" {
				t.Errorf("%s.%s has no description", def, option)
			}
		}
	}
	if seen < 30 {
		t.Errorf("only %d options", seen)
	}
}

// good are whole files; those of the README, the pages of docs and the examples are read as well.
var good = map[string]string{
	"kind by name":      head + "targets: {qemu: {memory: 64}, local: {args: [a]}}",
	"null target":       head + "targets:\n  qemu:\n  dev: {kind: qemu}\n",
	"name is another's": head + "targets: {qemu: {kind: local, args: [a]}}",
	"third party":       head + "targets: {moon: {rocket: 5}, far: {kind: mars, x: {y: [1]}}}",
	"their toolchain":   "app: a\ntoolchain: {kind: bazel, rule: //x}\ntargets: {qemu: }",
	"mirage":            "app: a\ntoolchain: {kind: mirage, keys: {net: direct, port: 80, name: x, no-dhcp: null}}\ntargets: {qemu: }",
	"prebuilt":          "app: a\ntoolchain: {kind: prebuilt, kernel: k}\ntargets: {qemu: }",
	"steps": head + "targets: {qemu: {steps: {build: {activity: a, taskQueue: b, onHost: true}}, after: {boot: []}}}\n" +
		"steps: {check: {activity: a, taskQueue: b}}",
	"beside the stages": head + "targets: {qemu: {steps: {console: {activity: a, taskQueue: b, onHost: true}}}}\n" +
		"steps: {destroy: {activity: a, taskQueue: b}, clean: {activity: c, taskQueue: b}}",
	"policy":             head + "targets: {qemu: {restart: always, keep: 3, health: {http: /, interval: 1s}}, moon: {restart: never, health: }}",
	"template":           string(config.Template{App: "a", Toolchain: "command", Kernel: "k", Kind: "qemu"}.YAML()),
	"prebuilt template":  string(config.Template{App: "a", Toolchain: config.Prebuilt, Kernel: "k", Kind: "qemu", Networks: []string{"service", "0"}, Disks: []string{"store"}}.YAML()),
	"Xen template":       string(config.Template{App: "a", Toolchain: config.Prebuilt, Kernel: "k", Kind: "xen", Networks: []string{"0"}}.YAML()),
	"XenServer template": string(config.Template{App: "a", Toolchain: config.Prebuilt, Kernel: "k", Kind: "xenserver"}.YAML()),
	"EC2 template":       string(config.Template{App: "a", Toolchain: config.Prebuilt, Kernel: "k", Kind: "ec2"}.YAML()),
	"mirage template":    string(config.Template{App: "a", Toolchain: "mirage", Kind: "local", Networks: []string{"service", "0"}, Disks: []string{"store"}}.YAML()),
}

const head = "app: a\ntoolchain: {kind: command, build: [[make]], kernel: k}\n"

var bad = map[string]string{
	"empty":                    "",
	"a list":                   "- app",
	"no app":                   "toolchain: {kind: prebuilt, kernel: k}\ntargets: {qemu: }",
	"app's name":               "app: Hello\ntoolchain: {kind: prebuilt, kernel: k}\ntargets: {qemu: }",
	"unknown key":              head + "targts: {}\ntargets: {qemu: }",
	"no targets":               head + "targets: {}",
	"null targets":             head + "targets:",
	"target's name":            head + "targets: {Dev: {kind: qemu}}",
	"target a word":            head + "targets: {dev: qemu}",
	"no toolchain":             "app: a\ntargets: {qemu: }",
	"toolchain, no kind":       "app: a\ntoolchain: {build: [[make]]}\ntargets: {qemu: }",
	"kind a number":            head + "targets: {dev: {kind: 1}}",
	"kind no name":             head + "targets: {dev: {kind: a@b}}",
	"command without build":    "app: a\ntoolchain: {kind: command, kernel: k}\ntargets: {qemu: }",
	"build a line":             "app: a\ntoolchain: {kind: command, build: make, kernel: k}\ntargets: {qemu: }",
	"mirage's typo":            "app: a\ntoolchain: {kind: mirage, key: {}}\ntargets: {qemu: }",
	"mirage's key a list":      "app: a\ntoolchain: {kind: mirage, keys: {a: [b]}}\ntargets: {qemu: }",
	"prebuilt without kernel":  "app: a\ntoolchain: {kind: prebuilt}\ntargets: {qemu: }",
	"prebuilt with more":       "app: a\ntoolchain: {kind: prebuilt, kernel: k, build: []}\ntargets: {qemu: }",
	"qemu's typo":              head + "targets: {dev: {kind: qemu, memroy: 1}}",
	"qemu's typo, by name":     head + "targets: {qemu: {memroy: 1}}",
	"other's option, by name":  head + "targets: {qemu: {kind: local, ports: []}}",
	"memory in words":          head + "targets: {qemu: {memory: lots}}",
	"ports, numbers":           head + "targets: {qemu: {ports: [80]}}",
	"restart":                  head + "targets: {qemu: {restart: sometimes}}",
	"restart, another's kind":  head + "targets: {moon: {restart: true}}",
	"health of nothing":        head + "targets: {qemu: {health: {interval: 1s}}}",
	"health's typo":            head + "targets: {qemu: {health: {http: /, failure: 1}}}",
	"unknown stage":            head + "targets: {qemu: {steps: {bild: {activity: a, taskQueue: b}}}}",
	"after no stage":           head + "targets: {qemu: {after: {destroy: []}}}",
	"step without queue":       head + "targets: {moon: {steps: {build: {activity: a}}}}",
	"after no list":            head + "targets: {qemu: }\nafter: {build: {activity: a, taskQueue: b}}",
	"onHost in words, far off": head + "targets: {moon: {after: {build: [{activity: a, taskQueue: b, onHost: 'yes'}]}}}",
}

func TestGoodAndBad(t *testing.T) {
	schema := compiled(t)
	for name, content := range bad {
		if err := schema.Validate(values(t, content)); err == nil {
			t.Errorf("%s is taken:\n%s", name, content)
		}
	}
	files, err := filepath.Glob(root + "/examples/*/morgana.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("examples: %v, %v", files, err)
	}
	for _, f := range files {
		good[f] = read(t, f)
	}
	for _, page := range []string{"README.md", "docs/*.md", "docs/*/*.md"} {
		files, err := filepath.Glob(filepath.Join(root, page))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			for i, content := range blocks(read(t, f)) {
				good[fmt.Sprintf("%s, block %d", f, i+1)] = content
			}
		}
	}
	conf, err := mirari.Parse("a.conf", []byte("main-http: A.b\nhttp-port: 80\nxl-memory: 32\n"))
	if err != nil {
		t.Fatal(err)
	}
	good["imported"] = string(conf.Project("a"))
	for name, content := range good {
		if err := schema.Validate(values(t, content)); err != nil {
			t.Errorf("%s is refused: %v", name, err)
		}
		// What the schema takes, the programs must take.
		path := filepath.Join(t.TempDir(), config.Filename)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := config.Load(path, nil); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func compiled(t *testing.T) *jsonschema.Schema {
	t.Helper()
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(docs.Schema))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft4) // so that only what the file says makes it 2020-12
	if err := c.AddResource("morgana.schema.json", document); err != nil {
		t.Fatal(err)
	}
	schema, err := c.Compile("morgana.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	if schema.DraftVersion != 2020 {
		t.Errorf("draft %d", schema.DraftVersion)
	}
	return schema
}

// values reads YAML as the validator wants JSON.
func values(t *testing.T, content string) any {
	t.Helper()
	var v any
	if err := yaml.Unmarshal([]byte(content), &v); err != nil {
		t.Fatalf("%v\n%s", err, content)
	}
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	v, err = jsonschema.UnmarshalJSON(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// blocks are the whole files among the YAML of a Markdown text.
func blocks(markdown string) (whole []string) {
	for _, part := range strings.Split(markdown, "```yaml\n")[1:] {
		content, _, _ := strings.Cut(part, "```")
		if strings.Contains(content, "app:") {
			whole = append(whole, content)
		}
	}
	return whole
}

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
