package mirari

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
)

// Sketch writes a config.ml for MirageOS 4.9 or newer, which describes the
// unikernel app: its devices, its packages and where it starts. The program is
// to be written for them; what mirari called is named in a comment.
//
// No text of the user's but checked names stands in a comment, for OCaml reads
// the quotes in there.
func (c *Conf) Sketch(app string) []byte {
	w := new(bytes.Buffer)
	line := func(format string, args ...any) { fmt.Fprintf(w, format+"\n", args...) }
	line("(* mirage >= 4.9.0 & < 5.0.0 *)")
	line("(* A sketch made by morgana import. unikernel.ml has the program: what was")
	line("   %s is `start` of %s there,", c.Main.Function, c.module())
	line("   which takes one argument for each device. *)")
	line("open Mirage")
	line("")
	var types, devices []string
	if c.networked() {
		line("let stack = generic_stackv4v6 default_network")
		types, devices = append(types, "stackv4v6"), append(devices, "stack")
		if c.Main.Kind == "http" {
			line("let http_server = cohttp_server @@ conduit_direct ~tls:false stack")
			types[0], devices[0] = "http", "http_server"
		}
	}
	for i, fs := range c.FS {
		name := "fs_" + strings.ToLower(strings.ReplaceAll(fs.Name, "-", "_"))
		if slices.Contains(devices, name) { // fs-A and fs-a
			name = fmt.Sprintf("%s_%d", name, i)
		}
		line("let %s = crunch %s", name, ocamlString(fs.Dir))
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
		line("let main = main%s %s job", argument, ocamlString(c.module()))
	} else {
		line("let main = main%s %s (%s @-> job)", argument, ocamlString(c.module()), strings.Join(types, " @-> "))
	}
	line("let () = register %s [ %s ]", ocamlString(app), strings.Join(append([]string{"main"}, devices...), " $ "))
	return w.Bytes()
}

// module is a functor of the devices, if there are any.
func (c *Conf) module() string {
	if c.networked() || len(c.FS) > 0 {
		return "Unikernel.Main"
	}
	return "Unikernel"
}

// ocamlPackages gives functoria's expressions for libraries and packages:
// library a.b is sublibrary b of package a.
func (c *Conf) ocamlPackages() []string {
	var names []string
	subs := map[string][]string{}
	for _, l := range c.Libraries {
		name, sub, cut := strings.Cut(l, ".")
		names = appendNew(names, name)
		if cut {
			subs[name] = appendNew(subs[name], sub)
		}
	}
	names = appendNew(names, c.Packages...)
	if c.Main.Kind == "http" {
		names = appendNew(names, "cohttp-mirage")
	}
	var out []string
	for _, name := range names {
		if len(subs[name]) == 0 {
			out = append(out, "package "+ocamlString(name))
			continue
		}
		var quoted []string
		for _, s := range subs[name] {
			quoted = append(quoted, ocamlString(s))
		}
		out = append(out, fmt.Sprintf("package ~sublibs:[%s] %s", strings.Join(quoted, "; "), ocamlString(name)))
	}
	return out
}

// ocamlString is a string literal of OCaml for text that prints.
func ocamlString(text string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\t", `\t`).Replace(text) + `"`
}
