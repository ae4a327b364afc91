package xenserver

import (
	"compress/gzip"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/morgana-deploy/morgana/need"
	"github.com/morgana-deploy/morgana/step"
)

func TestRefusals(t *testing.T) {
	const of = "OpaqueRef:0a1b2c3d-0000-1111-2222-333344445555"
	for _, c := range []struct {
		told  refuse
		kind  step.Kind
		field string
		text  string
		hint  string // a part
	}{
		{refuse{"SESSION_AUTHENTICATION_FAILED", "root", "Authentication failure"}, step.Unauthorized, "profile", "the pool refuses the user or the password", "~/.xe.d"},
		{refuse{"RBAC_PERMISSION_DENIED", "vm.create", "No permission in user session"}, step.Unauthorized, "profile", "the user's role lacks the permission vm.create", "vm-admin"},
		{refuse{"SR_FULL", "1073741824", "524288000"}, step.NoSpace, "sr", "the SR is full: the disk needs 1024 MiB, and the SR has 500 MiB", "another SR"},
		{refuse{"SR_BACKEND_FAILURE_44", "", "There is insufficient space", ""}, step.NoSpace, "sr", "the SR is full", "another SR"},
		{refuse{"SR_BACKEND_FAILURE_73", "", "NFS unmount error [opterr=" + of + "]", ""}, "", "", "the pool answers SR_BACKEND_FAILURE_73: NFS unmount error [opterr=...]", ""},
		{refuse{"SR_HAS_NO_PBDS", of}, step.Unsupported, "sr", "no host is connected to the SR", "xe pbd-plug"},
		{refuse{"UUID_INVALID", "SR", "66"}, step.NotFound, "sr", "the pool has no SR with UUID 66", ""},
		{refuse{"UUID_INVALID", "network", "66"}, step.NotFound, "network", "the pool has no network with UUID 66", ""},
		{refuse{"HOST_NOT_ENOUGH_FREE_MEMORY", "1610612736", "536870912"}, step.Unsupported, "memory", "the VM needs 1536 MiB, and the host has 512 MiB free", "shut down another VM"},
		{refuse{"HOST_NOT_ENOUGH_FREE_MEMORY", "1610612736", "4096"}, step.Unsupported, "memory", "the VM needs 1536 MiB, and the host has 4096 bytes free", "shut down another VM"},
		{refuse{"HOST_NOT_ENOUGH_PCPUS", "8", "2"}, step.Unsupported, "vcpus", "the VM needs 8 processors, and the host has 2", "vcpus: 2"},
		{refuse{"NO_HOSTS_AVAILABLE"}, step.Unsupported, "", "no host of the pool can run the VM", "memory"},
		{refuse{"HOST_DISABLED", of}, step.Conflict, "", "the host is disabled, as for maintenance", "xe host-enable"},
		{refuse{"VM_HVM_REQUIRED", of}, step.Unsupported, "type", "the host's processor has no virtualization, or the firmware has turned it off", "type: pv"},
		{refuse{"HA_OPERATION_WOULD_BREAK_FAILOVER_PLAN"}, step.Conflict, "", "high availability would not hold with this VM", "ha-plan-exists-for"},
		{refuse{"LICENCE_RESTRICTION", "PCI_device_for_auto_update"}, step.Unsupported, "", "the licence of the pool does not allow PCI_device_for_auto_update", "host-license-view"},
		{refuse{"LICENSE_EXPIRED"}, step.Unsupported, "", "the pool answers LICENSE_EXPIRED", "host-license-view"},
		{refuse{"BOOTLOADER_FAILED", of, "Traceback (most recent call last):\n  File \"pygrub\"\nRuntimeError: Unable to find partition containing kernel.\n"}, step.BootFailed, "",
			"the boot loader says: RuntimeError: Unable to find partition containing kernel", "type: hvm\nTraceback"},
		{refuse{"BOOTLOADER_FAILED", of, "no kernel"}, step.BootFailed, "", "the boot loader says: no kernel", "type: hvm"},
		{refuse{"MAC_ALREADY_EXISTS", "00:16:3e:00:00:01"}, step.InvalidSpec, "networks[].mac", "the pool answers MAC_ALREADY_EXISTS: 00:16:3e:00:00:01", "another mac, or"},
		{refuse{"MAC_INVALID", "1"}, step.InvalidSpec, "networks[].mac", "the pool answers MAC_INVALID: 1", "another mac, or"},
		{refuse{"OPERATION_BLOCKED", of, "ask Ann first"}, step.Conflict, "", "an administrator has blocked this: ask Ann first", "blocked-operations"},
		{refuse{"VALUE_NOT_SUPPORTED", "VM.memory", "1", "too small"}, step.InvalidSpec, "", "the pool refuses 1 as VM.memory: too small", ""},
		{refuse{"MESSAGE_METHOD_UNKNOWN", "VM.frobnicate"}, step.Unsupported, "host", "the pool's XenAPI does not know VM.frobnicate", "update"},
		{refuse{"TOO_MANY_PENDING_TASKS"}, step.Exhausted, "", "the pool has too many tasks that wait", ""},
		// Tried again.
		{refuse{"VDI_IN_USE", of, "destroy"}, "", "", "the VDI is in use: destroy", ""},
		{refuse{"VDI_IN_USE", of}, "", "", "the VDI is in use", ""},
		{refuse{"VM_BAD_POWER_STATE", of, "halted", "running"}, "", "", "the VM is running, not halted", ""},
		{refuse{"HANDLE_INVALID", "session", session}, "", "", "the session does not exist any more", ""},
		{refuse{"OTHER_OPERATION_IN_PROGRESS", "VM.start", of}, "", "", "another operation goes on: VM.start", ""},
		{refuse{"HOST_STILL_BOOTING"}, "", "", "the host is still booting", ""},
		{refuse{"INTERNAL_ERROR", "Not_found in " + session}, "", "", "the pool answers INTERNAL_ERROR: Not_found in", ""},
		{nil, "", "", "an error without a code", ""},
	} {
		t.Run(strings.Join(c.told, " "), func(t *testing.T) {
			err := explained(newAPIError(c.told))
			told(t, err, c.kind)
			var e *step.Error
			require.ErrorAs(t, err, &e)
			assert.Equal(t, c.field, e.Field)
			assert.Contains(t, e.Err.Error(), c.text)
			assert.Contains(t, e.Hint, c.hint)
			assert.NotContains(t, e.Error()+e.Hint, "{")
			assert.NotRegexp(t, `[.:] *$`, e.Err.Error())
		})
	}
}

// class is a class of the API's own model, as far as the tests ask for it.
type class struct {
	Name     string
	Fields   []struct{ Name, Type string }
	Messages []struct {
		Name  string
		Roles []string
	}
}

func readModel(t *testing.T) (all []class) {
	t.Helper()
	f, err := os.Open(filepath.Join(need.XenAPI(t), "xenapi-23.10.0.json.gz"))
	require.NoError(t, err)
	defer func() { _ = f.Close() }()
	z, err := gzip.NewReader(f)
	require.NoError(t, err)
	require.NoError(t, json.NewDecoder(z).Decode(&all))
	return all
}

// Each field of a record is one of the API's, of a type that the field can hold.
func TestRecordsAreOfTheModel(t *testing.T) {
	records := map[string]any{
		"VM": vmRecord{}, "VDI": vdiRecord{}, "SR": srRecord{}, "network": networkRecord{}, "host": hostRecord{}, "pool": poolRecord{},
		"task": taskRecord{}, "console": consoleRecord{}, "Certificate": certificateRecord{},
	}
	for _, c := range readModel(t) {
		if records[c.Name] == nil {
			continue
		}
		types := map[string]string{}
		for _, f := range c.Fields {
			types[f.Name] = f.Type
		}
		of := reflect.TypeOf(records[c.Name])
		delete(records, c.Name)
		for i := range of.NumField() {
			name := of.Field(i).Tag.Get("xmlrpc")
			want := map[string]string{"string": `^(string|int|float|datetime|enum \w+)$`, "bool": "^bool$", "ref": ` ref$`,
				"[]string": `^(string|enum \w+) set$`, "[]ref": " ref set$", "map[string]string": `^\(string -> (string|enum \w+)\) map$`}
			form := want[strings.ReplaceAll(of.Field(i).Type.String(), "xenserver.", "")]
			assert.Regexp(t, regexp.MustCompile(form), types[name], "%s.%s", c.Name, name)
		}
	}
	assert.Empty(t, records, "no such classes")
}

// The hint for a user whose role is too small names the role vm-admin: it must do for each
// call of this package. Each must be a message of the API, too.
func TestRoleSuffices(t *testing.T) {
	roles := map[string][]string{}
	for _, c := range readModel(t) {
		for _, m := range c.Messages {
			roles[c.Name+"."+m.Name], roles[strings.ToLower(c.Name+"."+m.Name)] = m.Roles, m.Roles // permissions are in lower case
		}
	}
	sources, err := filepath.Glob("*.go")
	require.NoError(t, err)
	method := regexp.MustCompile(`"(?:Async\.)?([A-Za-z_]+\.(?:[a-z]+_)*[A-Za-z]+)"[,)]`)
	seen := map[string]bool{}
	for _, name := range sources {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		text, err := os.ReadFile(name)
		require.NoError(t, err)
		for _, m := range method.FindAllStringSubmatch(string(text), -1) {
			seen[m[1]] = true
			assert.Contains(t, roles[m[1]], "vm-admin", "%s: %s", name, m[1])
		}
	}
	assert.Greater(t, len(seen), 20)
	assert.True(t, seen["session.login_with_password"] && seen["VM.create"] && seen["VDI.create"], "%v", seen)
}
