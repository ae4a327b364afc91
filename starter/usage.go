package main

import (
	"errors"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/morgana-deploy/morgana/step"
)

// checkArguments replaces cobra's argument errors, of cmd and its subcommands, by
// step errors whose hint is the nearest command. A command that only has subcommands
// prints its help; without that, cobra would not check its arguments.
func checkArguments(cmd *cobra.Command) {
	if !cmd.Runnable() {
		cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	}
	allowed := cmd.Args
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if allowed == nil || allowed(cmd, args) == nil {
			return nil
		}
		if !cmd.HasSubCommands() {
			hint := "see " + cmd.CommandPath() + " --help"
			if len(args) == 1 && cmd.Flags().Lookup("target") != nil {
				hint = "a target is named by --target; " + hint
			}
			return step.Invalid("", hint, "unexpected argument %q", args[len(args)-1])
		}
		var known []string
		for _, sub := range cmd.Commands() {
			if sub.IsAvailableCommand() {
				known = append(known, sub.Name())
			}
		}
		return step.Invalid("", step.OneOf(args[0], known...), "unknown command %q", args[0])
	}
	for _, sub := range cmd.Commands() {
		checkArguments(sub)
	}
}

// checkHelp makes "help NAME" refuse unknown names as NAME itself does; cobra prints the
// help of root for them.
func checkHelp(root *cobra.Command) {
	root.InitDefaultHelpCmd()
	help, _, err := root.Find([]string{"help"})
	if err != nil {
		return
	}
	help.Args = func(_ *cobra.Command, args []string) error {
		named, rest, err := root.Find(args)
		if err != nil || named.Args == nil {
			return err
		}
		return named.Args(named, rest)
	}
}

func badFlag(cmd *cobra.Command, err error) error {
	hint := "see " + cmd.CommandPath() + " --help"
	var unknown *pflag.NotExistError
	if errors.As(err, &unknown) {
		var known []string
		cmd.Flags().VisitAll(func(f *pflag.Flag) { known = append(known, f.Name) })
		if near := step.Nearest(unknown.GetSpecifiedName(), known); near != "" {
			hint = fmt.Sprintf("did you mean %q?", "--"+near)
		}
	}
	var value *pflag.InvalidValueError
	var inner *strconv.NumError // its text names Go's functions
	if errors.As(err, &value) && errors.As(err, &inner) {
		err = fmt.Errorf("--%s: want %s, not %q", value.GetFlag().Name, wanted(value.GetFlag()), value.GetValue())
	}
	return &step.Error{Kind: step.InvalidSpec, Err: err, Hint: hint}
}

// wanted describes the values that a flag takes.
func wanted(f *pflag.Flag) string {
	if f.Value.Type() == "bool" {
		return "true or false"
	}
	return "a number"
}
