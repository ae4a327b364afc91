package xenserver

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/kolo/xmlrpc"
)

// maxDepth is how deep the values of an answer may be nested: those of the XenAPI are 5 deep.
const maxDepth = 32

// noKey stands for an empty key of a map, which kolo refuses.
const noKey = "\ue000"

// decode decodes an answer of XML-RPC into out. It is kolo's decoder behind [normalize].
func decode(answer []byte, out any) error {
	plain, err := normalize(answer)
	if err != nil {
		return err
	}
	return xmlrpc.Response(plain).Unmarshal(out)
}

// normalize rewrites an answer so that kolo decodes all of it: kolo drops what follows an
// empty value, trims text without a type, and does not read base64, CDATA and empty keys. All
// scalars but booleans become strings, because xapi gives few of them a type.
func normalize(answer []byte) ([]byte, error) {
	in := xml.NewDecoder(bytes.NewReader(answer))
	var out bytes.Buffer
	out.Grow(len(answer) + len(answer)/2)
	var open []*element // from the first value on
	for {
		tok, err := in.Token()
		switch {
		case errors.Is(err, io.EOF) && out.Len() == 0:
			return nil, errors.New("no value")
		case errors.Is(err, io.EOF): // an answer that was cut has another error
			return out.Bytes(), nil
		case err != nil:
			return nil, err
		}
		if start, ok := tok.(xml.StartElement); ok && (len(open) > 0 || out.Len() == 0 && start.Name.Local == "value") {
			e := &element{name: start.Name.Local}
			if len(open) > 0 {
				if err := open[len(open)-1].add(e); err != nil {
					return nil, err
				}
			}
			if open = append(open, e); len(open)/3 > maxDepth { // three elements a level: value, struct or array, member or data
				return nil, fmt.Errorf("values are nested more than %d deep", maxDepth)
			}
			if !e.scalar {
				out.WriteString("<" + e.name + ">")
			}
		} else if len(open) > 0 {
			switch t := tok.(type) {
			case xml.CharData:
				open[len(open)-1].text.Write(t)
			case xml.EndElement:
				if err := open[len(open)-1].end(&out); err != nil {
					return nil, err
				}
				open = open[:len(open)-1]
			}
		}
	}
}

// element is an element of an answer whose end was not read yet.
type element struct {
	name     string
	scalar   bool // the type of a simple value, as int or string
	text     strings.Builder
	children int
}

// add adds a child, unless another one belongs there.
func (e *element) add(child *element) error {
	belongs := false
	switch {
	case e.scalar:
	case e.name == "value":
		child.scalar = child.name != "struct" && child.name != "array"
		belongs = e.children == 0
	case e.name == "struct":
		belongs = child.name == "member"
	case e.name == "member":
		belongs = e.children == 0 && child.name == "name" || e.children == 1 && child.name == "value"
	case e.name == "array":
		belongs = e.children == 0 && child.name == "data"
	case e.name == "data":
		belongs = child.name == "value"
	}
	if !belongs {
		return fmt.Errorf("element %s does not belong into element %s", child.name, e.name)
	}
	e.children++
	return nil
}

// end writes what was not written of an element, and its end.
func (e *element) end(out *bytes.Buffer) (err error) {
	text := e.text.String()
	switch {
	case e.scalar && e.name == "boolean":
		if b, err := strconv.ParseBool(strings.TrimSpace(text)); err == nil {
			fmt.Fprintf(out, "<boolean>%t</boolean>", b)
			return nil
		}
	case e.scalar && e.name == "base64":
		text, err = unbase64(text)
	case e.scalar:
	case e.name == "name":
		out.WriteString(escape(cmp.Or(text, noKey)))
	case e.name == "array" && e.children == 0:
		out.WriteString("<data></data>")
	case e.name == "member" && e.children < 2:
		return errors.New("a member without a name or a value")
	}
	if e.scalar || e.name == "value" && e.children == 0 {
		out.WriteString("<string>" + escape(text) + "</string>")
	}
	if !e.scalar {
		out.WriteString("</" + e.name + ">")
	}
	return err
}

// unbase64 decodes base64. Bytes that XML cannot carry stay encoded.
func unbase64(text string) (string, error) {
	b, err := base64.StdEncoding.DecodeString(strings.Join(strings.Fields(text), ""))
	if err == nil && carried(string(b)) == nil {
		text = string(b)
	}
	return text, err
}

// encode writes a call. It is kolo's encoder, which escapes no keys and sends integers as
// such: the XenAPI's are strings.
func encode(method string, args []any) ([]byte, error) {
	plain := make([]any, len(args))
	for i, arg := range args {
		var err error
		if plain[i], err = outgoing(reflect.ValueOf(arg)); err != nil {
			return nil, err
		}
	}
	return xmlrpc.EncodeMethodCall(escape(method), plain...)
}

// outgoing returns v as strings, booleans, floats, slices and maps of escaped keys.
func outgoing(v reflect.Value) (any, error) {
	switch v.Kind() {
	case reflect.Interface, reflect.Pointer:
		if !v.IsNil() {
			return outgoing(v.Elem())
		}
	case reflect.String:
		return v.String(), carried(v.String())
	case reflect.Bool:
		return v.Bool(), nil
	case reflect.Float64:
		return v.Float(), nil
	case reflect.Int, reflect.Int64:
		return strconv.FormatInt(v.Int(), 10), nil
	case reflect.Slice:
		all := make([]any, v.Len())
		for i := range all {
			var err error
			if all[i], err = outgoing(v.Index(i)); err != nil {
				return nil, err
			}
		}
		return all, nil
	case reflect.Map:
		all := map[string]any{}
		for key, value := range v.Seq2() {
			plain, err := outgoing(value)
			if err = cmp.Or(err, carried(key.String())); err != nil {
				return nil, err
			}
			all[escape(key.String())] = plain
		}
		return all, nil
	case reflect.Struct:
		all := map[string]any{}
		for i := range v.NumField() {
			plain, err := outgoing(v.Field(i))
			if err != nil {
				return nil, err
			}
			all[escape(v.Type().Field(i).Tag.Get("xmlrpc"))] = plain
		}
		return all, nil
	}
	return nil, fmt.Errorf("a %s is no value of the XenAPI", v.Kind())
}

func escape(text string) string {
	var b strings.Builder
	_ = xml.EscapeText(&b, []byte(text)) // a builder takes all
	return b.String()
}

// carried returns an error for a text that XML cannot carry: kolo would change it.
func carried(text string) error {
	bad := func(r rune) bool { return r < ' ' && r != '\t' && r != '\n' && r != '\r' || r == 0xfffe || r == 0xffff }
	if !utf8.ValidString(text) {
		return errors.New("a text is not UTF-8")
	}
	if i := strings.IndexFunc(text, bad); i >= 0 { // the text may be a secret
		r, _ := utf8.DecodeRuneInString(text[i:])
		return fmt.Errorf("a text has the character %q, which the XenAPI cannot carry", r)
	}
	return nil
}
