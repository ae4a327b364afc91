package mirari

import "strings"

// value is one of xl.cfg(5): a text, which a number is too, or a list.
type value struct {
	text   string
	isList bool
	list   []value
}

// readValue reads what stands behind "key =" on a line, as xl does; it reports
// whether xl would take it.
func readValue(s string) (value, bool) {
	r := reader{rest: s}
	v, ok := r.value()
	rest := strings.TrimLeft(r.rest, " \t;")
	return v, ok && (rest == "" || rest[0] == '#')
}

type reader struct {
	rest  string
	depth int // of lists
}

func (r *reader) value() (v value, ok bool) {
	if r.rest == "" {
		return v, false
	}
	switch c := r.rest[0]; {
	case c == '\'' || c == '"':
		v.text, ok = r.quoted(c)
		return v, ok
	case '0' <= c && c <= '9':
		rest := strings.TrimLeft(r.rest, "0123456789abcdefx")
		v.text, r.rest = r.rest[:len(r.rest)-len(rest)], rest
		return v, true
	case c == '[':
		v.isList = true
		v.list, ok = r.elements()
		return v, ok
	}
	return v, false
}

// elements reads a list; a comma may stand behind the last of them.
func (r *reader) elements() (all []value, ok bool) {
	if r.depth++; r.depth > 8 {
		return nil, false
	}
	defer func() { r.depth-- }()
	for r.skip(1); !strings.HasPrefix(r.rest, "]"); {
		v, ok := r.value()
		if !ok {
			return nil, false
		}
		all = append(all, v)
		r.skip(0)
		if strings.HasPrefix(r.rest, ",") {
			r.skip(1)
		} else if !strings.HasPrefix(r.rest, "]") {
			return nil, false
		}
	}
	r.rest = r.rest[1:]
	return all, true
}

// skip skips n bytes and the blanks behind them.
func (r *reader) skip(n int) { r.rest = strings.TrimLeft(r.rest[n:], " \t") }

// escapes are those that xl and Python, as which xm read its files, agree on.
var escapes = map[byte]byte{'"': '"', '\'': '\'', '\\': '\\', 'a': 7, 'b': 8, 'f': 12, 'n': 10, 'r': 13, 't': 9, 'v': 11}

func (r *reader) quoted(quote byte) (string, bool) {
	var b strings.Builder
	for i := 1; i < len(r.rest); i++ {
		c := r.rest[i]
		if c == quote {
			r.rest = r.rest[i+1:]
			return b.String(), true
		}
		if c == '\\' {
			if i++; i == len(r.rest) || escapes[r.rest[i]] == 0 {
				return "", false
			}
			c = escapes[r.rest[i]]
		}
		b.WriteByte(c)
	}
	return "", false
}
