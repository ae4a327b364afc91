package xapilab

import (
	"bytes"
	"context"
	"testing"
	"time"
)

// The lab refuses what xapi refuses.
func TestRefusals(t *testing.T) {
	l := start(t, Config{Judge: FindJudge(t)})
	c := login(t, l)
	host, sr := l.master.ref, l.Ref("SR", l.SR)
	dom0, template := l.Ref("VM", "Control domain on host: lab-1"), l.Ref("VM", "Other install media")
	vm, vdi := c.vm("pv", nil), c.vdi(1<<20)
	c.refused([]string{"INTERNAL_ERROR", "*"}, "VM.start", vm, false, false) // no disk
	c.vbd(vm, vdi)
	c.refused([]string{"BOOTLOADER_FAILED", vm, "Unable to find partition containing kernel"}, "VM.start", vm, false, false)
	c.refused([]string{"BOOTLOADER_FAILED", vm, "*"}, "VM.start_on", vm, host, false, false)
	c.refused([]string{"VM_BAD_POWER_STATE", vm, "running", "halted"}, "VM.pause", vm)
	c.refused([]string{"VM_BAD_POWER_STATE", vm, "paused", "halted"}, "VM.unpause", vm)
	c.refused([]string{"VM_BAD_POWER_STATE", vm, "paused, suspended, running", "halted"}, "VM.hard_shutdown", vm)
	c.refused([]string{"VM_IS_TEMPLATE", template, "start"}, "VM.start", template, false, false)
	c.refused([]string{"OPERATION_NOT_ALLOWED", "*"}, "VM.hard_shutdown", dom0)
	c.refused([]string{"UNKNOWN_BOOTLOADER", "*", "grub"}, "VM.start", c.bootable(record{{"PV_bootloader", "grub"}}), false, false)
	c.refused([]string{"MEMORY_CONSTRAINT_VIOLATION", "*"}, "VM.start", c.bootable(record{{"memory_dynamic_max", "1"}}), false, false)
	big := c.bootable(record{{"memory_static_max", "8589934592"}})
	c.refused([]string{"NO_HOSTS_AVAILABLE"}, "VM.start", big, false, false)
	c.refused([]string{"HOST_NOT_ENOUGH_FREE_MEMORY", "8589934592", "4294967296"}, "VM.assert_can_boot_here", big, host)
	many := c.bootable(record{{"VCPUs_at_startup", "99"}})
	c.refused([]string{"NO_HOSTS_AVAILABLE"}, "VM.start", many, false, false)
	c.refused([]string{"HOST_NOT_ENOUGH_PCPUS", "99", "4"}, "VM.assert_can_boot_here", many, host)
	c.must("host.disable", host)
	c.refused([]string{"HOST_DISABLED", host}, "VM.assert_can_boot_here", vm, host)
	c.must("VM.add_to_other_config", vm, "a", "1")
	c.refused([]string{"MAP_DUPLICATE_KEY", "VM", "other_config", vm, "a"}, "VM.add_to_other_config", vm, "a", "2")
	c.must("VM.remove_from_other_config", vm, "a")
	c.must("VM.add_to_other_config", vm, "a", "2")
	c.must("VM.add_to_blocked_operations", vm, "destroy", "precious")
	c.refused([]string{"OPERATION_BLOCKED", vm, "precious"}, "VM.destroy", vm)
	c.refused([]string{"SR_BACKEND_FAILURE_44", "", "There is insufficient space", ""}, "VDI.create", record{{"name_label", ""}, {"name_description", ""},
		{"SR", sr}, {"virtual_size", "68719476737"}, {"type", "user"}, {"sharable", false}, {"read_only", false}, {"other_config", record{}}})
	vif := func(mac string) record {
		return record{{"device", "0"}, {"network", l.Ref("network", l.Network)}, {"VM", vm}, {"MAC", mac}, {"MTU", "1500"}, {"other_config", record{}},
			{"qos_algorithm_type", ""}, {"qos_algorithm_params", record{}}}
	}
	c.refused([]string{"MAC_INVALID", "01:00:00:00:00:01"}, "VIF.create", vif("01:00:00:00:00:01"))
	c.must("VIF.create", vif("02:00:00:00:00:01"))
	c.refused([]string{"DEVICE_ALREADY_EXISTS", "0"}, "VIF.create", vif(""))
	c.refused([]string{"HANDLE_INVALID", "VM", "OpaqueRef:none"}, "VM.get_record", "OpaqueRef:none")
	c.refused([]string{"UUID_INVALID", "VM", "none"}, "VM.get_by_uuid", "none")
	c.refused([]string{"HANDLE_INVALID", "VM", vdi}, "VM.get_record", vdi)
	c.refused([]string{"MESSAGE_METHOD_UNKNOWN", "Async.VM.get_record"}, "Async.VM.get_record", vm)
	for _, said := range l.Judged() {
		t.Error(said)
	}
	// The judge is against these.
	c.refused([]string{"INTERNAL_ERROR", "*"}, "VM.start", vm, "false", false)
	c.refused([]string{"INTERNAL_ERROR", "*"}, "VM.set_tags", vm, "a")
	c.refused([]string{"INTERNAL_ERROR", "*"}, "VM.set_domain_type", vm, "xen")
	c.refused([]string{"MESSAGE_METHOD_UNKNOWN", "VM.set_uuid"}, "VM.set_uuid", vm, "a")
	c.refused([]string{"MESSAGE_PARAMETER_COUNT_MISMATCH", "VM.start", "3", "1"}, "VM.start", vm)
	if l.config.Judge != nil && len(l.Judged()) != 5 {
		t.Errorf("judged %q", l.Judged())
	}
	l.Expire()
	c.refused([]string{"SESSION_INVALID", c.session}, "VM.get_all")
}

// bootable makes a pv VM with a disk that the stand-in takes.
func (c *client) bootable(edit record) string {
	c.Helper()
	vm, vdi := c.vm("pv", edit), c.vdi(1<<20)
	c.vbd(vm, vdi)
	body := make([]byte, 2048)
	body[1024+56], body[1024+57] = 0x53, 0xef
	if status, _, task := c.put(vdi, "raw", bytes.NewReader(body), int64(len(body))); status != 200 || task["status"] != "success" {
		c.Fatal(status, task)
	}
	return vm
}

// A session does what its role may.
func TestRoles(t *testing.T) {
	l := start(t, Config{Judge: FindJudge(t)})
	c := login(t, l)
	vm := c.bootable(nil)
	for _, step := range []struct{ role, method, least string }{
		{"read-only", "Async.VM.start", "pool-admin, pool-operator, vm-power-admin, vm-admin, vm-operator"},
		{"vm-operator", "VM.destroy", "pool-admin, pool-operator, vm-power-admin, vm-admin"},
		{"vm-admin", "host.disable", "pool-admin, pool-operator"},
	} {
		l.Role(step.role)
		c.session = login(t, l).session
		params := map[string][]any{"Async.VM.start": {vm, false, false}, "VM.destroy": {vm}, "host.disable": {l.master.ref}}[step.method]
		permission := map[string]string{"Async.VM.start": "vm.start", "VM.destroy": "vm.destroy", "host.disable": "host.disable"}[step.method]
		c.refused([]string{"RBAC_PERMISSION_DENIED", permission, "No permission in user session. (Roles with this permission: " + step.least + ")"}, step.method, params...)
		c.must("VM.get_record", vm)
	}
	c.must("VM.start", vm, false, false)
	for _, said := range l.Judged() {
		t.Error(said)
	}
}

// What depends on the version: pvh guests came with xapi 23.9, and XCP-ng 8.3 has no pv.
func TestVersions(t *testing.T) {
	old := login(t, start(t, Config{Version: "23.8.9"}))
	vm := old.vm("pv", nil)
	old.refused([]string{"INTERNAL_ERROR", "*"}, "VM.set_domain_type", vm, "pvh")
	recent := login(t, start(t, Config{NoPV: true}))
	recent.refused([]string{"INTERNAL_ERROR", `xenopsd internal error: Xenctrl.Error("22: Invalid argument")`}, "VM.start", recent.bootable(nil), false, false)
	pvh := recent.bootable(record{{"domain_type", "pvh"}})
	recent.must("VM.start", pvh, false, false)
	if consoles := recent.must("VM.get_consoles", pvh).([]any); len(consoles) != 2 {
		t.Errorf("a pvh VM has the consoles %v", consoles)
	}
	silent := login(t, start(t, Config{Version: "25.13.0"}))
	pvh = silent.bootable(record{{"domain_type", "pvh"}})
	silent.must("VM.start", pvh, false, false)
	if consoles := silent.must("VM.get_consoles", pvh).([]any); len(consoles) != 1 {
		t.Errorf("a pvh VM of an old xapi has the consoles %v", consoles)
	}
	if capabilities := recent.must("host.get_capabilities", recent.lab.master.ref).([]any); len(capabilities) != 3 {
		t.Errorf("%v", capabilities)
	}
}

// late is a hypervisor whose guests are made when the lab ends.
type late struct {
	begun   chan struct{}
	stopped bool
}

func (h *late) Start(ctx context.Context, _ Guest) (Running, error) {
	close(h.begun)
	<-ctx.Done()
	time.Sleep(50 * time.Millisecond)
	return h, nil
}

func (h *late) Pause() error             { return nil }
func (h *late) Unpause() error           { return nil }
func (h *late) Console() ([]byte, error) { return nil, nil }
func (h *late) Ended() bool              { return false }
func (h *late) Stop() error              { h.stopped = true; return nil }

// The end of a lab ends a VM whose start goes on.
func TestCloseDuringStart(t *testing.T) {
	h := &late{begun: make(chan struct{})}
	l, err := Start(t.Context(), Config{Hypervisor: h})
	if err != nil {
		t.Fatal(err)
	}
	c := login(t, l)
	vm := c.bootable(nil)
	go func() { _, _ = c.call("VM.start", vm, false, false) }() // the lab ends before it answers
	<-h.begun
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if !h.stopped {
		t.Error("the guest is left")
	}
}
