package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/morgana-deploy/morgana/files"
	"github.com/morgana-deploy/morgana/step"
)

const initHint = "run `morgana init` to make one"

// find returns the absolute path of the project file. path is the file or its folder. If
// path is empty, find takes the nearest morgana.yaml in the current folder and those
// above it.
func find(path string) (string, error) {
	if path != "" {
		if info, err := os.Stat(path); err == nil && info.IsDir() {
			path = filepath.Join(path, Filename)
		}
		abs, err := filepath.Abs(path)
		if err != nil {
			return "", fmt.Errorf("find %s: %w", path, err)
		}
		return abs, nil
	}
	start, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("find the current folder: %w", err)
	}
	home, _ := os.UserHomeDir() // without a home folder the search ends at the root
	for folder := start; ; folder = filepath.Dir(folder) {
		file := filepath.Join(folder, Filename)
		if _, err := os.Stat(file); err == nil {
			return file, nil
		} else if !errors.Is(err, fs.ErrNotExist) {
			return "", Unreadable(asTyped(file), err)
		}
		if folder == home || folder == filepath.Dir(folder) {
			return "", &step.Error{Kind: step.NotFound, Hint: initHint,
				Err: fmt.Errorf("no %s in %s or a folder above it", Filename, start)}
		}
	}
}

// Unreadable returns the error of a user's file that cannot be read: NotFound,
// Unauthorized or InvalidSpec. shown is its path as the user would type it.
func Unreadable(shown string, err error) *step.Error {
	e := &step.Error{Kind: step.InvalidSpec, Op: "read " + shown, Err: err}
	if cause := (*fs.PathError)(nil); errors.As(err, &cause) {
		e.Err = cause.Err // without the path, which Op has
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		e.Kind = step.NotFound
	case errors.Is(err, fs.ErrPermission):
		e.Kind, e.Hint = step.Unauthorized, "run as its owner, or let others read it: chmod a+r "+shown+", and a+x for its folders"
	case errors.Is(err, files.ErrNotRegular):
		e.Hint = "name a regular file"
	}
	return e
}

func lineOf(shown string) func(int) string {
	return func(line int) string { return fmt.Sprintf("%s:%d", shown, line) }
}

// asTyped returns an absolute path as the user would type it: relative to the current
// folder if that is shorter.
func asTyped(path string) string {
	here, err := os.Getwd()
	if err != nil {
		return path
	}
	if rel, err := filepath.Rel(here, path); err == nil && len(rel) < len(path) {
		return rel
	}
	return path
}
