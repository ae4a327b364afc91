package xapilab

import "errors"

// Judge judges calls and answers by the API's own model.
type Judge struct{}

// NewJudge reads the model from a folder that has xenapi-23.10.0.json.gz.
func NewJudge(dir string) (*Judge, error) { return nil, errors.New("not there yet") }
