package xapilab

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// hostMemory is the memory of a host for VMs.
const hostMemory = 4 << 30

// hostCPUs is the number of a host's processors.
const hostCPUs = 4

// addresses are those of the master and of the member.
var addresses = []string{"127.0.0.1", "127.0.0.2"}

// furnish makes the pool.
func (l *Lab) furnish() {
	for i, address := range addresses {
		metrics := l.add("host_metrics", map[string]any{"memory_total": hostMemory, "live": true})
		capabilities := []string{"xen-3.0-x86_64", "hvm-3.0-x86_32", "hvm-3.0-x86_32p", "hvm-3.0-x86_64"}
		version := map[string]string{
			"product_brand": "XCP-ng", "product_version": "8.2.1", "platform_name": "XCP", "platform_version": "3.2.1",
			"build_number": "release", "git_id": "0", "date": "20260101T00:00:00Z", "dbv": "0.0.1", "linux": "4.19.0+1", "network_backend": "openvswitch", "db_schema": "5.762",
			"xapi": "1.20", "xapi_build": l.config.Version, "xen": "4.17.4", "hostname": fmt.Sprintf("lab-%d", i+1),
		}
		if l.config.NoPV {
			capabilities = capabilities[1:]
			version["product_version"], version["platform_version"] = "8.3.0", "3.4.0"
		}
		host := l.add("host", map[string]any{
			"name_label": version["hostname"], "hostname": version["hostname"], "address": address, "enabled": true, "metrics": metrics.ref,
			"software_version": version, "capabilities": capabilities, "cpu_info": map[string]string{"cpu_count": strconv.Itoa(hostCPUs), "socket_count": "1"},
		})
		l.add("VM", map[string]any{"name_label": "Control domain on host: " + version["hostname"], "is_control_domain": true,
			"power_state": "Running", "resident_on": host.ref, "memory_static_max": 1 << 30, "domain_type": "pv", "affinity": host.ref})
		if i == 0 {
			l.master = host
		} else {
			l.member = host
		}
	}
	l.add("VM", map[string]any{"name_label": "Other install media", "is_a_template": true, "is_default_template": true,
		"HVM_boot_policy": "BIOS order", "HVM_boot_params": map[string]string{"order": "dc"}, "memory_static_max": 256 << 20})
	network := l.add("network", map[string]any{"name_label": l.Network, "bridge": "xenbr0", "MTU": 1500})
	for _, host := range []*object{l.master, l.member} {
		l.add("PIF", map[string]any{"device": "eth0", "network": network.ref, "host": host.ref, "currently_attached": true})
	}
	l.add("pool", map[string]any{"name_label": "lab", "master": l.master.ref, "default_SR": l.addSR(l.SR, 64<<30)})
}

func (l *Lab) addSR(name string, size int64) string {
	sr := l.add("SR", map[string]any{"name_label": name, "type": "ext", "content_type": "user", "physical_size": size, "shared": true})
	for _, host := range []*object{l.master, l.member} {
		l.add("PBD", map[string]any{"host": host.ref, "SR": sr.ref, "currently_attached": true})
	}
	return sr.ref
}

// freeMemory returns the memory of a host that no guest has.
func (l *Lab) freeMemory(host *object) int64 {
	free := int64(hostMemory)
	for _, vm := range l.with("VM", "resident_on", host.ref) {
		if !vm.is("is_control_domain") {
			free -= vm.int("memory_static_max")
		}
	}
	return free
}

func computeFreeMemory(c *call) (any, error) {
	host, err := c.self()
	if err != nil {
		return nil, err
	}
	return c.freeMemory(host), nil
}

func enableHost(c *call) (any, error) {
	host, err := c.self()
	if err == nil {
		c.set(host, "enabled", c.method == "host.enable")
	}
	return nil, err
}

func createSR(c *call) (any, error) {
	size, name := c.params[2].(int64), c.text(3)
	return c.addSR(name, max(size, 1<<30)), nil
}

func scan(c *call) (any, error) {
	_, err := c.self()
	return nil, err
}

func createNetwork(c *call) (any, error) {
	fields, err := c.make(c.params[0].(map[string]any))
	if err != nil {
		return nil, err
	}
	return c.add("network", fields).ref, nil
}

// login makes a session.
func (l *Lab) login(host *object, params []any) (any, error) {
	if len(params) < 2 || len(params) > 4 {
		return nil, fail("MESSAGE_PARAMETER_COUNT_MISMATCH", "session.login_with_password", "4", strconv.Itoa(len(params)))
	}
	if host != l.master {
		return nil, fail("HOST_IS_SLAVE", l.master.text("address"))
	}
	if params[0] != l.User || params[1] != l.Password {
		return nil, fail("SESSION_AUTHENTICATION_FAILED", fmt.Sprint(params[0]), "Authentication failure")
	}
	s := l.add("session", map[string]any{"this_host": l.master.ref, "is_local_superuser": l.role == roles[0], "auth_user_name": l.User,
		"rbac_permissions": permissions(l.role)})
	if len(params) > 3 {
		l.set(s, "originator", params[3])
	}
	l.sessions[s.ref] = l.role
	return s.ref, nil
}

func logout(c *call) (any, error) {
	delete(c.sessions, c.session)
	if s := c.objects[c.session]; s != nil {
		c.remove(s)
	}
	return nil, nil
}

func subjects(*call) (any, error) { return []string{}, nil }

// startTask makes the task of an asynchronous call and carries the call out.
func (l *Lab) startTask(c *call, do func(*call) (any, error), f Fault) string {
	t := l.newTask("Async."+c.method, c.session, true)
	c.task = t
	l.later(0, func() {
		if f.Error != nil {
			l.endTask(t, nil, f.Error)
			return
		}
		v, err := do(c)
		if err == nil && f.TaskError != nil {
			err = failure(f.TaskError)
		}
		l.endTask(t, v, asFailure(err))
	})
	return t.ref
}

func (l *Lab) newTask(name, session string, cancel bool) *object {
	t := l.add("task", map[string]any{"name_label": name, "created": now(), "status": "pending", "resident_on": l.master.ref,
		"type": "<none/>", "backtrace": "()"})
	if cancel {
		l.set(t, "allowed_operations", []string{"cancel"})
	}
	t.called, t.owner = true, session
	return t
}

// endTask gives a task its result, as the text of an XML value, or its error.
func (l *Lab) endTask(t *object, v any, failed failure) {
	switch {
	case l.objects[t.ref] != t:
		return // destroyed
	case t.table("current_operations")["task"] == "destroy": // see destroyTask
		l.remove(t)
		return
	case t.text("status") != "pending": // see setStatus
		return
	}
	t.fields["finished"], t.fields["progress"], t.fields["allowed_operations"] = now(), 1.0, []string{}
	if failed != nil {
		t.fields["error_info"] = []string(failed)
		l.set(t, "status", "failure")
		return
	}
	t.fields["result"] = string(encode(nil, v))
	l.set(t, "status", "success")
}

func createTask(c *call) (any, error) {
	t := c.newTask(c.text(0), c.session, false)
	c.set(t, "name_description", c.text(1))
	return t.ref, nil
}

// ownTask returns the task that a call changes. xapi compares the users of the task's session
// and of the call's; a task whose session has ended is nobody's (taskHelper.ml). All sessions of the
// lab have the same user.
func (c *call) ownTask() (*object, error) {
	t, err := c.self()
	if err != nil {
		return nil, err
	}
	if _, lasts := c.sessions[t.owner]; !lasts {
		err = permit(c.sessions[c.session], "task.destroy/any", "pool-operator")
	}
	return t, err
}

// destroyTask only marks a task that is pending. xapi removes it when it has ended, or after a
// day (xapi_task.ml, db_gc_util.ml).
func destroyTask(c *call) (any, error) {
	t, err := c.ownTask()
	switch {
	case err != nil:
		return nil, err
	case t.text("status") != "pending":
		c.remove(t)
	case t.table("current_operations")["task"] != "":
		return nil, fail("MAP_DUPLICATE_KEY", "task", "current_operations", t.ref, "task")
	default:
		c.put(t, "current_operations", "task", "destroy")
	}
	return nil, nil
}

func setStatus(c *call) (any, error) {
	t, err := c.ownTask()
	if err == nil {
		c.set(t, "status", c.text(1))
	}
	return nil, err
}

// cancelTask only asks for the end of a task, and no act of the lab's listens.
func cancelTask(c *call) (any, error) {
	t, err := c.ownTask()
	if err == nil {
		c.put(t, "current_operations", "DummyRef:|"+newUUID()+"|task.cancel", "cancel")
	}
	return nil, err
}

func currentID(c *call) (any, error) { return c.change, nil }

// eventsFrom waits for changes of objects of some classes after those that the token counts.
func eventsFrom(c *call) (any, error) {
	classes, token, timeout := c.params[0].([]string), c.text(1), c.params[2].(float64)
	var after int64
	if _, err := fmt.Sscanf(token, "%d", &after); token != "" && err != nil {
		return nil, fail("EVENT_FROM_TOKEN_PARSE_FAILURE", token)
	}
	end := time.Now().Add(time.Duration(timeout * float64(time.Second)))
	for {
		events := []any{}
		var found []*object
		for _, o := range c.objects {
			found = append(found, o)
		}
		found = append(found, c.removed...)
		slices.SortFunc(found, func(a, b *object) int { return int(a.change - b.change) })
		for _, o := range found {
			class := o.kind.lower()
			if o.change <= after || !subscribed(classes, class) && !subscribed(classes, class+"/"+o.ref) {
				continue
			}
			e := record{{"id", o.change}, {"timestamp", "0."}, {"class", class}, {"operation", "mod"}, {"ref", o.ref}}
			switch {
			case c.objects[o.ref] == nil && o.made > after:
				continue // came and went
			case c.objects[o.ref] == nil:
				e[3].value = "del"
			case o.made > after:
				e[3].value = "add"
				fallthrough
			default:
				e = append(e, member{"snapshot", c.record(o)})
			}
			events = append(events, e)
		}
		if len(events) > 0 || time.Now().After(end) || c.ctx.Err() != nil {
			counts := record{}
			for _, name := range slices.Sorted(maps.Keys(kinds)) {
				if subscribed(classes, kinds[name].lower()) {
					counts = append(counts, member{kinds[name].lower(), int32(len(c.all(name)))}) //nolint:gosec // few
				}
			}
			return record{{"events", events}, {"valid_ref_counts", counts}, {"token", strconv.FormatInt(c.change, 10)}}, nil
		}
		changed := c.changed
		c.unlocked(func() {
			select {
			case <-changed:
			case <-time.After(time.Until(end)):
			case <-c.ctx.Done():
			}
		})
	}
}

// subscribed reports whether a class, or an object as "vm/OpaqueRef:...", is among those that were
// asked for.
func subscribed(classes []string, what string) bool {
	return slices.ContainsFunc(classes, func(s string) bool { return s == "*" || strings.EqualFold(s, what) })
}
