package source

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/morgana-deploy/morgana/files"
	"github.com/morgana-deploy/morgana/image"
	"github.com/morgana-deploy/morgana/step"
)

// Kind is the task queue of [Fetcher.Fetch] and the prefix of its name.
const Kind = "source"

// projectFile is left out of a fetched folder, as the starter leaves out the project file
// in use: an edit of it does not change the source.
const projectFile = "morgana.yaml"

// Fetcher fetches sources from git repositories by the program git, as the user that the
// worker runs as. It is safe for concurrent use.
//
// It asks for nothing, checks host keys and certificates, runs no hooks, and talks no
// protocol but the one of the URL, https and ssh. Each fetch has a folder of its own, which
// the next one removes if the worker was killed. All that stays is a record of what a commit
// gave (see [record]), so that an unchanged commit is not fetched again.
type Fetcher struct {
	site step.Site
	// folder is State/source.
	folder string
}

// New makes the Fetcher of a site. It starts nothing.
func New(site step.Site) *Fetcher {
	return &Fetcher{site: site, folder: filepath.Join(site.State, Kind)}
}

// Needs implements [step.Needer].
func (*Fetcher) Needs(ctx context.Context) []step.Need { return gitNeeds(ctx) }

// Fetch completes the origin of a spec with Git: the commit, and what the starter makes of
// a folder.
//
// Errors about the repository have the Field of morgana.yaml. They are Unauthorized
// (credentials, host key), NotFound (repository, ref, path, commit), InvalidSpec or
// Unsupported (no git here, a protocol that is not allowed, files in Git LFS without git-lfs).
// An error without a kind is transient: the server does not answer.
func (f *Fetcher) Fetch(ctx context.Context, spec step.Spec) (step.Spec, error) {
	return f.complete(ctx, spec, true)
}

// FetchCheck returns of Fetch's result what is known without a fetch: the commit, and the rest
// if that commit was fetched here before. Its errors are those of Fetch.
func (f *Fetcher) FetchCheck(ctx context.Context, spec step.Spec) (step.Spec, error) {
	return f.complete(ctx, spec, false)
}

func (f *Fetcher) complete(ctx context.Context, spec step.Spec, fetch bool) (step.Spec, error) {
	if spec.Origin.Git == nil {
		return spec, step.Invalid("source.git", "", "the source is in no git repository")
	}
	if err := spec.Origin.Git.Valid(); err != nil {
		return spec, step.During("fetch the source", err)
	}
	pinned := *spec.Origin.Git
	spec.Origin.Git = &pinned
	err := f.fetch(ctx, &spec, fetch)
	if ctx.Err() != nil {
		return spec, ctx.Err()
	}
	if err != nil {
		err = step.During("fetch "+pinned.URL, err)
	}
	return spec, err
}

func (f *Fetcher) fetch(ctx context.Context, spec *step.Spec, whole bool) error {
	g := spec.Origin.Git
	if err := os.MkdirAll(f.folder, 0o700); err != nil {
		return err
	}
	scratch, done, err := files.Scratch(f.folder, scratchPrefix, func(name string) bool { return strings.HasPrefix(name, scratchPrefix) })
	if err != nil {
		return err
	}
	defer func() {
		if err := done(); err != nil {
			f.site.Log.Warn("remove a fetched source", "folder", scratch, "error", err)
		}
	}()
	c := &checkout{git: *g, folder: scratch}
	if err := c.open(ctx); err != nil {
		return err
	}
	name, err := c.resolve(ctx)
	if err != nil {
		return err
	}
	key := *spec
	if f.recall(ctx, key, c.commit, &spec.Origin) || !whole {
		g.Commit = c.commit
		return nil
	}
	if err := c.fetch(ctx, name); err != nil {
		return err
	}
	g.Commit = c.commit
	if err := f.store(ctx, c, spec); err != nil {
		return err
	}
	f.record(key, c.commit, spec.Origin)
	return nil
}

const scratchPrefix = "fetch-"

// store puts the source, or the existing kernel, into the store.
func (f *Fetcher) store(ctx context.Context, c *checkout, spec *step.Spec) error {
	g, o := spec.Origin.Git, &spec.Origin
	root, err := os.OpenRoot(c.folder)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }() // only read
	path := filepath.FromSlash(g.Path)
	if path == "" {
		path = "."
	}
	info, err := root.Stat(path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !info.IsDir() {
		return &step.Error{Kind: step.NotFound, Field: "source.path", Err: fmt.Errorf("commit %.12s has no folder %q", c.commit, g.Path),
			Hint: "correct the path, or the ref"}
	}
	if err != nil { // a link that leads out
		return step.Invalid("source.path", "name a folder in the repository", "%w", err)
	}
	inside, err := root.OpenRoot(path)
	if err != nil {
		return err
	}
	defer func() { _ = inside.Close() }() // only read
	if g.Kernel != "" {
		return f.kernel(ctx, inside, c.commit, o)
	}
	folder := filepath.Join(c.folder, path)
	if err := c.withoutPointers(ctx, folder); err != nil {
		return err
	}
	archive, _, err := Put(ctx, f.site.Store.Put, folder, filepath.Join(folder, projectFile))
	if err != nil {
		var e *step.Error
		if errors.As(err, &e) && e.Kind == step.InvalidSpec { // its Op names a folder that is gone
			e.Op, e.Field = "", "source.path"
			e.Err = errors.New(strings.ReplaceAll(e.Err.Error(), folder, "the source"))
		}
		return err
	}
	o.Archive = &archive
	if len(o.ABIs) > 0 { // else the starter knows that they are not those of the toolchain
		ExpectDevices(o, spec.Toolchain, spec.Kind, inside)
	}
	return nil
}

// kernel puts the existing kernel into the store.
func (f *Fetcher) kernel(ctx context.Context, folder *os.Root, commit string, o *step.Origin) error {
	const field = "toolchain.kernel"
	name := o.Git.Kernel
	file, info, err := files.OpenIn(folder, filepath.FromSlash(name))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return &step.Error{Kind: step.NotFound, Field: field, Err: fmt.Errorf("commit %.12s has no file %q", commit, name),
			Hint: "is it built, and not in git? Then use the toolchain that builds it"}
	case err != nil:
		return step.Invalid(field, "name a file in the repository", "%w", err)
	}
	defer func() { _ = file.Close() }() // only read
	head := make([]byte, len(pointer))
	if n, _ := file.ReadAt(head, 0); bytes.Equal(head[:n], []byte(pointer)) {
		return inLFS(name)
	}
	found, err := image.Identify(file, info.Size())
	if err != nil {
		return step.Invalid(field, "", "%s: %w", name, err)
	}
	a, err := PutKernel(ctx, f.site.Store.Put, file, info.Size())
	if err != nil {
		return err
	}
	o.Kernel, o.ABIs = &a, found.ABIs
	return nil
}

// recordAge is how long a record is kept that is not used.
const recordAge = 30 * 24 * time.Hour

// recordFormat is part of a record's name. A change of what Fetch makes of a commit changes
// it.
const recordFormat = 1

// record writes what the commit gave: State/source/<digest>.json, with a digest of all that
// the result depends on. An error does not matter: the commit is fetched again.
func (f *Fetcher) record(spec step.Spec, commit string, o step.Origin) {
	b, err := json.Marshal(o)
	if err == nil {
		err = files.Write(f.recordPath(spec, commit), b)
	}
	if err != nil {
		f.site.Log.Warn("record a fetched source", "error", err)
	}
	entries, _ := os.ReadDir(f.folder) // after an error none is removed
	for _, e := range entries {
		if info, err := e.Info(); err == nil && info.Mode().IsRegular() && time.Since(info.ModTime()) > recordAge {
			_ = os.Remove(filepath.Join(f.folder, e.Name())) // or the next fetch does
		}
	}
}

// recall completes the origin by the record of the commit, and reports whether there is one
// whose artifacts are in the store.
func (f *Fetcher) recall(ctx context.Context, spec step.Spec, commit string, o *step.Origin) bool {
	if commit == "" {
		return false
	}
	path := f.recordPath(spec, commit)
	b, err := files.Read(path, 1<<20)
	var was step.Origin
	if err != nil || json.Unmarshal(b, &was) != nil {
		return false
	}
	for _, a := range []*step.Artifact{was.Archive, was.Kernel} {
		if a == nil {
			continue
		}
		r, err := f.site.Store.Open(ctx, *a)
		if err != nil {
			return false
		}
		_ = r.Close() // only opened
	}
	now := time.Now()
	_ = os.Chtimes(path, now, now) // else it is removed too early
	o.Archive, o.Kernel, o.ABIs, o.Networks, o.Blocks = was.Archive, was.Kernel, was.ABIs, was.Networks, was.Blocks
	return o.Archive != nil || o.Kernel != nil
}

func (f *Fetcher) recordPath(spec step.Spec, commit string) string {
	g := *spec.Origin.Git
	g.Ref, g.Commit = "", commit
	var devices mirageOptions // the devices depend on them
	if len(spec.Origin.ABIs) > 0 {
		devices, _ = mirageOf(spec.Toolchain, spec.Kind)
	}
	inputs, _ := json.Marshal(struct { // these types always have a JSON form
		Format  int
		Git     step.Git
		Devices mirageOptions
		ABIs    []string
	}{recordFormat, g, devices, spec.Origin.ABIs})
	sum := sha256.Sum256(inputs)
	return filepath.Join(f.folder, hex.EncodeToString(sum[:])+".json")
}
