package config

import (
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"runtime"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"github.com/morgana-deploy/morgana/step"
)

func workerFlags(t *testing.T, args ...string) *pflag.FlagSet {
	t.Helper()
	fs := pflag.NewFlagSet("", pflag.ContinueOnError)
	WorkerFlags(fs)
	if err := fs.Parse(args); err != nil {
		t.Fatal(err)
	}
	return fs
}

func settings(t *testing.T, args ...string) Settings {
	t.Helper()
	s, err := LoadSettings(workerFlags(t, args...))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSettings(t *testing.T) {
	folder := alone(t)
	home := filepath.Dir(folder)
	t.Setenv("MORGANA_HOST", "h")
	state := home + "/.local/state/morgana"
	want := Settings{State: state, Store: "file://" + state + "/store", Builds: max(1, runtime.NumCPU()/2),
		Listen: "127.0.0.1:9464", Host: "h", LogLevel: "info", LogFormat: "text"}
	same := func(name string, got Settings) {
		t.Helper()
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s:\n got %+v\nwant %+v", name, got, want)
		}
	}
	same("defaults", settings(t))
	noFlags, err := LoadSettings(nil)
	if err != nil {
		t.Fatal(err)
	}
	same("defaults without flags", noFlags)

	t.Setenv("XDG_STATE_HOME", "relative") // to be ignored
	same("a relative XDG folder", settings(t))
	t.Setenv("XDG_STATE_HOME", home+"/a b")
	want.State, want.Store = home+"/a b/morgana", "file://"+home+"/a%20b/morgana/store"
	same("XDG_STATE_HOME", settings(t))

	write(t, home+"/.config/morgana/config.yaml", "state: st\nstore: s3://bucket?region=x\nbuilds: 3\nlisten: ':1'\n"+
		"kinds: [qemu, command]\nhost: file\nlogLevel: warn\nlogFormat: json\n")
	want = Settings{State: home + "/.config/morgana/st", Store: "s3://bucket?region=x", Builds: 3, Listen: ":1",
		Kinds: []string{"qemu", "command"}, Host: "h", LogLevel: "warn", LogFormat: "json"}
	same("file", settings(t))
	if err := os.Unsetenv("MORGANA_HOST"); err != nil {
		t.Fatal(err)
	}
	want.Host = "file"
	same("host of the file", settings(t))

	for k, v := range map[string]string{"STATE": "st", "STORE": "file:///env", "BUILDS": "4", "LISTEN": "localhost:2",
		"KINDS": "qemu,xen", "HOST": "ENV.Example", "LOG_LEVEL": "error", "LOG_FORMAT": "text"} {
		t.Setenv("MORGANA_"+k, v)
	}
	want = Settings{State: folder + "/st", Store: "file:///env", Builds: 4, Listen: "localhost:2",
		Kinds: []string{"qemu", "xen"}, Host: "env.example", LogLevel: "error", LogFormat: "text"}
	same("environment", settings(t))

	want = Settings{State: "/flag", Store: "file:///flag", Builds: 5, Listen: "[::1]:3",
		Kinds: []string{"a", "b", "c"}, Host: "flag", LogLevel: "debug", LogFormat: "json"}
	same("flags", settings(t, "--state=/flag", "--store=file:///flag", "--builds=5", "--listen=[::1]:3",
		"--kinds=a,b", "--kinds=c", "--host=flag", "--log-level=debug", "--log-format=json"))
}

func TestHostDefault(t *testing.T) {
	alone(t)
	name, err := os.Hostname()
	if err != nil {
		t.Skip(err)
	}
	if got := settings(t).Host; got != strings.ToLower(name) || !regexp.MustCompile(`^[a-z0-9][a-z0-9._-]*$`).MatchString(got) {
		t.Errorf("got %q of %q", got, name)
	}
}

func TestBadSettings(t *testing.T) {
	const (
		urlHint  = "give a URL such as file:///var/lib/morgana/store or s3://bucket?region=eu-west-1"
		nameHint = "a name is a lower-case letter, then at most 39 lower-case letters, digits or hyphens"
		hostHint = "a letter or digit, then letters, digits, dots, hyphens and underscores; set MORGANA_HOST"
	)
	for name, c := range map[string]struct{ file, env, flag, want, hint string }{
		"unknown key":       {"builds: 1\nbuild: 2\n", "", "", "FILE:2: build: unknown key", `did you mean "builds"?`},
		"key's case":        {"loglevel: info\n", "", "", "FILE:1: loglevel: unknown key", `did you mean "logLevel"?`},
		"list":              {"- builds\n", "", "", "FILE:1: want a mapping, not a list", ""},
		"YAML":              {"builds: 1\nstore: [\n", "", "", "FILE:2: not YAML: did not find expected node content", ""},
		"type":              {"builds: many\n", "", "", "FILE:1: builds: want a number, not a string", ""},
		"half a build":      {"\nbuilds: 2.5\n", "", "", `FILE:2: builds: want a whole number from 1, not "2.5"`, ""},
		"kinds a word":      {"kinds: qemu\n", "", "", "FILE:1: kinds: want a list, not a string", ""},
		"kinds of numbers":  {"kinds:\n- qemu\n- 1\n", "", "", "FILE:3: kinds[1]: want a string, not a number", ""},
		"builds":            {"builds: 1\n", "MORGANA_BUILDS=many", "", `MORGANA_BUILDS: want a whole number from 1, not "many"`, ""},
		"no builds":         {"", "MORGANA_BUILDS=many", "--builds=0", `--builds: want a whole number from 1, not "0"`, ""},
		"store":             {"", "MORGANA_STORE=/var/store", "", `MORGANA_STORE: want a URL, not "/var/store"`, urlHint},
		"store two slashes": {"", "MORGANA_STORE=file://var/store", "", `MORGANA_STORE: want three slashes and an absolute path behind file:, not "file://var/store"`, urlHint},
		"store's password":  {"store: s3://key:secret@bucket\n", "", "", "FILE:1: store: want a URL without credentials", "credentials come from where the cloud's own tools keep them"},
		"store's secret":    {"store: 's3://key:%zz@bucket'\n", "", "", "FILE:1: store: want a URL", urlHint},
		"listen":            {"", "MORGANA_LISTEN=9464", "", `MORGANA_LISTEN: want host:port, not "9464"`, ""},
		"port":              {"", "", "--listen=localhost:70000", `--listen: want host:port, not "localhost:70000"`, ""},
		"kinds":             {"", "", "--kinds=qemu,Xen", `--kinds: "Xen" is not a valid name`, nameHint},
		"host":              {"", "MORGANA_HOST=a@b", "", `MORGANA_HOST: "a@b" is not a valid host name`, hostHint},
		"log level":         {"logLevel: loud\n", "", "", `FILE:1: logLevel: unknown value "loud"`, "one of debug, info, warn, error"},
		"log format":        {"", "MORGANA_LOG_FORMAT=xml", "", `MORGANA_LOG_FORMAT: unknown value "xml"`, "one of text, json"},
	} {
		t.Run(name, func(t *testing.T) {
			folder := alone(t)
			t.Setenv("XDG_CONFIG_HOME", folder)
			if c.file != "" {
				write(t, "morgana/config.yaml", c.file)
			}
			if k, v, ok := strings.Cut(c.env, "="); ok {
				t.Setenv(k, v)
			}
			var args []string
			if c.flag != "" {
				args = append(args, c.flag)
			}
			_, err := LoadSettings(workerFlags(t, args...))
			wantError(t, err, step.InvalidSpec, strings.Replace(c.want, "FILE", "morgana/config.yaml", 1), c.hint)
		})
	}
}
