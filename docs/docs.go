// Package docs embeds the documents that the programs print.
package docs

import _ "embed"

// Schema is the JSON Schema (draft 2020-12) of morgana.yaml.
//
//go:generate go run ./schema
//go:embed morgana.schema.json
var Schema []byte
