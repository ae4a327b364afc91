package ec2lab

import (
	_ "embed"
	"encoding/json"
	"os/exec"
	"strings"
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
	runPython(t, conform, string(in))
}

// runPython runs a program that prints what is wrong.
func runPython(t testing.TB, program, in string, args ...string) {
	t.Helper()
	c := exec.CommandContext(t.Context(), need.Python(t, requirements), append([]string{"-c", program}, args...)...)
	c.Stdin = strings.NewReader(in)
	if out, err := c.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("%s%v", out, err)
	}
}
