// Command lab runs a XenAPI on loopback, to try target xenserver without a pool. It ends with
// Ctrl-C, and its VMs with it.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"github.com/morgana-deploy/morgana/xapilab"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) (err error) {
	dir, err := os.MkdirTemp("", "xapilab-machines-")
	if err != nil {
		return err
	}
	machines := xapilab.NewMachines(dir)
	defer func() { err = errors.Join(err, machines.Close(), os.RemoveAll(dir)) }()
	lab, err := xapilab.Start(context.WithoutCancel(ctx), xapilab.Config{Hypervisor: &teller{Machines: machines}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lab.Close()) }()
	fmt.Println("# A XenAPI runs until Ctrl-C. Set this where the worker is started:")
	fmt.Printf("export XENSERVER_HOST=%s XENSERVER_USERNAME=%s XENSERVER_PASSWORD=%s\n", lab.URL, lab.User, lab.Password)
	fmt.Printf("# the target in morgana.yaml: {kind: xenserver, host: %q, fingerprint: %q}\n", lab.URL, lab.Fingerprint)
	<-ctx.Done()
	return nil
}

// teller says that the first VM takes longer.
type teller struct {
	*xapilab.Machines
	first sync.Once
}

// Start implements [xapilab.Hypervisor].
func (t *teller) Start(ctx context.Context, g xapilab.Guest) (xapilab.Running, error) {
	t.first.Do(func() { fmt.Println("# starting Xen in QEMU for the first VM: it may take minutes") })
	return t.Machines.Start(ctx, g)
}
