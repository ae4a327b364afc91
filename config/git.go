package config

import (
	"path"
	"path/filepath"

	"github.com/morgana-deploy/morgana/step"
)

// readGit reads a source that is a mapping, {git: URL, ref: main, path: .}; nil if it is
// none, or if a flag or variable names a folder instead.
func (p *Project) readGit(settings *layers) (*step.Git, error) {
	f := p.root.field("source")
	if _, typed := settings.origin("source"); f == nil || f.is != mapping || typed {
		return nil, nil
	}
	if err := f.known("source", "git", "ref", "path"); err != nil {
		return nil, err
	}
	var g step.Git
	for _, key := range []struct {
		name string
		to   *string
	}{{"git", &g.URL}, {"ref", &g.Ref}, {"path", &g.Path}} {
		v := f.field(key.name)
		if v == nil {
			continue
		}
		path := join("source", key.name)
		if v.is == number {
			return nil, invalid(v.at, path, "put it in quotes", "want %s, not %s", text, number)
		}
		if err := v.want(path, text); err != nil {
			return nil, err
		}
		*key.to = v.text
	}
	if g.Path != "" {
		if g.Path = path.Clean(g.Path); g.Path == "." {
			g.Path = ""
		}
	}
	if g.Ref == "HEAD" {
		g.Ref = ""
	}
	return &g, p.located(g.Valid())
}

// located adds to an error the place of its field.
func (p *Project) located(err error) error {
	return step.Amend(err, func(e *step.Error) { e.Op = p.Locate("", e.Field) })
}

// prebuiltInGit moves the kernel's path from the project to its repository.
func (p *Project) prebuiltInGit(kernel *field) error {
	if filepath.IsAbs(kernel.text) {
		return invalid(kernel.at, "toolchain.kernel", "give a path from source.path in the repository", "want a relative path: the source is in git")
	}
	p.Git.Kernel, p.Kernel = path.Clean(kernel.text), ""
	return p.located(p.Git.Valid())
}
