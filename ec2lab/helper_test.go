package ec2lab

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/morgana-deploy/morgana/need"
)

// helper is an instance of Amazon Linux with ssh.
type helper struct {
	*bench
	id, address string
	keys        string // folder with the key pairs "login" and "host"
	zone        string
}

// newHelper starts a helper whose security group is the group.
func newHelper(b *bench, group string, of types.InstanceType) *helper {
	b.Helper()
	h := &helper{bench: b, keys: b.TempDir()}
	for _, name := range []string{"login", "host"} {
		if out, err := exec.CommandContext(b.ctx, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", filepath.Join(h.keys, name)).CombinedOutput(); err != nil {
			b.Fatalf("%v: %s", err, out)
		}
	}
	name := string(of)
	_, err := b.ec2.ImportKeyPair(b.ctx, &ec2.ImportKeyPairInput{KeyName: &name, PublicKeyMaterial: []byte(h.read("login.pub"))})
	b.no(err)
	indented := strings.ReplaceAll(strings.TrimSpace(h.read("host")), "\n", "\n    ")
	data := "#cloud-config\nssh_keys:\n  ed25519_private: |\n    " + indented + "\n  ed25519_public: " + h.read("host.pub")
	run, err := b.ec2.RunInstances(b.ctx, change(machineOf(linuxes[0][1]), func(m *ec2.RunInstancesInput) {
		m.InstanceType, m.KeyName, m.SecurityGroupIds, m.UserData = of, &name, []string{group}, aws.String(base64.StdEncoding.EncodeToString([]byte(data)))
		m.InstanceInitiatedShutdownBehavior = "terminate"
	}))
	b.no(err)
	h.id = *run.Instances[0].InstanceId
	h.eventually(func() bool { return b.has("instance " + h.id + " running") })
	out, err := b.ec2.DescribeInstances(b.ctx, &ec2.DescribeInstancesInput{InstanceIds: []string{h.id}})
	b.no(err)
	i := out.Reservations[0].Instances[0]
	h.address, h.zone = *i.PublicIpAddress, *i.Placement.AvailabilityZone
	b.no(os.WriteFile(filepath.Join(h.keys, "known"), []byte(h.address+" "+h.read("host.pub")), 0o600))
	return h
}

func (h *helper) read(name string) string {
	h.Helper()
	text, err := os.ReadFile(filepath.Join(h.keys, name))
	h.no(err)
	return string(text)
}

// ssh runs a command with the official client, which knows the host key alone.
func (h *helper) ssh(command string) (string, error) {
	c := exec.CommandContext(h.ctx, "ssh", "-F", "none", "-i", filepath.Join(h.keys, "login"), "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes",
		"-o", "StrictHostKeyChecking=yes", "-o", "UserKnownHostsFile="+filepath.Join(h.keys, "known"), "-o", "ConnectTimeout=60", "ec2-user@"+h.address, command)
	out, err := c.CombinedOutput()
	return string(out), err
}

// run is ssh for a command that succeeds.
func (h *helper) run(command string) string {
	h.Helper()
	out, err := h.ssh(command)
	if err != nil {
		h.Fatalf("%s: %v: %s", command, err, out)
	}
	return out
}

// eventually waits until ready.
func (h *helper) eventually(ready func() bool) {
	h.Helper()
	for end := time.Now().Add(5 * time.Minute); !ready(); time.Sleep(100 * time.Millisecond) {
		if time.Now().Before(end) {
			continue
		}
		console, err := h.ec2.GetConsoleOutput(h.ctx, &ec2.GetConsoleOutputInput{InstanceId: &h.id})
		h.no(err)
		text, _ := base64.StdEncoding.DecodeString(aws.ToString(console.Output))
		h.Fatalf("it never happens; there is %q, and the console has\n%s", h.Resources(), text)
	}
}

// reach waits for the sshd.
func (h *helper) reach() {
	h.Helper()
	h.eventually(func() bool { _, err := h.ssh("true"); return err == nil })
}

// awaits waits until a volume is in a state of DescribeVolumes.
func (h *helper) awaits(volume, state string) {
	h.Helper()
	h.eventually(func() bool {
		out, err := h.ec2.DescribeVolumes(h.ctx, &ec2.DescribeVolumesInput{VolumeIds: []string{volume}})
		h.no(err)
		v := out.Volumes[0]
		return string(v.State) == state || len(v.Attachments) > 0 && string(v.Attachments[0].State) == state
	})
}

// dial returns how a connection to port 22 ends.
func (h *helper) dial() string {
	ctx, cancel := context.WithTimeout(h.ctx, time.Second)
	defer cancel()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", h.address+":22")
	var late net.Error
	switch {
	case err == nil:
		_ = conn.Close() // nothing was sent
		return "open"
	case errors.As(err, &late) && late.Timeout():
		return "silent"
	}
	return "refused"
}

// A helper is a real Linux: a file system that ssh makes on an attached volume is in the
// volume's snapshot.
func TestHelper(t *testing.T) {
	need.Lab(t, MissingLinux(t.Context()))
	need.Tools(t, "debugfs")
	b := newBench(t, Options{Hypervisor: NewMachines(t.TempDir())})
	sg, err := b.ec2.CreateSecurityGroup(b.ctx, &ec2.CreateSecurityGroupInput{GroupName: aws.String("helper"), Description: aws.String("d")})
	b.no(err)
	b.Trouble(Trouble{SSHDelay: time.Hour})
	for i, device := range []string{"/dev/nvme1n1", "/dev/xvdh"} {
		of := []types.InstanceType{"t3.micro", "t2.micro"}[i]
		began := time.Now()
		h := newHelper(b, *sg.GroupId, of)
		if i == 0 { // nothing is let in yet
			if got := h.dial(); got != "silent" {
				t.Errorf("a closed port is %s", got)
			}
			_, err = b.ec2.AuthorizeSecurityGroupIngress(b.ctx, &ec2.AuthorizeSecurityGroupIngressInput{GroupId: sg.GroupId, IpPermissions: []types.IpPermission{{
				IpProtocol: aws.String("tcp"), FromPort: aws.Int32(22), ToPort: aws.Int32(22), IpRanges: []types.IpRange{{CidrIp: aws.String("127.0.0.1/32")}}}}})
			b.no(err)
			if got := h.dial(); got != "refused" {
				t.Errorf("a port without sshd is %s", got)
			}
			b.Trouble(Trouble{})
		}
		h.reach()
		t.Logf("%s answers after %.1f s", of, time.Since(began).Seconds())
		v, err := b.ec2.CreateVolume(b.ctx, &ec2.CreateVolumeInput{AvailabilityZone: &h.zone, Size: aws.Int32(1)})
		b.no(err)
		h.awaits(*v.VolumeId, "available")
		b.no(failure(b.ec2.AttachVolume(b.ctx, &ec2.AttachVolumeInput{VolumeId: v.VolumeId, InstanceId: &h.id, Device: aws.String("/dev/sdh")})))
		h.awaits(*v.VolumeId, "attached")
		if of == "t3.micro" {
			if got, want := h.run("cat /sys/block/nvme1n1/device/{serial,model}"), strings.Replace(*v.VolumeId, "-", "", 1)+"\nAmazon Elastic Block Store"; !strings.HasPrefix(got, want) {
				t.Errorf("the device says %q", got)
			}
		}
		h.run("set -e; [ $(readlink -f /dev/sdh) = $(readlink -f " + device + ") ]; sudo mkfs.ext2 -q -F " + device + "; sudo mount " + device + " /mnt; echo kernel | sudo tee /mnt/kernel; sync")
		b.no(failure(b.ec2.DetachVolume(b.ctx, &ec2.DetachVolumeInput{VolumeId: v.VolumeId})))
		time.Sleep(time.Second)
		h.awaits(*v.VolumeId, "detaching") // it is mounted
		h.run("sudo umount /mnt")
		h.awaits(*v.VolumeId, "available")
		if out := h.run("ls " + device + " /dev/sdh 2>/dev/null || echo none"); out != "none\n" {
			t.Errorf("the device is there: %s", out)
		}
		s, err := b.ec2.CreateSnapshot(b.ctx, &ec2.CreateSnapshotInput{VolumeId: v.VolumeId})
		b.no(err)
		file := filepath.Join(t.TempDir(), "disk")
		b.no(b.WriteSnapshot(*s.SnapshotId, file))
		if out, err := exec.CommandContext(b.ctx, "debugfs", "-R", "cat kernel", file).Output(); err != nil || string(out) != "kernel\n" {
			t.Errorf("%v: the snapshot's file system has %q", err, out)
		}
		if of == "t3.micro" {
			b.no(failure(b.ec2.TerminateInstances(b.ctx, &ec2.TerminateInstancesInput{InstanceIds: []string{h.id}})))
		} else {
			_, _ = h.ssh("sudo poweroff") // which ends the connection
		}
		h.eventually(func() bool { return !strings.Contains(strings.Join(b.Resources(), " "), h.id) })
		if got := h.dial(); got != "refused" {
			t.Errorf("the port of a terminated instance is %s", got)
		}
	}
	Judge(t, b.Calls())
}

// Port 22 is what the lab's troubles make of it.
func TestHelperTrouble(t *testing.T) {
	need.Lab(t, MissingLinux(t.Context()))
	b := newBench(t, Options{Hypervisor: NewMachines(t.TempDir())})
	sg, err := b.ec2.CreateSecurityGroup(b.ctx, &ec2.CreateSecurityGroupInput{GroupName: aws.String("helper"), Description: aws.String("d")})
	b.no(err)
	_, err = b.ec2.AuthorizeSecurityGroupIngress(b.ctx, &ec2.AuthorizeSecurityGroupIngressInput{GroupId: sg.GroupId, IpPermissions: []types.IpPermission{{
		IpProtocol: aws.String("-1"), IpRanges: []types.IpRange{{CidrIp: aws.String("127.0.0.0/8")}}}}})
	b.no(err)
	b.Trouble(Trouble{OtherHostKey: true, SSHDelay: time.Hour})
	h := newHelper(b, *sg.GroupId, "t3.micro")
	time.Sleep(time.Second)
	if got := h.dial(); got != "refused" {
		t.Errorf("before sshd's time it is %s", got)
	}
	b.Trouble(Trouble{PortClosed: true})
	if got := h.dial(); got != "silent" {
		t.Errorf("with a closed port it is %s", got)
	}
	b.Trouble(Trouble{})
	h.eventually(func() bool { out, _ := h.ssh("true"); return strings.Contains(out, "Host key verification failed") })
	known, err := exec.CommandContext(b.ctx, "ssh-keyscan", "-t", "ed25519", h.address).Output()
	b.no(err)
	b.no(os.WriteFile(filepath.Join(h.keys, "known"), known, 0o600))
	v, err := b.ec2.CreateVolume(b.ctx, &ec2.CreateVolumeInput{AvailabilityZone: &h.zone, Size: aws.Int32(1)})
	b.no(err)
	h.awaits(*v.VolumeId, "available")
	attach := func() {
		b.no(failure(b.ec2.AttachVolume(b.ctx, &ec2.AttachVolumeInput{VolumeId: v.VolumeId, InstanceId: &h.id, Device: aws.String("/dev/sdh")})))
		h.awaits(*v.VolumeId, "attached")
	}
	b.Trouble(Trouble{DeviceDelay: time.Hour})
	attach()
	if out := h.run("ls /dev/sdh 2>/dev/null || echo none"); out != "none\n" {
		t.Errorf("the device is not late: %q", out)
	}
	b.no(failure(b.ec2.DetachVolume(b.ctx, &ec2.DetachVolumeInput{VolumeId: v.VolumeId})))
	h.awaits(*v.VolumeId, "available")
	b.Trouble(Trouble{})
	attach()
	// Force takes a device that is mounted.
	h.run("sudo mkfs.ext2 -q -F /dev/sdh; sudo mount /dev/sdh /mnt")
	for _, force := range []bool{false, true} {
		b.no(failure(b.ec2.DetachVolume(b.ctx, &ec2.DetachVolumeInput{VolumeId: v.VolumeId, Force: &force})))
	}
	h.awaits(*v.VolumeId, "available")
}

// What cloud-init does not take gives the instance a host key of its own.
func TestUserData(t *testing.T) {
	b := newBench(t, Options{})
	b.no(func() error {
		return failure(b.ec2.ImportKeyPair(b.ctx, &ec2.ImportKeyPairInput{KeyName: aws.String("login"), PublicKeyMaterial: []byte(rsaKey)}))
	}())
	for data, want := range map[string]string{
		"#cloud-config\nssh_keys:\n  ed25519_private: |\n    a\n    b\n  ed25519_public: c\n": `map["ssh_host_ed25519_key":"a\nb\n" "ssh_host_ed25519_key.pub":"c\n"]`,
		"#cloud-config\nssh_keys: {rsa_private: a, dsa_private: b}\nother: [1]\n":             `map["ssh_host_rsa_key":"a\n"]`,
		"": "map[]", "ssh_keys: {rsa_private: a}": "map[]", "#!/bin/sh\nssh_keys: {rsa_private: a}": "map[]",
		"#cloud-config\nssh_keys: [a": "map[]", "#cloud-config\nssh_keys: a\n": "map[]",
	} {
		got := b.login("login", []byte(data))
		if host := fmt.Sprintf("%q", got.Host); host != want || got.Key != rsaKey {
			t.Errorf("%q: %s, want %s; key %q", data, host, want, got.Key)
		}
	}
}
