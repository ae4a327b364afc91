package xapilab

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"reflect"
	"strings"
	"testing"
	"time"
)

// client speaks to a lab.
type client struct {
	*testing.T
	lab     *Lab
	http    *http.Client
	session string
}

func login(t *testing.T, l *Lab) *client {
	t.Helper()
	c := &client{T: t, lab: l, http: l.client(t)}
	c.session = c.must("session.login_with_password", l.User, l.Password, "1.0", "test").(string)
	return c
}

// call returns the value of the answer, or a failure.
func (c *client) call(method string, params ...any) (any, error) {
	c.Helper()
	if c.session != "" {
		params = append([]any{c.session}, params...)
	}
	answer, err := c.http.Post(c.lab.URL, "text/xml", strings.NewReader(callText(method, params...)))
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close() //nolint:errcheck // only read
	if answer.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("HTTP %s", answer.Status)
	}
	_, values, err := readCall(answer.Body)
	if err != nil {
		return nil, err
	}
	fields := values[0].(map[string]any)
	if fields["Status"] == "Success" {
		return fields["Value"], nil
	}
	var failed failure
	for _, p := range fields["ErrorDescription"].([]any) {
		failed = append(failed, p.(string))
	}
	return nil, failed
}

// callText returns a methodCall.
func callText(method string, params ...any) string {
	body := fmt.Appendf(nil, "<methodCall><methodName>%s</methodName><params>", method)
	for _, p := range params {
		body = append(encode(append(body, "<param>"...), p), "</param>"...)
	}
	return string(body) + "</params></methodCall>"
}

func (c *client) must(method string, params ...any) any {
	c.Helper()
	v, err := c.call(method, params...)
	if err != nil {
		c.Fatalf("%s: %v", method, err)
	}
	return v
}

// refused checks the code of a failure and its parameters, of which "*" is any.
func (c *client) refused(want []string, method string, params ...any) {
	c.Helper()
	_, err := c.call(method, params...)
	got, _ := err.(failure) //nolint:errorlint // call returns it bare
	for i := range min(len(got), len(want)) {
		if want[i] == "*" {
			got[i] = "*"
		}
	}
	if !reflect.DeepEqual([]string(got), want) {
		c.Errorf("%s: %q, not %q", method, err, want)
	}
}

// vm makes a VM of a type. Edit changes its fields.
func (c *client) vm(domainType string, edit record) string {
	c.Helper()
	fields := record{
		{"name_label", "vm"}, {"name_description", ""}, {"user_version", "1"}, {"is_a_template", false}, {"affinity", null},
		{"memory_static_max", "33554432"}, {"memory_dynamic_max", "33554432"}, {"memory_dynamic_min", "33554432"}, {"memory_static_min", "0"},
		{"VCPUs_params", record{}}, {"VCPUs_max", "1"}, {"VCPUs_at_startup", "1"},
		{"actions_after_shutdown", "destroy"}, {"actions_after_reboot", "destroy"}, {"actions_after_crash", "destroy"},
		{"PV_bootloader", "pygrub"}, {"PV_kernel", ""}, {"PV_ramdisk", ""}, {"PV_args", ""}, {"PV_bootloader_args", ""}, {"PV_legacy_args", ""},
		{"HVM_boot_policy", ""}, {"HVM_boot_params", record{}}, {"platform", record{}}, {"PCI_bus", ""}, {"other_config", record{}},
		{"recommendations", ""}, {"domain_type", domainType},
	}
	return c.must("VM.create", append(fields, edit...)).(string)
}

// vdi makes a VDI.
func (c *client) vdi(size int64) string {
	c.Helper()
	return c.must("VDI.create", record{{"name_label", "vdi"}, {"name_description", ""}, {"SR", c.lab.Ref("SR", c.lab.SR)}, {"virtual_size", size},
		{"type", "user"}, {"sharable", false}, {"read_only", false}, {"other_config", record{}}}).(string)
}

// vbd plugs a VDI into a VM.
func (c *client) vbd(vm, vdi string) string {
	c.Helper()
	return c.must("VBD.create", record{{"VM", vm}, {"VDI", vdi}, {"userdevice", "0"}, {"bootable", true}, {"mode", "RW"}, {"type", "Disk"},
		{"empty", false}, {"other_config", record{}}, {"qos_algorithm_type", ""}, {"qos_algorithm_params", record{}}}).(string)
}

// put imports a body of size bytes into a VDI. It returns the HTTP status, what the answer's
// body has, and the task's record. The status is 0 if the connection ended before.
func (c *client) put(vdi, format string, body io.Reader, size int64) (status int, rest string, task map[string]any) {
	c.Helper()
	ref := c.must("task.create", "import", "").(string)
	query := url.Values{"session_id": {c.session}, "task_id": {ref}, "vdi": {vdi}, "format": {format}}
	request, err := http.NewRequestWithContext(c.Context(), http.MethodPut, c.lab.URL+"/import_raw_vdi?"+query.Encode(), body)
	if err != nil {
		c.Fatal(err)
	}
	request.ContentLength = size
	if answer, err := c.http.Do(request); err == nil { // the lab may end the connection
		raw, _ := io.ReadAll(answer.Body) // likewise
		_ = answer.Body.Close()           // likewise
		status, rest = answer.StatusCode, string(raw)
	}
	for end := time.Now().Add(2 * time.Minute); ; time.Sleep(time.Millisecond) {
		task = c.must("task.get_record", ref).(map[string]any)
		if status >= 300 || task["status"] != "pending" || time.Now().After(end) {
			return status, rest, task
		}
	}
}
