package remote

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"io"
	"strings"
)

// script is the only text that shells on the other host parse, the same for every
// command. The user's login shell, whichever it is, passes it to /bin/sh; so the part in
// single quotes has no single quotes, backslashes, newlines or exclamation marks.
//
// It reads from stdin a line with a token, a line with a length, and the arguments as one
// block of that length: `read` takes its lines byte by byte, so the rest of stdin is the
// command's. If the header is incomplete, nothing runs. The token on stdout marks the
// start of the output: text before it is from the user's shell files. The token on stderr
// says that status 255 is the command's: ssh itself fails with 255. The command runs in a
// subshell, so that after a signal the status is the shell's 128+n.
const script = `exec /bin/sh -c 'export LC_ALL=C; ` +
	`IFS= read -r t && IFS= read -r n || exit 255; ` +
	`h=$(dd bs="$n" count=1 iflag=fullblock 2>/dev/null); [ "${#h}" -eq "$n" ] || exit 255; ` +
	`set -f; IFS=,; set --; ` +
	`for a in $h; do case $a in +*) a=$(printf %bx "${a#+}"); a=${a%x};; *) a=${a#=};; esac; set -- "$@" "$a"; done; ` +
	`unset IFS h a; set +f; ` +
	`echo "$t"; (exec "$@"); s=$?; [ "$s" -ne 255 ] || echo "$t" >&2; exit "$s"'`

// newToken returns 32 random hexadecimal digits.
func newToken() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// header returns the first input of script. Its arguments are plain ASCII, separated by
// commas: one that begins with = is literal, one with + has octal escapes of printf %b.
func header(token string, argv []string) []byte {
	var block bytes.Buffer
	for i, arg := range argv {
		if i > 0 {
			block.WriteByte(',')
		}
		if !strings.ContainsFunc(arg, escaped) {
			block.WriteString("=" + arg)
			continue
		}
		block.WriteByte('+')
		for i := range len(arg) {
			if c := arg[i]; escaped(rune(c)) {
				fmt.Fprintf(&block, `\0%03o`, c)
			} else {
				block.WriteByte(c)
			}
		}
	}
	return fmt.Appendf(nil, "%s\n%d\n%s", token, block.Len(), &block)
}

func escaped(c rune) bool { return c < ' ' || c > '~' || c == '\\' || c == ',' }

// opening passes on the text after the token's line and keeps the text before as noise.
type opening struct {
	token string
	to    io.Writer
	began func() // called when the token came
	noise []byte
	open  bool
}

// maxNoise is how many bytes may come before the token.
const maxNoise = 1 << 20

func (o *opening) Write(p []byte) (int, error) {
	if o.open {
		return o.to.Write(p)
	}
	o.noise = append(o.noise, p...)
	before, after, found := bytes.Cut(o.noise, []byte(o.token+"\n"))
	if !found {
		if len(o.noise) > maxNoise {
			return 0, fmt.Errorf("more than %d bytes came before the command began", maxNoise)
		}
		return len(p), nil
	}
	o.open = true
	o.began()
	if len(after) > 0 {
		if _, err := o.to.Write(after); err != nil {
			return 0, err
		}
	}
	o.noise = before
	return len(p), nil
}

// tailSize is how much of stderr is kept, in bytes.
const tailSize = 8 << 10

// tail keeps the last bytes written to it, and some more for a token.
type tail struct{ buf []byte }

func (t *tail) Write(p []byte) (int, error) {
	const most = tailSize + 64
	n := len(p)
	if n > most {
		p = p[n-most:]
	}
	t.buf = append(t.buf, p...)
	if over := len(t.buf) - most; over > 0 {
		t.buf = append(t.buf[:0], t.buf[over:]...)
	}
	return n, nil
}

// take removes the token's line and reports whether there was one.
func (t *tail) take(token string) bool {
	i := bytes.LastIndex(t.buf, []byte(token+"\n"))
	if i < 0 {
		return false
	}
	t.buf = append(t.buf[:i], t.buf[i+len(token)+1:]...)
	return true
}

// text returns the last tailSize bytes at most, in whole characters, as valid UTF-8.
func (t *tail) text() string {
	b := t.buf
	if over := len(b) - tailSize; over > 0 {
		b = b[over:]
		for len(b) > 0 && b[0]&0xC0 == 0x80 {
			b = b[1:]
		}
	}
	return strings.ToValidUTF8(string(b), "\uFFFD")
}

// lastLine returns the last line of text that is not blank.
func lastLine(text string) string {
	text = strings.TrimSpace(text)
	return strings.TrimSpace(text[strings.LastIndexByte(text, '\n')+1:])
}
