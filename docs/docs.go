// Package docs holds what the programs print of the documentation.
package docs

import _ "embed"

// Schema is the JSON Schema (draft 2020-12) of morgana.yaml.
//
//go:generate go run ./schema
//go:embed morgana.schema.json
var Schema []byte
