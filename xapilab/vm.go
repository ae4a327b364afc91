package xapilab

import (
	"cmp"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

func createVM(c *call) (any, error) {
	fields, err := c.make(c.params[0].(map[string]any))
	if err != nil {
		return nil, err
	}
	if state := fields["power_state"]; state != nil && state != "Halted" {
		return nil, fail("INVALID_VALUE", "power_state", state.(string))
	}
	if err := c.knows(fields["domain_type"]); err != nil {
		return nil, err
	}
	vm := c.add("VM", fields)
	vm.called = true
	vm.fields["metrics"] = c.add("VM_metrics", nil).ref
	if t := vm.text("domain_type"); t == "" || t == "unspecified" {
		vm.fields["domain_type"] = typeOf(vm.text("HVM_boot_policy"))
	}
	return vm.ref, nil
}

// knows refuses a domain type that the lab's xapi does not know.
func (l *Lab) knows(domainType any) error {
	if domainType == "pvh" && l.before("23.9.0") {
		return fail("INTERNAL_ERROR", `Failure("Unknown tag/contents")`)
	}
	return nil
}

// before reports whether the lab's xapi is older than a version.
func (l *Lab) before(version string) bool {
	number := func(s string) (n int) {
		for _, part := range strings.SplitN(s+".0.0", ".", 4)[:3] {
			i, _ := strconv.Atoi(part)
			n = n*1000 + i
		}
		return n
	}
	return number(l.config.Version) < number(version)
}

// typeOf returns the domain type that an HVM_boot_policy stands for.
func typeOf(policy string) string {
	if policy == "" {
		return "pv"
	}
	return "hvm"
}

func setDomainType(c *call) (any, error) {
	vm, err := c.self()
	if err != nil {
		return nil, err
	}
	if err := c.knows(c.text(1)); err != nil {
		return nil, err
	}
	policy := ""
	if c.text(1) == "hvm" {
		policy = "BIOS order"
	}
	c.set(vm, "HVM_boot_policy", policy)
	c.set(vm, "domain_type", c.text(1))
	return nil, nil
}

func setBootPolicy(c *call) (any, error) {
	vm, err := c.self()
	if err != nil {
		return nil, err
	}
	c.set(vm, "HVM_boot_policy", c.text(1))
	c.set(vm, "domain_type", typeOf(c.text(1)))
	return nil, nil
}

func setMemoryLimits(c *call) (any, error) {
	vm, err := c.halted()
	if err != nil {
		return nil, err
	}
	for i, field := range []string{"memory_static_min", "memory_static_max", "memory_dynamic_min", "memory_dynamic_max"} {
		c.set(vm, field, c.params[1+i])
	}
	return nil, nil
}

func (c *call) halted() (*object, error) { return c.vm("Halted") }

// vm returns the VM, if it may do the call: it is in one of the states, and nothing blocks it. While
// another operation goes on the call waits, as xapi's do for up to two hours (helpers.ml). But
// hard_shutdown is allowed beside all operations of another kind (xapi_vm_lifecycle.ml).
func (c *call) vm(states ...string) (*object, error) {
	for {
		vm, err := c.allowed(states)
		if err != nil {
			return nil, err
		}
		others := maps.Clone(vm.table("current_operations"))
		if c.method == "VM.hard_shutdown" {
			maps.DeleteFunc(others, func(_, operation string) bool { return operation != "hard_shutdown" })
		}
		if len(others) == 0 {
			return vm, nil
		}
		changed := c.changed
		c.unlocked(func() {
			select {
			case <-changed:
			case <-c.ctx.Done():
			}
		})
		if c.ctx.Err() != nil {
			return nil, c.ctx.Err()
		}
	}
}

// allowed returns the VM unless its fields forbid the call, in the order of xapi_vm_lifecycle.ml.
func (c *call) allowed(states []string) (*object, error) {
	vm, err := c.self()
	if err != nil {
		return nil, err
	}
	operation := strings.TrimPrefix(c.method, "VM.")
	if reason, blocked := vm.table("blocked_operations")[operation]; blocked {
		return nil, fail("OPERATION_BLOCKED", vm.ref, reason)
	}
	if vm.is("is_control_domain") {
		return nil, fail("OPERATION_NOT_ALLOWED", "This operation is not allowed on a control domain")
	}
	if vm.is("is_a_template") && slices.Contains([]string{"start", "start_on", "pause", "unpause", "hard_shutdown", "clean_shutdown"}, operation) {
		return nil, fail("VM_IS_TEMPLATE", vm.ref, operation)
	}
	if state := vm.text("power_state"); !slices.Contains(states, state) {
		return nil, fail("VM_BAD_POWER_STATE", vm.ref, strings.ToLower(strings.Join(states, ", ")), strings.ToLower(state))
	}
	return vm, nil
}

// during shows an operation in the VM's current_operations while the lab is unlocked for it.
// The key is the task. Only an asynchronous call has one in the pool.
func (l *Lab) during(vm, task *object, operation string, do func()) {
	key := "DummyRef:|" + newUUID() + "|VM." + operation
	if task != nil {
		key = task.ref
	}
	l.put(vm, "current_operations", key, operation)
	l.unlocked(do)
	l.set(vm, "current_operations", map[string]string{})
}

// assertCanBoot says why a host cannot run a VM.
func (l *Lab) assertCanBoot(vm, host *object) error {
	if !host.is("enabled") {
		return fail("HOST_DISABLED", host.ref)
	}
	if n := vm.int("VCPUs_at_startup"); n > hostCPUs {
		return fail("HOST_NOT_ENOUGH_PCPUS", strconv.FormatInt(n, 10), strconv.Itoa(hostCPUs))
	}
	if needed, free := vm.int("memory_static_max"), l.freeMemory(host); needed > free {
		return fail("HOST_NOT_ENOUGH_FREE_MEMORY", strconv.FormatInt(needed, 10), strconv.FormatInt(free, 10))
	}
	return nil
}

func canBootHere(c *call) (any, error) {
	vm, err := c.self()
	if err != nil {
		return nil, err
	}
	host, err := c.find("host", c.text(1))
	if err != nil {
		return nil, err
	}
	return nil, c.assertCanBoot(vm, host)
}

func possibleHosts(c *call) (any, error) {
	vm, err := c.self()
	if err != nil {
		return nil, err
	}
	return refs(slices.DeleteFunc(c.all("host"), func(h *object) bool { return c.assertCanBoot(vm, h) != nil })), nil
}

// place returns the host that a VM is to run on: the one of the call, that of its affinity, or the first that can.
func (c *call) place(vm *object) (*object, error) {
	if c.method == "VM.start_on" {
		host, err := c.find("host", c.text(1))
		if err == nil {
			err = c.assertCanBoot(vm, host)
		}
		return host, err
	}
	hosts := c.all("host")
	slices.SortStableFunc(hosts, func(a, b *object) int {
		return cmp.Compare(map[bool]int{true: -1}[a.ref == vm.text("affinity")], map[bool]int{true: -1}[b.ref == vm.text("affinity")])
	})
	for _, host := range hosts {
		if c.assertCanBoot(vm, host) == nil {
			return host, nil
		}
	}
	return nil, fail("NO_HOSTS_AVAILABLE")
}

func startVM(c *call) (any, error) {
	vm, err := c.halted()
	if err != nil {
		return nil, err
	}
	paused := c.params[len(c.params)-2].(bool)
	vbds := c.with("VBD", "VM", vm.ref)
	for _, vbd := range vbds {
		if vdi := c.objects[vbd.text("VDI")]; vdi != nil && c.inUse(vdi) && !c.shared(vbd) {
			return nil, fail("VDI_IN_USE", vdi.ref)
		}
	}
	host, err := c.place(vm)
	if err != nil {
		return nil, err
	}
	guest, err := c.guest(vm, vbds)
	if err != nil {
		return nil, err
	}
	var running Running
	c.during(vm, c.task, "start", func() {
		if c.task != nil {
			c.sleep(c.config.Moment)
		}
		if running, err = c.config.Hypervisor.Start(c.ctx, guest); err == nil && !paused {
			err = running.Unpause()
		}
	})
	if err != nil {
		if running != nil {
			_ = running.Stop() // the first error says why
		}
		if guest.Bootloader != "" {
			return nil, fail("BOOTLOADER_FAILED", vm.ref, err.Error())
		}
		return nil, err
	}
	c.guests[vm] = running
	c.set(c.objects[vm.text("metrics")], "start_time", now())
	c.domains++
	vm.fields["domid"], vm.fields["resident_on"] = c.domains, host.ref
	for i, vbd := range vbds {
		vbd.fields["device"] = "xvd" + string(rune('a'+i))
		c.set(vbd, "currently_attached", true)
	}
	for _, vif := range c.with("VIF", "VM", vm.ref) {
		c.set(vif, "currently_attached", true)
	}
	protocols := []string{"rfb", "vt100"}
	if guest.Type == "hvm" || guest.Type == "pvh" && c.before("25.14.0") {
		protocols = protocols[:1]
	}
	for _, protocol := range protocols {
		o := c.add("console", map[string]any{"protocol": protocol, "VM": vm.ref})
		c.set(o, "location", "https://"+host.text("address")+":"+c.port+"/console?uuid="+o.text("uuid"))
	}
	vm.fields["guest_metrics"] = c.add("VM_guest_metrics", map[string]any{"last_updated": now(), "live": true}).ref // no guest has the tools
	c.set(vm, "power_state", map[bool]string{true: "Paused", false: "Running"}[paused])
	c.watch(vm, running)
	return nil, nil
}

// watch halts a VM whose guest has ended.
func (l *Lab) watch(vm *object, running Running) {
	l.work.Go(func() {
		for l.sleep(max(l.config.Moment, 5*time.Millisecond)) {
			gone := false
			l.locked(func() {
				if gone = l.guests[vm] != running; !gone && running.Ended() {
					_ = l.halt(vm) // nothing is left to stop
					gone = true
				}
			})
			if gone {
				return
			}
		}
	})
}

// halt ends the guest of a VM.
func (l *Lab) halt(vm *object) error {
	running := l.guests[vm]
	delete(l.guests, vm)
	var err error
	if running != nil { // not a VM of AddVM
		l.during(vm, nil, "hard_shutdown", func() { err = running.Stop() })
	}
	for _, o := range l.with("console", "VM", vm.ref) {
		l.remove(o)
	}
	if metrics := l.objects[vm.text("guest_metrics")]; metrics != nil {
		l.remove(metrics)
	}
	vm.fields["guest_metrics"] = null
	for _, class := range []string{"VBD", "VIF"} {
		for _, o := range l.with(class, "VM", vm.ref) {
			l.set(o, "currently_attached", false)
		}
	}
	vm.fields["domid"], vm.fields["resident_on"] = int64(-1), null
	l.set(vm, "power_state", "Halted")
	return err
}

func pauseVM(c *call) (any, error) {
	from, to := "Running", "Paused"
	if c.method == "VM.unpause" {
		from, to = to, from
	}
	vm, err := c.vm(from)
	if err != nil {
		return nil, err
	}
	if running := c.guests[vm]; running != nil {
		act := running.Pause
		if to == "Running" {
			act = running.Unpause
		}
		if err := act(); err != nil {
			return nil, err
		}
	}
	c.set(vm, "power_state", to)
	return nil, nil
}

func hardShutdown(c *call) (any, error) {
	vm, err := c.vm("Paused", "Suspended", "Running")
	if err != nil {
		return nil, err
	}
	return nil, c.halt(vm)
}

// cleanShutdown fails: no guest of the lab's has the tools.
func cleanShutdown(c *call) (any, error) {
	vm, err := c.vm("Running")
	if err != nil {
		return nil, err
	}
	return nil, fail("VM_LACKS_FEATURE", vm.ref)
}

// destroyVM leaves the VDIs.
func destroyVM(c *call) (any, error) {
	vm, err := c.halted()
	if err != nil {
		return nil, err
	}
	for _, class := range []string{"VBD", "VIF"} {
		for _, o := range c.with(class, "VM", vm.ref) {
			c.remove(o)
		}
	}
	if metrics := c.objects[vm.text("metrics")]; metrics != nil {
		c.remove(metrics)
	}
	c.remove(vm)
	return nil, nil
}
