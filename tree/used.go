package tree

import (
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/morgana-deploy/morgana/files"
	"github.com/morgana-deploy/morgana/step"
)

// programs are programs by the name that a command calls them by, each with its file, size
// and time, which an upgrade changes. Another order of PATH, or a further folder in it, is
// another build only if one of them is another.
type programs map[string]string

// unnamed are programs that builds of C use without naming them.
var unnamed = []string{"sh", "make", "cc", "gcc", "g++", "as", "ld", "ar", "objcopy", "strip"}

// word is what may be the name or the absolute path of a program.
var word = regexp.MustCompile(`[A-Za-z0-9_.+/-]+`)

// find returns the programs that commands find by names. A name that nothing has is left
// out, and so is a program in Facts.Bin.
func (w *work) find(names []string) programs {
	found := programs{}
	for _, name := range names {
		if _, err := os.Lstat(filepath.Join(w.facts.Bin, name)); w.facts.Bin != "" && err == nil {
			continue
		}
		path, err := w.environ.LookPath(name)
		if err != nil || !filepath.IsAbs(path) || !executable(path) {
			continue
		}
		file, err := filepath.EvalSymlinks(path)
		if err != nil {
			continue // it is being replaced
		}
		if info, err := os.Stat(file); err == nil {
			found[name] = fmt.Sprintf("%s %d %d", file, info.Size(), info.ModTime().UnixNano())
		}
	}
	return found
}

// named returns the words of the commands and of the variables that shape them, and the
// unnamed programs.
func (w *work) named() []string {
	words := slices.Clone(unnamed)
	for _, argv := range slices.Concat(argvs(w.Configure), argvs(w.Build)) {
		words = append(words, word.FindAllString(strings.Join(argv, " "), -1)...)
	}
	for _, value := range slices.Concat(w.environ.shaping, slices.Collect(maps.Values(w.Env))) {
		words = append(words, word.FindAllString(value, -1)...)
	}
	return words
}

// mentioned returns the programs that the logs and the files at the top of the tree
// mention, as a Makefile does: those that the build may have used.
func (w *work) mentioned() programs {
	const most = 1 << 20 // of each file
	here := map[string]bool{}
	for _, dir := range w.environ.path() {
		entries, _ := os.ReadDir(dir) // a folder of PATH may be missing
		for _, e := range entries {
			here[e.Name()] = true
		}
	}
	paths := []string{w.rollout.file(logName(step.Configure)), w.rollout.file(logName(step.Build))}
	entries, _ := os.ReadDir(w.rollout.tree()) // it was just built
	for _, e := range entries {
		if e.Type() == fs.FileMode(0) && !strings.HasSuffix(e.Name(), ".md") {
			paths = append(paths, filepath.Join(w.rollout.tree(), e.Name()))
		}
	}
	names := map[string]bool{}
	for _, path := range paths {
		text, err := files.Read(path, most)
		if err != nil {
			continue // there may be no log of configure, and a larger file is no Makefile
		}
		for _, name := range word.FindAllString(string(text), -1) {
			if here[name] || filepath.IsAbs(name) && executable(name) {
				names[name] = true
			}
		}
	}
	return w.find(slices.Collect(maps.Keys(names)))
}
