package files

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"
)

// ErrNotRegular is the error inside the [fs.PathError] for anything but a regular file.
var ErrNotRegular = errors.New("not a regular file")

// folder is ErrNotRegular for a folder, with the text of EISDIR.
type folder struct{}

func (folder) Error() string        { return "is a directory" }
func (folder) Is(target error) bool { return target == ErrNotRegular }

// readOnly has O_NONBLOCK because opening a named pipe would wait for a writer.
const readOnly = os.O_RDONLY | syscall.O_NONBLOCK

// Open opens a regular file for reading. A pipe, device or folder is [ErrNotRegular]: a
// pipe may have no writer and a device no end. The caller closes the file.
func Open(path string) (*os.File, fs.FileInfo, error) {
	f, err := os.OpenFile(path, readOnly, 0)
	return checked(f, err)
}

// OpenIn is [Open] of a file below root.
func OpenIn(root *os.Root, name string) (*os.File, fs.FileInfo, error) {
	f, err := root.OpenFile(name, readOnly, 0)
	return checked(f, err)
}

func checked(f *os.File, err error) (*os.File, fs.FileInfo, error) {
	if err != nil {
		return nil, nil, err
	}
	info, err := f.Stat()
	switch {
	case err != nil:
	case info.IsDir():
		err = &fs.PathError{Op: "open", Path: f.Name(), Err: folder{}}
	case !info.Mode().IsRegular():
		err = &fs.PathError{Op: "open", Path: f.Name(), Err: ErrNotRegular}
	}
	if err != nil {
		_ = f.Close() // nothing was read
		return nil, nil, err
	}
	return f, info, nil
}

// Read reads a regular file. It fails if the file has more than most bytes.
func Read(path string, most int64) ([]byte, error) {
	f, _, err := Open(path)
	if err != nil {
		return nil, err
	}
	return ReadAll(f, most)
}

// ReadAll reads the rest of f and closes f. It fails if there are more than most bytes.
func ReadAll(f *os.File, most int64) ([]byte, error) {
	defer f.Close() //nolint:errcheck // only read
	data, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && int64(len(data)) > most {
		err = &fs.PathError{Op: "read", Path: f.Name(), Err: fmt.Errorf("more than %d KiB", most>>10)}
	}
	if err != nil {
		return nil, err
	}
	return data, nil
}
