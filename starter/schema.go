package main

import (
	"github.com/spf13/cobra"

	"github.com/morgana-deploy/morgana/docs"
)

func (c *cli) schemaCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "schema",
		Short: "Print the JSON Schema of morgana.yaml",
		Long: `Print the JSON Schema (draft 2020-12) of morgana.yaml, for editors: they complete
keys, explain them and mark what is wrong. Editors with yaml-language-server (VS
Code, Neovim, Helix, Emacs and others) read it by the first line of a morgana.yaml:

    # yaml-language-server: $schema=.morgana.schema.json`,
		Example: "  morgana schema > .morgana.schema.json",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			_, err := c.out.Write(docs.Schema)
			return err
		},
	}
}
