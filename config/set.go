package config

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/morgana-deploy/morgana/step"
)

// Set changes a field of a target, as in "dev.memory=128", "dev.ports[0]=8080" or
// "dev.kind=xen". The value is YAML. Set makes missing mappings and lists. The index
// after a list's last one appends. Keys with a dot or bracket cannot be set. An error
// has Op "--set dev.memory=128" and leaves p unchanged.
func (p *Project) Set(assignment string) error {
	at := setPlace(assignment)
	path, content, ok := strings.Cut(assignment, "=")
	if !ok {
		return invalid(at, "", "give it as in `--set dev.memory=128`", "want <target>.<field>=<value>")
	}
	segments, err := parsePath(path)
	if err == nil && len(segments) == 1 && len(p.Targets) > 0 && !slices.ContainsFunc(p.Targets, func(t Target) bool { return t.Name == path }) {
		return invalid(at, "", fmt.Sprintf("name the target too, as in `--set %s.%s`", p.Targets[0].Name, assignment), "want <target>.<field>=<value>")
	}
	if err != nil || len(segments) < 2 || segments[0].list || segments[1].list {
		return invalid(at, "", "give it as in `--set dev.memory=128`", "want <target>.<field>=<value>")
	}
	if _, err := p.target(segments[0].name, at); err != nil {
		return err
	}
	v, err := readYAML([]byte(content), func(int) string { return at })
	if err != nil {
		var e *step.Error
		if errors.As(err, &e) && e.Hint == "" {
			e.Hint = "a text goes in quotes for YAML and for the shell, as " + quotedSet(path, content)
		}
		return err
	}
	segments = slices.Insert(segments, 0, segment{name: "targets"})
	root, err := put(p.root, segments, v, at, "")
	if err != nil {
		return err
	}
	changed := *p
	changed.root = root
	next, err := newProject(changed)
	if err != nil {
		return err
	}
	*p = *next
	return nil
}

// maxPlace is the most bytes of an assignment that an error shows.
const maxPlace = 60

const setFlag = "--set "

// setPlace returns the place of a value that --set gives.
func setPlace(assignment string) string {
	assignment = withoutUsers(assignment)
	if len(assignment) > maxPlace {
		assignment = strings.ToValidUTF8(assignment[:maxPlace], "") + "..."
	}
	return setFlag + assignment
}

// SetHint returns the hint of an error at a place that [Project.Locate] returned. If it is
// one of --set, the hint shows the shell's quotes, too.
func SetHint(place, hint string) string {
	const quotes = "in quotes, as "
	path, value, _ := strings.Cut(strings.TrimPrefix(place, setFlag), "=")
	switch {
	case !strings.HasPrefix(place, setFlag) || !strings.HasPrefix(hint, quotes):
		return hint
	case hint == quotes+strconv.Quote(value):
		return "in quotes for YAML and for the shell, as " + quotedSet(path, value)
	}
	return hint + ", within single quotes for the shell"
}

// quotedSet returns the --set of a text as a user types it into a shell.
func quotedSet(path, value string) string {
	return setFlag + "'" + strings.ReplaceAll(path+"="+strconv.Quote(withoutUsers(value)), "'", `'\''`) + "'"
}

var urlUser = regexp.MustCompile(`://\S*@`)

// withoutUsers leaves the user out of a URL: a password may be with it.
func withoutUsers(text string) string { return urlUser.ReplaceAllString(text, "://...@") }

// segment is an element of a path: a mapping's key or a list's index.
type segment struct {
	name  string
	index int
	list  bool
}

// parsePath splits a path such as "net.ports[1]".
func parsePath(path string) ([]segment, error) {
	var segments []segment
	for _, part := range strings.Split(path, ".") {
		name, rest, indexed := strings.Cut(part, "[")
		if name == "" {
			return nil, fmt.Errorf("%q has an empty name", path)
		}
		segments = append(segments, segment{name: name})
		for indexed {
			var digits string
			digits, rest, _ = strings.Cut(rest, "]")
			index, err := strconv.ParseUint(digits, 10, 16)
			if err != nil {
				return nil, fmt.Errorf("%q has a bad index", path)
			}
			segments = append(segments, segment{index: int(index), list: true})
			if rest == "" {
				break
			}
			if rest[0] != '[' {
				return nil, fmt.Errorf("%q has text behind an index", path)
			}
			rest = rest[1:]
		}
	}
	return segments, nil
}

// put returns a copy of v in which the value at segments is leaf. at is the place of new
// values, and path is the path of v itself.
func put(v *value, segments []segment, leaf *value, at, path string) (*value, error) {
	if len(segments) == 0 {
		return leaf, nil
	}
	s, is := segments[0], mapping
	if s.list {
		is = list
	}
	if v == nil || v.is == null {
		v = &value{at: at, is: is}
	}
	if v.is != is {
		return nil, invalid(at, path, "", "is %s, not %s (%s)", v.is, is, v.at)
	}
	next := *v
	if s.list {
		path += "[" + strconv.Itoa(s.index) + "]"
		if s.index > len(v.items) {
			return nil, invalid(at, path, "", "the list has only %d items", len(v.items))
		}
		next.items = slices.Clone(v.items)
		if s.index == len(v.items) {
			next.items = append(next.items, nil)
		}
		var err error
		next.items[s.index], err = put(next.items[s.index], segments[1:], leaf, at, path)
		return &next, err
	}
	path = join(path, s.name)
	next.fields = slices.Clone(v.fields)
	i := slices.IndexFunc(v.fields, func(f field) bool { return f.name == s.name })
	if i < 0 {
		i = len(v.fields)
		next.fields = append(next.fields, field{name: s.name, at: at})
	}
	child, err := put(next.fields[i].value, segments[1:], leaf, at, path)
	if err != nil {
		return nil, err
	}
	next.fields[i].value = child
	if len(segments) == 1 {
		next.fields[i].at = at
	}
	return &next, nil
}

// Locate returns the place of an option that a stage refuses: "morgana.yaml:12" or
// "--set dev.memory=128". field is the Field of the [step.Error] ("memory", "ports[1]").
// The place of a missing option is that of the mapping or list that would hold it.
//
// Locate looks for field in the options of the target, then in those of the toolchain,
// then from the top of the file (field "toolchain.kernel"). With an empty target it
// begins with the toolchain.
func (p *Project) Locate(target, field string) string {
	toolchain := p.root.field("toolchain")
	here := toolchain
	if target != "" {
		here = p.root.field("targets").field(target)
	}
	if here == nil {
		return p.shown
	}
	at, v := here.at, here.value
	if field != "" && !leads(v, field) {
		switch {
		case leads(toolchain.value, field):
			at, v = toolchain.at, toolchain.value
		case leads(p.root, field):
			at, v = p.shown, p.root
		}
	}
	for rest := field; rest != "" && v != nil; {
		at, v, rest = descend(at, v, strings.TrimPrefix(rest, "."))
	}
	return at
}

// leads reports whether v has the first name or index of path.
func leads(v *value, path string) bool {
	_, next, _ := descend("", v, path)
	return next != nil
}

// descend follows the first name or index of path. It returns the place and the value
// found, and the rest of path. If there is no such value it returns at, nil and "". Names
// may contain dots: the longest name that fits wins.
func descend(at string, v *value, path string) (string, *value, string) {
	var best *field
	for i, f := range v.fields {
		rest, ok := strings.CutPrefix(path, f.name)
		ends := rest == "" || rest[0] == '.' || rest[0] == '['
		if ok && f.name != "" && ends && (best == nil || len(f.name) > len(best.name)) {
			best = &v.fields[i]
		}
	}
	if best != nil {
		return best.at, best.value, path[len(best.name):]
	}
	if digits, rest, ok := strings.Cut(strings.TrimPrefix(path, "["), "]"); ok && path[0] == '[' {
		if i, err := strconv.Atoi(digits); err == nil && i >= 0 && i < len(v.items) {
			return v.items[i].at, v.items[i], rest
		}
	}
	return at, nil, ""
}
