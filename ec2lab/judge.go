package ec2lab

import (
	_ "embed"
	"encoding/json"
	"testing"

	"github.com/morgana-deploy/morgana/need"
)

var (
	//go:embed testdata/requirements.txt
	requirements string
	//go:embed testdata/conform.py
	conform string
	//go:embed testdata/moto_peer.py
	motoPeer string
	//go:embed testdata/answers.py
	answers string
)

// Judge compares requests with botocore's model of the services and fails the test for
// each that AWS would not take. It finds unknown, missing and mistyped parameters and
// unknown words.
func Judge(t testing.TB, calls []Call) {
	t.Helper()
	in, err := json.Marshal(calls)
	if err != nil {
		t.Fatal(err)
	}
	need.RunPython(t, requirements, conform, string(in))
}
