package e2e

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/morgana-deploy/morgana/need"
	"github.com/morgana-deploy/morgana/xapilab"
	"github.com/morgana-deploy/morgana/xenlab"
)

// onPool is a Xen host with a XenAPI whose VMs are its domains.
type onPool struct {
	*onXen
	pool *xapilab.Lab
	dir  string // has a folder for each domain, with its console
}

// pools deploys hello to a pool as each type of VM.
func (x *onXen) pools() {
	dir := x.t.TempDir()
	c := xapilab.Config{Hypervisor: xapilab.MachinesOf(xenlab.DomainsOf(x.host, dir))}
	if model := need.FindXenAPI(x.t); model != "" {
		var err error
		if c.Judge, err = xapilab.NewJudge(model); err != nil {
			x.t.Fatal(err)
		}
	}
	pool, err := xapilab.Start(x.t.Context(), c)
	if err != nil {
		x.t.Fatal(err)
	}
	defer func() {
		for _, wrong := range pool.Judged() {
			x.t.Error(wrong)
		}
		if err := pool.Close(); err != nil {
			x.t.Error(err)
		}
	}()
	x.restartWorker([]string{"XENSERVER_HOST=" + pool.URL, "XENSERVER_USERNAME=" + pool.User, "XENSERVER_PASSWORD=" + pool.Password}, "--builds", "4")
	(&onPool{x, pool, dir}).deploys()
}

func (p *onPool) deploys() {
	port := p.portOfHVM()
	folder := p.hello()
	all := fmt.Sprintf("kind: xenserver, fingerprint: %q, memory: 128, timeout: 5m", p.pool.Fingerprint+" "+p.pool.MemberFingerprint)
	const text = "args: stay a b, expect: staying"
	p.write(filepath.Join(folder, "morgana.yaml"), `app: pool
toolchain: {kind: command, build: [[make]], kernel: hello}
targets:
  pv: {`+all+`, type: pv, `+text+`}
  pvh: {`+all+`, type: pvh, `+text+`}
  hvm: {`+all+`, type: hvm, args: stay a b, address: 127.0.0.1, expectPort: `+port+`}
`)
	p.done(p.begin(folder, "deploy", "--all"))
	p.prints(folder, "pv", "xen-pv", "stay a b")
	p.prints(folder, "pvh", "xen-pvh", "stay a b")
	p.holds(3)

	calls := len(p.pool.Calls())
	p.done(p.begin(folder, "deploy", "--all"))
	for _, call := range p.pool.Calls()[calls:] {
		if strings.Contains(call.Method, "create") || strings.HasPrefix(call.Method, "PUT ") || strings.HasSuffix(call.Method, "start") {
			p.t.Errorf("an unchanged deploy called %s", call.Method)
		}
	}

	// The worker is killed while it changes one.
	p.pool.Fault(xapilab.Fault{Call: "Async.VM.start", Delay: time.Second})
	changed := p.begin(folder, "deploy", "-t", "pvh", "--set", "pvh.args=stay c")
	p.eventually("the changed VM is made", func() bool { return p.pool.Ref("VM", "morgana-pool-pvh-3") != "" })
	p.kill(p.worker)
	p.startWorker("--builds", "4")
	p.done(changed)
	p.prints(folder, "pvh", "xen-pvh", "stay c")
	p.holds(3)

	p.done(p.begin(folder, "destroy", "pool"))
	left := slices.DeleteFunc(p.pool.Resources(), func(line string) bool { return line == "task Async.VM.start" }) // of the killed worker
	if len(left) > 0 {
		p.t.Errorf("left in the pool: %q", left)
	}
}

// portOfHVM returns a port that takes connections as soon as hello has printed in an hvm VM:
// hello has no network.
func (p *onPool) portOfHVM() string {
	p.t.Helper()
	port := strconv.Itoa(need.Port(p.t)) // until then connections are refused
	ended := make(chan struct{})
	p.t.Cleanup(func() { close(ended) })
	go func() {
		for {
			consoles, _ := filepath.Glob(filepath.Join(p.dir, "*", "console"))
			for _, console := range consoles {
				if text, err := os.ReadFile(console); err == nil && bytes.Contains(text, []byte("boot mode: xen-hvm-multiboot2")) && bytes.Contains(text, []byte("[stay a b]")) {
					listener, err := net.Listen("tcp", "127.0.0.1:"+port)
					if err != nil {
						p.t.Error(err)
						return
					}
					<-ended
					_ = listener.Close()
					return
				}
			}
			select {
			case <-time.After(100 * time.Millisecond):
			case <-ended:
				return
			}
		}
	}()
	return port
}

// prints fails the test unless the console of a target has hello's text.
func (p *onPool) prints(folder, target, mode, args string) {
	p.t.Helper()
	r := p.morgana(folder, "console", "pool/"+target)
	if want := "boot mode: " + mode + "\ncommand line: [" + args + "]\nstaying\n"; !strings.Contains(strings.ReplaceAll(r.out, "\r", ""), want) {
		p.t.Errorf("%s: want %q in\n%s%s", target, want, r.out, r.errOut)
	}
}

// holds fails the test unless the pool has n VMs with a disk and a network interface each, all
// of them run, and each has a domain on the bridge.
func (p *onPool) holds(n int) {
	p.t.Helper()
	kinds := map[string]int{}
	for _, line := range p.pool.Resources() {
		kind, name, _ := strings.Cut(line, " ")
		kinds[kind]++
		if kind == "VM" && p.pool.Get(p.pool.Ref("VM", name), "power_state") != "Running" {
			p.t.Errorf("%s does not run", name)
		}
	}
	for _, kind := range []string{"VM", "VDI", "VBD", "VIF"} {
		if kinds[kind] != n {
			p.t.Errorf("%d of kind %s, want %d: %q", kinds[kind], kind, n, p.pool.Resources())
		}
	}
	if names := p.domains(); len(names) != n {
		p.t.Errorf("the domains are %q", names)
	}
}
