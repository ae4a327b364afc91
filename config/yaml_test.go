package config

import (
	"errors"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/morgana-deploy/morgana/step"
)

// TestOptions shows what each YAML value becomes for a target.
func TestOptions(t *testing.T) {
	for in, want := range map[string]string{
		"a: text":                               `{"a":"text"}`,
		"a: '12'":                               `{"a":"12"}`,
		"a: 12":                                 `{"a":12}`,
		"a: -12":                                `{"a":-12}`,
		"a: 0":                                  `{"a":0}`,
		"a: 0x1F":                               `{"a":31}`,
		"a: 0o17":                               `{"a":15}`,
		"a: 0b11":                               `{"a":3}`,
		"a: 1_000":                              `{"a":1000}`,
		"a: 18446744073709551615":               `{"a":18446744073709551615}`,
		"a: 9007199254740993":                   `{"a":9007199254740993}`, // not a float64
		"a: 1.50":                               `{"a":1.5}`,
		"a: 1e3":                                `{"a":1000}`,
		"a: 0.5":                                `{"a":0.5}`,
		"a: !!float 2":                          `{"a":2}`,
		"a: !!str 2":                            `{"a":"2"}`,
		"a: 8080:80":                            `{"a":"8080:80"}`,
		"a: 1:30":                               `{"a":"1:30"}`, // no base 60
		"a: 2026-11-21":                         `{"a":"2026-11-21"}`,
		"a: 2026-11-21T09:00:00Z":               `{"a":"2026-11-21T09:00:00Z"}`,
		"a: 1.2.3":                              `{"a":"1.2.3"}`,
		"a: true":                               `{"a":true}`,
		"a: no":                                 `{"a":"no"}`, // YAML 1.2: only true and false
		"a: ~":                                  `{"a":null}`,
		"a:":                                    `{"a":null}`,
		"a: []":                                 `{"a":[]}`,
		"a: {}":                                 `{"a":{}}`,
		"a: [1, [b, {c: d}]]":                   `{"a":[1,["b",{"c":"d"}]]}`,
		"b: 1\nA: 2\na: 3\nB: 4":                `{"A":2,"B":4,"a":3,"b":1}`,
		"a: \"\\u2028<\\0\"":                    `{"a":"\u2028\u003c\u0000"}`,
		"\"k\\\"\": é":                          `{"k\"":"é"}`,
		"\"<<\": a":                             `{"\u003c\u003c":"a"}`, // in quotes it is a key
		"a: |\n  x\n  y\n":                      `{"a":"x\ny\n"}`,
		"a: &x {n: 1}\nb: *x":                   `{"a":{"n":1},"b":{"n":1}}`,
		"a: &x {n: 1, m: 2}\nb: {<<: *x, n: 3}": `{"a":{"m":2,"n":1},"b":{"m":2,"n":3}}`,
		"a: &x {n: 1}\nb: &y {n: 2, m: 2}\nc: {<<: [*x, *y], o: 3}": `{"a":{"n":1},"b":{"m":2,"n":2},"c":{"m":2,"n":1,"o":3}}`,
		"a: &x {n: {p: 1}}\nb: {n: {q: 2}, <<: *x}":                 `{"a":{"n":{"p":1}},"b":{"n":{"q":2}}}`,
		"a: &x b\n*x : c": `{"a":"b","b":"c"}`,
		"":                ``,
		"{}":              ``,
	} {
		v, err := readYAML([]byte(in), lineOf("x"))
		if err != nil {
			t.Errorf("%q: %v", in, err)
			continue
		}
		if got := string(v.json()); got != want {
			t.Errorf("%q:\n got %s\nwant %s", in, got, want)
		}
	}
}

func TestSet(t *testing.T) {
	alone(t)
	const file = hello + `    ports: [a, b]
    net: &net {ip: x}
  other: {kind: xen, net: *net}
`
	for set, want := range map[string]string{
		"dev.memory=128":      `{"memory":128,"net":{"ip":"x"},"ports":["a","b"]}`,
		"dev.memory='128'":    `{"memory":"128","net":{"ip":"x"},"ports":["a","b"]}`,
		"dev.memory=":         `{"memory":null,"net":{"ip":"x"},"ports":["a","b"]}`,
		"dev.args=a=b":        `{"args":"a=b","memory":64,"net":{"ip":"x"},"ports":["a","b"]}`,
		"dev.ports=[c]":       `{"memory":64,"net":{"ip":"x"},"ports":["c"]}`,
		"dev.ports[0]=c":      `{"memory":64,"net":{"ip":"x"},"ports":["c","b"]}`,
		"dev.ports[2]=c":      `{"memory":64,"net":{"ip":"x"},"ports":["a","b","c"]}`,
		"dev.net.ip=y":        `{"memory":64,"net":{"ip":"y"},"ports":["a","b"]}`,
		"dev.new[0][0].x=1":   `{"memory":64,"net":{"ip":"x"},"new":[[{"x":1}]],"ports":["a","b"]}`,
		"dev.MEMORY={a: [1]}": `{"MEMORY":{"a":[1]},"memory":64,"net":{"ip":"x"},"ports":["a","b"]}`,
	} {
		p := load(t, file)
		if err := p.Set(set); err != nil {
			t.Errorf("%s: %v", set, err)
			continue
		}
		if got := string(p.Targets[0].Options); got != want {
			t.Errorf("%s:\n got %s\nwant %s", set, got, want)
		}
		if got := string(p.Targets[1].Options); got != `{"net":{"ip":"x"}}` {
			t.Errorf("%s: changed the other target to %s", set, got)
		}
	}

	p := load(t, file)
	if err := p.Set("dev.kind=ec2"); err != nil || p.Targets[0].Kind != "ec2" {
		t.Errorf("kind: got %s, %v", p.Targets[0].Kind, err)
	}
	if err := p.Set("dev.steps.boot={activity: a.Boot, taskQueue: a}"); err != nil || p.Route(p.Targets[0]).Boot.TaskQueue != "a" {
		t.Errorf("steps: got %+v, %v", p.Targets[0].Steps, err)
	}
}

// The whole of a long value would hide the error.
func TestLongSet(t *testing.T) {
	alone(t)
	p := load(t, hello)
	if err := p.Set("dev.args=" + strings.Repeat("é", 1000)); err != nil {
		t.Fatal(err)
	}
	if at := p.Locate("dev", "args"); len(at) > 80 || !utf8.ValidString(at) || !strings.HasPrefix(at, "--set dev.args=éé") || !strings.HasSuffix(at, "é...") {
		t.Errorf("it is at %s", at)
	}
}

// A password in a URL is not shown.
func TestSecretSet(t *testing.T) {
	alone(t)
	p := load(t, hello)
	for set, want := range map[string]string{
		"dev.host=https://root:s@cret@xen1": "--set dev.host=https://...@xen1",
		"dev.host=https://xen1/a":           "--set dev.host=https://xen1/a",
	} {
		if err := p.Set(set); err != nil || p.Locate("dev", "host") != want {
			t.Errorf("%s: at %s, %v", set, p.Locate("dev", "host"), err)
		}
	}
	err := p.Set(`dev.host="https://root:secret@xen1`)
	var e *step.Error
	if !errors.As(err, &e) || strings.Contains(e.Error()+e.Hint, "secret") || !strings.Contains(e.Hint, "...@xen1") {
		t.Errorf("got %v, %+v", err, e)
	}
}

// The shell takes the quotes that a hint shows.
func TestSetHint(t *testing.T) {
	const quotes = `in quotes, as "1"`
	for place, want := range map[string]string{
		"morgana.yaml:9":     quotes,
		"--set dev.args=1":   `in quotes for YAML and for the shell, as --set 'dev.args="1"'`,
		"--set dev.args=[1]": quotes + ", within single quotes for the shell",
	} {
		if got := SetHint(place, quotes); got != want {
			t.Errorf("%s: got %s, want %s", place, got, want)
		}
	}
	if got := SetHint("--set dev.memory=x", "a whole number, as 64"); got != "a whole number, as 64" {
		t.Errorf("got %s", got)
	}
}

func TestBadSet(t *testing.T) {
	alone(t)
	const usage = "give it as in `--set dev.memory=128`"
	for set, c := range map[string]struct {
		kind       step.Kind
		want, hint string
	}{
		"dev.memory":             {step.InvalidSpec, "want <target>.<field>=<value>", usage},
		"dev=qemu":               {step.InvalidSpec, "want <target>.<field>=<value>", usage},
		".memory=1":              {step.InvalidSpec, "want <target>.<field>=<value>", usage},
		"dev..memory=1":          {step.InvalidSpec, "want <target>.<field>=<value>", usage},
		"dev[0]=1":               {step.InvalidSpec, "want <target>.<field>=<value>", usage},
		"dev.ports[x]=1":         {step.InvalidSpec, "want <target>.<field>=<value>", usage},
		"dev.ports[0]x=1":        {step.InvalidSpec, "want <target>.<field>=<value>", usage},
		"region=x":               {step.InvalidSpec, "want <target>.<field>=<value>", "name the target too, as in `--set dev.region=x`"},
		"dve.memory=1":           {step.NotFound, `no target "dve"`, `did you mean "dev"?`},
		"dev.memory=[":           {step.InvalidSpec, "not YAML: did not find expected node content", `a text goes in quotes for YAML and for the shell, as --set 'dev.memory="["'`},
		"dev.memory.max=1":       {step.InvalidSpec, "targets.dev.memory: is a number, not a mapping (morgana.yaml:9)", ""},
		"dev.memory[0]=1":        {step.InvalidSpec, "targets.dev.memory: is a number, not a list (morgana.yaml:9)", ""},
		"dev.ports[1]=1":         {step.InvalidSpec, "targets.dev.ports[1]: the list has only 0 items", ""},
		"dev.kind=1":             {step.InvalidSpec, "targets.dev.kind: want a string, not a number", ""},
		"dev.steps.bild=acme":    {step.InvalidSpec, "targets.dev.steps.bild: unknown key", `did you mean "build"?`},
		"dev.memory={1: 2}":      {step.InvalidSpec, "1: a key that is not a string", `write "1"`},
		"dev.after.boot[0]=acme": {step.InvalidSpec, "targets.dev.after.boot[0]: want a mapping, not a string", stepHint},
		"dev.after.build=[acme]": {step.InvalidSpec, "targets.dev.after.build[0]: want a mapping, not a string", stepHint},
	} {
		p := load(t, hello+"    after: {boot: [{activity: a, taskQueue: b}]}\n")
		wantError(t, p.Set(set), c.kind, "--set "+set+": "+c.want, c.hint)
		if got := string(p.Targets[0].Options); got != `{"memory":64}` {
			t.Errorf("%s: left %s", set, got)
		}
		if err := p.Set("dev.cpus=2"); err != nil {
			t.Errorf("after %s: %v", set, err)
		}
	}
}

func TestLocate(t *testing.T) {
	alone(t)
	p := load(t, hello+`    ports:
    - 8080:80
    - host: 1
      guest: 2
    base: &base
      a.b: 1
      a: {b: 2,
          c: 3}
  two:
    base:
      <<: *base
      x: 1
`)
	if err := p.Set("dev.cpus={max: 2}"); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ target, field, want string }{
		{"dev", "memory", "9"},
		{"dev", "ports", "10"},
		{"dev", "ports[0]", "11"},
		{"dev", "ports[1].guest", "13"},
		{"dev", "ports[1].other", "12"},
		{"dev", "ports[7]", "10"},
		{"dev", "ports[", "10"},
		{"dev", "ports[-1]", "10"},
		{"dev", "base.a.b", "15"}, // the key with a dot
		{"dev", "base.a.c", "17"},
		{"dev", "nothing", "7"},
		{"dev", "", "7"},
		{"two", "base.a.c", "17"}, // where the merged key stands
		{"two", "base.x", "21"},
		{"two", "base.y", "19"},
		{"dev", "kernel", "5"}, // the toolchain's
		{"dev", "build[0][1]", "4"},
		{"", "memory", "2"},
		{"", "kernel", "5"},
		{"", "build[0][0]", "4"},
		{"", "nothing", "2"},
		{"dev", "toolchain.kernel", "5"}, // spelled out
		{"dev", "toolchain.other", "2"},
		{"", "targets.dev.ports[1].host", "12"},
		{"", "targets.dev.nothing", "7"},
	} {
		if got, want := p.Locate(c.target, c.field), "morgana.yaml:"+c.want; got != want {
			t.Errorf("%s, %q: got %s, want %s", c.target, c.field, got, want)
		}
	}
	if got := p.Locate("dev", "cpus.max"); got != "--set dev.cpus={max: 2}" {
		t.Errorf("a field that was set: got %s", got)
	}
	if err := p.Set("dev.memory=1"); err != nil {
		t.Fatal(err)
	}
	if got := p.Locate("dev", "memory"); got != "--set dev.memory=1" {
		t.Errorf("a field that was replaced: got %s", got)
	}
	if got := p.Locate("three", "memory"); got != "morgana.yaml" {
		t.Errorf("no such target: got %s", got)
	}
}

// TestLongFault: the search for the line of a fault is bounded.
func TestLongFault(t *testing.T) {
	for fault, want := range map[string]string{
		"a: \"" + strings.Repeat("b\n", 30_000): "x:30001: not YAML: found unexpected end of stream",
		strings.Repeat("- a\n", 15_000) + "}":   "x:15001: not YAML: did not find expected '-' indicator",
	} {
		_, err := readYAML([]byte(fault), lineOf("x"))
		wantError(t, err, step.InvalidSpec, want, "")
	}
}
