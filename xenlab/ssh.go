package xenlab

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

const (
	keyName    = "id_ed25519" // made by build.sh
	hostKey    = "host.pub"   // likewise
	knownHosts = "known_hosts"
)

// writeSSH writes the configuration by which ssh reaches the lab and nothing else.
func (l *Lab) writeSSH(cache string, port int) error {
	key, err := os.ReadFile(filepath.Join(cache, hostKey))
	if err != nil {
		return err
	}
	known := filepath.Join(l.Dir, knownHosts)
	if err := os.WriteFile(known, fmt.Appendf(nil, "[127.0.0.1]:%d %s", port, key), 0o600); err != nil {
		return err
	}
	config := fmt.Sprintf(`Host %s
	HostName 127.0.0.1
	Port %d
	User root
	IdentityFile %s
	IdentitiesOnly yes
	UserKnownHostsFile %s
	StrictHostKeyChecking yes
`, Alias, port, sshPath(filepath.Join(cache, keyName)), sshPath(known))
	return os.WriteFile(l.Config, []byte(config), 0o600)
}

// sshPath quotes a path for ssh_config, which expands % and splits at blanks.
func sshPath(path string) string { return `"` + strings.ReplaceAll(path, "%", "%%") + `"` }

// Command returns an ssh that runs argv in dom0 as root; without argv, a login shell.
func (l *Lab) Command(ctx context.Context, argv ...string) *exec.Cmd {
	args := []string{"-F", l.Config, "-o", "BatchMode=yes", "-o", "ConnectTimeout=30", Alias}
	for i, arg := range argv {
		if i == 0 {
			args = append(args, "--")
		}
		// ssh joins its arguments with blanks, for the shell at the other end.
		args = append(args, "'"+strings.ReplaceAll(arg, "'", `'\''`)+"'")
	}
	return exec.CommandContext(ctx, "ssh", args...)
}
