package store

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/morgana-deploy/morgana/step"
)

func TestOpenLocations(t *testing.T) {
	dir := t.TempDir()
	odd := filepath.Join(dir, "a b?c#d%41")
	for location, base := range map[string]string{
		filepath.Join(dir, "x/../y/"):    "file://" + dir + "/y",
		"file://" + dir + "/z":           "file://" + dir + "/z",
		"file://localhost" + dir + "/z":  "file://" + dir + "/z",
		"file://" + dir + "/a%20b":       "file://" + dir + "/a%20b",
		odd:                              "file://" + dir + "/a%20b%3Fc%23d%2541",
		"file://" + dir + "/deep/er/one": "file://" + dir + "/deep/er/one",
	} {
		s, err := Open(t.Context(), location)
		if err != nil {
			t.Errorf("%s: %v", location, err)
			continue
		}
		a := put(t, s, []byte("x"))
		if want := base + "/" + key(a.SHA256); a.URI != want {
			t.Errorf("%s: uri %s, want %s", location, a.URI, want)
		}
		if err := s.Fetch(t.Context(), a, filepath.Join(dir, "out")); err != nil {
			t.Errorf("%s: %v", location, err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Stat(odd); err != nil {
		t.Error(err)
	}
}

func TestOpenRefusesLocations(t *testing.T) {
	for location, words := range map[string]string{
		"":                       "a relative path",
		"store":                  "a relative path",
		"./store":                "a relative path",
		"file://store":           "not absolute",
		"file://./store":         "not absolute",
		"file:store":             "not absolute",
		"file://":                "not absolute",
		"file:///x?no_tmp_dir=1": "no parameters",
		"gs://bucket":            `unknown scheme "gs"`,
		"http://host/x":          `unknown scheme "http"`,
		"s3://":                  "no bucket",
		"s3://bucket/folder":     "only a whole bucket",
		"s3://bucket?regoin=x":   `unknown parameter "regoin"`,
		"s3://bucket?region=%zz": "parameters",
		"s3://key:s3cr3t@bucket": "holds no credentials",
		"mem://":                 "unknown scheme",
		"file:///x\x00":          "not a URL",
	} {
		_, err := Open(t.Context(), location)
		wantError(t, err, step.InvalidSpec, "open store", words, `"file:///absolute/folder" or "s3://bucket`)
		if err != nil && strings.Contains(err.Error(), "s3cr3t") {
			t.Errorf("a secret in %v", err)
		}
	}
}

func TestOpenFolderFails(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, location := range []string{file, file + "/below"} {
		_, err := Open(t.Context(), location)
		wantError(t, err, step.Conflict, "open store file://"+dir, "not a directory")
	}
}
