package ec2lab

import (
	"errors"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
	"golang.org/x/sys/unix"

	"github.com/morgana-deploy/morgana/ec2lab/linux"
)

// Trouble is what goes wrong with instances of Amazon Linux.
type Trouble struct {
	// SSHDelay is how much later an sshd listens.
	SSHDelay time.Duration
	// PortClosed closes port 22, whatever the security groups say.
	PortClosed bool
	// OtherHostKey gives instances that start another host key than their user data.
	OtherHostKey bool
	// DeviceDelay is how long after AttachVolume's end the device appears.
	DeviceDelay time.Duration
}

// Trouble sets what goes wrong.
func (l *Lab) Trouble(t Trouble) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.trouble = t
	l.tend()
}

// caller is the address that the lab's callers have.
var caller = netip.MustParseAddr("127.0.0.1")

// door is port 22 of an instance.
type door struct {
	address string
	state   string // "open", "silent", or "" if nothing listens
	close   func() error
}

// tend opens and closes port 22 of the instances of Amazon Linux, as their addresses, their
// security groups and the sshd say. The lab is locked.
func (l *Lab) tend() {
	for i := range kept[*instance](l) {
		guest, _ := i.running.(RunningLinux)
		want := door{address: i.IP}
		switch {
		case guest == nil || i.IP == "" || i.State.Name != "running":
			want.address = ""
		case l.trouble.PortClosed || !l.letsIn(i):
			want.state = "silent"
		case !i.sshd.IsZero() && time.Since(i.sshd) >= l.trouble.SSHDelay:
			want.state = "open"
		}
		if want.address == i.door.address && want.state == i.door.state {
			continue
		}
		var err error
		if i.door.close != nil {
			err = i.door.close()
		}
		switch want.state {
		case "open":
			err = errors.Join(err, guest.Admit(want.address, true))
			want.close = func() error { return guest.Admit(want.address, false) }
		case "silent":
			var failed error
			want.close, failed = silence(want.address, 22)
			err = errors.Join(err, failed)
		}
		i.door = want
		if guest != nil {
			l.broken(i, guest, err)
		}
	}
}

// ready notes that the sshd of an instance listens.
func (l *Lab) ready(i *instance) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ctx.Err() != nil {
		return
	}
	i.sshd = time.Now()
	l.later(l.trouble.SSHDelay, func() { l.set(l.tend) })
}

// letsIn reports whether a security group of an instance lets the caller in to ssh.
func (l *Lab) letsIn(i *instance) bool {
	for g := range kept[*securityGroup](l) {
		if slices.ContainsFunc(i.Groups, func(u groupRef) bool { return u.ID == g.ID }) && g.letsIn(caller, 22) {
			return true
		}
	}
	return false
}

// silence makes connections to a port hang, as those that a security group does not let in
// do: the queue of the socket that listens is full.
func silence(address string, port int) (stop func() error, err error) {
	var open []int
	stop = func() (err error) {
		for _, fd := range open {
			err = errors.Join(err, unix.Close(fd))
		}
		return err
	}
	to := unix.SockaddrInet4{Port: port, Addr: netip.MustParseAddr(address).As4()}
	for _, do := range []func(fd int) error{
		func(fd int) error {
			return errors.Join(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1), unix.Bind(fd, &to), unix.Listen(fd, 0))
		},
		func(fd int) error { return unix.Connect(fd, &to) },
	} {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err == nil {
			open = append(open, fd)
			err = do(fd)
		}
		if err != nil {
			return nil, errors.Join(os.NewSyscallError("listen on "+address, err), stop())
		}
	}
	return stop, nil
}

// login is what an instance gets when it starts, as cloud-init reads its user data.
func (l *Lab) login(key string, userData []byte) linux.Login {
	login := linux.Login{Host: map[string]string{}}
	for k := range kept[*keyPair](l) {
		if k.Name == key {
			login.Key = k.public
		}
	}
	var config struct {
		Keys map[string]string `yaml:"ssh_keys"`
	}
	first, _, _ := strings.Cut(string(userData), "\n")
	if l.trouble.OtherHostKey || strings.TrimSpace(first) != "#cloud-config" || yaml.Unmarshal(userData, &config) != nil {
		return login
	}
	for _, of := range []string{"rsa", "ecdsa", "ed25519"} {
		for part, suffix := range map[string]string{"_private": "", "_public": ".pub"} {
			if text, ok := config.Keys[of+part]; ok {
				login.Host["ssh_host_"+of+"_key"+suffix] = strings.TrimSuffix(text, "\n") + "\n"
			}
		}
	}
	return login
}
