package mirage

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/morgana-deploy/morgana/image"
	"github.com/morgana-deploy/morgana/step"
	"github.com/morgana-deploy/morgana/tree"
)

const defaultConfig = "config.ml"

// Value is the value of a configuration key: in JSON a string, a number, true or false.
type Value string

// UnmarshalJSON keeps a scalar as the user wrote it.
func (v *Value) UnmarshalJSON(raw []byte) error {
	switch raw = bytes.TrimSpace(raw); raw[0] {
	case '{', '[':
		return step.Invalid("", "a string, a number, true or false; null for a key that takes none", "%.40s is not a key's value", raw)
	case '"':
		return json.Unmarshal(raw, (*string)(v))
	}
	*v = Value(raw)
	return nil
}

// extensions are the file names that targets of mirage 4.11 give a kernel.
var extensions = map[string]string{
	"unix": "", "macosx": "", "xen": ".xen", "qubes": ".xen", "virtio": ".virtio", "hvt": ".hvt", "spt": ".spt",
	"muen": ".muen", "genode": ".genode", "unikraft-firecracker": ".fc", "unikraft-qemu": ".qemu",
}

// complete fills in the defaults and returns the error of wrong options.
func (o *Options) complete(kind string) error {
	targets := slices.Sorted(maps.Keys(extensions))
	if o.Target == "" {
		if o.Target = image.MirageTarget(kind); o.Target == "" {
			return step.Invalid("target", "one of "+strings.Join(targets, ", "), "is missing, and there is no default for a target of kind %q", kind)
		}
	}
	if _, ok := extensions[o.Target]; !ok {
		return step.Invalid("target", step.OneOf(o.Target, targets...), "%q is not a target of mirage configure", o.Target)
	}
	if _, err := image.Supports(kind, image.MirageABIs(o.Target)); err != nil {
		var e *step.Error
		if errors.As(err, &e) {
			return &step.Error{Kind: e.Kind, Field: "target", Err: e.Err, Hint: e.Hint}
		}
		return err
	}
	if o.Config == "" {
		o.Config = defaultConfig
	}
	if err := tree.CheckPath("config", o.Config); err != nil {
		return err
	}
	o.Config = path.Clean(o.Config)
	if o.Depends == nil {
		yes := true
		o.Depends = &yes
	}
	if err := tree.CheckEnv("env", o.Env); err != nil {
		return err
	}
	if err := o.checkSwitch(); err != nil {
		return err
	}
	return o.checkKeys()
}

func (o *Options) checkSwitch() error {
	const hint = "one that opam switch list names, or the absolute path of a local one"
	if _, both := o.Env[switchVar]; both && o.Switch != "" {
		return step.Invalid("switch", "give one of them", "env.%s names a switch as well", switchVar)
	}
	name := o.Switch
	if strings.HasPrefix(name, "-") || strings.HasPrefix(name, ".") || strings.ContainsAny(name, " \t\n\x00") ||
		strings.Contains(name, "/") && !filepath.IsAbs(name) {
		return step.Invalid("switch", hint, "%q is not the name of an opam switch", name)
	}
	return nil
}

var keyForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]+$`)

// taken are options of mirage configure that keys may not set, with the hint for each.
var taken = map[string]string{
	"target": "option target is for that", "file": "option config is for that", "config-file": "option config is for that",
	"output":       "the kernel goes into the store, whatever it is called",
	"context-file": "it is a file of the build tree", "context": "it is a file of the build tree",
	"dry-run": "nothing would be built", "help": "try mirage configure --help", "version": "try mirage --version",
}

func (o *Options) checkKeys() error {
	for _, name := range slices.Sorted(maps.Keys(o.Keys)) {
		field := "keys." + name
		if !keyForm.MatchString(name) {
			return step.Invalid(field, "without dashes in front, and at least two letters, as in: keys: {net: direct}", "%q is not a configuration key's name", name)
		}
		if hint, ok := taken[name]; ok {
			return step.Invalid(field, hint, "is not a configuration key")
		}
		if v := o.Keys[name]; v != nil && strings.ContainsRune(string(*v), 0) {
			return step.Invalid(field, "", "has a NUL byte")
		}
	}
	return nil
}

// keyArgs returns the keys as arguments, in order of their names.
func (o *Options) keyArgs() []string {
	var args []string
	for _, name := range slices.Sorted(maps.Keys(o.Keys)) {
		arg := "--" + name
		if v := o.Keys[name]; v != nil {
			arg += "=" + string(*v)
		}
		args = append(args, arg)
	}
	return args
}

// refusal is what mirage says of an option that it does not take: "unknown option
// '--dhcp'", "option '--net': invalid value ...". Without the quotes it is bold.
var refusal = regexp.MustCompile(`(?:unknown )?option '?--([A-Za-z0-9_-]+)'?.*?( Usage: |$)`)

// refused returns the error of the key that mirage refuses in its last lines of output,
// nil if it failed for another reason. A long message has several lines.
func (o *Options) refused(lines []string) error {
	said := strings.Join(lines, " ")
	for _, m := range refusal.FindAllStringSubmatch(said, -1) {
		name := m[1]
		if _, ours := o.Keys[name]; !ours {
			continue
		}
		hint := "null for a flag, a value for any other key; mirage configure --help lists them"
		if strings.HasPrefix(m[0], "unknown") {
			hint = "mirage configure --help lists the keys of config.ml; what the unikernel reads when it boots goes in the args of the target"
		}
		if name == "dhcp" {
			hint = "since mirage 4.11 a unikernel asks for an address unless it has the key no-dhcp: null"
		}
		return step.Invalid("keys."+name, hint, "mirage configure says: %s", strings.TrimSuffix(strings.TrimSuffix(m[0], m[2]), "."))
	}
	return nil
}

// beside is a path in the folder of config.ml, where mirage writes.
func (o *Options) beside(name string) string { return path.Join(path.Dir(o.Config), name) }

// checkConfig refuses a source without a config.ml.
func checkConfig(root *os.Root, config string) error {
	info, err := root.Stat(filepath.FromSlash(config))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return step.Invalid("config", configHint(root, config), "the source has no %s", config)
	case err != nil:
		return step.Invalid("config", configHint(root, config), "%s cannot be read: %w", config, tree.Cause(err))
	case !info.Mode().IsRegular():
		return step.Invalid("config", configHint(root, config), "%s is not a file", config)
	}
	return nil
}

// configHint names the files that config may mean, or the other files there.
func configHint(root *os.Root, config string) string {
	const most, enough = 8, 10_000
	var meant []string
	seen := 0
	_ = fs.WalkDir(root.FS(), ".", func(p string, d fs.DirEntry, err error) error {
		if seen++; seen > enough || len(meant) == most {
			return fs.SkipAll
		}
		if base := path.Base(p); err == nil && d.Type().IsRegular() && p != config && (base == defaultConfig || base == path.Base(config)) {
			meant = append(meant, p)
		}
		return nil // a hint may be incomplete
	})
	if len(meant) > 0 {
		return "it has " + strings.Join(meant, ", ") + ": option config says which"
	}
	const without = "a MirageOS unikernel has a config.ml; a file that .gitignore names is not taken along"
	entries, err := fs.ReadDir(root.FS(), ".")
	if err != nil || len(entries) == 0 {
		return without
	}
	var names []string
	for _, e := range entries[:min(most, len(entries))] {
		name := e.Name()
		if e.IsDir() {
			name += "/"
		}
		names = append(names, name)
	}
	if more := len(entries) - most; more > 0 {
		names = append(names, fmt.Sprintf("%d more", more))
	}
	return "it has " + strings.Join(names, ", ") + "; " + without
}
