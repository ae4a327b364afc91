package xenlab_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/morgana-deploy/morgana/image"
	"github.com/morgana-deploy/morgana/image/disk"
	"github.com/morgana-deploy/morgana/need"
	"github.com/morgana-deploy/morgana/xenlab"
)

// childDir makes the test binary a process that starts a lab there and waits to
// be killed.
const childDir = "XENLAB_TEST_CHILD_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		if _, err := xenlab.Start(context.Background(), dir); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println("started")
		select {}
	}
	os.Exit(m.Run())
}

func start(t *testing.T) *xenlab.Lab {
	t.Helper()
	need.Lab(t, xenlab.Missing(t.Context()))
	l, err := xenlab.Start(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		if _, err := xenlab.Open(l.Dir); !errors.Is(err, xenlab.ErrDown) {
			t.Errorf("a closed lab: %v", err)
		}
	})
	return l
}

func run(t *testing.T, l *xenlab.Lab, argv ...string) string {
	t.Helper()
	out, err := l.Run(t.Context(), argv...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// send writes a file in dom0.
func send(t *testing.T, l *xenlab.Lab, path string, content []byte) {
	t.Helper()
	cmd := l.Command(t.Context(), "tee", path)
	cmd.Stdin = strings.NewReader(string(content))
	if err := cmd.Run(); err != nil {
		t.Fatalf("send %s: %v", path, err)
	}
}

// hello builds examples/hello and gives the folder it is in.
func hello(t *testing.T) string {
	t.Helper()
	need.Tools(t, "make", "gcc")
	folder := filepath.Join(t.TempDir(), "hello")
	if err := os.CopyFS(folder, os.DirFS("../examples/hello")); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), "make", "-s", "-C", folder).CombinedOutput(); err != nil {
		t.Fatalf("make: %v\n%s", err, out)
	}
	return folder
}

// A lab is a Xen 4.17 that runs guests of every type.
func TestLab(t *testing.T) {
	folder := hello(t)
	bios := filepath.Join(folder, "bios.img")
	err := disk.Write(t.Context(), bios, disk.BIOS, disk.Boot{Kernel: filepath.Join(folder, "hello"), ABI: image.Multiboot2, Args: "stay a=b"}, 0)
	if err != nil {
		t.Fatal(err)
	}
	l := start(t)
	if info := run(t, l, "xl", "info"); !strings.Contains(info, "xen_version            : 4.17") {
		t.Fatalf("no Xen 4.17:\n%s", info)
	}
	for _, name := range []string{"hello", "bios.img"} {
		content, err := os.ReadFile(filepath.Join(folder, name))
		if err != nil {
			t.Fatal(err)
		}
		send(t, l, "/root/"+name, content)
	}
	const kernel = "kernel=\"/root/hello\"\nextra=\"stay a=b\"\n"
	guests := []struct{ name, config, mode string }{
		{"pv", kernel + "vif=[\"\"]\n", "xen-pv"},
		{"pvh", kernel, "xen-pvh"},
		{"hvm", "disk=[\"/root/bios.img,raw,hda,w\"]\nhdtype=\"ahci\"\nvga=\"none\"\nserial=\"pty\"\n", "xen-hvm-multiboot2"}, // the slow one last
	}
	for _, g := range guests {
		send(t, l, "/root/cfg", fmt.Appendf(nil, "name=%q\ntype=%q\nmemory=32\n%s", g.name, g.name, g.config))
		begin := time.Now()
		run(t, l, "xl", "create", "/root/cfg")
		t.Logf("%s: xl create took %v", g.name, time.Since(begin))
	}
	for _, g := range guests {
		want := "boot mode: " + g.mode + "\ncommand line: [stay a=b]\n"
		console := "/var/log/xen/console/guest-" + g.name + ".log"
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
		_, err := l.Run(ctx, "sh", "-c", "until grep -q staying "+console+"; do sleep 1; done")
		cancel()
		out := run(t, l, "cat", console)
		if err != nil || !strings.Contains(strings.ReplaceAll(out, "\r", ""), want) {
			t.Errorf("%s: %v; want %q in\n%s\n%s", g.name, err, want, out, run(t, l, "xl", "dmesg"))
		}
	}
}

// Labs run at the same time, none sees another's files, and each has its own
// address. A lab's words arrive as they were.
func TestLabsAreApart(t *testing.T) {
	a, b := start(t), start(t)
	const word = `a' "b" $HOME *; #`
	run(t, a, "touch", "/root/"+word)
	if got := run(t, a, "ls", "/root"); got != word+"\n" {
		t.Errorf("in a: %q", got)
	}
	if got := run(t, b, "ls", "/root"); got != "" {
		t.Errorf("in b: %q", got)
	}
	if now := run(t, b, "date", "+%s"); now < fmt.Sprint(time.Now().Add(-time.Minute).Unix()) {
		t.Errorf("dom0's clock is at %s", now)
	}
	if _, err := a.Run(t.Context(), "cat", "/none"); err == nil || !strings.Contains(err.Error(), "No such file") {
		t.Errorf("a command that fails: %v", err)
	}
	if _, err := xenlab.Start(t.Context(), a.Dir); err == nil {
		t.Error("a second lab started in a folder")
	}
}

// A lab ends with the process that started it, however that ends.
func TestLabEndsWithItsProcess(t *testing.T) {
	need.Lab(t, xenlab.Missing(t.Context()))
	if _, err := xenlab.Build(t.Context()); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	child := exec.CommandContext(t.Context(), os.Args[0])
	child.Env = append(os.Environ(), childDir+"="+dir)
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	line := make([]byte, 100)
	n, err := out.Read(line)
	if string(line[:n]) != "started\n" {
		t.Fatalf("%s%v", line[:n], err)
	}
	if _, err := xenlab.Open(dir); err != nil {
		t.Fatalf("a lab that runs: %v", err)
	}
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = child.Wait() // it was killed
	down(t, dir)
}

func down(t *testing.T, dir string) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(20 * time.Millisecond) {
		_, err := xenlab.Open(dir)
		if errors.Is(err, xenlab.ErrDown) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the lab still runs: %v", err)
		}
	}
}

// The command's lab goes on when the command has ended, until it is taken down.
func TestCommand(t *testing.T) {
	need.Lab(t, xenlab.Missing(t.Context()))
	bin := filepath.Join(t.TempDir(), "lab")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", bin, "./lab").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	dir := filepath.Join(t.TempDir(), "a folder, with 100%")
	lab := func(args ...string) (string, error) {
		cmd := exec.CommandContext(context.WithoutCancel(t.Context()), bin, args...)
		cmd.Env = append(os.Environ(), "MORGANA_XENLAB="+dir)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	if out, err := lab("status"); err == nil || out != "error: no lab runs here\n" {
		t.Errorf("status of none: %v %s", err, out)
	}
	out, err := lab("up")
	t.Cleanup(func() {
		if out, err := lab("down"); err != nil {
			t.Errorf("down: %v %s", err, out)
		}
		down(t, dir)
	})
	if err != nil {
		t.Fatalf("up: %v\n%s", err, out)
	}
	// What it says to type is for sh.
	_, export, _ := strings.Cut(out, "\n  export ")
	export, _, _ = strings.Cut(export, "\n")
	_, look, _ := strings.Cut(out, "\nLook around: ")
	look, _, _ = strings.Cut(look, "\n")
	sh := exec.CommandContext(t.Context(), "sh", "-c", "export "+export+"\n"+look)
	if said, err := sh.CombinedOutput(); err != nil || !strings.Contains(string(said), "Domain-0") {
		t.Errorf("export %s; %s: %v\n%s", export, look, err, said)
	}
	if again, err := lab("up"); err != nil || again != out {
		t.Errorf("up again: %v\n%s", err, again)
	}
	if out, err := lab("ssh", "xl", "list"); err != nil || !strings.Contains(out, "Domain-0") {
		t.Errorf("ssh: %v\n%s", err, out)
	}

	// After a QEMU that was killed, down removes the disk as well.
	raw, err := os.ReadFile(filepath.Join(dir, "qemu.pid"))
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(raw)))
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	down(t, dir)
	for range 2 {
		if out, err := lab("down"); err != nil {
			t.Errorf("down after a crash: %v %s", err, out)
		}
	}
	left, err := filepath.Glob(filepath.Join(dir, "*"))
	if want := []string{filepath.Join(dir, "console.log"), filepath.Join(dir, "qemu.log")}; err != nil || !slices.Equal(left, want) {
		t.Errorf("left: %q, %v", left, err)
	}
}

// A folder that is not a lab's keeps its files.
func TestDownElsewhere(t *testing.T) {
	known := filepath.Join(t.TempDir(), "known_hosts")
	if err := os.WriteFile(known, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := xenlab.Open(filepath.Dir(known))
	if !errors.Is(err, xenlab.ErrDown) {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(known); err != nil {
		t.Error(err)
	}
}
