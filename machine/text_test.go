package machine

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/morgana-deploy/morgana/files"
)

func TestTextIsCutBetweenCharacters(t *testing.T) {
	for _, test := range []struct {
		piece, text string
		n           int
	}{
		{"", "", 0},
		{"plain\r\n", "plain\r\n", 7},
		{"a€", "a€", 4},
		{"a€"[:3], "a", 1},
		{"a€"[:2], "a", 1},
		{"a😀"[:4], "a", 1},
		{"€"[:2], "\uFFFD", 2}, // nothing else may follow
		{"a\xff", "a\uFFFD", 2},
		{"a\xe2b", "a\uFFFDb", 3},
		{"a\x80\x80\x80\x80", "a\uFFFD", 5},
	} {
		if text, n := Text([]byte(test.piece)); text != test.text || n != test.n {
			t.Errorf("%q: %q, %d bytes, want %q, %d", test.piece, text, n, test.text, test.n)
		}
	}
}

func TestMatch(t *testing.T) {
	long := strings.Repeat("x", matchWindow)
	for _, test := range []struct {
		expect string // "" for nil
		pieces []string
		found  bool
	}{
		{"", nil, false},
		{"", []string{""}, false},
		{"", []string{"x"}, true},
		{"up\nhere", []string{"u", "p\r", "\nhe", "re"}, true},
		{"up", []string{"up" + long, long}, true},
		{"up", []string{"u", "x", "p"}, false},
		{"a(?s:.*)b", []string{"a", long, "b"}, false},
		{"a(?s:.*)b", []string{"a", long[2:], "b"}, true},
	} {
		var expect *regexp.Regexp
		if test.expect != "" {
			expect = regexp.MustCompile(test.expect)
		}
		m := NewMatch(expect)
		for _, piece := range test.pieces {
			m.Add([]byte(piece))
		}
		if m.Found() != test.found {
			t.Errorf("%q in %.20q: %v", test.expect, test.pieces, m.Found())
		}
	}
	m := NewMatch(nil)
	if tail := m.Tail(); tail != "" {
		t.Errorf("the tail of nothing: %q", tail)
	}
	for i := range 30 {
		m.Add(fmt.Appendf(nil, "line %d\r\n", i))
	}
	m.Add([]byte("\xff\n\n"))
	if tail := m.Tail(); !strings.HasPrefix(tail, "line 11\nline 12\n") || !strings.HasSuffix(tail, "line 29\n\uFFFD") {
		t.Errorf("tail %q", tail)
	}
	if m.Add([]byte(long)); m.Tail() != long[:tailSize] {
		t.Errorf("a tail of %d bytes", len(m.Tail()))
	}
}

// A console is read where it was left, over the end of a piece.
func TestWatch(t *testing.T) {
	m := Machine{Path: t.TempDir()}
	w := m.Watch(regexp.MustCompile("y\n$"))
	text := ""
	for _, more := range []string{"", strings.Repeat("x", consolePiece-1), "y", "\r", "\n"} {
		if found, err := w.Matched(); found || err != nil {
			t.Errorf("after %d bytes: %v (%v)", len(text), found, err)
		}
		text += more
		if err := files.Write(m.File(ConsoleFile), []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	if found, err := w.Matched(); !found || err != nil {
		t.Errorf("at the end: %v (%v)", found, err)
	}
}
