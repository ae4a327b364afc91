package carrier_test

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/morgana-deploy/morgana/carrier"
	"github.com/morgana-deploy/morgana/carrier/carriertest"
	"github.com/morgana-deploy/morgana/image"
	"github.com/morgana-deploy/morgana/image/disk"
	"github.com/morgana-deploy/morgana/need"
)

// The tests share the parts, which take a while to build.
func TestCarrier(t *testing.T) {
	parts := carriertest.Make(t)
	for name, test := range map[string]func(*testing.T, carriertest.Parts){
		"Linux program": testLinuxProgram, "Solo5": testSolo5, "refusals": testRefusals} {
		t.Run(name, func(t *testing.T) { test(t, parts) })
	}
}

func digest(t *testing.T, paths ...string) [32]byte {
	t.Helper()
	var all []byte
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, data...)
	}
	return sha256.Sum256(all)
}

// patience is for a machine that is emulated on a busy host.
const patience = 10 * time.Minute

// ship makes the carrier of a kernel.
func ship(t *testing.T, o carrier.Carriage, kernel, args string, interfaces int) (linux, ramdisk string) {
	t.Helper()
	f, err := os.Open(kernel)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close() //nolint:errcheck // only read
	stat, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	info, err := image.Identify(f, stat.Size())
	if err != nil {
		t.Fatal(err)
	}
	o.Carrier = "linux"
	linux, ramdisk, err = o.Ship(t.Context(), t.TempDir(), t.TempDir(), carrier.Cargo{Kernel: kernel, Info: info, Args: args, Interfaces: interfaces})
	if err != nil {
		t.Fatal(err)
	}
	return linux, ramdisk
}

// guest is a QEMU that runs a carrier.
type guest struct {
	*testing.T
	console string // path
	port    int    // of this host, to port 80
	ended   chan error
}

func start(t *testing.T, args ...string) *guest {
	t.Helper()
	need.Tools(t, "qemu-system-x86_64")
	g := &guest{t, filepath.Join(t.TempDir(), "console"), need.Port(t), make(chan error, 1)}
	cmd := exec.CommandContext(t.Context(), "qemu-system-x86_64", append([]string{"-accel", "tcg", "-cpu", "max", "-m", "128",
		"-nodefaults", "-display", "none", "-serial", "file:" + g.console, "-no-reboot",
		"-netdev", "user,id=n,hostfwd=tcp:127.0.0.1:" + strconv.Itoa(g.port) + "-:80", "-device", "virtio-net-pci,netdev=n,mac=52:54:00:aa:bb:cc"}, args...)...)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	go func() {
		err := cmd.Wait()
		if said.Len() > 0 {
			err = fmt.Errorf("%w: %s", err, said.String())
		}
		g.ended <- err
	}()
	g.await("listening\r\n")
	t.Logf("the kernel's line after %.1f s", time.Since(began).Seconds())
	return g
}

// await waits until the console has the text, and returns the console.
func (g *guest) await(text string) string {
	g.Helper()
	for until := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		console, err := os.ReadFile(g.console)
		if err == nil && strings.Contains(string(console), text) {
			return string(console)
		}
		if time.Now().After(until) {
			g.Fatalf("no %q in\n%s", text, console)
		}
		select {
		case err := <-g.ended:
			g.Fatalf("qemu ended (%v) before %q in\n%s", err, text, console)
		default:
		}
	}
}

// get asks the guest by HTTP.
func (g *guest) get(path string) string {
	g.Helper()
	answer, err := (&http.Client{Timeout: patience}).Get(fmt.Sprintf("http://127.0.0.1:%d/%s", g.port, path))
	if err != nil {
		g.Fatal(err)
	}
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		g.Error(err)
	}
	_ = answer.Body.Close() // it has been read
	return string(body)
}

// lastLine waits until the machine is off, and returns the console's last line.
func (g *guest) lastLine() string {
	g.Helper()
	select {
	case err := <-g.ended:
		if err != nil {
			g.Errorf("qemu: %v", err)
		}
	case <-time.After(patience):
		g.Error("the machine is not powered off")
	}
	lines := strings.Split(strings.TrimSpace(g.await("")), "\r\n")
	return lines[len(lines)-1]
}

// A Linux program runs from a boot disk that is NVMe, and its status is in the last line.
func testLinuxProgram(t *testing.T, parts carriertest.Parts) {
	need.Tools(t, "grub-mkimage")
	linux, ramdisk := ship(t, carrier.Carriage{Linux: parts.Linux}, parts.Web, "a=b  second", 1)
	root := filepath.Join(t.TempDir(), "disk")
	err := disk.Write(t.Context(), root, disk.BIOS, disk.Boot{Kernel: linux, ABI: image.LinuxBzImage, Args: carrier.CommandLine,
		Modules: []disk.Module{{Path: ramdisk, Name: "ramdisk"}}}, 0)
	if err != nil {
		t.Fatal(err)
	}
	g := start(t, "-drive", "if=none,id=root,format=raw,file="+root, "-device", "nvme,drive=root,serial=root")
	if got := g.get(""); got != "hello from a Linux program\n" {
		t.Errorf("it answers %q", got)
	}
	_ = g.get("3")
	if last := g.lastLine(); last != "carrier: exit status 3" {
		t.Errorf("the last line is %q", last)
	}
	if console := g.await(""); !strings.Contains(console, `arguments: ["a=b" "second"]`) {
		t.Error(console)
	}
}

// A Solo5 kernel gets the interface's MAC address and its address, and the disk. The same
// parts give the same files.
func testSolo5(t *testing.T, parts carriertest.Parts) {
	var linux, ramdisk string
	var made [2][32]byte
	for i := range made {
		linux, ramdisk = ship(t, carrier.Carriage{Linux: parts.Linux, Respawn: true}, parts.SPT, `--ipv4={address} --hello="a  b"`, 0)
		made[i] = digest(t, linux, ramdisk)
	}
	if made[0] != made[1] {
		t.Error("the same parts give other bytes")
	}
	data := filepath.Join(t.TempDir(), "data")
	if err := os.WriteFile(data, append([]byte("bytes of a disk"), make([]byte, 8192-15)...), 0o600); err != nil {
		t.Fatal(err)
	}
	frames := filepath.Join(t.TempDir(), "frames")
	g := start(t, "-kernel", linux, "-initrd", ramdisk, "-append", carrier.CommandLine,
		"-object", "filter-dump,id=dump,netdev=n,file="+frames,
		"-drive", "if=none,id=data,format=raw,file="+data, "-device", "virtio-blk-pci,drive=data")
	for _, want := range []string{`command line: "--ipv4=10.0.2.15/24 --hello=\"a  b\""`, "carrier: eth0 has 10.0.2.15/24, gateway 10.0.2.2"} {
		if console := g.await("listening"); !strings.Contains(console, want) {
			t.Errorf("no %q in\n%s", want, console)
		}
	}
	if got := g.get(""); got != "bytes" {
		t.Errorf("it answers %q", got)
	}
	g.await("carrier: exit status 7; the unikernel starts again\r\nmemory")
	// Linux itself sends nothing, as its IPv6 would within two seconds.
	time.Sleep(2 * time.Second)
	sent, err := os.ReadFile(frames)
	if from := "\x52\x54\x00\xaa\xbb\xcc"; err != nil || !strings.Contains(string(sent), from+"\x08\x00") || strings.Contains(string(sent), from+"\x86\xdd") {
		t.Errorf("%v: the frames of the machine, in %d bytes, are not those of the kernel", err, len(sent))
	}
}
