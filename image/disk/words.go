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
	given string // with its quotes and backslashes
	value string // without them
}

// words splits a command line into words, for a command of GRUB 2. GRUB joins the
// values of the words with blanks and quotes each as [word.arrives] says.
//
// The kernel gets a line without ' " and \ unchanged. Any other line may change, as
// `--hello="Hello World"` to `"--hello=Hello World"`. A kernel that knows double
// quotes and backslashes, such as MirageOS, reads the same words. Linux does too if
// there is no backslash or single quote; see [changed].
func words(line string) ([]word, error) {
	var (
		all            []word
		value          strings.Builder
		start          int
		quoted, inside bool // the word has quotes; i is between them
	)
	end := func(at int) error {
		w := word{line[start:at], value.String()}
		if w.value == "" && quoted {
			return errors.New(`GRUB cannot pass on an empty word ("")`)
		}
		if escape.MatchString(w.value) { // which GRUB does not quote
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

// arrives returns the word as GRUB passes it on: with a backslash before each ' " and
// \, and in double quotes if it has a blank (grub-core/lib/cmdline.c).
func (w word) arrives() string {
	text := escaper.Replace(w.value)
	if strings.Contains(w.value, " ") {
		return `"` + text + `"`
	}
	return text
}

// changed returns an error if GRUB would change a word with a backslash or single quote:
// some kernels do not know backslashes as escapes. Moved double quotes do no harm.
func changed(all []word) error {
	for _, w := range all {
		if got := w.arrives(); got != w.given && strings.ContainsAny(w.given, `\'`) {
			return fmt.Errorf("GRUB would pass on %s as %s", w.given, got)
		}
	}
	return nil
}

// quote quotes a text for GRUB's script language, where only the single quote is special
// between single quotes.
func quote(text string) string {
	return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
}
