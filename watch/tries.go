package watch

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"

	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"
)

// Tries is a folder with the task token of each try of a watch that a worker runs. The
// server learns of a killed worker only by the missing heartbeats, minutes later. The next
// worker finds the tokens and reports those tries as failed, and the server starts the
// watches again at once. Empty for no folder.
type Tries string

// hold keeps the token of a try until release. If it cannot, as on a full disk, the watch
// starts again later than it might.
func (t Tries) hold(token []byte) (release func()) {
	if t == "" {
		return func() {}
	}
	sum := sha256.Sum256(token)
	file := filepath.Join(string(t), hex.EncodeToString(sum[:]))
	_ = errors.Join(os.MkdirAll(string(t), 0o700), os.WriteFile(file, token, 0o600))
	return func() { _ = os.Remove(file) }
}

// Resume reports the tries of an earlier worker as failed. It reads the tokens before it
// returns and reports them in the background until ctx is done.
func (t Tries) Resume(ctx context.Context, c client.Client) error {
	if t == "" {
		return nil
	}
	entries, err := os.ReadDir(string(t))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	go func() {
		for _, e := range entries {
			file := filepath.Join(string(t), e.Name())
			if token, err := os.ReadFile(file); err == nil && ctx.Err() == nil {
				// The server refuses the token of a try that has ended.
				_ = c.CompleteActivity(ctx, token, nil, temporal.NewApplicationError("the worker was killed", ""))
				_ = os.Remove(file)
			}
		}
	}()
	return nil
}
