package xapilab

import (
	"crypto/rand"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// object is an object of a class.
type object struct {
	kind   *kind
	ref    string
	fields map[string]any
	called bool   // it was made by a call
	owner  string // the session of a task
	change int64  // the number of its last change
	made   int64  // the number of its first one
}

// add makes an object with the defaults of the fields that are not given.
func (l *Lab) add(class string, fields map[string]any) *object {
	k := kinds[class]
	o := &object{kind: k, ref: "OpaqueRef:" + newUUID(), fields: map[string]any{}, made: l.change + 1}
	for _, c := range k.fields {
		o.fields[c.name] = c.value()
		if enum, ok := strings.CutPrefix(c.typ, "enum "); ok && c.required {
			o.fields[c.name] = k.enums[enum][0]
		}
	}
	if _, ok := k.column("uuid"); ok {
		o.fields["uuid"] = newUUID()
	}
	for name, v := range fields {
		if _, ok := k.column(name); !ok {
			panic(fmt.Sprintf("xapilab: class %s has no field %s", class, name))
		}
		if n, ok := v.(int); ok {
			v = int64(n)
		}
		o.fields[name] = v
	}
	l.objects[o.ref] = o
	l.touch(o)
	return o
}

// remove takes an object away.
func (l *Lab) remove(o *object) {
	delete(l.objects, o.ref)
	l.touch(o)
	l.removed = append(l.removed, o)
}

// touch notes that an object has changed, for event.from.
func (l *Lab) touch(o *object) {
	l.change++
	o.change = l.change
	close(l.changed)
	l.changed = make(chan struct{})
}

// set sets a field.
func (l *Lab) set(o *object, field string, v any) {
	if _, ok := o.fields[field]; !ok {
		panic(fmt.Sprintf("xapilab: class %s has no field %s", o.kind.name, field))
	}
	o.fields[field] = v
	l.touch(o)
}

// all returns the objects of a class in the order of their making.
func (l *Lab) all(class string) (all []*object) {
	for _, o := range l.objects {
		if o.kind.name == class {
			all = append(all, o)
		}
	}
	slices.SortFunc(all, func(a, b *object) int { return int(a.made - b.made) })
	return all
}

// with returns the objects of a class one of whose fields has a value.
func (l *Lab) with(class, field string, v any) []*object {
	return slices.DeleteFunc(l.all(class), func(o *object) bool { return o.fields[field] != v })
}

// find returns the object of a class with a reference.
func (l *Lab) find(class, ref string) (*object, error) {
	if o := l.objects[ref]; o != nil && o.kind.name == class {
		return o, nil
	}
	return nil, fail("HANDLE_INVALID", class, ref)
}

func (o *object) text(field string) string { return o.fields[field].(string) }
func (o *object) int(field string) int64   { return o.fields[field].(int64) }
func (o *object) is(field string) bool     { return o.fields[field].(bool) }
func (o *object) table(field string) map[string]string {
	return o.fields[field].(map[string]string)
}
func (o *object) list(field string) []string { return o.fields[field].([]string) }

// links are the fields that list the objects of another class which refer to this one.
var links = map[string][3]string{ // class and field: class, its field
	"VM.VBDs": {"VBD", "VM"}, "VM.VIFs": {"VIF", "VM"}, "VM.consoles": {"console", "VM"},
	"VDI.VBDs": {"VBD", "VDI"}, "SR.VDIs": {"VDI", "SR"}, "SR.PBDs": {"PBD", "SR"},
	"host.PBDs": {"PBD", "host"}, "host.resident_VMs": {"VM", "resident_on"},
	"network.VIFs": {"VIF", "network"}, "network.PIFs": {"PIF", "network"},
}

// value returns a field as it is sent.
func (l *Lab) value(o *object, field string) any {
	if link, ok := links[o.kind.name+"."+field]; ok {
		refs := []string{}
		for _, other := range l.with(link[0], link[1], o.ref) {
			refs = append(refs, other.ref)
		}
		return refs
	}
	switch o.kind.name + "." + field {
	case "SR.physical_utilisation", "SR.virtual_allocation":
		var sum int64
		for _, vdi := range l.with("VDI", "SR", o.ref) {
			sum += vdi.int("virtual_size")
		}
		return sum
	case "host_metrics.memory_free":
		return l.freeMemory(l.with("host", "metrics", o.ref)[0])
	case "VM.memory_target":
		return o.int("memory_dynamic_max")
	}
	return o.fields[field]
}

// record returns all fields of an object.
func (l *Lab) record(o *object) record {
	var r record
	for _, c := range o.kind.fields {
		r = append(r, member{c.name, l.value(o, c.name)})
	}
	return r
}

// put replaces the value of a key in a field that is a map.
func (l *Lab) put(o *object, field, key, value string) {
	m := maps.Clone(o.table(field))
	m[key] = value
	l.set(o, field, m)
}

func newUUID() string {
	b := make([]byte, 16)
	_, _ = rand.Read(b)
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

func now() stamp { return stamp(time.Now().UTC().Format("20060102T15:04:05Z")) }

// lower returns a class as events have it.
func (k *kind) lower() string { return strings.ToLower(k.name) }
