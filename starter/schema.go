package main

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"

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

// kinds returns our kinds of a role, "target" or "toolchain", as the schema names them.
func kinds(role string) (names []string) {
	var schema struct {
		Defs map[string]json.RawMessage `json:"$defs"`
	}
	_ = json.Unmarshal(docs.Schema, &schema) // our own
	for _, name := range slices.Sorted(maps.Keys(schema.Defs)) {
		if kind, ours := strings.CutPrefix(name, role+"."); ours && name != "target.policy" { // keys of every kind
			names = append(names, kind)
		}
	}
	return names
}
