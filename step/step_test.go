package step_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/morgana-deploy/morgana/step"
)

func TestCheckName(t *testing.T) {
	for name, good := range map[string]bool{
		"a": true, "hello": true, "h2-o": true, strings.Repeat("a", 40): true,
		"": false, "A": false, "1a": false, "-a": false, "a_b": false, "a.b": false, "a/b": false, "ä": false, "a\n": false,
		strings.Repeat("a", 41): false,
	} {
		err := step.CheckName("app", name)
		var e *step.Error
		switch {
		case good && err != nil:
			t.Errorf("%q: %v", name, err)
		case !good && (!errors.As(err, &e) || e.Kind != step.InvalidSpec || e.Field != "app" || e.Hint == ""):
			t.Errorf("%q: got %#v, want InvalidSpec of app with a hint", name, err)
		}
	}
}

// options has each shape that Decode walks through.
type options struct {
	Memory int             `json:"memory"`
	Args   string          `json:"args"`
	Quiet  bool            `json:"quiet"`
	Ratio  float64         `json:"ratio"`
	Build  [][]string      `json:"build"`
	Disks  []disk          `json:"disks"`
	Extra  map[string]disk `json:"extra"`
	Root   *disk           `json:"root"`
	Free   json.RawMessage `json:"free"`
	Wait   string          `json:"wait" example:"90s"`
	Hidden string          `json:"-"`
	embedded
}

type embedded struct {
	Region string `json:"region"`
}

type disk struct {
	SizeGiB int `json:"sizeGiB"`
}

func TestDecodeRefuses(t *testing.T) {
	for _, test := range []struct{ options, field, text, hint string }{
		{`{"memroy":1}`, "memroy", "unknown field", `did you mean "memory"?`},
		{`{"Memory":1}`, "Memory", "unknown field", `did you mean "memory"?`},
		{`{"xyzzyx":1}`, "xyzzyx", "unknown field", "known fields: args, build,"},
		{`{"Hidden":"x"}`, "Hidden", "unknown field", "known fields"},
		{`{"disks":[{"sizeGiB":1},{"sizeGib":2}]}`, "disks[1].sizeGib", "unknown field", `did you mean "sizeGiB"?`},
		{`{"extra":{"b":{"size":1}}}`, "extra.b.size", "unknown field", "known fields: sizeGiB"},
		{`{"root":{"x":1}}`, "root.x", "unknown field", "sizeGiB"},
		{`{"memory":"1G"}`, "memory", "want a whole number, not a string", "a whole number, as 64"},
		{`{"memory":"64"}`, "memory", "want a whole number, not a string", "without quotes, as 64"},
		{`{"memory":1.5}`, "memory", "want a whole number, not 1.5", "a whole number, as 64"},
		{`{"args":["a"]}`, "args", "want a string, not a list", `a string, as "..."`},
		{`{"args":10}`, "args", "want a string, not a number", `in quotes, as "10"`},
		{`{"wait":5}`, "wait", "want a string, not a number", `a string, as "90s"`},
		{`{"wait":["5"]}`, "wait", "want a string, not a list", `a string, as "90s"`},
		{`{"quiet":"yes"}`, "quiet", "want true or false, not a string", "true or false, as true"},
		{`{"quiet":"false"}`, "quiet", "want true or false, not a string", "without quotes, as false"},
		{`{"ratio":"x"}`, "ratio", "want a number, not a string", "a number, as 0.5"},
		{`{"build":"make"}`, "build", "want a list, not a string", `a list, as [["make"]]`},
		{`{"build":["make"]}`, "build[0]", "want a list, not a string", `a list, as ["make"]`},
		{`{"build":[["sleep","1"],["sleep", 10]]}`, "build[1][1]", "want a string, not a number", `in quotes, as "10"`},
		{`{"build":[["a",true]]}`, "build[0][1]", "want a string, not true or false", `in quotes, as "true"`},
		{`{"disks":"sda"}`, "disks", "want a list, not a string", "a list, as [{sizeGiB: 64}]; known fields: sizeGiB"},
		{`{"disks":[{"sizeGiB":1},{"sizeGiB":[]}]}`, "disks[1].sizeGiB", "want a whole number, not a list", "a whole number, as 64"},
		{`{"extra":{"b":{"sizeGiB":"2"}}}`, "extra.b.sizeGiB", "want a whole number, not a string", "without quotes, as 2"},
		{`{"extra":1}`, "extra", "want a mapping, not a number", "a mapping, as {name: {sizeGiB: 64}}"},
		{`{"root":1}`, "root", "want a mapping, not a number", "a mapping, as {sizeGiB: 64}; known fields: sizeGiB"},
		{`[]`, "", "want a mapping, not a list", "known fields: args,"},
		{`{} {}`, "", "", ""},
		{`{"memory":1`, "", "", ""},
		{`{"memory":1}x`, "", "", ""},
	} {
		var into options
		err := step.Decode(json.RawMessage(test.options), &into)
		var e *step.Error
		if !errors.As(err, &e) || e.Kind != step.InvalidSpec {
			t.Errorf("%s: got %v, want InvalidSpec", test.options, err)
			continue
		}
		if e.Field != test.field || !strings.Contains(e.Err.Error(), test.text) || !strings.Contains(e.Hint, test.hint) {
			t.Errorf("%s: got field %q, error %q, hint %q", test.options, e.Field, e.Err, e.Hint)
		}
	}
}

func TestDecode(t *testing.T) {
	for _, none := range []string{"", "null", " \n", " null "} {
		into := options{Memory: 128}
		if err := step.Decode(json.RawMessage(none), &into); err != nil || into.Memory != 128 {
			t.Errorf("%q: %v, memory %d", none, err, into.Memory)
		}
	}
	into := options{Memory: 128, Args: "default"}
	const all = `{"memory":64,"build":[["make"]],"disks":[{"sizeGiB":2}],"extra":{"any name":{"sizeGiB":3}},
		"root":null,"free":{"un":"known"},"region":"eu"}`
	if err := step.Decode(json.RawMessage(all), &into); err != nil {
		t.Fatal(err)
	}
	if into.Memory != 64 || into.Args != "default" || into.Disks[0].SizeGiB != 2 || into.Extra["any name"].SizeGiB != 3 || into.Region != "eu" {
		t.Errorf("got %+v", into)
	}
}

// port reads itself, with an error of its own.
type port int

func (p *port) UnmarshalJSON([]byte) error {
	return &step.Error{Kind: step.InvalidSpec, Field: "port", Err: errors.New("no port")}
}

func TestDecodeKeepsTheFieldsOwnError(t *testing.T) {
	var into struct {
		Port port `json:"port"`
	}
	var e *step.Error
	if err := step.Decode(json.RawMessage(`{"port":{"a":1}}`), &into); !errors.As(err, &e) || e.Field != "port" {
		t.Errorf("got %v", err)
	}
}

func TestNearest(t *testing.T) {
	known := []string{"memory", "cpus", "args", "ports", "expectPort", "timeout"}
	for name, want := range map[string]string{
		"memroy": "memory", "mem": "", "cpu": "cpus", "CPUS": "cpus", "port": "ports", "expectport": "expectPort",
		"expect_port": "expectPort", "tiemout": "timeout", "network": "", "": "",
	} {
		if got := step.Nearest(name, known); got != want {
			t.Errorf("%q: got %q, want %q", name, got, want)
		}
	}
}

func TestDigestOf(t *testing.T) {
	a := step.File{Name: "kernel", Artifact: step.Artifact{URI: "file:///a", SHA256: strings.Repeat("ab", 32), Size: 1}}
	b := step.File{Name: "machine.json", Artifact: step.Artifact{SHA256: strings.Repeat("01", 32), Size: 2}}
	// printf '%s  machine.json\n%s  kernel\n' 0101... abab... | sha256sum
	const want = "1e21d347b6a3ca208b6ea3a22532e1c0b9efceb98e22963c68ca560b9f128ed8"
	got := step.DigestOf([]step.File{a, b})
	if got != step.DigestOf([]step.File{b, a}) {
		t.Error("the order of files matters")
	}
	elsewhere := a
	elsewhere.Artifact.URI = "s3://bucket/a"
	if got != step.DigestOf([]step.File{elsewhere, b}) {
		t.Error("the place of a file matters")
	}
	renamed, changed := a, a
	renamed.Name, changed.Artifact.SHA256 = "kernel2", strings.Repeat("ac", 32)
	for _, other := range []step.File{renamed, changed} {
		if got == step.DigestOf([]step.File{other, b}) {
			t.Errorf("%+v gives the same digest", other)
		}
	}
	if got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if found, ok := step.FileNamed([]step.File{a, b}, "machine.json"); !ok || found != b.Artifact {
		t.Errorf("found %+v, %v", found, ok)
	}
	if _, ok := step.FileNamed([]step.File{a, b}, "none"); ok {
		t.Error("found a file that is not there")
	}
}

func TestTagsMatch(t *testing.T) {
	have := step.Tags{App: "hello", Target: "dev", Life: "0a1b2c3d", Generation: 3}
	for _, test := range []struct {
		asked step.Tags
		want  bool
	}{
		{have, true},
		{step.Tags{App: "hello", Target: "dev"}, true},
		{step.Tags{App: "hello", Target: "dev", Life: "0a1b2c3d"}, true},
		{step.Tags{App: "hello", Target: "dev", Generation: 3}, true},
		{step.Tags{App: "hello", Target: "dev", Generation: 2}, false},
		{step.Tags{App: "hello", Target: "dev", Life: "ffffffff", Generation: 3}, false},
		{step.Tags{App: "hell", Target: "dev"}, false},
		{step.Tags{App: "hello", Target: "prod"}, false},
		{step.Tags{}, false},
	} {
		if got := test.asked.Match(have); got != test.want {
			t.Errorf("%+v: got %v", test.asked, got)
		}
	}
	for notLife, want := range map[string]bool{"": true, "ffffffff": true, "0a1b2c3d": false} {
		r := step.Removal{Spec: step.Spec{Tags: step.Tags{App: "hello", Target: "dev"}}, NotLife: notLife}
		if got := r.Match(have); got != want {
			t.Errorf("removal of all but life %q: matches %v", notLife, got)
		}
	}
	// Open tags ask; a resource always has all of its own.
	if have.Match(step.Tags{App: "hello", Target: "dev"}) {
		t.Error("matches a resource without life and generation")
	}
}

func TestErrorText(t *testing.T) {
	cause := errors.New("access denied")
	for _, test := range []struct {
		err  step.Error
		want string
	}{
		{step.Error{Op: "register image in eu-west-1", Err: cause}, "register image in eu-west-1: access denied"},
		{step.Error{Op: "check", Field: "ports[1]", Err: cause}, "check: ports[1]: access denied"},
		{step.Error{Field: "memory", Err: cause}, "memory: access denied"},
		{step.Error{Err: cause, Hint: "not in the text"}, "access denied"},
		{step.Error{Op: "boot"}, "boot"},
	} {
		if got := test.err.Error(); got != test.want {
			t.Errorf("got %q, want %q", got, test.want)
		}
	}
	wrapped := fmt.Errorf("more: %w", &step.Error{Kind: step.Conflict, Err: cause})
	if step.KindOf(wrapped) != step.Conflict || !errors.Is(wrapped, cause) || step.KindOf(cause) != "" || step.KindOf(nil) != "" {
		t.Errorf("kind %q of %v", step.KindOf(wrapped), wrapped)
	}
}

func TestKinds(t *testing.T) {
	var final, mine []step.Kind
	for _, k := range []step.Kind{"", step.InvalidSpec, step.Unsupported, step.BuildFailed, step.BootFailed, step.Unauthorized,
		step.NotFound, step.Conflict, step.NoSpace, step.Exhausted} {
		if k.Final() {
			final = append(final, k)
		}
		if k.UserError() {
			mine = append(mine, k)
		}
	}
	if want := []step.Kind{step.InvalidSpec, step.Unsupported, step.BuildFailed, step.BootFailed, step.Unauthorized,
		step.NotFound, step.Conflict, step.NoSpace}; !slices.Equal(final, want) {
		t.Errorf("final: %v", final)
	}
	if want := []step.Kind{step.InvalidSpec, step.Unsupported, step.Unauthorized, step.NotFound, step.Conflict, step.NoSpace}; !slices.Equal(mine, want) {
		t.Errorf("mine: %v", mine)
	}
}

func TestRoute(t *testing.T) {
	p := step.NewRoute("command", "qemu")
	for stage, want := range map[step.Stage]step.Step{
		step.Check:     {Activity: "qemu.Check", TaskQueue: "qemu"},
		step.Configure: {Activity: "command.Configure", TaskQueue: "command"},
		step.Build:     {Activity: "command.Build", TaskQueue: "command", OnHost: true},
		step.Package:   {Activity: "qemu.Package", TaskQueue: "qemu"},
		step.Register:  {Activity: "qemu.Register", TaskQueue: "qemu", OnHost: true},
		step.Boot:      {Activity: "qemu.Boot", TaskQueue: "qemu", OnHost: true},
	} {
		if got := p.Stage(stage); got == nil || *got != want {
			t.Errorf("%s: got %+v, want %+v", stage, got, want)
		}
	}
	if p.Stage("fly") != nil {
		t.Error("there is a stage fly")
	}
	for _, test := range []struct {
		step       step.Step
		host, want string
	}{{p.Boot, "rack7", "qemu@rack7"}, {p.Boot, "", "qemu"}, {p.Check, "rack7", "qemu"}} {
		if got := test.step.Queue(test.host); got != test.want {
			t.Errorf("%s on host %q: queue %q, want %q", test.step.Activity, test.host, got, test.want)
		}
	}
}

func TestProgress(t *testing.T) {
	ctx := t.Context()
	step.Report(ctx, step.Progress{Done: 1}) // nowhere to go: nothing happens
	if p, ok := step.Resume(ctx); ok {
		t.Errorf("resumed %+v", p)
	}
	var got []step.Progress
	ctx = step.WithReporter(ctx, func(p step.Progress) { got = append(got, p) }, &step.Progress{Done: 5})
	step.Report(ctx, step.Progress{Done: 6})
	if last, ok := step.Resume(ctx); !ok || last.Done != 5 {
		t.Errorf("resumed %+v, %v", last, ok)
	}
	if len(got) != 1 || got[0].Done != 6 {
		t.Errorf("reported %+v", got)
	}
}
