package main

import "testing"

// TestUsage: a wrong argument is told by one error and one hint.
func TestUsage(t *testing.T) {
	inFolder(t, nil)
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"deploy", "--keep=maybe"}, "error: --keep: want true or false, not \"maybe\"\nhint: see morgana deploy --help\n"},
		{[]string{"destroy", "--target", "dev", "hello"}, "error: --target is for the app of morgana.yaml, not for hello\nhint: name one as APP/TARGET\n"},
		{[]string{"deploi"}, "error: unknown command \"deploi\"\nhint: did you mean \"deploy\"?\n"},
		{[]string{"help", "deploi"}, "error: unknown command \"deploi\"\nhint: did you mean \"deploy\"?\n"},
		{[]string{"dev", "upp"}, "error: unknown command \"upp\"\nhint: did you mean \"up\"?\n"},
		{[]string{"completion", "tcsh"}, "error: unknown command \"tcsh\"\nhint: did you mean \"bash\"?\n"},
		{[]string{"completion", "nushell"}, "error: unknown command \"nushell\"\nhint: one of bash, fish, powershell, zsh\n"},
		{[]string{"deploy", "--kep"}, "error: unknown flag: --kep\nhint: did you mean \"--keep\"?\n"},
		{[]string{"status", "a", "b"}, "error: unexpected argument \"b\"\nhint: see morgana status --help\n"},
		{[]string{"status", "-o", "yaml"}, "error: --output: \"yaml\" is no output format\nhint: use text or json\n"},
	} {
		if status, out, errOut := morgana(t, c.args...); status != 2 || out != "" || errOut != c.want {
			t.Errorf("%q: exit %d, %s\ngot  %s\nwant %s", c.args, status, out, errOut, c.want)
		}
	}
}
