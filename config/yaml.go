package config

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/morgana-deploy/morgana/step"
)

// Limits of a configuration file. They also stop alias bombs and recursive aliases.
const (
	maxBytes  = 64 << 10
	maxValues = 10_000
	maxDepth  = 50
)

// value is a YAML value with aliases and merge keys resolved. It is never changed, so it
// may be shared.
//
// Viper does not read the files because it lower-cases every key. Neither viper nor a
// decoder to Go values keeps the line of a value.
type value struct {
	at     string // its place: "morgana.yaml:12", "--set dev.memory=128"
	is     string // its type in words: "a mapping", "a list", "a string", ...
	fields []field
	items  []*value
	text   string          // a string's text
	scalar json.RawMessage // a scalar, as JSON
}

type field struct {
	name string
	at   string
	*value
}

// The types of values, in the words of errors: "want a string, not a list".
const (
	mapping = "a mapping"
	list    = "a list"
	text    = "a string"
	boolean = "true or false"
	number  = "a number"
	null    = "null"
)

// readYAML reads one YAML document. at is a function that returns the place of a line;
// the first line is 1.
func readYAML(data []byte, at func(line int) string) (*value, error) {
	if len(data) > maxBytes {
		return nil, invalid(at(1), "", "", "more than %d KiB", maxBytes>>10)
	}
	docs, err := documents(data)
	if err != nil {
		line := faultyLine(data, err)
		return nil, &step.Error{Kind: step.InvalidSpec, Op: at(line), Err: plainCause(err), Hint: tabHint(data, line)}
	}
	if len(docs) > 1 {
		return nil, invalid(at(docs[1].Line), "", "", "a second YAML document; want one")
	}
	if len(docs) == 0 || len(docs[0].Content) == 0 {
		return &value{at: at(1), is: null, scalar: json.RawMessage("null")}, nil
	}
	r := reader{at: at, left: maxValues}
	return r.value(docs[0].Content[0], "", 0)
}

func documents(data []byte) (docs []*yaml.Node, err error) {
	d := yaml.NewDecoder(bytes.NewReader(data))
	for {
		n := new(yaml.Node)
		switch err := d.Decode(n); {
		case errors.Is(err, io.EOF):
			return docs, nil
		case err != nil:
			return nil, err
		}
		docs = append(docs, n)
	}
}

// faultyLine returns the line of a syntax error: the line after the longest valid
// beginning of the file. For some errors the library gives no line, the line before or,
// for an unclosed quote, the end of the file. faultyLine returns the library's line only
// if the search would take too long.
func faultyLine(data []byte, err error) int {
	const most = 4 << 20 // bytes to parse in all
	lines := bytes.SplitAfter(data, []byte("\n"))
	end, parsed := len(data), 0
	for n := len(lines); n > 1; n-- {
		end -= len(lines[n-1])
		if _, err := documents(data[:end]); err == nil {
			return n
		}
		if parsed += end; parsed > most {
			line, _ := strconv.Atoi(libraryPrefix.FindStringSubmatch(err.Error())[1])
			return max(1, line)
		}
	}
	return 1
}

// tabHint returns a hint for a line that is indented by tabs, which the library's
// message does not mention.
func tabHint(data []byte, line int) string {
	lines := bytes.SplitAfterN(data, []byte("\n"), line+1)
	if line > len(lines) {
		return ""
	}
	text := lines[line-1]
	if indent := text[:len(text)-len(bytes.TrimLeft(text, " \t"))]; bytes.ContainsRune(indent, '\t') {
		return "indent by spaces: YAML takes no tabs there"
	}
	return ""
}

// libraryPrefix matches every message.
var libraryPrefix = regexp.MustCompile(`^(?:yaml: )?(?:line (\d+): )?`)

// plainCause removes the library's name and line from its message.
func plainCause(err error) error {
	return errors.New("not YAML: " + libraryPrefix.ReplaceAllString(err.Error(), ""))
}

type reader struct {
	at   func(line int) string
	left int // number of values that may still be read
}

func (r *reader) value(n *yaml.Node, path string, depth int) (*value, error) {
	at := r.at(n.Line)
	if r.left--; r.left < 0 {
		return nil, invalid(at, "", "", "more than %d values", maxValues)
	}
	if depth > maxDepth {
		return nil, invalid(at, "", "", "values nested more than %d deep", maxDepth)
	}
	switch n.Kind {
	case yaml.AliasNode:
		return r.value(n.Alias, path, depth+1)
	case yaml.SequenceNode:
		if n.ShortTag() != "!!seq" {
			return nil, unknownTag(at, path, n)
		}
		v := &value{at: at, is: list}
		for i, item := range n.Content {
			iv, err := r.value(item, path+"["+strconv.Itoa(i)+"]", depth+1)
			if err != nil {
				return nil, err
			}
			v.items = append(v.items, iv)
		}
		return v, nil
	case yaml.MappingNode:
		if n.ShortTag() != "!!map" {
			return nil, unknownTag(at, path, n)
		}
		return r.mapping(n, path, depth)
	default:
		return scalar(n, at, path)
	}
}

func (r *reader) mapping(n *yaml.Node, path string, depth int) (*value, error) {
	v := &value{at: r.at(n.Line), is: mapping}
	var merged []*value
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, content := n.Content[i], n.Content[i+1]
		at := r.at(key.Line)
		for key.Kind == yaml.AliasNode {
			key = key.Alias
		}
		if key.Kind == yaml.ScalarNode && key.ShortTag() == "!!merge" {
			m, err := r.value(content, path, depth+1)
			if err != nil {
				return nil, err
			}
			switch m.is {
			case mapping:
				merged = append(merged, m)
			case list:
				merged = append(merged, m.items...)
			default:
				return nil, invalid(at, join(path, "<<"), "", "want a mapping or a list of them, not %s", m.is)
			}
			continue
		}
		if key.Kind != yaml.ScalarNode {
			return nil, invalid(at, path, "", "a key that is not a string")
		}
		if key.ShortTag() != "!!str" {
			return nil, invalid(at, join(path, key.Value), fmt.Sprintf("write %q", key.Value), "a key that is not a string")
		}
		if twin := v.field(key.Value); twin != nil {
			return nil, invalid(at, join(path, key.Value), "", "given twice, first at %s", twin.at)
		}
		fv, err := r.value(content, join(path, key.Value), depth+1)
		if err != nil {
			return nil, err
		}
		v.fields = append(v.fields, field{key.Value, at, fv})
	}
	// The mapping's own fields come first, then the merged ones in order.
	for _, m := range merged {
		if m.is != mapping {
			return nil, invalid(m.at, join(path, "<<"), "", "want a mapping, not %s", m.is)
		}
		for _, f := range m.fields {
			if v.field(f.name) == nil {
				v.fields = append(v.fields, f)
			}
		}
	}
	return v, nil
}

// leadingZero matches an integer that is octal in YAML 1.1 and decimal in YAML 1.2.
var leadingZero = regexp.MustCompile(`^[-+]?0[0-9_]+$`)

func scalar(n *yaml.Node, at, path string) (*value, error) {
	v := &value{at: at}
	var content any
	switch tag := n.ShortTag(); tag {
	case "!!str", "!!timestamp": // JSON has no dates: they stay strings
		v.is, v.text, content = text, n.Value, n.Value
	case "!!null":
		v.is = null
	case "!!bool":
		v.is = boolean
		var b bool
		if n.Decode(&b) != nil {
			return nil, invalid(at, path, "", "want %s, not %q", boolean, n.Value)
		}
		content = b
	case "!!int", "!!float":
		v.is = number
		if leadingZero.MatchString(n.Value) {
			return nil, invalid(at, path, fmt.Sprintf("drop the leading zeros; 0o17 is octal, %q is a string", n.Value),
				"%s is octal to some and decimal to others", n.Value)
		}
		var err error
		if content, err = numeric(n, tag); err != nil {
			return nil, invalid(at, path, "", "%w", err)
		}
	default:
		return nil, unknownTag(at, path, n)
	}
	raw, err := json.Marshal(content)
	if err != nil {
		return nil, invalid(at, path, "", "%w", err)
	}
	v.scalar = raw
	return v, nil
}

// numeric returns n as an int64, a uint64 or a float64 that JSON can represent.
func numeric(n *yaml.Node, tag string) (any, error) {
	var (
		i int64
		u uint64
		f float64
	)
	if tag == "!!int" {
		if n.Decode(&i) == nil {
			return i, nil
		}
		if n.Decode(&u) == nil {
			return u, nil
		}
		return nil, fmt.Errorf("want a whole number, not %q", n.Value)
	}
	if n.Decode(&f) != nil {
		return nil, fmt.Errorf("want a number, not %q", n.Value)
	}
	if math.IsInf(f, 0) || math.IsNaN(f) {
		return nil, fmt.Errorf("%s is no number that JSON can carry", n.Value)
	}
	// The library reads an integer of more than 64 bits as a float.
	if f == math.Trunc(f) && math.Abs(f) > 1<<63 && !strings.ContainsAny(n.Value, ".eE") {
		return nil, fmt.Errorf("%s does not fit into 64 bits", n.Value)
	}
	return f, nil
}

func unknownTag(at, path string, n *yaml.Node) error {
	return invalid(at, path, "", "tag %s is not supported", n.ShortTag())
}

// invalid makes an error about a value of the user's at a place and path.
func invalid(at, path, hint, format string, args ...any) error {
	return &step.Error{Kind: step.InvalidSpec, Op: at, Field: path, Hint: hint, Err: fmt.Errorf(format, args...)}
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

// field returns a mapping's field of that name, or nil.
func (v *value) field(name string) *field {
	for i := range v.fields {
		if v.fields[i].name == name {
			return &v.fields[i]
		}
	}
	return nil
}

// want checks the type of v. Null is an empty mapping or list.
func (v *value) want(path, is string) error {
	if v.is == is || v.is == null && (is == mapping || is == list) {
		return nil
	}
	return invalid(v.at, path, "", "want %s, not %s", is, v.is)
}

// known checks that all fields of a mapping are among names.
func (v *value) known(path string, names ...string) error {
	for _, f := range v.fields {
		if slices.Contains(names, f.name) {
			continue
		}
		return invalid(f.at, join(path, f.name), step.OneOf(f.name, names...), "unknown key")
	}
	return nil
}

// only returns mapping v with only some of its fields.
func (v *value) only(names ...string) *value {
	return v.where(func(f field) bool { return slices.Contains(names, f.name) })
}

// without returns mapping v without some of its fields.
func (v *value) without(names ...string) *value {
	return v.where(func(f field) bool { return !slices.Contains(names, f.name) })
}

func (v *value) where(keep func(field) bool) *value {
	rest := *v
	rest.fields = nil
	for _, f := range v.fields {
		if keep(f) {
			rest.fields = append(rest.fields, f)
		}
	}
	return &rest
}

// json returns v as JSON with sorted keys, nil for an empty mapping. The bytes do not
// depend on the layout of the file.
func (v *value) json() json.RawMessage {
	if v.is == null || v.is == mapping && len(v.fields) == 0 {
		return nil
	}
	return v.appendJSON(nil)
}

func (v *value) appendJSON(b []byte) []byte {
	switch v.is {
	case mapping:
		sorted := slices.SortedFunc(slices.Values(v.fields), func(a, b field) int { return cmp.Compare(a.name, b.name) })
		b = append(b, '{')
		for i, f := range sorted {
			if i > 0 {
				b = append(b, ',')
			}
			name, _ := json.Marshal(f.name) // a string always has a JSON form
			b = append(append(b, name...), ':')
			b = f.appendJSON(b)
		}
		return append(b, '}')
	case list:
		b = append(b, '[')
		for i, item := range v.items {
			if i > 0 {
				b = append(b, ',')
			}
			b = item.appendJSON(b)
		}
		return append(b, ']')
	default:
		return append(b, v.scalar...)
	}
}
