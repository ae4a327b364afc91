package mirari

import (
	"iter"
	"slices"
	"strings"
)

// brought come with the devices that config.ml names; a unikernel does not ask
// for them any more.
var brought = []string{"mirage", "mirage-net", "mirage-fs", "mirage-unix", "mirage-xen", "tcpip", "lwt"}

func (p *parser) depends() error {
	for _, l := range p.all {
		if l.Key != "depends" {
			continue
		}
		for name := range listed(l.Value) {
			if !libraryForm.MatchString(name) {
				return p.invalid(l.Number, l.Key, "as in: depends: cohttp, re.str", "%q is no library", name)
			}
			switch {
			case slices.Contains(brought, name):
				p.Note(l.Number, l.Key, "%s is left out: it comes with the devices of config.ml", name)
			case strings.HasSuffix(name, ".syntax"):
				p.Note(l.Number, l.Key, "%s was for camlp4, which is gone; its library is asked for, its syntax needs a ppx", name)
				p.Libraries = appendNew(p.Libraries, strings.TrimSuffix(name, ".syntax"))
			default:
				p.Libraries = appendNew(p.Libraries, name)
			}
		}
	}
	return nil
}

func (p *parser) packages() error {
	for _, l := range p.all {
		if l.Key != "packages" {
			continue
		}
		for name := range listed(l.Value) {
			form := packageForm.FindStringSubmatch(name)
			if form == nil {
				return p.invalid(l.Number, l.Key, "as in: packages: cow, re", "%q is no package", name)
			}
			if form[2] != "" {
				p.Note(l.Number, l.Key, "%s is asked for without its version, which is of 2013", name)
			}
			if slices.Contains(brought, form[1]) {
				p.Note(l.Number, l.Key, "%s is left out: it comes with the devices of config.ml", form[1])
				continue
			}
			p.Packages = appendNew(p.Packages, form[1])
		}
	}
	return nil
}

// listed gives what stands between the commas.
func listed(value string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for item := range strings.SplitSeq(value, ",") {
			if item = strings.TrimSpace(item); item != "" && !yield(item) {
				return
			}
		}
	}
}
