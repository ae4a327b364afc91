package xen

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/morgana-deploy/morgana/image"
	"github.com/morgana-deploy/morgana/need"
	"github.com/morgana-deploy/morgana/remote"
	"github.com/morgana-deploy/morgana/step"
	"github.com/morgana-deploy/morgana/step/steptest"
	"github.com/morgana-deploy/morgana/xenlab"
)

// hereVar is set where the tests run in dom0 itself: this host is the Xen, and
// hello's kernel is the file that it names.
const hereVar = "MORGANA_TEST_XEN_HERE"

// shared is what the tests of this package have one of: a real Xen, and a kernel.
var shared struct {
	folder     string
	lab, hello sync.Once
	xen        *xenlab.Lab
	err        error
	stop       context.CancelFunc
}

func TestMain(m *testing.M) {
	os.Exit(func() int {
		var err error
		if shared.folder, err = os.MkdirTemp("", "morgana-xen-*"); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer func() {
			if shared.xen != nil {
				_ = shared.xen.Close() // its folder goes now
				shared.stop()
			}
			_ = os.RemoveAll(shared.folder)
		}()
		return m.Run()
	}())
}

// lab is a Xen host, the same for all tests of the package. In dom0 itself it is
// one without a Host, and nothing is started.
func lab(t testing.TB) *xenlab.Lab {
	t.Helper()
	if os.Getenv(hereVar) != "" {
		return &xenlab.Lab{}
	}
	need.Lab(t, xenlab.Missing(t.Context()))
	shared.lab.Do(func() {
		var ctx context.Context
		ctx, shared.stop = context.WithCancel(context.Background())
		shared.xen, shared.err = xenlab.Start(ctx, filepath.Join(shared.folder, "lab"))
	})
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	t.Setenv("MORGANA_SSH_CONFIG", shared.xen.Config)
	return shared.xen
}

// hello is the path of examples/hello's kernel, built in a copy.
func hello(t testing.TB) string {
	t.Helper()
	if kernel := os.Getenv(hereVar); kernel != "" {
		return kernel
	}
	folder := filepath.Join(shared.folder, "hello")
	shared.hello.Do(func() {
		err := os.CopyFS(folder, os.DirFS("../../examples/hello"))
		if err == nil {
			var out []byte
			if out, err = exec.Command("make", "-s", "-B", "-C", folder, "hello").CombinedOutput(); err != nil {
				err = fmt.Errorf("make hello: %w\n%s", err, out)
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	})
	return filepath.Join(folder, "hello")
}

// options are JSON with the lab's host.
func options(l *xenlab.Lab, more string) json.RawMessage {
	if more != "" {
		more = "," + more
	}
	if l.Host == "" {
		return json.RawMessage(`{"memory":32` + more + `}`)
	}
	return json.RawMessage(fmt.Sprintf(`{"host":%q,"memory":32%s}`, l.Host, more))
}

func TestConformance(t *testing.T) {
	l := lab(t)
	steptest.Run(t, steptest.Case{
		New:        func(site step.Site) step.Target { return New(site) },
		Spec:       step.Spec{Kind: Kind, Options: options(l, `"args":"stay","expect":"staying"`)},
		Kernel:     hello(t),
		ABIs:       []string{image.PVH, image.XenPV},
		Misspelt:   json.RawMessage(`{"memroy":64}`),
		Nearest:    "memory",
		Changed:    options(l, `"args":"stay","expect":"staying","vcpus":2`),
		NeverReady: options(l, `"args":"stay","expect":"never printed"`),
		ConsoleHas: "hello from a unikernel",
		Ends:       options(l, `"expect":"hello from"`),
		Sent:       countSent(t, l),
		Resources:  func(t *testing.T, _ step.Site) []string { return onHost(t, l) },
	})
}

// countSent puts a dd before the host's that counts what Register sends, which alone
// has these flags.
func countSent(t *testing.T, l *xenlab.Lab) func(*testing.T) int64 {
	script := func(text string) string {
		t.Helper()
		out, err := onDom0(context.Background(), l, "sh", "-c", text)
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(out)
	}
	script(`cat >/usr/local/sbin/dd <<"END"
#!/bin/bash
case $* in *fullblock,count_bytes*) set -o pipefail; /bin/dd "$@" | tee -a /run/sent ;; *) exec /bin/dd "$@" ;; esac
END
		chmod 755 /usr/local/sbin/dd; : >/run/sent`)
	t.Cleanup(func() { script("rm -f /usr/local/sbin/dd /run/sent") })
	return func(t *testing.T) int64 {
		t.Helper()
		n, err := strconv.ParseInt(script("stat -c %s /run/sent"), 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
}

// onHost lists what there is on the Xen host: domains, vifs, files, consoles.
func onHost(t testing.TB, l *xenlab.Lab) (all []string) {
	t.Helper()
	out, err := onDom0(context.Background(), l, "sh", "-c", `
		xenstore-list -p /local/domain # its nodes
		xl list -v
		ls -d /sys/class/net/vif* 2>/dev/null
		cd /var/lib/morgana 2>/dev/null && find . -mindepth 1 -maxdepth 2 -printf 'file %p\n'
		ps -eo args`)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(out) {
		if found := resourceForm.FindStringSubmatch(line); found != nil {
			all = append(all, found[1]+found[2])
		}
	}
	return all
}

// resourceForm is a guest in xenstore, a vif, a file, a process that a domain has, or the
// name of a guest that xl lists.
var resourceForm = regexp.MustCompile(`^(/local/domain/[1-9].*|/sys/class/net/vif.*|file .*|dd bs=64k count=6.*|\S*xl (?:create|console).*|\S*qemu-system.*)|^(\S+) +[1-9]\d* +\d+ +\d+\s`)

// onDom0 runs a command where xl is. It shares the target's connection: to make one
// costs an emulated processor a second.
func onDom0(ctx context.Context, l *xenlab.Lab, argv ...string) (string, error) {
	host, err := remote.Open(l.Host)
	if err != nil {
		return "", err
	}
	var out bytes.Buffer
	err = host.Run(ctx, remote.Command{Argv: argv, Stdout: &out})
	return out.String(), err
}
