package need

import (
	"os"
	"path/filepath"
	"testing"
)

// XenAPI returns the folder that has the XenAPI's own model, xenapi-23.10.0.json.gz, and the
// transcript of a real xapi, transcript.jsonl. The test is skipped if there is none.
func XenAPI(t testing.TB) (folder string) {
	t.Helper()
	if folder = FindXenAPI(t); folder == "" {
		t.Skip("needs the XenAPI's model and transcript, in a folder that MORGANA_XENAPI names")
	}
	return folder
}

// FindXenAPI returns the folder of [XenAPI], or "". It is that of MORGANA_XENAPI, else
// shared/xenapi beside the repository. A folder that MORGANA_XENAPI names must be there.
func FindXenAPI(t testing.TB) (folder string) {
	t.Helper()
	if folder = os.Getenv("MORGANA_XENAPI"); folder != "" {
		if _, err := os.Stat(folder); err != nil {
			t.Fatal("MORGANA_XENAPI:", err)
		}
		return folder
	}
	root, err := os.Getwd()
	for err == nil && root != "/" {
		if _, missing := os.Stat(filepath.Join(root, "go.mod")); missing == nil {
			break
		}
		root = filepath.Dir(root)
	}
	folder = filepath.Join(filepath.Dir(root), "shared", "xenapi")
	if _, err := os.Stat(folder); err != nil {
		return ""
	}
	return folder
}
