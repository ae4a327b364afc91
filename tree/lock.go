package tree

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/morgana-deploy/morgana/files"
	"github.com/morgana-deploy/morgana/step"
)

// lock is an exclusive flock. It ends with the process that holds it: commands
// do not inherit it.
type lock struct{ file *os.File }

// heldError says that another call has the lock.
type heldError struct {
	// by is the holder's name, "another" if the holder has not written it yet.
	by string
}

func (e *heldError) Error() string { return "in use by " + e.by }

func isHeld(err error) bool {
	var held *heldError
	return errors.As(err, &held)
}

// tryLock takes the lock at path, or fails at once with a heldError. It makes a missing
// file. It writes who, the caller's name, into the file for the heldError of other
// callers.
func tryLock(path, who string) (*lock, error) {
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, err
		}
		if err := files.Lock(f); err != nil {
			held := &heldError{by: "another"}
			if text, readErr := io.ReadAll(io.LimitReader(f, 200)); readErr == nil && len(text) > 0 {
				held.by = strings.TrimSpace(string(text))
			}
			_ = f.Close() // nothing was written
			if errors.Is(err, files.ErrLocked) {
				return nil, held
			}
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		// Its last holder may have removed the file after we opened it.
		mine, err := f.Stat()
		now, nowErr := os.Stat(path)
		if err == nil && nowErr == nil && os.SameFile(mine, now) {
			l := &lock{f}
			l.sign(who)
			return l, nil
		}
		_ = f.Close() // the lock of a removed file
	}
}

// sign writes the holder's name into the lock file, whose time then says when it was used.
// Errors do not matter: on a full disk Clean must still be able to take the lock.
func (l *lock) sign(who string) {
	_ = l.file.Truncate(0)
	_, _ = l.file.WriteAt([]byte(who+"\n"), 0)
}

// waitLock takes the lock at path as soon as it is free. About once a second it calls
// waiting.
func waitLock(ctx context.Context, path, who string, waiting func(holder string)) (*lock, error) {
	for n := 0; ; n++ {
		l, err := tryLock(path, who)
		var held *heldError
		if !errors.As(err, &held) {
			return l, err
		}
		// Not at once: a new holder has not written its name yet.
		if n%10 == 1 {
			waiting(held.by)
		}
		if err := step.Pause(ctx, 100*time.Millisecond); err != nil {
			return nil, fmt.Errorf("%w (%w)", err, held)
		}
	}
}

// release gives up the lock. A nil lock is allowed.
func (l *lock) release() {
	if l == nil {
		return
	}
	_ = l.file.Close() // which gives up the flock; nothing to lose
}
