// Package own finds the Temporal server that morgana dev up runs for a state folder.
package own

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"go.temporal.io/sdk/client"
	"google.golang.org/grpc"
)

// Folder is the path of the server's folder, which is in the state folder.
type Folder string

// The files in a Folder.
const (
	ServerFile   = "server.json" // a Server; exists while the server serves
	DatabaseFile = "temporal.db"
)

// Server is the content of ServerFile.
type Server struct {
	Address   string `json:"address"`
	UI        string `json:"ui"`
	Namespace string `json:"namespace"`
	PID       int    `json:"pid"`
}

// Server returns the content of ServerFile, and true if that server runs and accepts a
// connection. Without the file the content is empty.
func (f Folder) Server() (Server, bool) {
	var s Server
	data, err := os.ReadFile(filepath.Join(string(f), ServerFile))
	if err != nil || json.Unmarshal(data, &s) != nil || StartTime(s.PID) == "" || !f.has(s.PID) {
		return s, false
	}
	conn, err := net.DialTimeout("tcp", s.Address, time.Second) //nolint:noctx // at most a second
	if err != nil {
		return s, false
	}
	_ = conn.Close() // nothing was sent
	return s, true
}

// has reports whether the process was started with the folder's database.
func (f Folder) has(pid int) bool {
	args, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return err == nil && strings.Contains(string(args), filepath.Join(string(f), DatabaseFile))
}

// Options returns o for a client that looks up the server's address for each connection.
// A restarted server may have another port, and its old port may belong to another user's
// server by then.
func (f Folder) Options(o client.Options) client.Options {
	o.HostPort = "passthrough:///localhost" // the dialer looks up the address
	o.ConnectionOptions.DialOptions = append(o.ConnectionOptions.DialOptions,
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			s, running := f.Server()
			if !running {
				return nil, errors.New("our own server does not run")
			}
			return new(net.Dialer).DialContext(ctx, "tcp", s.Address)
		}))
	return o
}

// StartTime returns field 22 of /proc/PID/stat (proc(5)). It returns "" if the process
// does not exist, is a zombie, or has a pending SIGKILL. After a SIGKILL the threads of a
// process may take a while to end.
func StartTime(pid int) string {
	folder := "/proc/" + strconv.Itoa(pid)
	stat, err := os.ReadFile(folder + "/stat")
	if err != nil {
		return ""
	}
	_, after, _ := strings.Cut(string(stat), ") ") // the name may hold spaces
	fields := strings.Fields(after)
	if len(fields) < 20 || fields[0] == "Z" {
		return ""
	}
	status, err := os.ReadFile(folder + "/status")
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(status)) {
		name, mask, _ := strings.Cut(strings.TrimSpace(line), ":\t")
		if name == "SigPnd" || name == "ShdPnd" {
			pending, err := strconv.ParseUint(mask, 16, 64)
			if err == nil && pending&(1<<(syscall.SIGKILL-1)) != 0 {
				return ""
			}
		}
	}
	return fields[19]
}
