// Package config reads what the user wrote: a project's morgana.yaml, the
// settings of user and host, and where Temporal is. It gives plain structs and
// is the only package that knows viper.
//
// It is strict: a key it does not know, a value of the wrong type or a key
// given twice is a [step.Error] that says where, as in
//
//	morgana.yaml:7: targts: unknown key
//
// The options of targets and toolchains are theirs: config hands them on as
// JSON, and [Project.Locate] finds the line of an option they refuse.
package config
