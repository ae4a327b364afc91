package local

import (
	"context"
	"fmt"
	"os"

	"github.com/morgana-deploy/morgana/machine"
	"github.com/morgana-deploy/morgana/step"
)

// pieceLimit is how long a [step.ConsoleText] is.
const pieceLimit = 32 << 10

// Console reads the program's stdout and stderr. Once the program has ended there is
// a last line that says how, as "[ended with status 7]". Text that is not
// UTF-8 has U+FFFD in its place. A machine that was destroyed, or is on another
// host, is NotFound.
func (t *Target) Console(ctx context.Context, from step.ConsoleFrom) (step.ConsoleText, error) {
	m, err := t.machines.Of(from.Machine.Registration.Spec.Tags)
	if err != nil {
		return step.ConsoleText{}, step.During("read console", err)
	}
	op := "read console of " + m.Name()
	// The line is not in the file, where Expect would see it. Its offsets begin at
	// the file's end.
	last, size, err := epilogue(m)
	if err != nil {
		return step.ConsoleText{}, step.During(op, err)
	}
	said := from.Offset - size // of the line
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

// epilogue is the console's last line, "" if the program has not ended or its end is
// not on record, and the offset where the line begins: the size of the console.
func epilogue(m machine.Machine) (line string, size int64, err error) {
	end, err := readOutcome(m)
	size = m.Printed()
	if end == nil || end.Error != "" || err != nil { // one that could not start has no console: Boot says why
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
