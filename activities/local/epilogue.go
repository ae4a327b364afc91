package local

import (
	"context"
	"fmt"
	"os"

	"github.com/morgana-deploy/morgana/machine"
	"github.com/morgana-deploy/morgana/step"
)

// pieceLimit is the most bytes of a [step.ConsoleText].
const pieceLimit = 32 << 10

// Console reads the program's stdout and stderr. After the program's end there is a last
// line that says how it ended, as "[ended with status 7]". U+FFFD replaces bytes that are
// not UTF-8. A machine that was destroyed, or is on another host, is NotFound.
func (t *Target) Console(ctx context.Context, from step.ConsoleFrom) (step.ConsoleText, error) {
	m, err := t.machines.Of(from.Machine.Registration.Spec.Tags)
	if err != nil {
		return step.ConsoleText{}, step.During("read console", err)
	}
	op := "read console of " + m.Name()
	// The last line is not in the file, because Expect would see it there. Its offsets begin
	// at the file's end.
	last, size, err := epilogue(m)
	if err != nil {
		return step.ConsoleText{}, step.During(op, err)
	}
	said := from.Offset - size // bytes of the last line that the caller has
	if said < 0 || said > int64(len(last)) {
		said = 0
	}
	from.Offset -= said
	piece, err := t.machines.Console(ctx, from)
	if err != nil {
		return piece, err
	}
	if last, size, err = epilogue(m); err != nil { // it may have ended meanwhile
		return step.ConsoleText{}, step.During(op, err)
	}
	if last == "" || said > int64(len(last)) || piece.Next != size || len(piece.Text)+len(last) > pieceLimit {
		return piece, nil
	}
	rest := last[said:]
	return step.ConsoleText{Text: piece.Text + rest, Next: size + int64(len(last)), Ended: piece.Ended && rest == ""}, nil
}

// epilogue returns the console's last line, and the console's size, which is the line's
// offset. The line is "" if the program has not ended or its end is not on record.
func epilogue(m machine.Machine) (line string, size int64, err error) {
	end, err := readOutcome(m)
	size = m.Printed()
	if end == nil || end.Error != "" || err != nil { // a program that could not start has no console: Boot says why
		return "", size, err
	}
	line = fmt.Sprintf("[%s]\n", end)
	f, err := os.Open(m.File(machine.ConsoleFile))
	if err != nil {
		return line, size, nil // nothing was printed
	}
	defer f.Close() //nolint:errcheck // only read
	final := make([]byte, 1)
	if n, _ := f.ReadAt(final, size-1); n == 1 && final[0] != '\n' {
		line = "\n" + line
	}
	return line, size, nil
}
