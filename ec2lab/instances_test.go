package ec2lab

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	elb "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2"
	elbtypes "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2/types"
)

// guests is a hypervisor without machines.
type guests struct {
	mu      sync.Mutex
	started []Guest
	ended   bool
	stopped int
	fail    error
}

func (g *guests) Start(_ context.Context, of Guest) (Running, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.started = append(g.started, of)
	return g, g.fail
}
func (g *guests) Console() ([]byte, error) { return []byte("hello"), nil }
func (g *guests) Ended() bool              { g.mu.Lock(); defer g.mu.Unlock(); return g.ended }
func (g *guests) Stop() error              { g.mu.Lock(); defer g.mu.Unlock(); g.stopped++; return nil }

func (g *guests) set(f func()) { g.mu.Lock(); defer g.mu.Unlock(); f() }

// An instance is a guest with the snapshot's bytes on a sparse disk of its own.
func TestGuest(t *testing.T) {
	g := &guests{}
	b := newBench(t, Options{Hypervisor: g})
	snapshot := b.snap("", map[int]byte{3: 7, 4: 0})
	pv := func(m *ec2.RegisterImageInput) {
		m.VirtualizationType, m.EnaSupport, m.KernelId = aws.String("paravirtual"), nil, aws.String("aki-d09ed9a3")
	}
	b.machine(machineOf(b.image(imageOf(snapshot, "hvm"))))
	b.machine(change(machineOf(b.image(change(imageOf(snapshot, "uefi"), func(m *ec2.RegisterImageInput) { m.BootMode = "uefi" }))), func(in *ec2.RunInstancesInput) { in.InstanceType = "m5.large" }))
	hd00 := b.image(change(imageOf(snapshot, "pv."), pv))
	last := b.machine(change(machineOf(hd00), func(in *ec2.RunInstancesInput) { in.InstanceType = "t1.micro" }))
	b.machine(change(machineOf(hd00), func(in *ec2.RunInstancesInput) {
		in.InstanceType, in.KernelId = "t1.micro", aws.String("aki-dc9ed9af")
	}))
	for i, want := range []Guest{
		{Virtualization: "hvm", BootMode: "legacy-bios", Memory: 256},
		{Virtualization: "hvm", BootMode: "uefi", Memory: 256},
		{Virtualization: "paravirtual", Layout: "hd0,0", Memory: 256},
		{Virtualization: "paravirtual", Layout: "hd0", Memory: 256},
	} {
		got := g.started[i]
		want.ID, want.Disk = got.ID, got.Disk
		if got != want {
			t.Errorf("guest %+v, want %+v", got, want)
		}
		f, err := os.Stat(got.Disk)
		b.no(err)
		if disk := f.Sys().(*syscall.Stat_t).Blocks * 512; f.Size() != 1<<30 || disk > 1<<20 {
			t.Errorf("a disk of %d bytes takes %d", f.Size(), disk)
		}
		file, err := os.Open(got.Disk)
		b.no(err)
		data := make([]byte, blockSize)
		if _, err := file.ReadAt(data, 3*blockSize); err != nil || !bytes.Equal(data, block(7)) {
			t.Errorf("block 3 begins with %v: %v", data[:1], err)
		}
		b.no(file.Close())
	}
	b.ConsoleDelay(time.Hour)
	for latest, want := range map[bool]string{false: "", true: "hello"} {
		id := g.started[0].ID
		out, err := b.ec2.GetConsoleOutput(b.ctx, &ec2.GetConsoleOutputInput{InstanceId: &id, Latest: &latest})
		b.no(err)
		if aws.ToString(out.Output) != base64.StdEncoding.EncodeToString([]byte(want)) {
			t.Errorf("console %q with Latest %v", aws.ToString(out.Output), latest)
		}
	}
	_, err := b.ec2.TerminateInstances(b.ctx, &ec2.TerminateInstancesInput{InstanceIds: []string{last}})
	b.no(err)
	b.until(func() bool { return !b.has("instance "+last+" shutting-down") && !b.has("instance "+last+" running") })
	if g.stopped != 1 {
		t.Errorf("%d guests stopped", g.stopped)
	}
}

// A guest that ends stops its instance or terminates it, as the instance was told.
func TestGuestEnds(t *testing.T) {
	g := &guests{}
	b := newBench(t, Options{Hypervisor: g})
	before := b.Resources()
	image := b.image(imageOf(b.snap("", nil), "abc"))
	stops := b.machine(machineOf(image))
	goes := b.machine(change(machineOf(image), func(in *ec2.RunInstancesInput) {
		in.InstanceInitiatedShutdownBehavior = types.ShutdownBehaviorTerminate
	}))
	group := aws.String(b.TargetGroup())
	_, err := b.elb.RegisterTargets(b.ctx, &elb.RegisterTargetsInput{TargetGroupArn: group, Targets: []elbtypes.TargetDescription{{Id: &stops}}})
	b.no(err)
	g.set(func() { g.ended = true })
	b.until(func() bool { return b.has("instance "+stops+" stopped") && len(b.Resources()) == len(before)+5 })
	health, err := b.elb.DescribeTargetHealth(b.ctx, &elb.DescribeTargetHealthInput{TargetGroupArn: group})
	b.no(err)
	if h := health.TargetHealthDescriptions[0].TargetHealth; h.State != "unused" || h.Reason != "Target.InvalidState" {
		t.Errorf("the target of a stopped instance is %s: %s", h.State, h.Reason)
	}
	out, err := b.ec2.DescribeInstances(b.ctx, &ec2.DescribeInstancesInput{InstanceIds: []string{goes, stops}})
	b.no(err)
	for _, r := range out.Reservations {
		i := r.Instances[0]
		if ip := aws.ToString(i.PublicIpAddress); ip != "" {
			t.Errorf("%s has the address %s", *i.InstanceId, ip)
		}
		if *i.StateReason.Code != "Client.InstanceInitiatedShutdown" || (*i.InstanceId == goes) != (i.State.Name == "terminated") {
			t.Errorf("%s is %s: %+v", *i.InstanceId, i.State.Name, i.StateReason)
		}
	}
	text, err := b.ec2.GetConsoleOutput(b.ctx, &ec2.GetConsoleOutputInput{InstanceId: &stops})
	b.no(err)
	if aws.ToString(text.Output) != base64.StdEncoding.EncodeToString([]byte("hello")) {
		t.Errorf("the console of a stopped instance is %q", aws.ToString(text.Output))
	}
	g.set(func() { g.fail = errors.New("no such machine") })
	r, err := b.ec2.RunInstances(b.ctx, machineOf(image))
	b.no(err)
	failed := r.Instances[0].InstanceId
	b.until(func() bool {
		out, err := b.ec2.DescribeInstances(b.ctx, &ec2.DescribeInstancesInput{InstanceIds: []string{*failed}})
		b.no(err)
		i := out.Reservations[0].Instances[0]
		return i.State.Name == "terminated" && *i.StateReason.Code == "Server.InternalError"
	})
}
