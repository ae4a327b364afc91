package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"path"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"

	"github.com/invopop/jsonschema"

	"github.com/morgana-deploy/morgana/activities/command"
	"github.com/morgana-deploy/morgana/activities/ec2"
	"github.com/morgana-deploy/morgana/activities/local"
	"github.com/morgana-deploy/morgana/activities/mirage"
	"github.com/morgana-deploy/morgana/activities/qemu"
	"github.com/morgana-deploy/morgana/activities/xen"
	"github.com/morgana-deploy/morgana/activities/xenserver"
	"github.com/morgana-deploy/morgana/config"
	"github.com/morgana-deploy/morgana/step"
)

const module = "github.com/morgana-deploy/morgana"

// kind is a target or toolchain of ours.
type kind struct {
	name  string
	about string
	// options are the constant defaults. A default that depends on something is
	// the last sentence of the option's comment: "Default: ...".
	options any
	// required are the options that cannot be left out.
	required []string
}

var (
	toolchains = []kind{
		{"command", "Configures and builds by any commands.", command.Options{}, []string{"build", "kernel"}},
		{"mirage", "Builds a MirageOS unikernel.", mirage.Options{}, nil},
		{config.Prebuilt, "Takes a kernel that exists already.", prebuilt{}, []string{"kernel"}},
	}
	targets = []kind{
		{"local", "A process on the worker's host.", local.Defaults(), nil},
		{"qemu", "A machine in QEMU on the worker's host.", qemu.Defaults(), nil},
		{"xen", "A domain of a Xen host.", xen.Defaults(), nil},
		{"ec2", "An instance of Amazon EC2.", ec2.Defaults(), nil},
		{"xenserver", "A VM of XenServer or XCP-ng.", xenserver.Defaults(), nil},
	}
)

// prebuilt has the one option of toolchain prebuilt; package config reads it.
type prebuilt struct {
	Kernel string `json:"kernel" jsonschema:"description=The kernel's file; a relative path starts from the folder of morgana.yaml."`
}

// object is a JSON object of the schema. jsonschema.Schema is not used for it, because
// its field Type cannot be a list.
type object = map[string]any

// generate returns the schema. root is the folder of the module.
func generate(root string) ([]byte, error) {
	defs := object{
		"name": object{"type": "string", "pattern": "^[a-z][a-z0-9-]{0,39}$"},
		"step": object{
			"type": "object", "additionalProperties": false, "required": []string{"activity", "taskQueue"},
			"description": "An activity of yours, as {activity: acme.Build, taskQueue: acme}.",
			"properties": object{
				"activity":  object{"type": "string", "minLength": 1},
				"taskQueue": object{"type": "string", "minLength": 1},
				"onHost":    object{"type": "boolean", "description": "Add @<host> to the task queue once a host is known."},
			},
		},
		"steps": stages("Steps of your own in the place of the stages and of the steps that look after what these made.", config.Replaceable, object{"$ref": "#/$defs/step"}),
		"after": stages("Steps of your own behind stages.", step.Stages[:], object{"type": []string{"array", "null"}, "items": object{"$ref": "#/$defs/step"}}),
	}
	toolchain, err := byKind(root, defs, "toolchain", toolchains, nil)
	if err != nil {
		return nil, err
	}
	toolchain["required"] = []string{"kind"}
	toolchain["type"] = "object"
	defs["toolchain"] = toolchain
	if defs["target.policy"], err = policy(root); err != nil {
		return nil, err
	}
	ofTargets := object{"steps": object{"$ref": "#/$defs/steps"}, "after": object{"$ref": "#/$defs/after"}}
	for _, name := range []string{"restart", "health", "keep"} {
		ofTargets[name] = object{"$ref": "#/$defs/target.policy/properties/" + name}
	}
	target, err := byKind(root, defs, "target", targets, ofTargets)
	if err != nil {
		return nil, err
	}
	target["type"] = []string{"object", "null"}
	defs["target"] = target

	// A target without a kind has its name as its kind.
	named := object{}
	for _, k := range targets {
		named[k.name] = object{"allOf": []object{
			{"$ref": "#/$defs/target"},
			{"if": object{"not": object{"type": "object", "required": []string{"kind"}}}, "then": object{"$ref": "#/$defs/target." + k.name}},
		}}
	}
	return indented(object{
		"$schema":     "https://json-schema.org/draft/2020-12/schema",
		"title":       "morgana.yaml",
		"description": "What to deploy and where.",
		"$defs":       defs,
		"type":        "object", "additionalProperties": false, "required": []string{"app", "toolchain", "targets"},
		"properties": object{
			"app":       described("The unikernel's name.", object{"$ref": "#/$defs/name"}),
			"source":    source,
			"toolchain": described("What makes the kernel.", object{"$ref": "#/$defs/toolchain"}),
			"targets": object{
				"type": "object", "minProperties": 1, "propertyNames": object{"$ref": "#/$defs/name"},
				"description": "Where to run it: names of your choice.",
				"properties":  named, "additionalProperties": object{"$ref": "#/$defs/target"},
			},
			"steps": object{"$ref": "#/$defs/steps"},
			"after": object{"$ref": "#/$defs/after"},
		},
	})
}

// source is the schema of the folder to build, or of the git repository that has it.
var source = object{
	"default":     ".",
	"description": "The folder to build; a relative path starts from the folder of morgana.yaml. Or {git: URL, ref: main, path: .}: a git repository, from which a worker fetches it.",
	"anyOf": []object{{"type": "string"}, {
		"type": "object", "additionalProperties": false, "required": []string{"git"},
		"properties": object{
			"git":  object{"type": "string", "description": "The repository: https://, ssh://, git+ssh://, user@host:path or file:///path, without a password."},
			"ref":  object{"type": "string", "description": "A branch, a tag or all digits of a commit. Default: the repository's HEAD."},
			"path": object{"type": "string", "default": ".", "description": "The folder in the repository."},
		},
	}},
}

// byKind returns the schema of a toolchain or target: its kind decides its options. A
// kind that is not in kinds may have any options. common are properties of every kind.
// byKind adds a definition for each kind to defs.
func byKind(root string, defs object, role string, kinds []kind, common object) (object, error) {
	var names []string
	var choices []object
	for _, k := range kinds {
		options, err := optionsOf(root, k)
		if err != nil {
			return nil, err
		}
		properties := options["properties"].(object)
		properties["kind"] = object{"const": k.name}
		maps.Copy(properties, common)
		if role == "target" {
			options["type"] = []string{"object", "null"} // null: all by default
		}
		options["description"] = k.about
		defs[role+"."+k.name] = options
		names = append(names, k.name)
		choices = append(choices, object{
			"if":   object{"type": "object", "required": []string{"kind"}, "properties": object{"kind": object{"const": k.name}}},
			"then": object{"$ref": "#/$defs/" + role + "." + k.name},
		})
	}
	kindSchema := described("The kind that does it.", object{"anyOf": []object{{"enum": names}, {"$ref": "#/$defs/name"}}})
	properties := object{"kind": kindSchema}
	maps.Copy(properties, common)
	return object{"properties": properties, "allOf": choices}, nil
}

// optionsOf returns the schema of a kind's options.
func optionsOf(root string, k kind) (object, error) {
	reflected, err := reflectOptions(root, k)
	if err != nil {
		return nil, err
	}
	var options object
	if err := convert(reflected, &options); err != nil {
		return nil, err
	}
	delete(options, "$schema")
	return options, nil
}

// policy returns the schema of the keys of a target that every kind has.
func policy(root string) (object, error) {
	policy, err := optionsOf(root, kind{options: step.DefaultPolicy()})
	if err != nil {
		return nil, err
	}
	probe, err := optionsOf(root, kind{options: step.DefaultProbe()})
	if err != nil {
		return nil, err
	}
	properties := policy["properties"].(object)
	probe["type"], probe["description"] = []string{"object", "null"}, properties["health"].(object)["description"]
	one := []object{{"type": "null"}}
	for _, name := range []string{"http", "tcp", "console"} {
		one = append(one, object{"type": "object", "required": []string{name}})
	}
	probe["oneOf"], properties["health"] = one, probe
	delete(policy, "description")
	return policy, nil
}

// reflectOptions reflects the options of a kind, with their comments and defaults.
func reflectOptions(root string, k kind) (*jsonschema.Schema, error) {
	r := &jsonschema.Reflector{
		Anonymous: true, DoNotReference: true, ExpandedStruct: true, RequiredFromJSONSchemaTags: true,
		Mapper: func(t reflect.Type) *jsonschema.Schema {
			if t == reflect.TypeFor[mirage.Value]() {
				return &jsonschema.Schema{Extras: object{"type": []string{"string", "number", "boolean", "null"}}}
			}
			return nil
		},
	}
	if folder, ours := strings.CutPrefix(reflect.TypeOf(k.options).PkgPath(), module+"/"); ours {
		for _, folder := range []string{folder, "carrier"} {
			if err := addComments(r, root, folder); err != nil {
				return nil, fmt.Errorf("comments of %s: %w", folder, err)
			}
		}
	}
	options := r.Reflect(k.options)
	options.Required = k.required
	var defaults object
	if err := convert(k.options, &defaults); err != nil {
		return nil, err
	}
	for p := options.Properties.Oldest(); p != nil; p = p.Next() {
		if d, ok := defaults[p.Key]; ok && d != nil && !reflect.ValueOf(d).IsZero() {
			p.Value.Default = d
		}
	}
	return options, nil
}

// convert encodes from as JSON and decodes that to into.
func convert(from, into any) error {
	data, err := json.Marshal(from)
	if err != nil {
		return err
	}
	return json.Unmarshal(data, into)
}

// addComments adds the Go comments of the package in root/folder to r. jsonschema derives
// the package's name from its path from the working directory.
func addComments(r *jsonschema.Reflector, root, folder string) error {
	whole, err := filepath.Abs(root)
	if err != nil {
		return err
	}
	here, err := filepath.Abs(".")
	if err != nil {
		return err
	}
	below, err := filepath.Rel(whole, here)
	if err != nil {
		return err
	}
	err = r.AddGoComments(path.Join(module, filepath.ToSlash(below)), filepath.Join(root, filepath.FromSlash(folder)), jsonschema.WithFullComment())
	for name, comment := range r.CommentMap {
		r.CommentMap[name] = plain(comment)
	}
	return err
}

// goName matches the beginning of a comment in Go: "Memory is the ...".
var goName = regexp.MustCompile(`^[A-Z]\w* (is|are) (\w)`)

// plain turns a Go comment into one line for YAML users, without the Go name.
func plain(comment string) string {
	comment = strings.ReplaceAll(comment, "\n", " ")
	if m := goName.FindStringSubmatch(comment); m != nil {
		comment = strings.ToUpper(m[2]) + comment[len(m[0]):]
	}
	return comment
}

// stages returns the schema of a mapping with these names as keys; of is the schema of the values.
func stages(about string, names []step.Stage, of object) object {
	properties := object{}
	for _, s := range names {
		properties[string(s)] = of
	}
	return object{"type": []string{"object", "null"}, "additionalProperties": false, "description": about, "properties": properties}
}

func described(about string, schema object) object {
	schema["description"] = about
	return schema
}

func indented(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	err := e.Encode(v)
	return b.Bytes(), err
}
