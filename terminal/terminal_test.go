package terminal

import (
	"regexp"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

// hostile has texts that a machine may print: as printed, cleaned, and cleaned with
// colours ("" if that is the same).
var hostile = map[string]struct{ text, clean, coloured string }{
	"plain":                {"a\tb ü 日本\n", "a\tb ü 日本\n", ""},
	"colours":              {"\x1b[1;31mred\x1b[0m \x1b[38:2::1:2:3mx\x1b[m", "red x", "\x1b[1;31mred\x1b[0m \x1b[38:2::1:2:3mx\x1b[m"},
	"cursor up, erase":     {"a\x1b[5A\x1b[2K\x1b[Jb", "ab", ""},
	"private CSI":          {"a\x1b[?1049hb\x1b[>4;2mc\x1b[!pd", "abcd", ""},
	"intermediate CSI":     {"a\x1b[2 qb\x1b[0 mc", "abc", ""},
	"endless parameters":   {"a\x1b[" + strings.Repeat("1;", 99) + "mb", "ab", ""},
	"CSI cut by a newline": {"a\x1b[31\nmb", "a\nmb", ""},
	"ESC within CSI":       {"a\x1b[3\x1b[31mb", "ab", "a\x1b[31mb"},
	"OSC title, BEL":       {"a\x1b]0;deployed: all is well\ab", "ab", ""},
	"OSC link, ST":         {"\x1b]8;;http://x\x1b\\a\x1b]8;;\x1b\\b", "ab", ""},
	"OSC clipboard, C1 ST": {"a\x1b]52;c;AAAA\u009cb", "ab", ""},
	"OSC without end":      {"a\x1b]0;b\nc", "a\nc", ""},
	"DCS, SOS, PM, APC":    {"a\x1bPq1\x1b\\b\x1bX2\x1b\\c\x1b^3\x1b\\d\x1b_4\x1b\\e", "abcde", ""},
	"two-byte escapes":     {"a\x1bcb\x1b7c\x1b(0d\x1b#8e\x1b", "abcde", ""},
	"C1":                   {"a\u009b31mb\u009d0;t\u009cc\u0090q\u009cd\u0085e\u009f f\u009cg", "abcdeg", "a\x1b[31mbcdeg"},
	"C1 bytes":             {"a\x9b31mb\x9d0;t\x9cc", "a\uFFFD31mb\uFFFD0;t\uFFFDc", ""},
	"invalid UTF-8":        {"a\xff\xc3(\xe2\x82", "a\uFFFD\uFFFD(\uFFFD\uFFFD", ""},
	"overwritten line":     {"error: it failed\rdeployed: all is well\r\n", "error: it failed\ndeployed: all is well\n", ""},
	"backspaces":           {"failed\b\b\b\b\b\bdone", "faileddone", ""},
	"C0 and DEL":           {"a\x00\x01\x07\x0b\x0c\x0e\x0f\x7fb", "ab", ""},
	"reordered":            {"a\u202eb\u2066c\u200fd", "abcd", ""},
}

func TestClean(t *testing.T) {
	for name, c := range hostile {
		if c.coloured == "" {
			c.coloured = c.clean
		}
		if got := Clean(c.text); got != c.clean {
			t.Errorf("%s: got %q, want %q", name, got, c.clean)
		}
		// In pieces of one character each, as a console may come.
		f, got := Filter{Colours: true}, ""
		for _, r := range c.text {
			got += f.Add(string(r))
		}
		if got != c.coloured {
			t.Errorf("%s, coloured: got %q, want %q", name, got, c.coloured)
		}
	}
}

// Clean text has no control character but newline and tab, and stays as it is when
// cleaned again.
func FuzzClean(f *testing.F) {
	for _, c := range hostile {
		f.Add(c.text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got := Clean(text)
		if strings.ContainsFunc(got, func(r rune) bool { return unicode.IsControl(r) && r != '\n' && r != '\t' }) || !utf8.ValidString(got) {
			t.Errorf("%q: got %q", text, got)
		}
		if again := Clean(got); again != got {
			t.Errorf("%q: got %q, and again %q", text, got, again)
		}
		coloured := Filter{Colours: true}
		if got := sgr.ReplaceAllString(coloured.Add(text), ""); got != Clean(got) {
			t.Errorf("%q: with colours %q", text, got)
		}
	})
}

var sgr = regexp.MustCompile("\x1b\\[[0-9:;]*m")
