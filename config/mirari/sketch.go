package mirari

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Sketch writes a config.ml for MirageOS 4.9 or newer, which describes the unikernel app:
// its devices, its packages and where it starts. A comment names the function that mirari
// called.
//
// The only user text in comments is checked names: OCaml reads quotes in comments as
// strings.
func (c *Conf) Sketch(app string) []byte {
	w := new(bytes.Buffer)
	line := func(format string, args ...any) { fmt.Fprintf(w, format+"\n", args...) }
	line("(* mirage >= 4.9.0 & < 5.0.0 *)")
	line("(* A sketch made by morgana import. unikernel.ml has the program: what was")
	line("   %s is `start` of %s there,", c.main, c.module())
	line("   which takes one argument for each device. *)")
	line("open Mirage")
	line("")
	var types, devices []string
	if c.networked() {
		line("let stack = generic_stackv4v6 default_network")
		types, devices = append(types, "stackv4v6"), append(devices, "stack")
		if c.kind == "http" {
			line("let http_server = cohttp_server @@ conduit_direct ~tls:false stack")
			types[0], devices[0] = "http", "http_server"
		}
	}
	for i, fs := range c.FS {
		name := "fs_" + strings.ToLower(strings.ReplaceAll(fs.Name, "-", "_"))
		if slices.Contains(devices, name) { // fs-A and fs-a
			name = fmt.Sprintf("%s_%d", name, i)
		}
		line("let %s = crunch %s", name, strconv.Quote(fs.Dir))
		types, devices = append(types, "kv_ro"), append(devices, name)
	}
	packages := c.ocamlPackages()
	if len(packages) > 0 {
		line("")
		line("let packages = [")
		for _, p := range packages {
			line("  %s;", p)
		}
		line("]")
	}
	argument := ""
	if len(packages) > 0 {
		argument = " ~packages"
	}
	line("")
	if len(types) == 0 {
		line("let main = main%s %s job", argument, strconv.Quote(c.module()))
	} else {
		line("let main = main%s %s (%s @-> job)", argument, strconv.Quote(c.module()), strings.Join(types, " @-> "))
	}
	line("let () = register %s [ %s ]", strconv.Quote(app), strings.Join(append([]string{"main"}, devices...), " $ "))
	return w.Bytes()
}

// module returns the OCaml module to start: a functor if there are devices.
func (c *Conf) module() string {
	if c.networked() || len(c.FS) > 0 {
		return "Unikernel.Main"
	}
	return "Unikernel"
}

// ocamlPackages returns the packages as expressions of config.ml.
func (c *Conf) ocamlPackages() (all []string) {
	names := c.packages
	if c.kind == "http" {
		names = appendNew(names, "cohttp-mirage")
	}
	for _, name := range names {
		subs := ""
		if len(c.subs[name]) > 0 {
			subs = `~sublibs:["` + strings.Join(c.subs[name], `"; "`) + `"] `
		}
		all = append(all, "package "+subs+strconv.Quote(name))
	}
	return all
}
