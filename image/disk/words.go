package disk

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
)

var escape = regexp.MustCompile(`\\x[0-9a-fA-F]{2}`)

// word is a word of a command line.
type word struct {
	given string // as the line has it
	value string // what a kernel reads it as
}

// words cuts a command line into the words to give to a command of GRUB 2: their
// values, each of which GRUB writes as [word.arrives] says, with a blank between.
//
// So a line without ' " and \ arrives byte by byte, and with them as another
// line of the same meaning to who cuts words by double quotes and backslashes, as
// MirageOS does: `--hello="Hello World"` arrives as `"--hello=Hello World"`.
// Linux reads it alike as well if there is no backslash or single quote;
// [changed] tells.
func words(line string) ([]word, error) {
	var (
		all            []word
		value          strings.Builder
		start          int
		quoted, inside bool // the word has quotes; we are between them
	)
	end := func(at int) error {
		w := word{line[start:at], value.String()}
		if w.value == "" && quoted {
			return errors.New(`GRUB cannot pass on an empty word ("")`)
		}
		if escape.MatchString(w.value) { // which GRUB leaves alone
			return errors.New(`GRUB cannot pass on a backslash before x and two hexadecimal digits`)
		}
		all = append(all, w)
		value.Reset()
		start, quoted = at+1, false
		return nil
	}
	for i := 0; i < len(line); i++ {
		switch c := line[i]; {
		case c == '"':
			quoted, inside = true, !inside
		case c == '\\':
			if i++; i == len(line) {
				return nil, errors.New("a backslash at the end")
			}
			value.WriteByte(line[i])
		case c == ' ' && !inside:
			if err := end(i); err != nil {
				return nil, err
			}
		default:
			value.WriteByte(c)
		}
	}
	if inside {
		return nil, errors.New("a double quote without its other one")
	}
	if line == "" {
		return nil, nil
	}
	return all, end(len(line))
}

var escaper = strings.NewReplacer(`\`, `\\`, `'`, `\'`, `"`, `\"`)

// arrives is what GRUB makes of a word for a kernel: a backslash before ' " and
// \, and double quotes around one with a blank (grub-core/lib/cmdline.c).
func (w word) arrives() string {
	text := escaper.Replace(w.value)
	if strings.Contains(w.value, " ") {
		return `"` + text + `"`
	}
	return text
}

// changed says which word arrives as one that a kernel may read otherwise: not
// all take a backslash for an escape. Double quotes in another place are none.
func changed(all []word) error {
	for _, w := range all {
		if got := w.arrives(); got != w.given && strings.ContainsAny(w.given, `\'`) {
			return fmt.Errorf("GRUB would pass on %s as %s", w.given, got)
		}
	}
	return nil
}

// quote writes a text for GRUB's script language. Nothing is special between
// single quotes but the single quote.
func quote(text string) string {
	return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
}
