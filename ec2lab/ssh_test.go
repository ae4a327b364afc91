package ec2lab

import (
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// notedGuest is a hypervisor and a guest that only note what they are told.
type notedGuest struct {
	mu      sync.Mutex
	said    []string
	linux   *Linux
	mounted chan struct{} // Unplug waits for its end
}

func (c *notedGuest) note(words ...string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.said = append(c.said, strings.Join(words, " "))
}

func (c *notedGuest) has(line string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Contains(c.said, line)
}

func (c *notedGuest) Start(_ context.Context, g Guest) (Running, error) {
	c.linux = g.Linux
	return c, nil
}
func (c *notedGuest) Console() ([]byte, error) { return nil, nil }
func (c *notedGuest) Ended() bool              { return false }
func (c *notedGuest) Stop() error              { return nil }
func (c *notedGuest) Admit(address string, open bool) error {
	c.note(map[bool]string{true: "open", false: "closed"}[open], address)
	return nil
}
func (c *notedGuest) Plug(d Disk) error {
	c.note("plug", d.Volume, d.Device)
	return nil
}
func (c *notedGuest) Unplug(d Disk, force bool) error {
	if !force {
		<-c.mounted
	}
	c.note("unplug", d.Volume)
	return nil
}

// Port 22 opens when the sshd listens and a security group lets the caller in, and closes
// with the instance. A mounted volume is detaching until it is not, or by force.
func TestLinuxInstance(t *testing.T) {
	c := &notedGuest{mounted: make(chan struct{})}
	b := newBench(t, Options{Hypervisor: c})
	sg, err := b.ec2.CreateSecurityGroup(b.ctx, &ec2.CreateSecurityGroupInput{GroupName: aws.String("helper"), Description: aws.String("d")})
	b.no(err)
	admit := func(cidr string, port int32) {
		_, err := b.ec2.AuthorizeSecurityGroupIngress(b.ctx, &ec2.AuthorizeSecurityGroupIngressInput{GroupId: sg.GroupId, IpPermissions: []types.IpPermission{{
			IpProtocol: aws.String("tcp"), FromPort: &port, ToPort: &port, IpRanges: []types.IpRange{{CidrIp: &cidr}}}}})
		b.no(err)
	}
	admit("127.0.0.1/32", 22)
	id := b.machine(change(machineOf(linuxes[0][1]), func(m *ec2.RunInstancesInput) { m.SecurityGroupIds = []string{*sg.GroupId} }))
	out, err := b.ec2.DescribeInstances(b.ctx, &ec2.DescribeInstancesInput{InstanceIds: []string{id}})
	b.no(err)
	address, zone := *out.Reservations[0].Instances[0].PublicIpAddress, out.Reservations[0].Instances[0].Placement.AvailabilityZone
	if c.has("open " + address) {
		t.Error("the port is open before the sshd listens")
	}
	c.linux.Ready()
	b.until(func() bool { return c.has("open " + address) })
	if !c.linux.Nitro || c.linux.Root.Device != "/dev/xvda" {
		t.Errorf("%+v", c.linux)
	}
	var ids []string
	for _, device := range []string{"/dev/sdf", "/dev/sdg"} {
		v, err := b.ec2.CreateVolume(b.ctx, &ec2.CreateVolumeInput{AvailabilityZone: zone, Size: aws.Int32(1)})
		b.no(err)
		b.until(func() bool { return b.has("volume " + *v.VolumeId + " available") })
		b.no(failure(b.ec2.AttachVolume(b.ctx, &ec2.AttachVolumeInput{VolumeId: v.VolumeId, InstanceId: &id, Device: &device})))
		b.until(func() bool { return c.has("plug " + *v.VolumeId + " " + device) })
		ids = append(ids, *v.VolumeId)
	}
	for i, force := range []bool{false, false, true} {
		volume := ids[i/2]
		b.until(func() bool {
			_, err = b.ec2.DetachVolume(b.ctx, &ec2.DetachVolumeInput{VolumeId: &volume, Force: &force})
			return err == nil || i == 1
		})
		if i == 1 && code(err) != "IncorrectState" {
			t.Errorf("detach a volume that is detaching: %v", err)
		}
	}
	b.until(func() bool { return b.has("volume " + ids[1] + " available") })
	if !b.has("volume " + ids[0] + " in-use") {
		t.Errorf("a mounted volume is detached: %q", b.Resources())
	}
	close(c.mounted)
	b.until(func() bool { return b.has("volume " + ids[0] + " available") })
	b.no(failure(b.ec2.TerminateInstances(b.ctx, &ec2.TerminateInstancesInput{InstanceIds: []string{id}})))
	if !c.has("closed " + address) {
		t.Error("the port of a terminated instance is open")
	}
}

// A silent port lets connections hang, and another refuses them.
func TestSilence(t *testing.T) {
	t.Parallel()
	var config net.ListenConfig
	const here = "127.31.7.9" // where nobody else listens
	free, err := config.Listen(t.Context(), "tcp", here+":0")
	if err != nil {
		t.Fatal(err)
	}
	address := free.Addr().(*net.TCPAddr)
	if err := free.Close(); err != nil {
		t.Fatal(err)
	}
	stop, err := silence(here, address.Port)
	if err != nil {
		t.Fatal(err)
	}
	dialer := net.Dialer{Timeout: 200 * time.Millisecond}
	for range 3 {
		_, err := dialer.DialContext(t.Context(), "tcp", address.String())
		var late net.Error
		if !errors.As(err, &late) || !late.Timeout() {
			t.Errorf("a silent port: %v", err)
		}
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	dialer.Timeout = time.Minute
	if _, err := dialer.DialContext(t.Context(), "tcp", address.String()); err == nil || strings.Contains(err.Error(), "timeout") {
		t.Errorf("a closed port: %v", err)
	}
}
