// Package need skips tests that need a tool or a lab that is missing. If MORGANA_REQUIRE
// is "all", as in CI, they fail instead.
package need

import (
	"os"
	"os/exec"
	"testing"
)

// Tools skips the test if a program is missing. names are in PATH or are paths.
func Tools(t testing.TB, names ...string) {
	t.Helper()
	for _, name := range names {
		_, err := exec.LookPath(name)
		Nil(t, err)
	}
}

// Nil skips the test if err is not nil. err names the missing tool.
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

// Lab skips a test that needs a lab, because a lab takes minutes to make or to use. It
// always skips with -short, as "make test" runs the tests. Otherwise it skips if missing,
// which names what the host lacks, is not nil.
func Lab(t testing.TB, missing error) {
	t.Helper()
	if testing.Short() {
		t.Skip("needs a lab, which -short goes without")
	}
	Nil(t, missing)
}
