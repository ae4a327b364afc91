package mirage

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/morgana-deploy/morgana/step"
	"github.com/morgana-deploy/morgana/tree/treetest"
)

// What is missing is said before anything runs, with the command that mends it;
// morgana doctor says the same.
func TestHostLacks(t *testing.T) {
	for name, c := range map[string]struct {
		spoil   func(b *bench)
		options string
		cause   string
		hint    string
	}{
		"opam": {func(b *bench) {
			// A PATH with make and no opam.
			bin := b.TempDir()
			if err := os.Symlink("/usr/bin/make", filepath.Join(bin, "make")); err != nil {
				b.Fatal(err)
			}
			b.Setenv("PATH", bin)
		}, "{}", "opam is not installed", "apt-get install opam && opam init && opam install mirage"},
		"make": {func(b *bench) { b.Setenv("PATH", b.TempDir()) }, "{}", "make is not installed", "apt-get install make"},
		"init": {func(b *bench) {
			if err := os.RemoveAll(b.root); err != nil {
				b.Fatal(err)
			}
		}, "{}", "opam has not been initialised", "opam init && opam install mirage"},
		"init at home": {func(b *bench) {
			b.Setenv("OPAMROOT", "")
			b.Setenv("HOME", b.TempDir())
		}, "{}", "opam has not been initialised: there is no ", "opam init"},
		"current switch":   {func(b *bench) { b.setCurrent("") }, "{}", "no current switch", "opam switch create"},
		"named switch":     {func(*bench) {}, `{"switch":"five"}`, "opam has no switch five, only default", "opam switch create five ocaml-base-compiler && opam install --switch=five mirage"},
		"switch of worker": {func(b *bench) { b.Setenv("OPAMSWITCH", "six") }, "{}", "opam has no switch six", "opam switch create six"},
		"mirage": {func(b *bench) {
			if err := os.Remove(filepath.Join(b.root, "default/bin/mirage")); err != nil {
				b.Fatal(err)
			}
		}, "{}", "mirage is not installed in opam switch default", "opam install --switch=default mirage"},
		"mirage that runs": {func(b *bench) {
			mirage := filepath.Join(b.root, "default/bin/mirage")
			if err := os.Remove(mirage); err != nil {
				b.Fatal(err)
			}
			b.write(mirage, "#!/bin/sh\necho cannot load libgmp >&2\nexit 127\n")
			if err := os.Chmod(mirage, 0o700); err != nil {
				b.Fatal(err)
			}
		}, "{}", "does not run: cannot load libgmp", "opam reinstall"},
		"mirage 4": {func(b *bench) { b.write(filepath.Join(b.root, "default/mirage-version"), "v3.10.8\n") },
			"{}", "mirage 3.10.8 of opam switch default is too old", "opam upgrade --switch=default mirage"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			c.spoil(b)
			_, err := b.deploy(b.spec("qemu", c.options, project))
			e := treetest.WantError(t, err, step.Unsupported, "look for build tools on here: toolchain: ", c.cause,
				"on host here, as the worker's user: ", c.hint)
			if e.Field != "toolchain" {
				t.Errorf("field is %q", e.Field)
			}
			b.WantNothing()
			if c.options != "{}" {
				return
			}
			needs := New(b.Site).Needs(t.Context())
			last := needs[len(needs)-1]
			if last.Found != "" || !strings.Contains(last.Why+last.What+" is not installed", c.cause) || !strings.Contains(last.Fix, c.hint) {
				t.Errorf("needs: %+v", needs)
			}
		})
	}
}

// A file that is missing is said first, by who has it: opam would not help.
func TestNoConfig(t *testing.T) {
	many := map[string]string{}
	for _, name := range strings.Fields("a b c d e f g h i j") {
		many[name+".ml"] = ""
	}
	for name, c := range map[string]struct {
		files   map[string]string
		options string
		cause   string
		hint    string
	}{
		"other files":  {map[string]string{"main.ml": "", "src/dune": ""}, "{}", "the source has no config.ml", "it has main.ml, src/; a MirageOS unikernel"},
		"many files":   {many, "{}", "the source has no config.ml", "g.ml, h.ml, 2 more;"},
		"elsewhere":    {map[string]string{"app/config.ml": "", "README": ""}, "{}", "the source has no config.ml", "it has app/config.ml: option config"},
		"by the name":  {map[string]string{"app/conf.ml": ""}, `{"config":"ap/conf.ml"}`, "the source has no ap/conf.ml", "it has app/conf.ml: option"},
		"the default":  {project, `{"config":"conf.ml"}`, "the source has no conf.ml", "it has config.ml: option"},
		"under a file": {project, `{"config":"config.ml/config.ml"}`, "config.ml/config.ml cannot be read: not a directory", "it has config.ml: option"},
		"a folder":     {map[string]string{"config.ml/x": ""}, "{}", "config.ml is not a file", "it has config.ml/; "},
	} {
		for _, host := range []string{"without opam", "with it"} {
			t.Run(name+" "+host, func(t *testing.T) {
				b := newBench(t)
				if host != "with it" {
					b.Setenv("PATH", b.TempDir())
				}
				spec := b.spec("qemu", c.options, c.files)
				_, err := New(b.Site).Configure(t.Context(), spec)
				if e := treetest.WantError(t, err, step.InvalidSpec, c.cause, c.hint); e.Field != "config" {
					t.Errorf("field is %q", e.Field)
				}
				if host != "with it" {
					b.WantNothing()
				}
			})
		}
	}
}

func TestNeeds(t *testing.T) {
	b := newBench(t)
	found := map[string]string{}
	for _, n := range New(b.Site).Needs(t.Context()) {
		if n.For == "" || n.Found == "" {
			t.Errorf("%+v", n)
		}
		found[n.What] = n.Found
	}
	if found["opam root"] != b.root || found["opam switch"] != "default" || found["mirage"] != "4.11.0" || len(found) != 5 {
		t.Errorf("found %v", found)
	}
}

// The switch is fixed for all commands, by the option before the worker's
// environment before opam's own choice.
func TestSwitch(t *testing.T) {
	b := newBench(t)
	for _, name := range []string{"five", "six", "seven"} {
		b.newSwitch(name)
	}
	deploy := func(options, want string) {
		t.Helper()
		if _, err := b.deploy(b.spec("qemu", options, project)); err != nil {
			t.Fatal(err)
		}
		if b.builds(want) != 1 {
			t.Errorf("%s: not built in switch %s", options, want)
		}
	}
	deploy("{}", "default")
	b.setCurrent("seven")
	deploy("{}", "seven")
	t.Setenv("OPAMSWITCH", "six")
	deploy("{}", "six")
	deploy(`{"switch":"five"}`, "five")
}
