package tree

import (
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
)

// A command gets these variables of the worker's environment, if they are set,
// and no others: a worker's environment holds credentials. A name that ends in
// * stands for all that start so. Whatever else a build needs is to be written
// in Recipe.Env, where everybody who deploys the project gets it too.
//
// MAKEFLAGS is left out on purpose: a worker that was started by a Makefile
// has that make's job server in it, which is no business of the build's.
var (
	// shaping variables may change what is built, so they are in the cache key.
	shaping = []string{
		"PATH", "CC", "CXX", "SOURCE_DATE_EPOCH", "PKG_CONFIG_PATH",
		"OPAM*", "OCAML*", "CAML_LD_LIBRARY_PATH", "DUNE_CACHE", "DUNE_CACHE_ROOT",
		"GOROOT", "GOPATH", "GOCACHE", "GOMODCACHE", "GOFLAGS", "GOPROXY", "GOTOOLCHAIN",
		"CARGO_HOME", "RUSTUP_HOME", "RUSTUP_TOOLCHAIN", "NIX_PATH",
	}
	// The others say where the worker stands and how it reaches the network.
	standing = []string{
		"HOME", "USER", "LOGNAME", "SHELL", "LANG", "LC_*", "TZ", "TERM", "TMPDIR", "XDG_*",
		"SSL_CERT_FILE", "SSL_CERT_DIR", "NIX_SSL_CERT_FILE",
		"http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY",
	}
	// withPassword finds a URL with user information, as a proxy's may have.
	withPassword = regexp.MustCompile(`://[^/\s@]+@`)
)

// Environ is the environment of commands: what they see of the worker's, and
// what a recipe adds. The zero value is empty.
type Environ struct {
	// all is every variable as "NAME=value", in order of the names.
	all []string
	// shaping is those of the worker's that may change what is built.
	shaping []string
}

// EnvironOf gives the environment of commands on this host. It has the variables
// of this process that are listed above, SOURCE_DATE_EPOCH=0 unless that is one
// of them, and env, which wins.
func EnvironOf(env map[string]string) Environ { return environOf(os.Environ(), env) }

// environOf picks from the worker's environment and adds env, which wins.
func environOf(worker []string, env map[string]string) Environ {
	vars := map[string]string{"SOURCE_DATE_EPOCH": "0"}
	for _, v := range worker {
		name, value, _ := strings.Cut(v, "=")
		if (listed(shaping, name) || listed(standing, name)) && !withPassword.MatchString(value) {
			vars[name] = value
		}
	}
	var e Environ
	for _, name := range slices.Sorted(maps.Keys(vars)) {
		if _, over := env[name]; !over && listed(shaping, name) {
			e.shaping = append(e.shaping, name+"="+vars[name])
		}
	}
	maps.Copy(vars, env)
	for _, name := range slices.Sorted(maps.Keys(vars)) {
		e.all = append(e.all, name+"="+vars[name])
	}
	return e
}

func listed(list []string, name string) bool {
	return slices.ContainsFunc(list, func(l string) bool {
		prefix, open := strings.CutSuffix(l, "*")
		return l == name || open && strings.HasPrefix(name, prefix)
	})
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
