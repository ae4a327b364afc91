package tree

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// place is the folder in which commands see a tree: State/<kind>/at-<app>-<digest>, with a
// digest of the commands. It holds
//
//	tree/    the tree, while a stage runs
//	tmp/     TMPDIR of the commands
//	owner    a link that names the rollout
//
// Compilers write the path of a source into a kernel, as debug information. So all
// rollouts of an app, of whichever target and generation, build at the same path: equal
// sources give equal kernels. A rollout moves its tree there for a stage, and back to its
// own folder at the end. One rollout at a time uses a place.
type place string

func (p place) tree() string  { return filepath.Join(string(p), "tree") }
func (p place) tmp() string   { return filepath.Join(string(p), "tmp") }
func (p place) owner() string { return filepath.Join(string(p), "owner") }

// placeOf returns the place of a recipe. It does not depend on the source: an edit that
// changes no code gives the same kernel.
func (t *Toolchain) placeOf(app string, r Recipe) (place, error) {
	inputs, err := json.Marshal(struct {
		Configure, Build [][]string
		Product          Product
		Env              map[string]string
	}{argvs(r.Configure), argvs(r.Build), r.Product, r.Env})
	if err != nil {
		return "", fmt.Errorf("choose the build folder: %w", err)
	}
	sum := sha256.Sum256(inputs)
	return place(filepath.Join(t.folder, "at-"+app+"-"+hex.EncodeToString(sum[:4]))), nil
}

// enter moves the tree of w to its place as soon as that is free. leave moves it back. If
// the tree is gone, enter fails with errGone.
func (t *Toolchain) enter(ctx context.Context, w *work) (leave func() error, err error) {
	l, err := t.lockExclusive(ctx, w, string(w.place), "build folder")
	if err != nil {
		return nil, err
	}
	if err = w.occupy(ctx); err != nil {
		l.release()
		return nil, err
	}
	return func() error {
		defer l.release()
		if err := os.Rename(w.place.tree(), w.rollout.tree()); err != nil {
			return failed("move the build tree back", w.rollout.dir, err)
		}
		// An error does not matter: the next user of the place, or a sweep, removes the rest.
		_ = removeAll(context.WithoutCancel(ctx), string(w.place))
		return nil
	}, nil
}

// occupy moves the tree to the place. The caller has the lock of the place, so what is
// there was left by a killed worker. The rollout's own tree is used again if it has no
// newer one.
func (w *work) occupy(ctx context.Context) error {
	const op = "move the tree to the build folder"
	owner, _ := os.Readlink(w.place.owner()) // without it the tree is nobody's
	_, err := os.Lstat(w.rollout.tree())
	mine := owner == w.rollout.name() && errors.Is(err, fs.ErrNotExist)
	if mine {
		if err := os.Rename(w.place.tree(), w.rollout.tree()); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return failed(op, w.rollout.dir, err)
		}
	}
	if err := w.place.clear(ctx); err != nil {
		return failed("remove what an earlier build left", string(w.place), err)
	}
	if _, err := os.Lstat(w.rollout.tree()); errors.Is(err, fs.ErrNotExist) {
		return errGone
	}
	err = os.MkdirAll(w.place.tmp(), 0o700)
	if err == nil {
		err = os.Symlink(w.rollout.name(), w.place.owner())
	}
	if err == nil {
		err = os.Rename(w.rollout.tree(), w.place.tree())
	}
	if err != nil {
		return failed(op, w.rollout.dir, err)
	}
	return nil
}

// clear ends the processes that a killed worker left in the place, and removes it.
func (p place) clear(ctx context.Context) error {
	if owner, err := os.Readlink(p.owner()); err == nil {
		folder := filepath.Dir(string(p))
		if err := killGroup(ctx, filepath.Join(folder, filepath.Base(owner), groupFile)); err != nil {
			return err
		}
	}
	return removeAll(ctx, string(p))
}

// vacate removes the places that want accepts by owner and time of use. A place in use is
// left.
func (t *Toolchain) vacate(ctx context.Context, want func(owner string, used time.Time) bool) error {
	owners, err := filepath.Glob(place(filepath.Join(t.folder, "at-*")).owner())
	for _, link := range owners {
		p := place(filepath.Dir(link))
		left := func() bool {
			owner, err := os.Readlink(link)
			info, statErr := os.Lstat(link)
			return err == nil && statErr == nil && want(owner, info.ModTime())
		}
		if !left() {
			continue
		}
		l, lockErr := tryLock(t.lockOf(string(p)), "janitor")
		if lockErr != nil {
			continue // a build has it, and removes what was left there
		}
		if left() {
			err = errors.Join(err, p.clear(ctx))
		}
		l.release()
	}
	return err
}
