package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/invopop/jsonschema"
)

// The lines of a page before and after its table of options.
const (
	begin = "<!-- options: written by go run ./docs/schema from the comments of Options -->\n"
	end   = "<!-- end of options -->\n"
)

// pages returns the pages of all kinds with new tables, by path under root.
func pages(root string) (map[string][]byte, error) {
	all := map[string][]byte{}
	for folder, kinds := range map[string][]kind{"targets": targets, "toolchains": toolchains} {
		for _, k := range kinds {
			path := filepath.Join("docs", folder, k.name+".md")
			page, err := os.ReadFile(filepath.Join(root, path))
			if err != nil {
				return nil, err
			}
			before, rest, found := strings.Cut(string(page), begin)
			_, after, ended := strings.Cut(rest, end)
			if !found || !ended {
				return nil, fmt.Errorf("%s: it needs the lines %q and %q", path, begin, end)
			}
			options, err := reflectOptions(root, k)
			if err != nil {
				return nil, err
			}
			table := "| option | type | default | meaning |\n|---|---|---|---|\n" + rows("", options)
			all[path] = []byte(before + begin + table + end + after)
		}
	}
	return all, nil
}

// rows returns a row for each option of a mapping. The options of an inner mapping follow
// it, as "placement.zone", and those of mappings in a list follow their list, as
// "disks[].name".
func rows(prefix string, of *jsonschema.Schema) string {
	var b strings.Builder
	for p := of.Properties.Oldest(); p != nil; p = p.Next() {
		meaning, otherwise, found := strings.Cut(p.Value.Description, "Default: ")
		switch {
		case found:
			otherwise = strings.TrimSuffix(otherwise, ".")
		case p.Value.Default != nil:
			otherwise = fmt.Sprintf("%q", fmt.Sprint(p.Value.Default))
		case slices.Contains(of.Required, p.Key):
			otherwise = "required"
		}
		fmt.Fprintf(&b, "| `%s%s` | %s | %s | %s |\n", prefix, p.Key, typeOf(p.Value), cell(otherwise), cell(meaning))
		if inner := p.Value; inner.Properties.Len() > 0 {
			b.WriteString(rows(prefix+p.Key+".", inner))
		}
		if items := p.Value.Items; items != nil && items.Properties.Len() > 0 {
			b.WriteString(rows(prefix+p.Key+"[].", items))
		}
	}
	return b.String()
}

// typeOf names the type of an option, or lists its values.
func typeOf(s *jsonschema.Schema) string {
	switch {
	case len(s.Enum) > 0:
		var values []string
		for _, v := range s.Enum {
			values = append(values, fmt.Sprintf("`%v`", v))
		}
		return strings.Join(values, " ")
	case s.Type == "object":
		return "mapping"
	case s.Type != "array":
		return s.Type
	case s.Items.Type == "array":
		return "list of lists of strings"
	}
	return "list of " + typeOf(s.Items) + "s"
}

var quoted = regexp.MustCompile(`"((?:[^"\\]|\\.)*)"`)

// cell escapes text for a cell of a Markdown table, with quoted words as code.
func cell(text string) string {
	text = quoted.ReplaceAllStringFunc(text, func(q string) string {
		return "`" + strings.ReplaceAll(q[1:len(q)-1], `\"`, `"`) + "`"
	})
	return strings.TrimSpace(strings.NewReplacer("|", `\|`, "<", "&lt;").Replace(text))
}
