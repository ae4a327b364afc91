package xapilab

import (
	"bytes"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/morgana-deploy/morgana/need"
)

// bytesOf returns the bytes of a VDI.
func (l *Lab) bytesOf(t *testing.T, vdi string) []byte {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	content, err := os.ReadFile(l.path(l.objects[vdi]))
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// The verdict of an import is in its task, and the status is 200 before the body is read.
// After a body of the wrong size another answer comes inside the answer.
func TestImport(t *testing.T) {
	const size = 4 << 20
	content := bytes.Repeat([]byte("0123456789abcdef"), size/16)
	for _, test := range []struct {
		name       string
		fault      Fault
		format     string
		sent, said int
		status     int
		verdict    string
		error      []any
		whole      bool
	}{
		{name: "whole", sent: size, said: size, status: 200, verdict: "success", error: []any{}, whole: true},
		{name: "less than the VDI", sent: 1 << 20, said: 1 << 20, status: 200, verdict: "success", error: []any{}},
		{name: "more than the VDI", sent: size, said: size + 1, status: 200, verdict: "failure", error: []any{"VDI_IO_ERROR", "Device I/O errors"}},
		{name: "cut", fault: Fault{Cut: 1000}, sent: size, said: size, status: 200, verdict: "failure", error: []any{"VDI_IO_ERROR", "Device I/O errors"}},
		{name: "failed afterwards", fault: Fault{TaskError: []string{"INTERNAL_ERROR", "x"}}, sent: size, said: size, status: 200, verdict: "failure", error: []any{"INTERNAL_ERROR", "x"}, whole: true},
		{name: "refused", fault: Fault{Status: 500}, sent: size, said: size, status: 500, verdict: "pending", error: []any{}},
		{name: "elsewhere", fault: Fault{Redirect: true}, sent: size, said: size, status: 302, verdict: "pending", error: []any{}},
		{name: "format", format: "qcow2", sent: size, said: size, status: 404, verdict: "pending", error: []any{}},
		{name: "chunked", sent: size, said: -1, status: 403, verdict: "pending", error: []any{}},
		{name: "no vhd", format: "vhd", sent: size, said: size, status: 200, verdict: "failure", error: []any{"VDI_IO_ERROR", "Device I/O errors"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			l := start(t, Config{})
			c := login(t, l)
			vdi := c.vdi(size)
			test.fault.Call = "PUT /import_raw_vdi"
			if test.name != "whole" {
				l.Fault(test.fault)
			}
			body := content[:test.sent]
			if test.said > test.sent {
				body = append(bytes.Clone(body), '!')
			}
			status, rest, task := c.put(vdi, test.format, bytes.NewReader(body), int64(test.said))
			// The end of a connection may overtake the answer.
			early := test.format == "vhd" || test.fault.Cut > 0 || status == 0 && test.status >= 300
			if more := strings.HasPrefix(rest, "HTTP/1.1 500"); !early && (status != test.status || more != (test.said > test.sent)) {
				t.Errorf("status %d, then %q", status, rest)
			}
			if task["status"] != test.verdict || fmt.Sprint(task["error_info"]) != fmt.Sprint(test.error) {
				t.Errorf("%v %v", task["status"], task["error_info"])
			}
			if got := bytes.Equal(l.bytesOf(t, vdi), content); got != test.whole {
				t.Errorf("whole: %v", got)
			}
			// A broken import keeps the VDI for a moment.
			for end := time.Now().Add(2 * time.Minute); ; {
				if _, err := c.call("VDI.destroy", vdi); err == nil || time.Now().After(end) {
					if err != nil {
						t.Error(err)
					}
					break
				}
			}
		})
	}
}

// A body that is shorter than it said is broken, and its VDI is busy for a moment.
func TestImportShort(t *testing.T) {
	l := start(t, Config{Moment: time.Hour})
	c := login(t, l)
	vdi := c.vdi(4 << 20)
	put := beginImport(t, l, callText("VDI.destroy", c.session, vdi), c.must("task.create", "import", "").(string))
	c.refused([]string{"VDI_IN_USE", vdi, "destroy"}, "VDI.destroy", vdi)
	if err := put.Close(); err != nil {
		t.Fatal(err)
	}
	task := l.Ref("task", "import")
	for end := time.Now().Add(2 * time.Minute); l.Get(task, "status") == "pending" && time.Now().Before(end); time.Sleep(time.Millisecond) {
	}
	if got := l.Get(task, "error_info"); fmt.Sprint(got) != "[VDI_IO_ERROR Device I/O errors]" || l.Get(task, "progress") != 1.0 {
		t.Errorf("%v %v", got, l.Get(task, "progress"))
	}
	c.refused([]string{"VDI_IN_USE", vdi, "destroy"}, "VDI.destroy", vdi) // for a moment
}

// A VHD of another program becomes its bytes.
func TestImportVHD(t *testing.T) {
	need.Tools(t, "qemu-img")
	const size = 6 << 20
	content := make([]byte, size)
	copy(content, "begin")
	copy(content[5<<20:], "end")
	raw := filepath.Join(t.TempDir(), "raw")
	if err := os.WriteFile(raw, content, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), "qemu-img", "convert", "-O", "vpc", "-o", "subformat=dynamic,force_size=on", raw, raw+".vhd").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	vhd, err := os.ReadFile(raw + ".vhd")
	if err != nil {
		t.Fatal(err)
	}
	l := start(t, Config{})
	c := login(t, l)
	vdi := c.vdi(size)
	if status, _, task := c.put(vdi, "vhd", bytes.NewReader(vhd), int64(len(vhd))); status != http.StatusOK || task["status"] != "success" {
		t.Fatal(status, task)
	}
	if !bytes.Equal(l.bytesOf(t, vdi), content) {
		t.Error("other bytes")
	}
	small := c.vdi(1 << 20)
	if _, _, task := c.put(small, "vhd", bytes.NewReader(vhd), int64(len(vhd))); task["status"] != "failure" {
		t.Error("a VHD that is larger than its VDI was taken")
	}
	if _, _, task := c.put(vdi, "vhd", bytes.NewReader(vhd[:len(vhd)-512]), int64(len(vhd)-512)); task["status"] != "failure" {
		t.Error("a VHD without its end was taken")
	}
}

// Calls go wrong on demand.
func TestFaults(t *testing.T) {
	l := start(t, Config{Hypervisor: anything{}})
	c := login(t, l)
	l.Fault(Fault{Call: "VM.get_all", Error: []string{"SESSION_INVALID", "x"}, Skip: 1})
	c.must("VM.get_all")
	c.refused([]string{"SESSION_INVALID", "x"}, "VM.get_all")
	c.must("VM.get_all")
	remove := l.Fault(Fault{Call: "VM.get_all", Status: 503, Times: -1})
	if _, err := c.call("VM.get_all"); err == nil || !strings.Contains(err.Error(), "503") {
		t.Error(err)
	}
	remove()
	c.must("VM.get_all")

	l.Fault(Fault{Call: "VM.create", Lose: Before})
	lost := func(method string, params ...any) {
		t.Helper()
		if _, err := c.call(method, params...); err == nil {
			t.Errorf("%s was answered", method)
		}
	}
	lost("VM.create", record{})
	vm, vdi := c.vm("pv", nil), c.vdi(1<<20)
	c.vbd(vm, vdi)
	l.Fault(Fault{Call: "VM.set_name_label", Lose: After})
	lost("VM.set_name_label", vm, "renamed")
	if got := l.Get(vm, "name_label"); got != "renamed" {
		t.Error(got)
	}
	// A start task that failed while the VM runs, and one that failed before.
	for _, test := range []struct {
		fault Fault
		state string
	}{
		{Fault{Error: []string{"NO_HOSTS_AVAILABLE"}}, "Halted"},
		{Fault{TaskError: []string{"INTERNAL_ERROR", "late"}}, "Running"},
	} {
		test.fault.Call = "Async.VM.start"
		l.Fault(test.fault)
		task := c.must("Async.VM.start", vm, false, false).(string)
		for c.must("task.get_status", task) == "pending" {
			time.Sleep(time.Millisecond)
		}
		if got := c.must("task.get_status", task); got != "failure" || l.Get(vm, "power_state") != test.state {
			t.Errorf("%v, and the VM is %v", got, l.Get(vm, "power_state"))
		}
	}
	var codes []string
	for _, call := range l.Calls() {
		if call.Code != "" {
			codes = append(codes, call.Method+" "+call.Code)
		}
	}
	if want := "[VM.get_all SESSION_INVALID VM.get_all 503 VM.create lost VM.set_name_label lost]"; fmt.Sprint(codes) != want {
		t.Errorf("%v", codes)
	}
}

// A console is reached at the host that its VM runs on, and gives the text that comes.
func TestConsoleOfTheMember(t *testing.T) {
	l := start(t, Config{Hypervisor: StandIn{Text: func(Guest) string { return strings.Repeat("x", 5000) + "end" }, Ends: func(Guest) bool { return true }}})
	c := login(t, l)
	vm := c.bootable(nil)
	c.must("VM.set_affinity", vm, l.member.ref)
	c.must("VM.start", vm, true, false)
	if c.must("VM.get_resident_on", vm) != l.member.ref {
		t.Fatal("it runs elsewhere")
	}
	console := c.must("VM.get_consoles", vm).([]any)[1].(string)
	connect := func(host string) int {
		t.Helper()
		query := url.Values{"session_id": {c.session}, "ref": {console}}
		request, err := http.NewRequestWithContext(t.Context(), http.MethodConnect, host, nil)
		if err != nil {
			t.Fatal(err)
		}
		request.URL.Opaque = "/console?" + query.Encode()
		answer, err := c.http.Do(request) //nolint:bodyclose // it has none
		if err != nil {
			t.Fatal(err)
		}
		return answer.StatusCode
	}
	if got := connect(l.Member); got != http.StatusInternalServerError {
		t.Errorf("while it is paused: %d", got)
	}
	c.must("VM.unpause", vm)
	if got := connect(l.URL); got != http.StatusInternalServerError {
		t.Errorf("at the master: %d", got)
	}
	for end := time.Now().Add(2 * time.Minute); l.Get(vm, "power_state") != "Halted"; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it runs for ever")
		}
	}
	if got := c.must("VM.get_consoles", vm).([]any); len(got) > 0 {
		t.Errorf("%v", got)
	}
}
