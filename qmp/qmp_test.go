package qmp

import (
	"encoding/json"
	"fmt"
	"net"
	"strings"
	"testing"
)

// QEMU answers each command once, and tells of events in between.
func TestClient(t *testing.T) {
	ours, qemu := net.Pipe()
	go func() {
		defer qemu.Close() //nolint:errcheck // which ends the conversation
		in := json.NewDecoder(qemu)
		fmt.Fprintln(qemu, `{"QMP": {"version": {}}}`) //nolint:errcheck // the client then fails
		for range 3 {
			var request struct {
				Execute   string
				Arguments map[string]string
			}
			if in.Decode(&request) != nil {
				return
			}
			answer := `{"return": {}}`
			switch request.Execute {
			case "device_del":
				answer = `{"event": "DEVICE_DELETED", "data": {"device": "` + request.Arguments["id"] + `"}} {"error": {"class": "GenericError", "desc": "no such device"}}`
			case "human-monitor-command":
				answer = `{"return": "  TCP[HOST_FORWARD]  15       127.0.0.1 18081       10.0.2.15    22     0     0\r\n"}`
			}
			fmt.Fprintln(qemu, answer) //nolint:errcheck // likewise
		}
	}()
	var events []string
	c := New(ours, func(name string, data json.RawMessage) { events = append(events, name+" "+string(data)) })
	if _, err := c.Execute("qmp_capabilities", nil); err != nil {
		t.Fatal(err)
	}
	if port, err := c.Forwarded(); err != nil || port != 18081 {
		t.Errorf("port %d, %v", port, err)
	}
	if _, err := c.Execute("device_del", map[string]string{"id": "a"}); err == nil || err.Error() != "QMP device_del: no such device" {
		t.Errorf("got %v", err)
	}
	if got := strings.Join(events, "\n"); got != `DEVICE_DELETED {"device": "a"}` {
		t.Errorf("events %s", got)
	}
	if _, err := c.Execute("quit", nil); err == nil {
		t.Error("no error after QEMU's end")
	}
}
