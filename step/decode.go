package step

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

var nameForm = regexp.MustCompile(`^[a-z][a-z0-9-]{0,39}$`)

// CheckName checks that name is valid for an app, a target or a kind:
// [a-z][a-z0-9-]{0,39}. The error is InvalidSpec with the given field.
func CheckName(field, name string) error {
	if nameForm.MatchString(name) {
		return nil
	}
	return Invalid(field, "a name is a lower-case letter, then at most 39 lower-case letters, digits or hyphens", "%q is not a valid name", name)
}

// Decode reads a step's options into *into. An unknown field is InvalidSpec with the
// nearest known name as Hint. A value of the wrong type is InvalidSpec with a valid
// value as Hint: that of the field's tag example if it has one. The error's Field is the whole path, as "args[2]" or "disks[0].size".
// Names are case-sensitive, unlike in encoding/json. Empty or null options leave *into
// as it is. Then Decode calls the checks in their order, up to the first that fails.
func Decode(options json.RawMessage, into any, checks ...func() error) error {
	err := decode(options, into)
	for _, check := range checks {
		if err == nil {
			err = check()
		}
	}
	return err
}

func decode(options json.RawMessage, into any) error {
	if trimmed := bytes.TrimSpace(options); len(trimmed) == 0 || bytes.Equal(trimmed, []byte("null")) {
		return nil
	}
	if err := checkType(options, reflect.TypeOf(into).Elem(), "", ""); err != nil {
		return err
	}
	d := json.NewDecoder(bytes.NewReader(options))
	if err := d.Decode(into); err != nil {
		return Invalid("", "", "options: %w", err)
	}
	if _, err := d.Token(); err != io.EOF {
		return Invalid("", "", "options: more than one JSON value")
	}
	return nil
}

var unmarshaler = reflect.TypeFor[json.Unmarshaler]()

// checkType refuses members that are no field of t and values of the wrong type, at
// any depth. The errors of encoding/json have neither the index nor the path. sample is a
// valid value, "" if none is known.
func checkType(raw json.RawMessage, t reflect.Type, path, sample string) error {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	kind := t.Kind()
	if reflect.PointerTo(t).Implements(unmarshaler) {
		kind = reflect.Invalid // it has its own UnmarshalJSON
	}
	switch kind {
	case reflect.Struct, reflect.Map:
		var members map[string]json.RawMessage
		if json.Unmarshal(raw, &members) != nil {
			break
		}
		var fields map[string]reflect.StructField
		if kind == reflect.Struct {
			fields = jsonFields(t)
		}
		for _, name := range sortedKeys(members) {
			field, known := fields[name]
			switch {
			case kind == reflect.Map:
				field.Type = t.Elem()
			case !known:
				return unknownField(join(path, name), name, sortedKeys(fields))
			}
			if err := checkType(members[name], field.Type, join(path, name), field.Tag.Get("example")); err != nil {
				return err
			}
		}
		return nil
	case reflect.Slice, reflect.Array:
		var items []json.RawMessage
		if json.Unmarshal(raw, &items) != nil {
			break
		}
		for i, item := range items {
			if err := checkType(item, t.Elem(), path+"["+strconv.Itoa(i)+"]", ""); err != nil {
				return err
			}
		}
		return nil
	}
	err := json.Unmarshal(raw, reflect.New(t).Interface())
	var wrong *json.UnmarshalTypeError
	var own *Error // from a type's own UnmarshalJSON
	switch {
	case errors.As(err, &own):
		if own.Field != "" {
			return own
		}
		return Amend(own, func(e *Error) { e.Field = path })
	case errors.As(err, &wrong):
		return wrongType(raw, t, path, sample)
	}
	return nil // not JSON: Decode returns the error
}

func unknownField(path, name string, known []string) error {
	e := Invalid(path, "known fields: "+strings.Join(known, ", "), "unknown field")
	if near := Nearest(name, known); near != "" {
		e.Hint = fmt.Sprintf("did you mean %q?", near)
	}
	return e
}

func jsonFields(t reflect.Type) map[string]reflect.StructField {
	fields := map[string]reflect.StructField{}
	for _, f := range reflect.VisibleFields(t) {
		tag, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case !f.IsExported(), tag == "-", f.Anonymous && tag == "":
		case tag != "":
			fields[tag] = f
		default:
			fields[f.Name] = f
		}
	}
	return fields
}

func typeWords(t reflect.Type) string {
	switch t.Kind() {
	case reflect.String:
		return "a string"
	case reflect.Bool:
		return "true or false"
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return "a whole number"
	case reflect.Float32, reflect.Float64:
		return "a number"
	case reflect.Slice, reflect.Array:
		return "a list"
	default:
		return "a mapping"
	}
}

// wrongType returns the error for a value that is not of type t. Its hint shows a valid
// value.
func wrongType(raw json.RawMessage, t reflect.Type, path, sample string) error {
	raw = bytes.TrimSpace(raw)
	have, text := "a number", string(raw)
	switch raw[0] {
	case '{':
		have, text = "a mapping", ""
	case '[':
		have, text = "a list", ""
	case '"':
		have = "a string"
		_ = json.Unmarshal(raw, &text) // checkType has parsed it already
	case 't', 'f':
		have = "true or false"
	}
	want := typeWords(t)
	if have == "a number" && strings.HasSuffix(want, " number") {
		have = text
	}
	hint := want + ", as " + example(t, cmp.Or(sample, text))
	switch {
	case sample != "":
	case want == "a string" && text != "":
		hint = "in quotes, as " + example(t, text)
	case have == "a string" && json.Unmarshal([]byte(text), reflect.New(t).Interface()) == nil:
		hint = "without quotes, as " + text
	}
	for t.Kind() == reflect.Slice || t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t.Kind() == reflect.Struct {
		hint += "; known fields: " + strings.Join(sortedKeys(jsonFields(t)), ", ")
	}
	return Invalid(path, hint, "want %s, not %s", want, have)
}

// example returns a YAML value of type t. A string in it is text, or "..." if text is
// empty or long.
func example(t reflect.Type, text string) string {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch typeWords(t) {
	case "a string":
		if text == "" || len(text) > 40 {
			text = "..."
		}
		return strconv.Quote(text)
	case "true or false":
		return "true"
	case "a whole number":
		return "64"
	case "a number":
		return "0.5"
	case "a list":
		return "[" + example(t.Elem(), text) + "]"
	}
	name, of := "name", reflect.Type(nil)
	switch t.Kind() {
	case reflect.Map:
		of = t.Elem()
	case reflect.Struct:
		if fields := jsonFields(t); len(fields) > 0 {
			name = sortedKeys(fields)[0]
			of = fields[name].Type
		}
	}
	if of == nil {
		return "{}"
	}
	return "{" + name + ": " + example(of, "") + "}"
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// Nearest returns the known name that is most like a misspelt one, "" if none is near.
func Nearest(name string, known []string) string {
	best, at := "", max(2, len(name)/3)+1
	for _, k := range known {
		if d := distance(strings.ToLower(name), strings.ToLower(k)); d < at {
			best, at = k, d
		}
	}
	return best
}

// distance returns the fewest insertions, deletions, replacements and swaps of
// neighbours that turn a into b (optimal string alignment).
func distance(a, b string) int {
	var before, last []int
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		before, last, row = last, row, make([]int, len(b)+1)
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
	}
	return row[len(b)]
}
