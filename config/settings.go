package config

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/pflag"

	"github.com/morgana-deploy/morgana/files"
	"github.com/morgana-deploy/morgana/step"
)

// Settings are the per-user and per-host settings. Each comes from a flag (--log-level),
// else the environment (MORGANA_LOG_LEVEL), else
// $XDG_CONFIG_HOME/morgana/config.yaml (logLevel), else its default.
type Settings struct {
	// State is the absolute path of the folder for persistent state; default
	// $XDG_STATE_HOME/morgana.
	State string
	// Store is the artifact store's URL, by default file://<State>/store. It
	// holds no credentials.
	Store string
	// Builds is how many builds a worker runs at a time, 1 or more; default half of
	// the host's CPUs.
	Builds int
	// Listen is the host:port of a worker's health and metrics; default 127.0.0.1:9464.
	Listen string
	// Kinds are the kinds that a worker serves; default nil, which is all.
	Kinds []string
	// Host is this host's name in task queues ("qemu@<host>"), in lower case; default
	// the system's host name.
	Host string
	// LogLevel is debug, info (the default), warn or error.
	LogLevel string
	// LogFormat is text (the default) or json.
	LogFormat string
}

var settingsKeys = []scalarKey{
	{"state", "state", text},
	{"store", "store", text},
	{"builds", "builds", number},
	{"listen", "listen", text},
	{"kinds", "kinds", list},
	{"host", "host", text},
	{"logLevel", "log-level", text},
	{"logFormat", "log-format", text},
}

var (
	logLevels  = []string{"debug", "info", "warn", "error"}
	logFormats = []string{"text", "json"}
)

// StarterFlags adds the flags of both the starter and the worker: folders, logging
// and Temporal.
func StarterFlags(flags *pflag.FlagSet) {
	flags.String("state", "", "folder for persistent state (default $XDG_STATE_HOME/morgana)")
	flags.String("store", "", "artifact store, file:// or s3:// URL (default <state>/store)")
	flags.String("log-level", "", "debug, info, warn or error (default info)")
	flags.String("log-format", "", "text or json (default text)")
	flags.String("address", "", "Temporal server, host:port (default $TEMPORAL_ADDRESS or the profile's)")
	flags.String("namespace", "", "Temporal namespace (default $TEMPORAL_NAMESPACE or the profile's)")
	flags.String("profile", "", "profile of Temporal's configuration file (default $TEMPORAL_PROFILE)")
}

// WorkerFlags adds [StarterFlags] and the flags of the worker alone.
func WorkerFlags(flags *pflag.FlagSet) {
	StarterFlags(flags)
	flags.Int("builds", 0, "builds at a time (default half of the CPUs)")
	flags.String("listen", "", "host:port for health and metrics (default 127.0.0.1:9464)")
	flags.StringSlice("kinds", nil, "kinds of targets and toolchains to serve (default all)")
	flags.String("host", "", "this host's name in task queues (default the system's)")
}

// LoadSettings reads the settings. flags may be nil or lack any of [StarterFlags] and
// [WorkerFlags]. A wrong value is InvalidSpec with its flag, variable, or file and
// line as Op.
func LoadSettings(flags *pflag.FlagSet) (Settings, error) {
	file, folder, err := settingsFile()
	if err != nil {
		return Settings{}, err
	}
	l, err := newLayers(settingsKeys, flags, file)
	if err != nil {
		return Settings{}, err
	}
	var s Settings
	for _, read := range []func() error{
		func() (err error) { s.State, err = stateFolder(l, folder); return err },
		func() error { return ownFolder(s.State) },
		func() (err error) { s.Store, err = storeURL(l, s.State); return err },
		func() (err error) { s.Builds, err = builds(l); return err },
		func() (err error) { s.Listen, err = listenAddress(l); return err },
		func() (err error) { s.Kinds, err = kinds(l); return err },
		func() (err error) { s.Host, err = hostName(l); return err },
		func() (err error) { s.LogLevel, err = oneOf(l, "logLevel", "info", logLevels); return err },
		func() (err error) { s.LogFormat, err = oneOf(l, "logFormat", "text", logFormats); return err },
	} {
		if err := read(); err != nil {
			return Settings{}, err
		}
	}
	return s, nil
}

// settingsFile reads the user's config.yaml, and returns its content and its folder. A
// missing file is an empty mapping.
func settingsFile() (file *value, folder string, err error) {
	folder, err = xdgFolder("XDG_CONFIG_HOME", ".config")
	if err != nil { // no home, so no file
		return &value{is: mapping}, "", nil //nolint:nilerr // settings may all come from the environment
	}
	path := filepath.Join(folder, "config.yaml")
	data, err := files.Read(path, maxBytes)
	if errors.Is(err, fs.ErrNotExist) {
		return &value{is: mapping}, folder, nil
	}
	if err != nil {
		return nil, "", Unreadable(asTyped(path), err)
	}
	file, err = readYAML(data, lineOf(asTyped(path)))
	if err != nil {
		return nil, "", err
	}
	if err := file.want("", mapping); err != nil {
		return nil, "", err
	}
	names := make([]string, 0, len(settingsKeys))
	for _, k := range settingsKeys {
		names = append(names, k.name)
	}
	return file, folder, file.known("", names...)
}

// xdgFolder returns Morgana's folder in a base folder of the XDG specification. As that
// requires, it ignores a relative path in the variable.
func xdgFolder(variable, underHome string) (string, error) {
	if base := os.Getenv(variable); filepath.IsAbs(base) {
		return filepath.Join(base, "morgana"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", err
	}
	return filepath.Join(home, underHome, "morgana"), nil
}

func stateFolder(l *layers, folder string) (string, error) {
	if l.text("state", "") != "" {
		return l.path("state", "", folder)
	}
	state, err := xdgFolder("XDG_STATE_HOME", filepath.Join(".local", "state"))
	if err != nil {
		return "", &step.Error{Kind: step.InvalidSpec, Op: "find the state folder", Err: err, Hint: "set MORGANA_STATE"}
	}
	return state, nil
}

func storeURL(l *layers, state string) (string, error) {
	byDefault := url.URL{Scheme: "file", Path: filepath.ToSlash(filepath.Join(state, "store"))}
	store := l.text("store", byDefault.String())
	const hint = "give a URL such as file:///var/lib/morgana/store or s3://bucket?region=eu-west-1"
	u, err := url.Parse(store)
	switch {
	case err != nil:
		return "", l.invalid("store", hint, "want a URL") // err would show credentials
	case u.User != nil:
		return "", l.invalid("store", "credentials come from where the cloud's own tools keep them", "want a URL without credentials")
	case u.Scheme == "":
		return "", l.invalid("store", hint, "want a URL, not %q", store)
	case u.Scheme == "file" && (u.Host != "" || !strings.HasPrefix(u.Path, "/")):
		return "", l.invalid("store", hint, "want three slashes and an absolute path behind file:, not %q", store)
	}
	return store, nil
}

func builds(l *layers) (int, error) {
	content := l.text("builds", strconv.Itoa(max(1, runtime.NumCPU()/2)))
	n, err := strconv.Atoi(content)
	if err != nil || n < 1 {
		return 0, l.invalid("builds", "", "want a whole number from 1, not %q", content)
	}
	return n, nil
}

func listenAddress(l *layers) (string, error) {
	address := l.text("listen", "127.0.0.1:9464")
	_, port, err := net.SplitHostPort(address)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil {
		return "", l.invalid("listen", "", "want host:port, not %q", address)
	}
	return address, nil
}

func kinds(l *layers) ([]string, error) {
	kinds := l.list("kinds")
	for _, kind := range kinds {
		if err := l.checkName("kinds", kind); err != nil {
			return nil, err
		}
	}
	return kinds, nil
}

// hostForm is the form of a host's name in a task queue, at most 64 bytes as in Linux.
var hostForm = regexp.MustCompile(`^[a-z0-9]([a-z0-9._-]{0,63})$`)

func hostName(l *layers) (string, error) {
	name := l.text("host", "")
	if name == "" {
		var err error
		if name, err = os.Hostname(); err != nil {
			return "", &step.Error{Kind: step.InvalidSpec, Op: "find the host's name", Err: err, Hint: "set MORGANA_HOST"}
		}
	}
	lower := strings.ToLower(name)
	if !hostForm.MatchString(lower) {
		return "", l.invalid("host", "a letter or digit, then letters, digits, dots, hyphens and underscores; set MORGANA_HOST",
			"%q is not a valid host name", name)
	}
	return lower, nil
}

func oneOf(l *layers, name, fallback string, allowed []string) (string, error) {
	choice := l.text(name, fallback)
	if !slices.Contains(allowed, choice) {
		return "", l.invalid(name, fmt.Sprintf("one of %s", strings.Join(allowed, ", ")), "unknown value %q", choice)
	}
	return choice, nil
}
