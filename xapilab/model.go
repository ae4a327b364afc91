package xapilab

import (
	_ "embed"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// excerpt has the classes, fields, enums and messages that the lab knows, as the API's own
// model has them. TestModel compares it with the model and writes it anew.
//
//go:embed model.txt
var excerpt string

// kind is a class of the API.
type kind struct {
	name   string
	fields []column
	enums  map[string][]string
	verbs  map[string]verb
}

// column is a field of a class.
type column struct {
	name, typ string
	// qualifier is "RW", "RO/constructor" or "RO/runtime".
	qualifier string
	// initial is the default, and required says that there is none.
	initial  string
	required bool
	role     string // of its setters
}

// verb is a message of a class that is no getter or setter.
type verb struct {
	result, role string
	params       []string // types, without the session
}

var kinds = readModel(excerpt)

func readModel(text string) map[string]*kind {
	all := map[string]*kind{}
	var k *kind
	for line := range strings.Lines(text) {
		f := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		switch f[0] {
		case "class":
			k = &kind{name: f[1], enums: map[string][]string{}, verbs: map[string]verb{}}
			all[k.name] = k
		case "enum":
			k.enums[f[1]] = strings.Fields(f[2])
		case "field":
			k.fields = append(k.fields, column{f[1], f[2], f[3], f[4], f[4] == "-", f[5]})
		case "message":
			var params []string
			if f[4] != "" {
				params = strings.Split(f[4], ", ")
			}
			k.verbs[f[1]] = verb{f[2], f[3], params}
		}
	}
	return all
}

func (k *kind) column(name string) (column, bool) {
	at := slices.IndexFunc(k.fields, func(c column) bool { return c.name == name })
	if at < 0 {
		return column{}, false
	}
	return k.fields[at], true
}

// constructor reports whether the create message takes the field.
func (c column) constructor() bool { return c.qualifier != "RO/runtime" }

// value returns the default of a field, or the zero value of its type.
func (c column) value() any {
	text := c.initial
	if c.required {
		text = ""
	}
	switch {
	case strings.HasSuffix(c.typ, " map"):
		return map[string]string{}
	case strings.HasSuffix(c.typ, " set"):
		return []string{}
	case strings.HasSuffix(c.typ, " ref"):
		return null
	case c.typ == "bool":
		return text == "true"
	case c.name == "domid":
		return int64(-1)
	case c.typ == "int":
		n, _ := strconv.ParseInt(text, 10, 64) // "" is 0
		return n
	case c.typ == "float":
		f, _ := strconv.ParseFloat(text, 64) // likewise
		return f
	case c.typ == "datetime":
		return stamp("19700101T00:00:00Z")
	}
	return strings.Trim(text, `"`)
}

// null is the reference to nothing.
const null = "OpaqueRef:NULL"

// take checks the type of a parameter or field that came and returns it as the lab keeps it.
func (k *kind) take(typ string, v any) (any, error) {
	wrong := func() (any, error) {
		return nil, fail("INTERNAL_ERROR", fmt.Sprintf("Failure(\"Expected %s, got '%v'\")", typ, v))
	}
	if inner, ok := strings.CutSuffix(typ, " set"); ok {
		list, ok := v.([]any)
		if !ok {
			return wrong()
		}
		all := []string{}
		for _, e := range list {
			taken, err := k.take(inner, e)
			if err != nil {
				return nil, err
			}
			all = append(all, taken.(string))
		}
		return all, nil
	}
	if inner, ok := strings.CutSuffix(typ, ") map"); ok {
		members, ok := v.(map[string]any)
		if !ok {
			return wrong()
		}
		key, value, _ := strings.Cut(strings.TrimPrefix(inner, "("), " -> ")
		all := map[string]string{}
		for name, e := range members {
			if _, err := k.take(key, name); err != nil {
				return nil, err
			}
			taken, err := k.take(value, e)
			if err != nil {
				return nil, err
			}
			all[name] = taken.(string)
		}
		return all, nil
	}
	text, isText := v.(string)
	ok := isText
	switch enum, isEnum := strings.CutPrefix(typ, "enum "); {
	case isEnum:
		ok = slices.Contains(k.enums[enum], text)
	case typ == "int":
		n, err := strconv.ParseInt(text, 10, 64)
		if err == nil {
			return n, nil
		}
		ok = false
	case typ == "bool":
		_, ok = v.(bool)
	case typ == "float":
		_, ok = v.(float64)
	case typ == "datetime":
		_, ok = v.(stamp)
	case strings.HasSuffix(typ, " record"):
		_, ok = v.(map[string]any)
	}
	if !ok {
		return wrong()
	}
	return v, nil
}
