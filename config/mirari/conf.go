package mirari

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
)

// Conf is what a .conf says.
type Conf struct {
	// Main is what the unikernel runs.
	Main Main
	// DHCP and Static say how it gets its address: by DHCP, as given, or, if
	// there is neither, it has not said.
	DHCP   bool
	Static *Static
	// HTTP is where it serves; nil if it has not said.
	HTTP *HTTP
	// FS are the folders that are compiled in, in the file's order.
	FS []FS
	// Libraries are ocamlfind's names, as "cohttp.lwt"; Packages opam's. Both
	// in the file's order, none twice.
	Libraries, Packages []string
	// Compiler is an opam switch; empty if none was chosen.
	Compiler string
	// Notes name the lines that have no counterpart today, or one that differs,
	// in the file's order.
	Notes []Note

	shown string  // the file's name
	xen   *domain // what the xl- lines say; nil if there are none
}

// Main is the application's entry.
type Main struct {
	// Kind is "http" (a callback of cohttp), "ip" (a function of a network
	// interface) or "noip".
	Kind string
	// Function is OCaml's name of it, as "Dispatch.main".
	Function string
}

// Static is a fixed IPv4 address.
type Static struct {
	Address netip.Prefix // 10.0.0.2/24
	Gateway netip.Addr
}

// HTTP is where a server listens.
type HTTP struct {
	Port uint16
	// Address is the zero Addr for any.
	Address netip.Addr
}

// FS is a folder of files.
type FS struct {
	Name string
	// Dir is relative to the .conf's folder, or absolute.
	Dir  string
	Line int
}

// Line is a line of a .conf.
type Line struct {
	Number     int
	Key, Value string
}

// Note is something to know about a line.
type Note struct {
	// At is the place, as "app.conf:7".
	At  string `json:"at"`
	Key string `json:"key"`
	// Text says in one line what became of it.
	Text string `json:"note"`

	line int
}

func (n Note) String() string { return fmt.Sprintf("%s: %s: %s", n.At, n.Key, n.Text) }

// Note adds a note about line number, behind those on lines up to it.
func (c *Conf) Note(number int, key, format string, args ...any) {
	n := Note{At: c.at(number), Key: key, Text: fmt.Sprintf(format, args...), line: number}
	i, _ := slices.BinarySearchFunc(c.Notes, number+1, func(have Note, line int) int { return cmp.Compare(have.line, line) })
	c.Notes = slices.Insert(c.Notes, i, n)
}

func (c *Conf) at(number int) string { return fmt.Sprintf("%s:%d", c.shown, number) }

func (c *Conf) networked() bool { return c.Main.Kind != "noip" }

func appendNew(list []string, more ...string) []string {
	for _, m := range more {
		if !slices.Contains(list, m) {
			list = append(list, m)
		}
	}
	return list
}
