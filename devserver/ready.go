package main

import (
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// readyFile is the path of the file that says where the server is, "" for none.
type readyFile string

// write writes the server's addresses to stdout and to the ready file, which
// appears complete.
func (r readyFile) write(stdout io.Writer, p ports, namespace string) error {
	line, err := json.Marshal(struct {
		Address   string `json:"address"`
		UI        string `json:"ui"`
		Namespace string `json:"namespace"`
		PID       int    `json:"pid"`
	}{p.address(), p.url(), namespace, os.Getpid()})
	if err != nil {
		return err
	}
	line = append(line, '\n')
	if r != "" {
		if err := replace(string(r), line); err != nil {
			return inputErrorf("--ready-file: %w", err)
		}
	}
	_, err = stdout.Write(line)
	return err
}

func replace(path string, data []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name()) // err says more
		}
	}()
	_, err = f.Write(data)
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

func (r readyFile) remove() error {
	if r == "" {
		return nil
	}
	if err := os.Remove(string(r)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
