// Package need skips tests for want of something. Where MORGANA_REQUIRE is "all",
// as in CI, they fail instead.
package need

import (
	"os"
	"os/exec"
	"testing"
)

// Tools wants programs, each in PATH or by its path.
func Tools(t testing.TB, names ...string) {
	t.Helper()
	for _, name := range names {
		_, err := exec.LookPath(name)
		Nil(t, err)
	}
}

// Nil wants err to be nil: err says what is missing.
func Nil(t testing.TB, err error) {
	t.Helper()
	if err == nil {
		return
	}
	if os.Getenv("MORGANA_REQUIRE") == "all" {
		t.Fatal(err)
	}
	t.Skip(err)
}

// Lab wants a lab that takes minutes to make or to use. It is never there with
// -short: "make test" goes without, "make test-all" does not. Missing says what the
// host lacks for the lab.
func Lab(t testing.TB, missing error) {
	t.Helper()
	if testing.Short() {
		t.Skip("needs a lab, which -short goes without")
	}
	Nil(t, missing)
}
