package main

import (
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// hostWith gives the test a HOME and a PATH where worker, a shell script, is morgana-worker.
func hostWith(t *testing.T, worker string) {
	t.Helper()
	for _, v := range os.Environ() {
		name, _, _ := strings.Cut(v, "=")
		if strings.HasPrefix(name, "MORGANA_") || strings.HasPrefix(name, "TEMPORAL_") || strings.HasPrefix(name, "XDG_") {
			t.Setenv(name, "")
			if err := os.Unsetenv(name); err != nil {
				t.Fatal(err)
			}
		}
	}
	home := t.TempDir()
	for name, script := range map[string]string{"morgana-worker": worker, "morgana-devserver": "exit 9"} {
		if script == "" {
			continue
		}
		if err := os.WriteFile(filepath.Join(home, name), []byte("#!/bin/sh\n"+script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("HOME", home)
	t.Setenv("PATH", home+":/usr/bin:/bin")
}

const (
	goodTool   = `echo '{"role":"toolchain","kind":"command","needs":[]}';`
	goodTarget = `echo '{"role":"target","kind":"qemu","needs":[{"for":"boot","what":"qemu","found":"/usr/bin/qemu"},` +
		`{"for":"boot a UEFI disk","what":"OVMF","why":"not found","fix":"sudo apt-get install ovmf"},` +
		`{"for":"speed","what":"KVM","why":"no /dev/kvm","fix":"load the module kvm","optional":true}]}';`
	easyTarget = `echo '{"role":"target","kind":"qemu","needs":[{"for":"boot","what":"KVM","why":"no /dev/kvm","optional":true}]}';`
	badTool    = `echo '{"role":"toolchain","kind":"mirage","needs":[{"for":"build","what":"opam","why":"opam is not there","fix":"apt-get install -y opam ovmf && opam init && opam install x"},` +
		`{"for":"build","what":"mirage","fix":"opam install mirage"}]}';`
	badTarget = `echo '{"role":"target","kind":"qemu","needs":[{"for":"boot","what":"qemu","fix":"apt-get install qemu-system-x86"}]}';`
)

func TestDoctorTable(t *testing.T) {
	hostWith(t, goodTool+badTool+goodTarget)
	status, out, errOut := morgana(t, "doctor")
	if status != 0 || errOut != "" {
		t.Errorf("exit %d, %s", status, errOut)
	}
	home := os.Getenv("HOME")
	for _, want := range []string{
		"morgana: ready\n",
		"Temporal       our own server; the next deploy starts it: " + home + "/morgana-devserver\n",
		"morgana-worker  " + home + "/morgana-worker\n",
		"store           " + home + "/.local/state/morgana/store\n",
		"toolchain command: ready\ntoolchain mirage: not usable\n",
		"  missing  build  opam    opam is not there\n  missing  build  mirage  opam install mirage\n",
		"target qemu: in part\n",
		"  ok        boot              qemu  /usr/bin/qemu\n  missing   boot a UEFI disk  OVMF  not found\n" +
			"  optional  speed             KVM   no /dev/kvm; load the module kvm\n",
		"\nto install what is missing:\n  sudo apt-get install -y opam ovmf\n  opam init && opam install x\n",
	} {
		if !strings.Contains(squeeze(out), squeeze(want)) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	if _, err := os.Stat(filepath.Join(home, ".local")); err == nil {
		t.Error("made folders")
	}
}

// squeeze makes the widths of columns, which depend on the folder, not matter.
func squeeze(table string) string {
	var lines []string
	for line := range strings.Lines(table) {
		lines = append(lines, strings.Join(strings.Fields(line), " "))
	}
	return strings.Join(lines, "\n")
}

func TestDoctorVerdict(t *testing.T) {
	// Nobody listens there any more.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		worker string
		args   []string
		status int
		said   string
	}{
		"all of it":       {goodTool + badTool + goodTarget, nil, 0, ""},
		"kind ready":      {goodTool + badTool + goodTarget, []string{"command"}, 0, ""},
		"kind in part":    {goodTool + goodTarget, []string{"qemu"}, 1, "not ready: target qemu\n"},
		"kind not":        {goodTool + badTool + goodTarget, []string{"mirage"}, 1, "not ready: toolchain mirage\n"},
		"kinds":           {badTool + goodTool + badTarget, []string{"command", "qemu"}, 1, "not ready: target qemu\n"},
		"kind of its own": {badTool + goodTool + badTarget, []string{"command"}, 0, ""},
		"only an option":  {goodTool + easyTarget, []string{"qemu"}, 0, ""},
		"unknown kind":    {goodTool + goodTarget, []string{"quemu"}, 2, "error: unknown kind \"quemu\"\nhint: did you mean \"qemu\"?\n"},
		"no toolchain":    {badTool + goodTarget, nil, 1, "this host cannot deploy: no toolchain can be used\n"},
		"no target":       {goodTool + badTarget, nil, 1, "this host cannot deploy: no target can be used\n"},
		"no worker":       {"", nil, 1, "this host cannot deploy: see morgana above\n"},
		"worker fails":    {"echo 'error: no kinds' >&2; exit 2", nil, 1, "this host cannot deploy: see morgana above\n"},
		"worker too old":  {"echo usage", nil, 1, "this host cannot deploy: see morgana above\n"},
		"no Temporal":     {goodTool + goodTarget, []string{"--address", gone}, 1, "this host cannot deploy: see morgana above\n"},
		"state is a file": {goodTool + goodTarget, []string{"--state", "/dev/null/x"}, 1, "this host cannot deploy: see morgana above\n"},
		"no such store":   {goodTool + goodTarget, []string{"--store", "mem://x"}, 1, "this host cannot deploy: see morgana above\n"},
	} {
		t.Run(name, func(t *testing.T) {
			hostWith(t, c.worker)
			status, out, errOut := morgana(t, append([]string{"doctor"}, c.args...)...)
			if status != c.status || errOut != c.said {
				t.Errorf("exit %d, said %q, printed\n%s", status, errOut, out)
			}
			if len(c.args) > 0 && c.args[0] == "command" && strings.Contains(out, "mirage") {
				t.Errorf("not asked for:\n%s", out)
			}
		})
	}
}

func TestDoctorJSON(t *testing.T) {
	hostWith(t, goodTool+goodTarget)
	status, out, errOut := morgana(t, "doctor", "-o", "json")
	var usable []string
	for line := range strings.Lines(out) {
		var k checkup
		if err := json.Unmarshal([]byte(line), &k); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		usable = append(usable, k.name()+" "+k.Usable)
	}
	if got := strings.Join(usable, ", "); status != 0 || errOut != "" || got != "morgana ready, toolchain command ready, target qemu in part" {
		t.Errorf("exit %d, %s, got %s", status, errOut, got)
	}
}

func TestAptPackages(t *testing.T) {
	for fix, want := range map[string]string{
		"apt-get install ovmf":               "ovmf; ",
		"sudo apt-get install -y grub2 opam": "grub2 opam; ",
		"apt-get install a && reboot && ls":  "a; reboot && ls",
		"apt-get install a & reboot":         "",
		"opam init && opam install mirage":   "",
		"opam init":                          "",
		"apt-get install":                    "",
	} {
		names, then := aptPackages(fix)
		got := strings.Join(names, " ") + "; " + then
		if names == nil {
			got = then
		}
		if got != want {
			t.Errorf("%q: got %q, want %q", fix, got, want)
		}
	}
}

func TestFolderThatIsNotOurs(t *testing.T) {
	if os.Getuid() == 0 {
		t.Skip("root may write anywhere")
	}
	folder := t.TempDir()
	if err := os.Chmod(folder, 0o500); err != nil {
		t.Fatal(err)
	}
	needs := folderNeeds("store", filepath.Join(folder, "a", "b"), "set it")
	if len(needs) != 1 || needs[0].Found != "" || needs[0].Why != folder+": permission denied" || needs[0].Fix != "set it" {
		t.Errorf("%+v", needs)
	}
}
