package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/morgana-deploy/morgana/config"
)

const conf = "main-noip: Main.main\nfs-static: files\nfs-far: ../far\ncompiler: 4.01.0\n"

// morgana runs the command in folder and gives its exit status and outputs.
func morgana(t *testing.T, args ...string) (status int, out, errOut string) {
	t.Helper()
	var o, e strings.Builder
	status = run(t.Context(), args, &o, &e)
	return status, o.String(), e.String()
}

func inFolder(t *testing.T, files map[string]string) {
	t.Helper()
	t.Chdir(t.TempDir())
	for name, content := range files {
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestImport(t *testing.T) {
	inFolder(t, map[string]string{"old/web-2.conf": conf, "old/files/a": "", "far/a": ""})
	status, out, errOut := morgana(t, "import", "old")
	if status != 0 || !strings.Contains(errOut, "wrote old/morgana.yaml and old/config.ml") {
		t.Fatalf("exit %d, %s%s", status, out, errOut)
	}
	const note = "web-2.conf:3: fs-far: ../far is outside of the folder that is packed and built: move it in, and correct config.ml\n"
	if !strings.Contains(out, note) || strings.Contains(out, "fs-static") {
		t.Errorf("printed %s", out)
	}
	if lines := strings.Split(out, "\n"); !strings.HasPrefix(lines[0], "web-2.conf:1:") || !strings.HasPrefix(lines[1], "web-2.conf:3:") ||
		!strings.HasPrefix(lines[2], "web-2.conf:4:") {
		t.Errorf("not in the order of lines: %s", out)
	}
	p, err := config.Load("old", nil)
	if err != nil || p.App != "web-2" || p.Toolchain.Kind != "mirage" {
		t.Errorf("%+v, %v", p, err)
	}
	// If one of the files exists, neither is written.
	if err := os.Remove("old/morgana.yaml"); err != nil {
		t.Fatal(err)
	}
	status, _, errOut = morgana(t, "import", "old/web-2.conf")
	if status != 2 || !strings.Contains(errOut, "error: old/config.ml: exists already") {
		t.Errorf("exit %d, %s", status, errOut)
	}
	if _, err := os.Stat("old/morgana.yaml"); err == nil {
		t.Error("half of it was written")
	}
	if status, _, errOut = morgana(t, "import", "old", "--force"); status != 0 {
		t.Errorf("--force: exit %d, %s", status, errOut)
	}
}

func TestImportElsewhere(t *testing.T) {
	inFolder(t, map[string]string{"old/web.conf": conf, "far/a": ""})
	status, out, errOut := morgana(t, "import", "old", "--dir", "new/app", "--app", "shop", "-o", "json")
	var answer struct {
		Event string
		Files []string
		Notes []struct{ At, Key, Note string }
	}
	if err := json.Unmarshal([]byte(out), &answer); status != 0 || err != nil || answer.Event != "imported" ||
		len(answer.Files) != 2 || answer.Files[0] != "new/app/morgana.yaml" || len(answer.Notes) != 4 {
		t.Fatalf("exit %d, %v, %s%s", status, err, out, errOut)
	}
	sketch, err := os.ReadFile("new/app/config.ml")
	if err != nil || !strings.Contains(string(sketch), `crunch "../../old/files"`) || !strings.Contains(string(sketch), `register "shop"`) {
		t.Errorf("%v\n%s", err, sketch)
	}
}

func TestImportRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		files map[string]string
		args  []string
		want  string
	}{
		"no file":      {nil, []string{"app.conf"}, "error: read app.conf: no such file or directory\nhint: name the .conf of a mirari project, or its folder\n"},
		"empty folder": {nil, nil, "error: no .conf in .\nhint: name the file: morgana import app.conf\n"},
		"two":          {map[string]string{"a.conf": conf, "b.conf": conf}, []string{"."}, "error: 2 files named *.conf in .\nhint: name one: a.conf, b.conf\n"},
		"bad line":     {map[string]string{"a.conf": "main-noip: A.a\nfoo\n"}, nil, "error: a.conf:2: no colon in \"foo\"\n"},
		"bad name":     {map[string]string{"a.conf": conf}, []string{"--app", "A"}, `error: --app: "A" is not a valid name`},
	} {
		t.Run(name, func(t *testing.T) {
			inFolder(t, c.files)
			status, out, errOut := morgana(t, append([]string{"import"}, c.args...)...)
			if status != 2 || out != "" || !strings.HasPrefix(errOut, c.want) {
				t.Errorf("exit %d, %q, got\n%s\nwant\n%s", status, out, errOut, c.want)
			}
			if _, err := os.Stat(config.Filename); err == nil {
				t.Error("wrote a file")
			}
		})
	}
}
