package source

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/morgana-deploy/morgana/step"
)

// reread reads as a store does, and keeps nothing.
func reread(_ context.Context, r io.ReadSeeker) (a step.Artifact, err error) {
	for range 2 {
		if _, err := r.Seek(0, io.SeekStart); err != nil {
			return a, err
		}
		for range 2 {
			if _, err := r.Read(make([]byte, 2<<10)); err != nil {
				return a, err
			}
		}
	}
	return a, nil
}

func TestPutReports(t *testing.T) {
	var got []string
	ctx := step.WithReporter(t.Context(), func(p step.Progress) {
		got = append(got, fmt.Sprintf("%d/%d %s %s", p.Done, p.Total, p.Unit, p.Note))
	}, nil)
	if _, _, err := Put(ctx, reread, tree(t, map[string]string{"main.c": strings.Repeat("x", 2560)}), ""); err != nil {
		t.Fatal(err)
	}
	want := []string{"2048/4096 bytes reading the source", "4096/4096 bytes reading the source", "2048/4096 bytes storing the source", "4096/4096 bytes storing the source"}
	if n := len(got) - 4; n < 1 || !slices.Equal(got[n:], want) {
		t.Errorf("got %q, want %q at the end", got, want)
	}
}
