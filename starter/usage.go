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
// step errors whose hint is the nearest command.
func checkArguments(cmd *cobra.Command) {
	allowed := cmd.Args
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if allowed == nil || allowed(cmd, args) == nil {
			return nil
		}
		help := "see " + cmd.CommandPath() + " --help"
		if !cmd.HasSubCommands() {
			return &step.Error{Kind: step.InvalidSpec, Err: fmt.Errorf("unexpected argument %q", args[len(args)-1]), Hint: help}
		}
		var known []string
		for _, sub := range cmd.Commands() {
			if sub.IsAvailableCommand() {
				known = append(known, sub.Name())
			}
		}
		return &step.Error{Kind: step.InvalidSpec, Err: fmt.Errorf("unknown command %q", args[0]), Hint: meant("", args[0], known, help)}
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
		hint = meant("--", unknown.GetSpecifiedName(), known, hint)
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

// meant returns the hint for an unknown name: the nearest known name, or otherwise.
func meant(prefix, name string, known []string, otherwise string) string {
	if near := step.Nearest(name, known); near != "" {
		return fmt.Sprintf("did you mean %q?", prefix+near)
	}
	return otherwise
}
