package xapilab

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// A value of a call is a string, an int64 (of <int>), a bool, a float64, a stamp, a []any or
// a map[string]any. An answer may also have an int32, a []string, a map[string]string, a record or nil.

// stamp is a dateTime.iso8601.
type stamp string

// record is a struct whose members have an order.
type record []member

type member struct {
	name  string
	value any
}

// failure is an error of the API: a code and its parameters.
type failure []string

func (f failure) Error() string { return strings.Join(f, " ") }

func fail(code string, params ...string) failure { return append(failure{code}, params...) }

// readCall reads a methodCall, or a methodResponse, which has no method and one parameter.
func readCall(r io.Reader) (method string, params []any, err error) {
	d := xml.NewDecoder(r)
	for {
		t, err := d.Token()
		if errors.Is(err, io.EOF) && (method != "" || len(params) == 1) {
			return method, params, nil
		}
		if err != nil {
			return "", nil, err
		}
		start, ok := t.(xml.StartElement)
		if !ok {
			continue
		}
		switch start.Name.Local {
		case "methodName":
			if err := d.DecodeElement(&method, &start); err != nil {
				return "", nil, err
			}
		case "value":
			v, err := readValue(d)
			if err != nil {
				return "", nil, err
			}
			params = append(params, v)
		case "methodCall", "methodResponse", "params", "param":
		default:
			return "", nil, fmt.Errorf("element %s", start.Name.Local)
		}
	}
}

// readValue reads the rest of a value element. Text without a type is a string.
func readValue(d *xml.Decoder) (v any, err error) {
	var text strings.Builder
	for {
		t, err := d.Token()
		if err != nil {
			return nil, err
		}
		switch t := t.(type) {
		case xml.CharData:
			text.Write(t)
		case xml.StartElement:
			if v, err = readTyped(d, t); err != nil {
				return nil, err
			}
		case xml.EndElement:
			if v == nil {
				v = text.String()
			}
			return v, nil
		}
	}
}

func readTyped(d *xml.Decoder, start xml.StartElement) (any, error) {
	switch kind := start.Name.Local; kind {
	case "array":
		all := []any{}
		err := children(d, func(e xml.StartElement) error {
			if e.Name.Local != "value" {
				return nil // data
			}
			v, err := readValue(d)
			all = append(all, v)
			return err
		})
		return all, err
	case "struct":
		all, name := map[string]any{}, ""
		err := children(d, func(e xml.StartElement) (err error) {
			switch e.Name.Local {
			case "name":
				err = d.DecodeElement(&name, &e)
			case "value":
				all[name], err = readValue(d)
			}
			return err
		})
		return all, err
	default:
		var text string
		if err := d.DecodeElement(&text, &start); err != nil {
			return nil, err
		}
		switch kind {
		case "string":
			return text, nil
		case "int", "i4", "i8":
			return strconv.ParseInt(text, 10, 64)
		case "boolean":
			return strconv.ParseBool(text)
		case "double":
			return strconv.ParseFloat(text, 64)
		case "dateTime.iso8601":
			return stamp(text), nil
		}
		return nil, fmt.Errorf("a value of type %s", kind)
	}
}

// children calls do for each element up to the end of the one that was begun. If do reads an
// element to its end, children does not see that end.
func children(d *xml.Decoder, do func(xml.StartElement) error) error {
	for depth := 1; depth > 0; {
		t, err := d.Token()
		if err != nil {
			return err
		}
		switch t := t.(type) {
		case xml.StartElement:
			if n := t.Name.Local; n != "value" && n != "name" {
				depth++
			}
			if err := do(t); err != nil {
				return err
			}
		case xml.EndElement:
			depth--
		}
	}
	return nil
}

// answer returns the methodResponse with a value, or with an error of the API.
func answer(v any, failed failure) []byte {
	body := record{{"Status", "Success"}, {"Value", v}}
	if failed != nil {
		body = record{{"Status", "Failure"}, {"ErrorDescription", []string(failed)}}
	}
	out := []byte(`<?xml version="1.0"?><methodResponse><params><param>`)
	return append(encode(out, body), "</param></params></methodResponse>"...)
}

var escape = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", `"`, "&quot;", "'", "&apos;").Replace

// encode appends a value as xapi sends it: strings have no type, and integers are strings.
func encode(out []byte, v any) []byte {
	out = append(out, "<value>"...)
	switch v := v.(type) {
	case nil:
	case string:
		out = append(out, escape(v)...)
	case int64:
		out = strconv.AppendInt(out, v, 10)
	case int32:
		out = fmt.Appendf(out, "<i4>%d</i4>", v)
	case bool:
		out = fmt.Appendf(out, "<boolean>%d</boolean>", map[bool]int{true: 1}[v])
	case float64:
		out = fmt.Appendf(out, "<double>%.16g</double>", v)
	case stamp:
		out = fmt.Appendf(out, "<dateTime.iso8601>%s</dateTime.iso8601>", string(v))
	case []string:
		out = append(out, "<array><data>"...)
		for _, s := range v {
			out = encode(out, s)
		}
		out = append(out, "</data></array>"...)
	case []any:
		out = append(out, "<array><data>"...)
		for _, e := range v {
			out = encode(out, e)
		}
		out = append(out, "</data></array>"...)
	case map[string]string:
		var r record
		for _, k := range slices.Sorted(maps.Keys(v)) {
			r = append(r, member{k, v[k]})
		}
		return append(appendRecord(out, r), "</value>"...)
	case record:
		out = appendRecord(out, v)
	default:
		panic(fmt.Sprintf("xapilab: a value of type %T", v))
	}
	return append(out, "</value>"...)
}

func appendRecord(out []byte, r record) []byte {
	out = append(out, "<struct>"...)
	for _, m := range r {
		out = encode(fmt.Appendf(out, "<member><name>%s</name>", escape(m.name)), m.value)
		out = append(out, "</member>"...)
	}
	return append(out, "</struct>"...)
}
