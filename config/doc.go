// Package config reads a project's morgana.yaml, the per-user and per-host settings, and
// the address of Temporal into plain structs. Only this package imports viper.
//
// An unknown key, a value of the wrong type and a duplicate key are a [step.Error]
// with the file and line:
//
//	morgana.yaml:7: targts: unknown key
//
// The options of targets and toolchains stay unchecked JSON. [Project.Locate] finds the
// line of an option that they refuse.
package config
