package source

import (
	"bytes"
	"fmt"
	"path"
	"regexp"
	"strings"
)

// rule is one line of a .gitignore, see gitignore(5). go-git's matcher is not used
// because it differs from git. Its "build/**" excludes build itself, so "!build/keep"
// has no effect. Its "!docs" includes everything below docs. It supports neither "[!a]"
// nor "src/a**b".
type rule struct {
	keep     bool // "!pattern"
	dirOnly  bool // "pattern/"
	nameOnly bool // no slash but a last one: matches names at any depth
	pattern  *regexp.Regexp
}

// level is the .gitignore of one folder.
type level struct {
	folder string // relative to the packed folder, "" or "a/b/"
	rules  []rule
}

// ignored reports whether name (a/b/c) is excluded. The caller has checked that its
// folders are not. The last matching rule decides; rules of deeper folders come later.
func ignored(levels []level, name string, isDir bool) bool {
	for i := len(levels) - 1; i >= 0; i-- {
		l := levels[i]
		whole, last := latin1(strings.TrimPrefix(name, l.folder)), latin1(path.Base(name))
		for j := len(l.rules) - 1; j >= 0; j-- {
			r := l.rules[j]
			if r.dirOnly && !isDir {
				continue
			}
			subject := whole
			if r.nameOnly {
				subject = last
			}
			if r.pattern.MatchString(subject) {
				return !r.keep
			}
		}
	}
	return false
}

// parseIgnore reads a .gitignore. A pattern that is invalid to git matches nothing.
func parseIgnore(text []byte) []rule {
	var rules []rule
	text = bytes.TrimPrefix(text, []byte("\xef\xbb\xbf"))
	for _, line := range strings.Split(string(text), "\n") {
		if strings.HasPrefix(line, "#") {
			continue
		}
		line = trimSpaces(strings.TrimSuffix(line, "\r"))
		var r rule
		line, r.keep = strings.CutPrefix(line, "!")
		line, r.dirOnly = strings.CutSuffix(line, "/")
		r.nameOnly = !strings.Contains(line, "/")
		expr, ok := globExpr(strings.TrimPrefix(line, "/"))
		if line == "" || !ok {
			continue
		}
		r.pattern = regexp.MustCompile(expr)
		rules = append(rules, r)
	}
	return rules
}

// trimSpaces removes trailing spaces, except one after a backslash.
func trimSpaces(line string) string {
	end := 0
	for i := 0; i < len(line); i++ {
		switch line[i] {
		case ' ':
			continue
		case '\\':
			i++
		}
		end = min(i+1, len(line))
	}
	return line[:end]
}

// latin1 turns each byte into a character, since git's patterns match bytes.
func latin1(s string) string {
	runes := make([]rune, len(s))
	for i := range len(s) {
		runes[i] = rune(s[i])
	}
	return string(runes)
}

// globExpr translates a pattern of git's wildmatch (with WM_PATHNAME) to a regexp for
// names in [latin1]. It returns false for a malformed pattern.
func globExpr(glob string) (string, bool) {
	var b strings.Builder
	b.WriteString(`(?s)\A`)
	for i := 0; i < len(glob); {
		switch glob[i] {
		case '*':
			start := i
			for i < len(glob) && glob[i] == '*' {
				i++
			}
			// git compares the text before the first wildcard separately and
			// matches the rest, so "**" after that text begins a pattern.
			begins := !strings.ContainsAny(glob[:start], `*?[\`) || glob[start-1] == '/'
			switch rest := glob[i:]; {
			case i-start == 1 || !begins || rest != "" && rest[0] != '/' && !strings.HasPrefix(rest, `\/`):
				b.WriteString(`[^/]*`)
			case rest != "" && rest[0] == '/': // any number of folders, or none
				b.WriteString(`(?:.*/)?`)
				i++
			default:
				b.WriteString(`.*`)
			}
		case '?':
			b.WriteString(`[^/]`)
			i++
		case '[':
			set, rest, ok := parseSet(glob[i+1:])
			if !ok {
				return "", false
			}
			b.WriteString(set.expr())
			i = len(glob) - len(rest)
		case '\\':
			if i++; i == len(glob) {
				return "", false
			}
			fallthrough
		default:
			b.WriteString(regexp.QuoteMeta(latin1(glob[i : i+1])))
			i++
		}
	}
	b.WriteString(`\z`)
	return b.String(), true
}

// set is the bytes that a "[...]" matches.
type set [256]bool

// parseSet reads a set after its "[" and returns the text after its "]".
func parseSet(g string) (in set, rest string, ok bool) {
	i, not := 0, false
	if g != "" && (g[0] == '!' || g[0] == '^') {
		i, not = 1, true
	}
	from := -1 // the byte that a range may start with
	for first := true; first || i < len(g) && g[i] != ']'; first = false {
		if i == len(g) {
			return in, "", false
		}
		if from >= 0 && g[i] == '-' && i+1 < len(g) && g[i+1] != ']' {
			to, n := unescape(g[i+1:])
			for c := from; n > 0 && c <= int(to); c++ {
				in[c] = true
			}
			i, from = i+1+n, -1
			continue
		}
		if class, ok := strings.CutPrefix(g[i:], "[:"); ok {
			name, _, closed := strings.Cut(class, "]")
			if !closed {
				return in, "", false
			}
			if name, ok := strings.CutSuffix(name, ":"); ok {
				is, known := classes[name]
				if !known {
					return in, "", false
				}
				for c := range in {
					in[c] = in[c] || is(byte(c))
				}
				i, from = i+len("[:"+name+":]"), -1
				continue
			}
		}
		c, n := unescape(g[i:])
		if n == 0 {
			return in, "", false
		}
		in[c], from = true, int(c)
		i += n
	}
	if i >= len(g) {
		return in, "", false
	}
	for c := range in {
		in[c] = in[c] != not && c != '/'
	}
	return in, g[i+1:], true
}

// unescape reads a byte, with or without a backslash, and returns the number of bytes
// read: 0 for a backslash at the end.
func unescape(g string) (c byte, n int) {
	switch {
	case g[0] != '\\':
		return g[0], 1
	case len(g) > 1:
		return g[1], 2
	}
	return 0, 0
}

// expr returns the regexp of the set. It lists the bytes in hex, so that none is regexp
// syntax.
func (in set) expr() string {
	var b strings.Builder
	for c, has := range in {
		if has {
			fmt.Fprintf(&b, `\x{%x}`, c)
		}
	}
	if b.Len() == 0 {
		return `[^\x{0}-\x{10ffff}]` // nothing
	}
	return "[" + b.String() + "]"
}

// classes are the character classes of C's <ctype.h>, for ASCII.
var classes = map[string]func(c byte) bool{
	"alnum":  func(c byte) bool { return alpha(c) || digit(c) },
	"alpha":  alpha,
	"blank":  func(c byte) bool { return c == ' ' || c == '\t' },
	"cntrl":  func(c byte) bool { return c < ' ' || c == 0x7f },
	"digit":  digit,
	"graph":  func(c byte) bool { return c > ' ' && c < 0x7f },
	"lower":  lower,
	"print":  func(c byte) bool { return c >= ' ' && c < 0x7f },
	"punct":  func(c byte) bool { return c > ' ' && c < 0x7f && !alpha(c) && !digit(c) },
	"space":  func(c byte) bool { return c == ' ' || c >= '\t' && c <= '\r' },
	"upper":  upper,
	"xdigit": func(c byte) bool { return digit(c) || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F' },
}

func lower(c byte) bool { return c >= 'a' && c <= 'z' }
func upper(c byte) bool { return c >= 'A' && c <= 'Z' }
func alpha(c byte) bool { return lower(c) || upper(c) }
func digit(c byte) bool { return c >= '0' && c <= '9' }
