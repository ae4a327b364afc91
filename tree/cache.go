package tree

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/morgana-deploy/morgana/files"
	"github.com/morgana-deploy/morgana/step"
)

// record is the result of a build: State/<kind>/cache/<key>.json.
type record struct {
	Kernel step.Artifact  `json:"kernel"`
	ABIs   []string       `json:"abis"`
	Files  []step.File    `json:"files,omitempty"`
	Log    *step.Artifact `json:"log,omitempty"`
	// Programs are those that the build may have used, beside those in its key.
	Programs programs `json:"programs,omitempty"`
	// Rollout is the name of the rollout that built the kernel.
	Rollout string `json:"rollout,omitempty"`
}

func (t *Toolchain) cacheFile(name string) string { return filepath.Join(t.folder, "cache", name) }

// cached returns the kernel of an earlier build with the same key, if the programs that it
// used are the same, and the store still has the kernel and its files. For a rebuild it
// returns only a kernel that the same rollout has built.
func (t *Toolchain) cached(ctx context.Context, w *work) (step.Kernel, bool, error) {
	path := t.cacheFile(w.key + ".json")
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return step.Kernel{}, false, nil
	}
	if err != nil {
		return step.Kernel{}, false, failed("read cache", t.folder, err)
	}
	var rec record
	if err := json.Unmarshal(text, &rec); err != nil || rec.Kernel.SHA256 == "" {
		return step.Kernel{}, false, nil //nolint:nilerr // a broken record is written anew
	}
	if w.spec.Rebuild && rec.Rollout != w.rollout.name() {
		return step.Kernel{}, false, nil
	}
	if !maps.Equal(w.find(slices.Collect(maps.Keys(rec.Programs))), rec.Programs) {
		return step.Kernel{}, false, nil
	}
	needed := []step.Artifact{rec.Kernel}
	for _, f := range rec.Files {
		needed = append(needed, f.Artifact)
	}
	for _, a := range needed {
		f, err := t.site.Store.Open(ctx, a)
		if step.KindOf(err) == step.NotFound {
			return step.Kernel{}, false, nil
		}
		if err != nil {
			return step.Kernel{}, false, failed("look for a cached kernel", t.folder, err)
		}
		_ = f.Close() // nothing was read
	}
	return step.Kernel{Spec: w.spec, File: rec.Kernel, ABIs: rec.ABIs, Files: rec.Files, Log: rec.Log, Cached: true}, true, nil
}

// Built returns the kernel of an earlier build of spec on this host. A host that lacks a
// tool is refused as Configure refuses it.
func (t *Toolchain) Built(ctx context.Context, spec step.Spec) (step.Built, error) {
	built := step.Built{Host: t.site.Host}
	w, err := t.read(spec)
	if err != nil {
		return built, err
	}
	if err := t.look(ctx, w); err != nil {
		return built, err
	}
	k, hit, err := t.cached(ctx, w)
	if hit {
		built.Kernel = &k
	} else if err == nil {
		err = w.checkPrograms(t.site.Host)
	}
	return built, err
}

func (t *Toolchain) remember(w *work, k step.Kernel) error {
	text, err := json.Marshal(record{k.File, k.ABIs, k.Files, k.Log, w.mentioned(), w.rollout.name()})
	if err != nil {
		return err
	}
	return files.Write(t.cacheFile(w.key+".json"), text)
}

// lockKey locks w.key. It waits while another call on this host builds the same.
func (t *Toolchain) lockKey(ctx context.Context, w *work) (*lock, error) {
	if err := os.MkdirAll(t.cacheFile("."), 0o700); err != nil {
		return nil, failed("lock the cache", t.folder, err)
	}
	l, err := waitLock(ctx, t.cacheFile(w.key+".lock"), w.rollout.who(), func(holder string) {
		step.Report(ctx, step.Progress{Waiting: true, Note: "waiting for the same build by " + holder})
	})
	if err != nil {
		return nil, failed("wait for the same build", t.folder, err)
	}
	return l, nil
}

// lockExclusive locks the thing that id identifies, and waits while another call on this
// host uses it; nil if id is empty. name is the thing's name in the note of the wait.
func (t *Toolchain) lockExclusive(ctx context.Context, w *work, id, name string) (*lock, error) {
	if id == "" {
		return nil, nil
	}
	// Configure may be the first call to need the folder.
	if err := os.MkdirAll(t.cacheFile("."), 0o700); err != nil {
		return nil, failed("lock the "+name, t.folder, err)
	}
	l, err := waitLock(ctx, t.lockOf(id), w.rollout.who(), func(holder string) {
		step.Report(ctx, step.Progress{Waiting: true, Note: "waiting for the " + name + " of " + holder + "'s build"})
	})
	if err != nil {
		return nil, failed("wait for the "+name, t.folder, err)
	}
	return l, nil
}

// lockOf is the lock file of the thing that id identifies. It is in the cache's folder,
// which is swept.
func (t *Toolchain) lockOf(id string) string {
	sum := sha256.Sum256([]byte(id))
	return t.cacheFile("uses-" + hex.EncodeToString(sum[:8]) + ".lock")
}

// sweepCache removes records and free locks that are older than recordAge.
func (t *Toolchain) sweepCache(now time.Time) {
	entries, err := os.ReadDir(t.cacheFile("."))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.site.Log.Warn("list cached builds", "error", err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || now.Sub(info.ModTime()) < recordAge {
			continue
		}
		path := t.cacheFile(e.Name())
		if strings.HasSuffix(path, ".lock") {
			l, err := tryLock(path, "janitor")
			if err != nil {
				continue // a build has it
			}
			defer l.release()
		}
		if err := removeIfThere(path); err != nil {
			t.site.Log.Warn("remove old build record", "file", path, "error", err)
		}
	}
}
