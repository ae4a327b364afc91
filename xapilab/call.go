package xapilab

import (
	"errors"
	"slices"
	"strconv"
	"strings"
)

// call is a call that is carried out while the lab is locked.
type call struct {
	*Lab
	session string
	task    *object // of an asynchronous call, else nil
	method  string  // without Async.
	class   *kind
	params  []any // without the session
}

func (c *call) text(i int) string { return c.params[i].(string) }

// self returns the object that the first parameter refers to.
func (c *call) self() (*object, error) { return c.find(c.class.name, c.text(0)) }

// methods are the messages that the lab knows beside those of all classes: see general.
var methods = map[string]func(*call) (any, error){
	"session.logout": logout, "session.get_all_subject_identifiers": subjects,
	"task.create": createTask, "task.destroy": destroyTask, "task.cancel": cancelTask, "task.set_status": setStatus,
	"event.from": eventsFrom, "event.get_current_id": currentID,
	"host.compute_free_memory": computeFreeMemory, "host.disable": enableHost, "host.enable": enableHost,
	"SR.create": createSR, "SR.scan": scan, "network.create": createNetwork,
	"VM.create": createVM, "VM.destroy": destroyVM, "VM.start": startVM, "VM.start_on": startVM,
	"VM.pause": pauseVM, "VM.unpause": pauseVM, "VM.hard_shutdown": hardShutdown, "VM.clean_shutdown": cleanShutdown,
	"VM.set_domain_type": setDomainType, "VM.set_HVM_boot_policy": setBootPolicy,
	"VM.set_memory_limits": setMemoryLimits, "VM.assert_can_boot_here": canBootHere, "VM.get_possible_hosts": possibleHosts,
	"VDI.create": createVDI, "VDI.destroy": destroyVDI, "VDI.set_name_label": setName, "VDI.set_name_description": setName,
	"VBD.create": createVBD, "VBD.destroy": destroyVBD, "VIF.create": createVIF, "VIF.destroy": destroyVIF,
}

// noSession are the messages whose first parameter is no session.
var noSession = []string{"session.login_with_password", "session.slave_local_login_with_password"}

// run carries out a call. Its errors are failures.
func (l *Lab) run(host *object, method string, params []any, f Fault) (any, error) {
	if method == "session.login_with_password" {
		return l.login(host, params)
	}
	name, async := strings.CutPrefix(method, "Async.")
	class, message, _ := strings.Cut(name, ".")
	k := kinds[class]
	if k == nil {
		return nil, fail("MESSAGE_METHOD_UNKNOWN", method)
	}
	c := &call{Lab: l, method: name, class: k}
	do, types, role := c.lookup(message)
	if do == nil || async && methods[name] == nil { // reading and setting fields is never asynchronous
		return nil, fail("MESSAGE_METHOD_UNKNOWN", method)
	}
	if len(params) != 1+len(types) {
		return nil, fail("MESSAGE_PARAMETER_COUNT_MISMATCH", name, strconv.Itoa(len(types)), strconv.Itoa(max(0, len(params)-1)))
	}
	c.session, _ = params[0].(string)
	user, ok := l.sessions[c.session]
	if !ok {
		return nil, fail("SESSION_INVALID", c.session)
	}
	if host != l.master {
		return nil, fail("HOST_IS_SLAVE", l.master.text("address"))
	}
	if err := permit(user, name, role); err != nil {
		return nil, err
	}
	for i, typ := range types {
		v, err := k.take(typ, params[1+i])
		if err != nil {
			return nil, err
		}
		c.params = append(c.params, v)
	}
	if async {
		return l.startTask(c, do, f), nil
	}
	return do(c)
}

// roles are the roles, each with all permissions of the next.
var roles = []string{"pool-admin", "pool-operator", "vm-power-admin", "vm-admin", "vm-operator", "read-only"}

// permit refuses a user of a role a message that needs at least another one.
func permit(role, name, least string) error {
	at := slices.Index(roles, least)
	if at < 0 || slices.Index(roles, role) <= at && slices.Contains(roles, role) {
		return nil
	}
	return fail("RBAC_PERMISSION_DENIED", strings.ToLower(name), "No permission in user session. (Roles with this permission: "+strings.Join(roles[:at+1], ", ")+")")
}

// permissions lists what a role may do.
func permissions(role string) (all []string) {
	add := func(name, least string) {
		if permit(role, name, least) == nil {
			all = append(all, strings.ToLower(name))
		}
	}
	add("http/put_import_raw_vdi", "vm-admin")
	for _, k := range kinds {
		for name, v := range k.verbs {
			add(k.name+"."+name, v.role)
		}
	}
	return all
}

// lookup returns what a message does, the types of its parameters and its least role.
func (c *call) lookup(message string) (do func(*call) (any, error), types []string, role string) {
	k := c.class
	if do := methods[c.method]; do != nil {
		v := k.verbs[message]
		return do, v.params, v.role
	}
	if do, types := c.general(message); do != nil {
		return do, types, "read-only"
	}
	for _, verb := range []string{"set_", "add_to_", "remove_from_", "add_", "remove_"} {
		name, ok := strings.CutPrefix(message, verb)
		if !ok {
			continue
		}
		f, ok := k.column(name)
		isMap, isSet := strings.HasSuffix(f.typ, " map"), strings.HasSuffix(f.typ, " set")
		if !ok || f.qualifier != "RW" {
			continue
		}
		self := k.name + " ref"
		switch {
		case verb == "set_":
			return func(c *call) (any, error) { return c.setField(f, c.params[1]) }, []string{self, f.typ}, f.role
		case verb == "add_to_" && isMap:
			return func(c *call) (any, error) { return c.addTo(f) }, []string{self, "string", "string"}, f.role
		case verb == "remove_from_" && isMap:
			return func(c *call) (any, error) { return c.removeFrom(f) }, []string{self, "string"}, f.role
		case (verb == "add_" || verb == "remove_") && isSet:
			return func(c *call) (any, error) { return c.setMember(f, verb == "add_") }, []string{self, "string"}, f.role
		}
	}
	return nil, nil, ""
}

// general returns what the reading messages of all classes do.
func (c *call) general(message string) (do func(*call) (any, error), types []string) {
	k := c.class
	switch message {
	case "get_all":
		return func(c *call) (any, error) { return refs(c.all(k.name)), nil }, nil
	case "get_all_records":
		return func(c *call) (any, error) { return c.records(c.all(k.name)), nil }, nil
	case "get_all_records_where":
		return nil, nil // its language of queries is unknown here
	case "get_record":
		return func(c *call) (any, error) {
			o, err := c.self()
			if err != nil {
				return nil, err
			}
			return c.record(o), nil
		}, []string{k.name + " ref"}
	case "get_by_uuid":
		return func(c *call) (any, error) {
			if found := c.with(k.name, "uuid", c.text(0)); len(found) == 1 {
				return found[0].ref, nil
			}
			return nil, fail("UUID_INVALID", k.name, c.text(0))
		}, []string{"string"}
	case "get_by_name_label":
		if _, ok := k.column("name_label"); !ok {
			return nil, nil
		}
		return func(c *call) (any, error) { return refs(c.with(k.name, "name_label", c.text(0))), nil }, []string{"string"}
	}
	name, ok := strings.CutPrefix(message, "get_")
	if f, known := k.column(name); ok && known {
		return func(c *call) (any, error) {
			o, err := c.self()
			if err != nil {
				return nil, err
			}
			return c.value(o, f.name), nil
		}, []string{k.name + " ref"}
	}
	return nil, nil
}

func refs(all []*object) []string {
	refs := []string{}
	for _, o := range all {
		refs = append(refs, o.ref)
	}
	return refs
}

func (l *Lab) records(all []*object) record {
	r := record{}
	for _, o := range all {
		r = append(r, member{o.ref, l.record(o)})
	}
	return r
}

func (c *call) setField(f column, v any) (any, error) {
	o, err := c.self()
	if err == nil {
		c.set(o, f.name, v)
	}
	return nil, err
}

func (c *call) addTo(f column) (any, error) {
	o, err := c.self()
	if err != nil {
		return nil, err
	}
	if _, there := o.table(f.name)[c.text(1)]; there {
		return nil, fail("MAP_DUPLICATE_KEY", c.class.name, f.name, o.ref, c.text(1))
	}
	c.put(o, f.name, c.text(1), c.text(2))
	return nil, nil
}

func (c *call) removeFrom(f column) (any, error) {
	o, err := c.self()
	if err != nil {
		return nil, err
	}
	left := map[string]string{}
	for k, v := range o.table(f.name) {
		if k != c.text(1) {
			left[k] = v
		}
	}
	c.set(o, f.name, left)
	return nil, nil
}

// setMember adds a string to a set or removes it.
func (c *call) setMember(f column, add bool) (any, error) {
	o, err := c.self()
	if err != nil {
		return nil, err
	}
	left := slices.DeleteFunc(slices.Clone(o.list(f.name)), func(s string) bool { return s == c.text(1) })
	if add {
		left = append(left, c.text(1))
	}
	c.set(o, f.name, left)
	return nil, nil
}

// asFailure returns an error as one of the API.
func asFailure(err error) failure {
	var f failure
	if err == nil || errors.As(err, &f) {
		return f
	}
	return fail("INTERNAL_ERROR", err.Error())
}

// make makes an object of the fields that a create message takes.
func (c *call) make(given map[string]any) (map[string]any, error) {
	fields := map[string]any{}
	for _, f := range c.class.fields {
		v, ok := given[f.name]
		switch {
		case !f.constructor():
			continue
		case !ok && f.required:
			return nil, fail("INTERNAL_ERROR", `Server_helpers.Dispatcher_FieldNotFound("`+f.name+`")`)
		case !ok:
			continue
		}
		taken, err := c.class.take(f.typ, v)
		if err != nil {
			return nil, err
		}
		fields[f.name] = taken
	}
	return fields, nil
}
