// Command schema writes docs/morgana.schema.json, the JSON Schema of
// morgana.yaml, and the tables of options in docs/targets and docs/toolchains,
// from the Options of each kind and their comments:
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
	made, err := files(root)
	if err != nil {
		return err
	}
	for path, content := range made {
		if err := os.WriteFile(filepath.Join(root, path), content, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// files returns the contents of all files to write, by path under root.
func files(root string) (map[string][]byte, error) {
	all, err := pages(root)
	if err != nil {
		return nil, err
	}
	all[filepath.Join("docs", "morgana.schema.json")], err = generate(root)
	return all, err
}

// moduleRoot returns the relative path of the next folder upwards with a go.mod.
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
