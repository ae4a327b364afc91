package main

import (
	"maps"
	"os"
	"regexp"
	"slices"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/morgana-deploy/morgana/config"
)

// TestUsage: a wrong argument is told by one error and one hint.
func TestUsage(t *testing.T) {
	inFolder(t, nil)
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"deploy", "--keep=maybe"}, "error: --keep: want true or false, not \"maybe\"\nhint: see morgana deploy --help\n"},
		{[]string{"destroy", "--target", "dev", "hello"}, "error: --target is for the app of morgana.yaml, not for hello\nhint: name one as APP/TARGET\n"},
		{[]string{"deploy", "prod"}, "error: unexpected argument \"prod\"\nhint: a target is named by --target; see morgana deploy --help\n"},
		{[]string{"deploi"}, "error: unknown command \"deploi\"\nhint: did you mean \"deploy\"?\n"},
		{[]string{"help", "deploi"}, "error: unknown command \"deploi\"\nhint: did you mean \"deploy\"?\n"},
		{[]string{"dev", "upp"}, "error: unknown command \"upp\"\nhint: did you mean \"up\"?\n"},
		{[]string{"completion", "tcsh"}, "error: unknown command \"tcsh\"\nhint: did you mean \"bash\"?\n"},
		{[]string{"completion", "nushell"}, "error: unknown command \"nushell\"\nhint: one of bash, fish, powershell, zsh\n"},
		{[]string{"deploy", "--kep"}, "error: unknown flag: --kep\nhint: did you mean \"--keep\"?\n"},
		{[]string{"console", "--set", "dev.memory=1"}, "error: unknown flag: --set\nhint: see morgana console --help\n"},
		{[]string{"destroy", "--source", "x"}, "error: unknown flag: --source\nhint: see morgana destroy --help\n"},
		{[]string{"status", "a", "b"}, "error: unexpected argument \"b\"\nhint: see morgana status --help\n"},
		{[]string{"status", "-o", "yaml"}, "error: --output: \"yaml\" is no output format\nhint: use text or json\n"},
	} {
		if status, out, errOut := morgana(t, c.args...); status != 2 || out != "" || errOut != c.want {
			t.Errorf("%q: exit %d, %s\ngot  %s\nwant %s", c.args, status, out, errOut, c.want)
		}
	}
}

// The flags in docs/commands.md are those of the programs.
func TestFlagsInDocs(t *testing.T) {
	page, err := os.ReadFile("../docs/commands.md")
	if err != nil {
		t.Fatal(err)
	}
	named, exist := map[string]bool{}, map[string]bool{"help": true}
	for _, m := range regexp.MustCompile(`--([a-z][a-z-]+)`).FindAllSubmatch(page, -1) {
		named[string(m[1])] = true
	}
	note := func(f *pflag.Flag) { exist[f.Name] = true }
	var visit func(*cobra.Command)
	visit = func(cmd *cobra.Command) {
		cmd.LocalFlags().VisitAll(note)
		for _, sub := range cmd.Commands() {
			if sub.Name() != "completion" { // cobra's
				visit(sub)
			}
		}
	}
	visit((&cli{}).root())
	worker := pflag.NewFlagSet("", pflag.ContinueOnError)
	config.WorkerFlags(worker)
	worker.VisitAll(note)
	if !maps.Equal(named, exist) {
		t.Errorf("documented %v\nof the programs %v", slices.Sorted(maps.Keys(named)), slices.Sorted(maps.Keys(exist)))
	}
}
