package disk

import (
	"errors"
	"regexp"
	"strings"
)

var escape = regexp.MustCompile(`\\x[0-9a-fA-F]{2}`)

// words cuts a command line into the words to give to a command of GRUB 2.
//
// GRUB joins a command's words by a blank each, puts double quotes around a word
// that has a blank in it, and a backslash before ' " and \ (grub-core/lib/cmdline.c).
// So a line without those three arrives byte by byte, and with them as another
// line of the same meaning: words are cut as a kernel cuts them, by double quotes
// and backslashes, and GRUB quotes them again. `--hello="Hello World"` arrives as
// `"--hello=Hello World"`. MirageOS reads both alike, and Linux too if there is
// no backslash or single quote.
func words(line string) ([]string, error) {
	var (
		all            []string
		word           strings.Builder
		quoted, inside bool // the word has quotes; we are between them
	)
	end := func() error {
		w := word.String()
		if w == "" && quoted {
			return errors.New(`GRUB cannot pass on an empty word ("")`)
		}
		if escape.MatchString(w) { // which GRUB leaves alone
			return errors.New(`GRUB cannot pass on a backslash before x and two hexadecimal digits`)
		}
		all = append(all, w)
		word.Reset()
		quoted = false
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
			word.WriteByte(line[i])
		case c == ' ' && !inside:
			if err := end(); err != nil {
				return nil, err
			}
		default:
			word.WriteByte(c)
		}
	}
	if inside {
		return nil, errors.New("a double quote without its other one")
	}
	if line == "" {
		return nil, nil
	}
	return all, end()
}

// quote writes a word for GRUB's script language. Nothing is special between
// single quotes but the single quote.
func quote(word string) string {
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}
