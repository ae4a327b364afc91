package machine

import (
	"bytes"
	"regexp"
	"strings"
	"time"
	"unicode/utf8"
)

const (
	matchWindow = 64 << 10

	// Settled is how long a Solo5 kernel must run on after its match or first output. A
	// kernel that fails prints why, which may match, and then its exit status.
	Settled = 250 * time.Millisecond

	tailSize  = 8 << 10
	tailLines = 20
)

// Text returns a piece of a console as text. U+FFFD replaces bytes that are not UTF-8. n
// is the number of bytes of b that were used: a character that is cut off at the end is
// left for the next piece. If b is only the beginning of a character, its bytes are used
// anyway, because the rest may never come.
func Text(b []byte) (text string, n int) {
	for back := 1; back < utf8.UTFMax && back < len(b); back++ {
		if tail := b[len(b)-back:]; utf8.RuneStart(tail[0]) {
			if !utf8.FullRune(tail) {
				b = b[:len(b)-back]
			}
			break
		}
	}
	return strings.ToValidUTF8(string(b), "\uFFFD"), len(b)
}

// Match looks for a pattern in a console that it gets piece by piece. It drops every "\r"
// and keeps the last 64 KiB.
type Match struct {
	expect *regexp.Regexp
	window []byte
	found  bool
}

// NewMatch returns a Match for expect; nil matches as soon as anything is printed.
func NewMatch(expect *regexp.Regexp) *Match { return &Match{expect: expect} }

// Add takes the next piece, which may be cut anywhere.
func (m *Match) Add(piece []byte) {
	m.window = append(m.window, bytes.ReplaceAll(piece, []byte("\r"), nil)...)
	switch {
	case m.found:
	case m.expect == nil:
		m.found = len(piece) > 0
	default:
		m.found = m.expect.Match(m.window)
	}
	if extra := len(m.window) - matchWindow; extra > 0 {
		m.window = append(m.window[:0], m.window[extra:]...)
	}
}

// Solo5 reports whether the console is that of a Solo5 kernel: it has the first line of
// Solo5's banner, or a message of Solo5's.
func (m *Match) Solo5() bool {
	return bytes.Contains(m.window, []byte("            |      ___|\n")) || bytes.Contains(m.window, []byte("Solo5: "))
}

// Found reports whether the pattern has ever matched.
func (m *Match) Found() bool { return m.found }

// Tail returns the last 20 lines of the console, as far as they are in its last 8 KiB.
func (m *Match) Tail() string { return lastLines(m.window[max(0, len(m.window)-tailSize):]) }

// The carrier (package carrier) prints the status with which its kernel ended.
var solo5Failure = regexp.MustCompile(`Solo5: (solo5_exit\(-?[1-9][0-9]*\) called|solo5_abort\(\) called)|(?m:^carrier: (exit status [1-9][0-9]*)\r?$)`)

// Solo5Failure returns the text by which a Solo5 kernel, or the carrier, reports in the console
// that the kernel failed, "" if there is none. Without a tender the kernel's exit status is only text.
func Solo5Failure(console string) string {
	if found := solo5Failure.FindStringSubmatch(console); found != nil {
		return found[1] + found[2]
	}
	return ""
}

func lastLines(b []byte) string {
	text := strings.ToValidUTF8(strings.ReplaceAll(string(b), "\r", ""), "\uFFFD")
	all := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(all[max(0, len(all)-tailLines):], "\n")
}
