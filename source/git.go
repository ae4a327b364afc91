package source

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/morgana-deploy/morgana/remote"
	"github.com/morgana-deploy/morgana/step"
)

// resolveTime bounds the time in which a server lists its refs. The system would wait for
// minutes for a host that is down.
const resolveTime = time.Minute

// checkout is a work tree of one commit.
type checkout struct {
	git    step.Git
	folder string
	// commit is known after resolve or fetch.
	commit  string
	environ []string
}

// open makes an empty repository.
func (c *checkout) open(ctx context.Context) error {
	ssh, err := remote.GitEnviron()
	if err != nil {
		return err
	}
	c.environ = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "GIT_") && !kept.MatchString(v) })
	c.environ = append(c.environ, ssh...)
	// git asks GIT_ASKPASS, a terminal or a window for a password that no helper knows.
	c.environ = append(c.environ, "LC_ALL=C", "GIT_TERMINAL_PROMPT=0", "GIT_ASKPASS=", "SSH_ASKPASS=", "GCM_INTERACTIVE=never")
	return c.init(ctx, "sha1")
}

// init makes the repository anew, for hashes of a format.
func (c *checkout) init(ctx context.Context, format string) error {
	if err := os.RemoveAll(filepath.Join(c.folder, ".git")); err != nil {
		return err
	}
	if _, err := c.run(ctx, "init", "-q", "--template=", "--object-format="+format, c.folder); err != nil {
		return err
	}
	// Relative URLs of submodules start from it, and git-lfs asks it.
	_, err := c.run(ctx, "config", "remote.origin.url", c.git.URL)
	return err
}

// protocols are the settings that allow https, ssh and the URL's own protocol. The latter is
// http for this host or file; submodules may use it only if the repository does. All are
// named, because a user's "protocol.ext.allow" would win over protocol.allow.
func (c *checkout) protocols() []string {
	allowed := []string{"https", "ssh"}
	if scheme, _, ok := strings.Cut(c.git.URL, "://"); ok && (scheme == "http" || scheme == "file") {
		allowed = append(allowed, scheme)
	}
	all := []string{"protocol.allow=never"}
	for _, p := range []string{"https", "ssh", "http", "file", "git", "ext", "fd", "ftp", "ftps"} {
		how := "never"
		if slices.Contains(allowed, p) {
			how = "always"
		}
		all = append(all, "protocol."+p+".allow="+how)
	}
	return all
}

// resolve asks the server for the ref. It returns the ref's whole name, and sets commit
// unless the ref is an annotated tag that the server does not peel.
func (c *checkout) resolve(ctx context.Context) (name string, err error) {
	ref := c.git.Ref
	if c.git.Pinned() {
		c.commit = ref
		return ref, nil
	}
	names := []string{"HEAD"}
	switch {
	case strings.HasPrefix(ref, "refs/"):
		names = []string{ref}
	case ref != "":
		names = []string{"refs/heads/" + ref, "refs/tags/" + ref}
	}
	args := []string{"ls-remote", "-q", "--", "origin"}
	for _, n := range names {
		args = append(args, n, n+"^{}")
	}
	within, cancel := context.WithTimeoutCause(ctx, resolveTime, fmt.Errorf("no answer within %s", resolveTime))
	defer cancel()
	out, err := c.run(within, args...)
	if err != nil {
		return "", err
	}
	commits := refs(out)
	for _, n := range names {
		if commits[n] == "" {
			continue
		}
		if name != "" {
			return "", step.Invalid("source.ref", "write refs/heads/"+ref+" or refs/tags/"+ref, "%q is a branch and a tag", ref)
		}
		name, c.commit = n, commits[n]
		if peeled := commits[n+"^{}"]; peeled != "" {
			c.commit = peeled
		}
	}
	if name == "" {
		return "", c.noRef(ctx)
	}
	return name, nil
}

// refs reads the output of ls-remote.
func refs(out []byte) map[string]string {
	all := map[string]string{}
	for line := range strings.Lines(string(out)) {
		if hash, name, ok := strings.Cut(strings.TrimSpace(line), "\t"); ok {
			all[name] = hash
		}
	}
	return all
}

// noRef returns the error of a ref that the repository does not have.
func (c *checkout) noRef(ctx context.Context) error {
	e := &step.Error{Kind: step.NotFound, Field: "source.ref"}
	out, err := c.run(ctx, "ls-remote", "-q", "--heads", "--tags", "--refs", "--", "origin")
	if err != nil {
		return err
	}
	var names []string
	for name := range refs(out) {
		names = append(names, strings.TrimPrefix(strings.TrimPrefix(name, "refs/heads/"), "refs/tags/"))
	}
	slices.Sort(names)
	names = slices.Compact(names)
	switch ref := c.git.Ref; {
	case len(names) == 0:
		e.Field, e.Err, e.Hint = "source.git", errors.New("the repository is empty"), "push a branch first"
		return e
	case ref == "":
		e.Field, e.Err = "source.git", errors.New("the repository's HEAD names no branch that exists")
		e.Hint = "give a ref: "
	default:
		e.Err = fmt.Errorf("the repository has no branch or tag %q", ref)
		if short := regexp.MustCompile(`^[0-9a-f]{7,39}$`); short.MatchString(ref) {
			e.Hint = "a commit wants all its 40 digits; branches and tags are: "
			break
		}
		if near := step.Nearest(ref, names); near != "" {
			e.Hint = fmt.Sprintf("did you mean %q?", near)
			return e
		}
		e.Hint = "was it deleted or renamed? There are: "
	}
	const most = 10
	if len(names) > most {
		names = append(names[:most], "...")
	}
	e.Hint += strings.Join(names, ", ")
	return e
}

// fetch makes the work tree of the ref's commit, with its submodules.
func (c *checkout) fetch(ctx context.Context, name string) error {
	if len(c.commit) == hex.EncodedLen(sha256.Size) {
		if err := c.init(ctx, "sha256"); err != nil {
			return err
		}
	}
	fetched := "FETCH_HEAD"
	_, err := c.run(ctx, "fetch", "--progress", "--no-tags", "--depth=1", "origin", name)
	switch {
	case err == nil || !unshallow(err):
	case c.git.Pinned():
		fetched = name
		_, err = c.run(ctx, "fetch", "--progress", "--tags", "origin", "+refs/heads/*:refs/remotes/origin/*")
	default:
		_, err = c.run(ctx, "fetch", "--progress", "--no-tags", "origin", name)
	}
	if err != nil {
		return err
	}
	out, err := c.run(ctx, "rev-parse", "--verify", fetched+"^{commit}")
	switch {
	case err != nil && ctx.Err() == nil && fetched == name:
		return c.noCommit()
	case err != nil:
		return &step.Error{Kind: step.NotFound, Field: "source.ref", Err: fmt.Errorf("%s is no commit", name), Hint: "name a branch, or the tag of a commit"}
	}
	c.commit = strings.TrimSpace(string(out)) // a branch may have moved since resolve
	if _, err := c.run(ctx, "checkout", "--progress", "--detach", c.commit); err != nil {
		return err
	}
	return c.submodules(ctx)
}

// submodules fetches the submodules that the source folder needs: those in it, and one that
// it is in.
func (c *checkout) submodules(ctx context.Context) error {
	out, err := c.run(ctx, "ls-files", "--stage", "-z")
	if err != nil {
		return err
	}
	var paths []string
	for entry := range strings.SplitSeq(string(out), "\x00") {
		about, path, _ := strings.Cut(entry, "\t")
		if strings.HasPrefix(about, "160000 ") && (c.git.Path == "" || within(path, c.git.Path) || within(c.git.Path, path)) {
			paths = append(paths, path)
		}
	}
	if len(paths) == 0 {
		return nil
	}
	update := func(options ...string) error {
		args := append([]string{"submodule", "update", "--init", "--recursive", "--progress"}, options...)
		_, err := c.run(ctx, append(append(args, "--"), paths...)...)
		return err
	}
	err = update("--depth=1")
	if err != nil && unshallow(err) {
		// The clones that it has made are shallow, and update would leave them so.
		if _, err := c.run(ctx, append([]string{"submodule", "deinit", "-q", "--force", "--"}, paths...)...); err != nil {
			return err
		}
		if err := os.RemoveAll(filepath.Join(c.folder, ".git", "modules")); err != nil {
			return err
		}
		err = update()
	}
	return err
}

// within reports whether path is folder or below it.
func within(path, folder string) bool { return strings.HasPrefix(path+"/", folder+"/") }

// pointer is the beginning of a file that stands for one in Git LFS.
const pointer = "version https://git-lfs.github.com/spec/v1\n"

// withoutPointers refuses a folder with files that git-lfs should have fetched.
func (c *checkout) withoutPointers(ctx context.Context, folder string) error {
	return filepath.WalkDir(folder, func(path string, e os.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			if err == nil && e.Name() == ".git" && e.IsDir() {
				return filepath.SkipDir
			}
			return err
		}
		info, err := e.Info()
		if err != nil || info.Size() > 1024 || info.Size() < int64(len(pointer)) {
			return err
		}
		if text, err := os.ReadFile(path); err != nil || !bytes.HasPrefix(text, []byte(pointer)) {
			return err
		}
		// A file that looks like a pointer may be data: git knows.
		out, err := c.run(ctx, "-C", filepath.Dir(path), "check-attr", "filter", "--", e.Name())
		if err == nil && strings.HasSuffix(strings.TrimSpace(string(out)), ": lfs") {
			name, _ := filepath.Rel(c.folder, path) // it is below
			err = inLFS(name)
		}
		return err
	})
}

func inLFS(name string) error {
	return &step.Error{Kind: step.Unsupported, Field: "source.git", Err: fmt.Errorf("%s is in Git LFS, and was not fetched", name),
		Hint: installLFS}
}

const installLFS = "on the worker's host: apt-get install git-lfs, then git lfs install as the worker's user"
