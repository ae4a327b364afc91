package xen

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// setting is "key = value" of xl.cfg(5), or "key += value".
type setting struct {
	Key   string
	Add   bool
	Value value
	Line  int // from 1
}

// value is a list, or a string or number as Text.
type value struct {
	Text   string
	Number bool // written without quotes
	IsList bool
	List   []value
}

func text(s string) value        { return value{Text: s} }
func number(n int) value         { return value{Text: strconv.Itoa(n), Number: true} }
func list(values ...value) value { return value{IsList: true, List: values} }

// String returns the setting in the syntax of xl and xm, a list over several lines.
func (s setting) String() string {
	if len(s.Value.List) == 0 {
		return s.line()
	}
	var b strings.Builder
	b.WriteString(s.Key + s.op() + "[\n")
	for _, v := range s.Value.List {
		b.WriteString("    " + v.String() + ",\n")
	}
	return b.String() + "]"
}

// line returns the setting on one line.
func (s setting) line() string { return s.Key + s.op() + s.Value.String() }

func (s setting) op() string {
	if s.Add {
		return " += "
	}
	return " = "
}

func (v value) String() string {
	switch {
	case v.Number:
		return v.Text
	case !v.IsList:
		return quote(v.Text)
	}
	all := make([]string, 0, len(v.List))
	for _, e := range v.List {
		all = append(all, e.String())
	}
	return "[" + strings.Join(all, ", ") + "]"
}

// check refuses a NUL, which cannot be written.
func (v value) check() error {
	if strings.ContainsRune(v.Text, 0) {
		return errors.New("a string cannot hold a NUL")
	}
	for _, e := range v.List {
		if err := e.check(); err != nil {
			return err
		}
	}
	return nil
}

// escapes are the backslash escapes that both xl and xm (Python) read. xl also reads
// numeric escapes, but drops the byte that they stand for.
var escapes = map[byte]byte{'"': '"', '\'': '\'', '\\': '\\', 'a': 7, 'b': 8, 'f': 12, 'n': 10, 'r': 13, 't': 9, 'v': 11}

// quote returns s in quotes. All bytes but NUL are kept.
func quote(s string) string {
	return `"` + strings.NewReplacer(`"`, `\"`, `\`, `\\`, "\a", `\a`, "\b", `\b`, "\f", `\f`,
		"\n", `\n`, "\r", `\r`, "\t", `\t`, "\v", `\v`).Replace(s) + `"`
}

// parse reads xl.cfg(5): settings of strings, numbers and lists, one a line or separated
// by semicolons. A comment goes from # to the end of the line.
func parse(src string) ([]setting, error) {
	p := &parser{src: src, line: 1}
	var all []setting
	for {
		for p.skip(" \t\r\n;") {
		}
		if p.at == len(p.src) {
			return all, nil
		}
		s, err := p.setting()
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", p.line, err)
		}
		all = append(all, s)
	}
}

// parseLine reads exactly one setting on one line.
func parseLine(line string) (setting, error) {
	for _, c := range []byte(line) {
		if c < ' ' && c != '\t' || c == 0x7f {
			return setting{}, fmt.Errorf("%q is not one plain line", line)
		}
	}
	p := &parser{src: line, line: 1}
	p.skip(" \t")
	s, err := p.setting()
	if err != nil {
		return s, err
	}
	p.skip(" \t;")
	if p.at < len(p.src) {
		return s, fmt.Errorf("%q is behind the value", p.src[p.at:])
	}
	return s, nil
}

type parser struct {
	src   string
	at    int
	line  int
	depth int // of lists
}

// skip advances over the bytes in blank, then over one comment. It reports whether it
// skipped a comment that another line follows.
func (p *parser) skip(blank string) bool {
	for p.at < len(p.src) && strings.IndexByte(blank, p.src[p.at]) >= 0 {
		if p.src[p.at] == '\n' {
			p.line++
		}
		p.at++
	}
	if p.at == len(p.src) || p.src[p.at] != '#' {
		return false
	}
	if end := strings.IndexByte(p.src[p.at:], '\n'); end >= 0 {
		p.at += end
		return true
	}
	p.at = len(p.src)
	return false
}

func (p *parser) setting() (s setting, err error) {
	s.Line = p.line
	start := p.at
	for p.at < len(p.src) && isKey(p.src[p.at], p.at > start) {
		p.at++
	}
	if s.Key = p.src[start:p.at]; s.Key == "" {
		return s, p.expected("a key in lower case")
	}
	p.skip(" \t")
	if s.Add = strings.HasPrefix(p.src[p.at:], "+="); s.Add {
		p.at++
	}
	if !p.take('=') {
		return s, p.expected("= behind " + s.Key)
	}
	p.skip(" \t")
	if s.Value, err = p.value(); err != nil {
		return s, err
	}
	p.skip(" \t\r")
	if p.at < len(p.src) && p.src[p.at] != '\n' && p.src[p.at] != ';' {
		return s, p.expected("the end of the line")
	}
	return s, nil
}

func isKey(c byte, inside bool) bool {
	return 'a' <= c && c <= 'z' || inside && ('0' <= c && c <= '9' || c == '_')
}

func (p *parser) take(c byte) bool {
	if p.at < len(p.src) && p.src[p.at] == c {
		p.at++
		return true
	}
	return false
}

func (p *parser) expected(what string) error {
	rest, _, _ := strings.Cut(p.src[p.at:], "\n")
	if len(rest) > 20 {
		rest = rest[:20] + "..."
	}
	if rest == "" {
		return errors.New("want " + what)
	}
	return fmt.Errorf("want %s, not %q", what, rest)
}

func (p *parser) value() (v value, err error) {
	if p.at == len(p.src) {
		return v, p.expected("a value")
	}
	switch c := p.src[p.at]; {
	case c == '\'' || c == '"':
		v.Text, err = p.quoted(c)
		return v, err
	case '0' <= c && c <= '9':
		start := p.at
		for p.at < len(p.src) && strings.IndexByte("0123456789abcdefx", p.src[p.at]) >= 0 {
			p.at++
		}
		return value{Text: p.src[start:p.at], Number: true}, nil
	case c == '[':
		return p.list()
	}
	return v, p.expected(`a number, a string in quotes or a [list]`)
}

func (p *parser) list() (v value, err error) {
	const blank = " \t\r\n"
	v.IsList = true
	if p.depth++; p.depth > 8 {
		return v, errors.New("lists within lists within lists")
	}
	defer func() { p.depth-- }()
	p.at++
	for {
		for p.skip(blank) {
		}
		if p.take(']') {
			return v, nil
		}
		e, err := p.value()
		if err != nil {
			return v, err
		}
		v.List = append(v.List, e)
		for p.skip(blank) {
		}
		if !p.take(',') && (p.at == len(p.src) || p.src[p.at] != ']') {
			return v, p.expected(", or ] in the list")
		}
	}
}

// quoted reads a string in quotes, which must end on its line.
func (p *parser) quoted(quote byte) (string, error) {
	var b strings.Builder
	for p.at++; p.at < len(p.src) && p.src[p.at] != '\n'; p.at++ {
		c := p.src[p.at]
		if c == quote {
			p.at++
			return b.String(), nil
		}
		if c == '\\' && p.at+1 < len(p.src) {
			p.at++
			escaped, ok := escapes[p.src[p.at]]
			if !ok {
				return "", fmt.Errorf(`a backslash stands before one of "'\abfnrtv, not %q`, p.src[p.at])
			}
			c = escaped
		}
		b.WriteByte(c)
	}
	return "", fmt.Errorf("want %c at the string's end", quote)
}
