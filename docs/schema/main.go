// Command schema writes docs/morgana.schema.json, the JSON Schema of
// morgana.yaml, from the options of the kinds and their doc comments:
//
//	go run ./docs/schema
package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

func main() {
	if err := write(); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func write() error {
	root, err := moduleRoot()
	if err != nil {
		return err
	}
	schema, err := generate(root)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(root, "docs", "morgana.schema.json"), schema, 0o644)
}

// moduleRoot is the folder of go.mod, this one or one above it, relative to here.
func moduleRoot() (string, error) {
	for folder := "."; ; folder = filepath.Join("..", folder) {
		if _, err := os.Stat(filepath.Join(folder, "go.mod")); err == nil {
			return folder, nil
		} else if !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
		if whole, err := filepath.Abs(folder); err != nil || whole == filepath.Dir(whole) {
			return "", errors.New("no go.mod here or above")
		}
	}
}
