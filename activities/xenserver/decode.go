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
	n := normalizer{in: xml.NewDecoder(bytes.NewReader(answer))}
	n.out.Grow(len(answer) + len(answer)/2)
	for {
		tok, err := n.in.Token()
		if errors.Is(err, io.EOF) {
			return nil, errors.New("no value")
		}
		if err != nil {
			return nil, err
		}
		if start, ok := tok.(xml.StartElement); ok && start.Name.Local == "value" {
			break
		}
	}
	if err := n.value(0); err != nil {
		return nil, err
	}
	// The rest must be well-formed: an answer that was cut has no end.
	for {
		if _, err := n.in.Token(); errors.Is(err, io.EOF) {
			return n.out.Bytes(), nil
		} else if err != nil {
			return nil, err
		}
	}
}

type normalizer struct {
	in  *xml.Decoder
	out bytes.Buffer
}

// value copies the value whose start was read, with its end.
func (n *normalizer) value(depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("values are nested more than %d deep", maxDepth)
	}
	text, child, err := n.text()
	if err != nil {
		return err
	}
	n.out.WriteString("<value>")
	switch child {
	case "":
		n.scalar("string", text)
	case "struct":
		err = n.members(depth)
	case "array":
		err = n.items(depth)
	default:
		if text, err = n.leaf(); err == nil {
			if child == "base64" {
				text, err = unbase64(text)
			}
			n.scalar(child, text)
		}
	}
	if err == nil && child != "" {
		err = n.end()
	}
	n.out.WriteString("</value>")
	return err
}

// text reads up to the next start or end of an element: child is the name of the one that
// starts, "" for an end.
func (n *normalizer) text() (text, child string, err error) {
	var b strings.Builder
	for {
		tok, err := n.in.Token()
		if err != nil {
			return "", "", err
		}
		switch t := tok.(type) {
		case xml.CharData:
			b.Write(t)
		case xml.StartElement:
			return b.String(), t.Name.Local, nil
		case xml.EndElement:
			return b.String(), "", nil
		}
	}
}

// leaf reads the text of an element up to its end.
func (n *normalizer) leaf() (string, error) {
	text, child, err := n.text()
	if err == nil && child != "" {
		err = fmt.Errorf("element %s in a text", child)
	}
	return text, err
}

// end reads the end of an element that has no more children.
func (n *normalizer) end() error {
	_, err := n.leaf()
	return err
}

// next reads up to the next child, which must have the name. It returns false at the end.
func (n *normalizer) next(name string) (bool, error) {
	_, child, err := n.text()
	if err == nil && child != "" && child != name {
		err = fmt.Errorf("element %s where %s belongs", child, name)
	}
	return child != "", err
}

func (n *normalizer) scalar(kind, text string) {
	if kind == "boolean" {
		if b, err := strconv.ParseBool(strings.TrimSpace(text)); err == nil {
			fmt.Fprintf(&n.out, "<boolean>%t</boolean>", b)
			return
		}
	}
	n.out.WriteString("<string>")
	_ = xml.EscapeText(&n.out, []byte(text)) // a buffer takes all
	n.out.WriteString("</string>")
}

func (n *normalizer) members(depth int) error {
	n.out.WriteString("<struct>")
	for {
		more, err := n.next("member")
		if err != nil {
			return err
		}
		if !more {
			n.out.WriteString("</struct>")
			return nil
		}
		if more, err = n.next("name"); err != nil || !more {
			return cmp.Or(err, errors.New("a member without a name"))
		}
		name, err := n.leaf()
		if err != nil {
			return err
		}
		if name == "" {
			name = noKey
		}
		n.out.WriteString("<member><name>")
		_ = xml.EscapeText(&n.out, []byte(name)) // a buffer takes all
		n.out.WriteString("</name>")
		if more, err = n.next("value"); err != nil || !more {
			return cmp.Or(err, errors.New("a member without a value"))
		}
		if err = n.value(depth + 1); err != nil {
			return err
		}
		if err = n.end(); err != nil {
			return err
		}
		n.out.WriteString("</member>")
	}
}

func (n *normalizer) items(depth int) error {
	n.out.WriteString("<array><data>")
	data, err := n.next("data")
	for data && err == nil {
		var more bool
		if more, err = n.next("value"); !more {
			break
		}
		if err == nil {
			err = n.value(depth + 1)
		}
	}
	if err == nil && data {
		err = n.end()
	}
	n.out.WriteString("</data></array>")
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
