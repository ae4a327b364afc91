// Package terminal makes the output of other programs safe to show on a terminal.
package terminal

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// Clean removes the control sequences from text. See [Filter].
func Clean(text string) string {
	var f Filter
	return f.Add(text)
}

// Filter cleans text that comes in pieces of whole characters.
//
// Newlines, tabs and printable characters pass. Control sequences are removed in their
// 7-bit and 8-bit forms (ECMA-48), and so are other control characters and those that
// reorder text. A carriage return without a newline becomes a newline, so no text
// overwrites other text. An unfinished sequence ends at the end of its line, so it does
// not hide the lines after it.
type Filter struct {
	// Colours lets SGR sequences (colour, bold, underline) pass.
	Colours bool
	// Coloured is set if the last SGR sequence was not a reset.
	Coloured bool

	in  part
	sgr []byte // parameters of the unfinished CSI sequence
	cr  bool   // the last character was a carriage return
}

// part is the parser's place in a control sequence.
type part int

const (
	plainText part = iota
	escape         // after ESC
	charset        // after ESC and an intermediate byte
	sequence       // in CSI ..., up to its final byte
	command        // in OSC, DCS, SOS, PM or APC ..., up to ST
)

const (
	bel, can, sub, esc, del = 0x07, 0x18, 0x1a, 0x1b, 0x7f
	longestSGR              = 64
)

// Add returns the next piece, cleaned.
func (f *Filter) Add(text string) string {
	var b strings.Builder
	for _, r := range text {
		if f.cr && r != '\n' {
			b.WriteByte('\n')
		}
		f.cr = false
		if !f.swallow(r, &b) {
			f.show(r, &b)
		}
	}
	return b.String()
}

// swallow reports whether r belongs to a control sequence. A character that cannot be
// part of the sequence ends it.
func (f *Filter) swallow(r rune, b *strings.Builder) bool {
	in := f.in
	f.in = plainText
	switch {
	case r == esc:
		f.in = escape
		return true
	case in == plainText:
		return false
	case in == command:
		if r == bel || r == can || r == sub || r == 0x9c {
			return true
		}
		if r == '\n' {
			return false
		}
		f.in = command
		return true
	case in == escape && r == '[':
		f.begin(sequence)
		return true
	case in == escape && strings.ContainsRune("]PX^_", r):
		f.in = command
		return true
	case in == sequence && r >= 0x20 && r <= 0x3f:
		f.in = sequence
		if len(f.sgr) <= longestSGR {
			f.sgr = append(f.sgr, byte(r))
		}
		return true
	case in == sequence:
		if r == 'm' && f.Colours && len(f.sgr) <= longestSGR && strings.Trim(string(f.sgr), "0123456789;:") == "" {
			b.WriteString("\x1b[" + string(f.sgr) + "m")
			f.Coloured = strings.Trim(string(f.sgr), "0;") != ""
		}
		return r >= 0x40 && r <= 0x7e
	case r >= 0x20 && r <= 0x2f:
		f.in = charset
		return true
	}
	return r >= 0x30 && r <= 0x7e
}

func (f *Filter) begin(p part) { f.in, f.sgr = p, f.sgr[:0] }

// show writes a character that is outside of control sequences, drops it, or begins an
// 8-bit control sequence.
func (f *Filter) show(r rune, b *strings.Builder) {
	switch {
	case r == '\r':
		f.cr = true
	case r == 0x9b:
		f.begin(sequence)
	case r == 0x90 || r == 0x98 || r >= 0x9d && r <= 0x9f:
		f.in = command
	case r == '\n' || r == '\t' || r == utf8.RuneError:
		b.WriteRune(r)
	case r < ' ' || r >= del && r <= 0x9f || unicode.Is(unicode.Bidi_Control, r):
	default:
		b.WriteRune(r)
	}
}
