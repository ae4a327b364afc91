package tree

import (
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
)

// A command gets only these variables of the worker's environment, which also holds
// credentials. There is no wildcard, because the names of a program's secrets have the
// program's prefix too. Other variables that a build needs belong in Recipe.Env, where
// everybody who deploys the project gets them. TMPDIR is each build's own, see [rollout].
//
// MAKEFLAGS is left out: in a worker that was started by a Makefile it names that
// make's job server.
var (
	// shaping variables may change the kernel, so they are in the cache key.
	shaping = []string{
		"CC", "CXX", "SOURCE_DATE_EPOCH", "PKG_CONFIG_PATH",
		"OPAMROOT", "OPAMSWITCH", "OPAM_SWITCH_PREFIX", "OPAMCLI", "OPAMCOLOR", "OPAMCONFIRMLEVEL", "OPAMDOWNLOADJOBS", "OPAMJOBS",
		"OPAMNODEPEXTS", "OPAMASSUMEDEPEXTS", "OPAMNOSELFUPGRADE", "OPAMRETRIES", "OPAMROOTISOK", "OPAMSOLVERTIMEOUT", "OPAMYES", "OPAMVERBOSE",
		"OCAMLPATH", "OCAMLPARAM", "OCAMLRUNPARAM", "OCAMLLIB", "OCAMLFIND_CONF", "OCAMLFIND_TOOLCHAIN", "OCAML_TOPLEVEL_PATH", "OCAMLTOP_INCLUDE_PATH",
		"CAML_LD_LIBRARY_PATH", "DUNE_CACHE", "DUNE_CACHE_ROOT",
		"GOROOT", "GOPATH", "GOCACHE", "GOMODCACHE", "GOFLAGS", "GOPROXY", "GOTOOLCHAIN",
		"CARGO_HOME", "RUSTUP_HOME", "RUSTUP_TOOLCHAIN", "NIX_PATH",
	}
	// standing variables describe the worker's user, host and network. PATH is one, because
	// the programs that are found with it are in the key, see [programs].
	standing = []string{
		"PATH", "HOME", "USER", "LOGNAME", "SHELL", "TZ", "TERM",
		"LANG", "LC_ALL", "LC_COLLATE", "LC_CTYPE", "LC_MESSAGES", "LC_MONETARY", "LC_NUMERIC", "LC_TIME",
		"XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_RUNTIME_DIR", "XDG_STATE_HOME",
		"SSL_CERT_FILE", "SSL_CERT_DIR", "NIX_SSL_CERT_FILE",
		"http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY",
	}
	// withPassword finds a URL with user information, as a proxy's may have; proxyPassword
	// finds a proxy with user information and no scheme.
	withPassword  = regexp.MustCompile(`://[^/\s@]+@`)
	proxyPassword = regexp.MustCompile(`^[^/\s@]+@`)
)

// Environ is the environment of commands: the listed variables of the worker's, and
// those that a recipe adds. The zero value is empty.
type Environ struct {
	// all is every variable as "NAME=value", in order of the names.
	all []string
	// shaping are the worker's variables that may change the kernel.
	shaping []string
	// withheld names the worker's variables that are listed but hold a password.
	withheld []string
}

// EnvironOf returns the environment of commands on this host. It has the listed variables
// of this process, unless one holds a password, and the variables in env, which win.
// SOURCE_DATE_EPOCH is 0 unless it is among these.
func EnvironOf(env map[string]string) Environ { return environOf(os.Environ(), env) }

// environOf picks from the worker's environment and adds env, which wins.
func environOf(worker []string, env map[string]string) Environ {
	vars := map[string]string{"SOURCE_DATE_EPOCH": "0"}
	var e Environ
	for _, v := range worker {
		name, value, _ := strings.Cut(v, "=")
		_, over := env[name]
		switch {
		case over || !slices.Contains(shaping, name) && !slices.Contains(standing, name):
		case withPassword.MatchString(value), strings.HasSuffix(strings.ToLower(name), "_proxy") && proxyPassword.MatchString(value):
			e.withheld = append(e.withheld, name)
		default:
			vars[name] = value
		}
	}
	for _, name := range slices.Sorted(maps.Keys(vars)) {
		if _, over := env[name]; !over && slices.Contains(shaping, name) {
			e.shaping = append(e.shaping, name+"="+vars[name])
		}
	}
	maps.Copy(vars, env)
	for _, name := range slices.Sorted(maps.Keys(vars)) {
		e.all = append(e.all, name+"="+vars[name])
	}
	return e
}

// withheldHint is the hint that names the withheld variables, "" if there are none.
func (e Environ) withheldHint() string {
	if len(e.withheld) == 0 {
		return ""
	}
	return "the commands did not get " + strings.Join(e.withheld, ", ") + " of the worker, which holds a password: start the worker with one that " +
		"needs none, or give it as the toolchain's env, which everybody who sees the deployment can read"
}

// Get is a variable's value, "" if it is not set.
func (e Environ) Get(name string) string {
	for _, v := range e.all {
		if n, value, _ := strings.Cut(v, "="); n == name {
			return value
		}
	}
	return ""
}
