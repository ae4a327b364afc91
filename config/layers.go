package config

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/pflag"
	"github.com/spf13/viper"
)

// scalarKey is a key that a file, an environment variable and a flag can set. The
// variable of the flag log-level is MORGANA_LOG_LEVEL.
type scalarKey struct {
	name string // the key in the file
	flag string
	is   string // text, number or list (of strings)
}

func (k scalarKey) variable() string {
	return "MORGANA_" + strings.ToUpper(strings.ReplaceAll(k.flag, "-", "_"))
}

// layers has the sources of the keys. A key's value is that of its flag, else of its
// variable, else of the file, else its default. Viper picks the value. layers also knows
// the source of the value, for errors and relative paths.
type layers struct {
	viper *viper.Viper
	flags *pflag.FlagSet // may be nil
	file  *value
	keys  []scalarKey
}

// newLayers reads keys from a file's mapping and ignores its other fields. flags may be
// nil.
func newLayers(keys []scalarKey, flags *pflag.FlagSet, file *value) (*layers, error) {
	l := &layers{viper.New(), flags, file, keys}
	content := map[string]any{}
	for _, k := range keys {
		if err := l.viper.BindEnv(k.name, k.variable()); err != nil {
			return nil, fmt.Errorf("bind %s: %w", k.variable(), err)
		}
		if flags != nil && flags.Lookup(k.flag) != nil {
			if err := l.viper.BindPFlag(k.name, flags.Lookup(k.flag)); err != nil {
				return nil, fmt.Errorf("bind --%s: %w", k.flag, err)
			}
		}
		f := file.field(k.name)
		if f == nil || f.is == null {
			continue
		}
		if err := f.want(k.name, k.is); err != nil {
			return nil, err
		}
		switch k.is {
		case list:
			var items []string
			for i, item := range f.items {
				if err := item.want(fmt.Sprintf("%s[%d]", k.name, i), text); err != nil {
					return nil, err
				}
				items = append(items, item.text)
			}
			content[k.name] = items
		case number:
			content[k.name] = string(f.scalar)
		default:
			content[k.name] = f.text
		}
	}
	if err := l.viper.MergeConfigMap(content); err != nil {
		return nil, fmt.Errorf("merge settings: %w", err)
	}
	return l, nil
}

// text returns a key's value as text, or fallback if the key is not set.
func (l *layers) text(name, fallback string) string {
	l.viper.SetDefault(name, fallback)
	return l.viper.GetString(name)
}

// list returns a key's value as a list, nil if the key is not set. Words of a variable
// are separated by commas or spaces.
func (l *layers) list(name string) []string {
	switch v := l.viper.Get(name).(type) {
	case []string:
		if len(v) > 0 {
			return v
		}
	case string:
		return strings.FieldsFunc(v, func(r rune) bool { return r == ',' || r == ' ' })
	}
	return nil
}

// origin returns the source of a key's value: "--store", "MORGANA_STORE",
// "config.yaml:3", or "" for the default. typed is true for flags and variables.
func (l *layers) origin(name string) (at string, typed bool) {
	k := l.key(name)
	if l.flags != nil && l.flags.Changed(k.flag) {
		return "--" + k.flag, true
	}
	if os.Getenv(k.variable()) != "" { // viper ignores an empty variable, too
		return k.variable(), true
	}
	if f := l.file.field(name); f != nil && f.is != null {
		return f.at, false
	}
	return "", false
}

func (l *layers) key(name string) scalarKey {
	for _, k := range l.keys {
		if k.name == name {
			return k
		}
	}
	panic("config: no setting " + name)
}

// blame returns Op and Field for an error about a key's value.
func (l *layers) blame(name string) (at, path string) {
	at, typed := l.origin(name)
	if typed {
		return at, "" // "--builds: builds: ..." would repeat it
	}
	return at, name
}

// invalid makes an error about a key's value, with its source.
func (l *layers) invalid(name, hint, format string, args ...any) error {
	at, path := l.blame(name)
	return invalid(at, path, hint, format, args...)
}

// checkName checks that a key's value is a valid name.
func (l *layers) checkName(name, value string) error {
	at, path := l.blame(name)
	return checkName(at, path, value)
}

// path returns a key's path, absolute. A path in the file is relative to folder, one in
// a flag or variable to the current folder.
func (l *layers) path(name, fallback, folder string) (string, error) {
	path := l.text(name, fallback)
	if filepath.IsAbs(path) {
		return filepath.Clean(path), nil
	}
	if _, typed := l.origin(name); typed {
		return filepath.Abs(path)
	}
	return filepath.Join(folder, path), nil
}
