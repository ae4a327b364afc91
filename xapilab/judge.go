package xapilab

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/morgana-deploy/morgana/need"
)

// Judge judges calls and answers by the API's own model.
type Judge struct {
	classes map[string]*class
}

type class struct {
	Name     string
	Fields   []field
	Messages []message
	Enums    []struct {
		Name   string
		Values []struct{ Name string }
	}
}

type field struct {
	Name, Type, Qualifier string
	Default               *string
}

type message struct {
	Name   string
	Result []string
	Params []struct{ Type, Name string }
	Errors []struct{ Name string }
	Roles  []string
}

// commonErrors are the codes of errors that the model does not name with the messages that
// give them.
var commonErrors = []string{"SESSION_INVALID", "HOST_IS_SLAVE", "SESSION_AUTHENTICATION_FAILED", "HANDLE_INVALID", "UUID_INVALID",
	"MESSAGE_METHOD_UNKNOWN", "MESSAGE_PARAMETER_COUNT_MISMATCH", "INTERNAL_ERROR", "RBAC_PERMISSION_DENIED", "MAP_DUPLICATE_KEY",
	"OTHER_OPERATION_IN_PROGRESS", "OPERATION_NOT_ALLOWED", "OPERATION_BLOCKED", "VM_BAD_POWER_STATE", "VM_IS_TEMPLATE", "VM_LACKS_FEATURE",
	"VDI_IN_USE", "DEVICE_ALREADY_EXISTS", "INVALID_DEVICE", "INVALID_VALUE", "MAC_INVALID", "MEMORY_CONSTRAINT_VIOLATION",
	"SR_BACKEND_FAILURE_44", "SR_BACKEND_FAILURE_79", "HOST_DISABLED", "HOST_NOT_ENOUGH_FREE_MEMORY", "HOST_NOT_ENOUGH_PCPUS",
	"EVENT_FROM_TOKEN_PARSE_FAILURE", "HA_OPERATION_WOULD_BREAK_FAILOVER_PLAN", "LICENCE_RESTRICTION", "FEATURE_RESTRICTED"}

// NewJudge reads the model from a folder that has xenapi-23.10.0.json.gz.
func NewJudge(dir string) (*Judge, error) {
	file, err := os.Open(filepath.Join(dir, "xenapi-23.10.0.json.gz"))
	if err != nil {
		return nil, err
	}
	defer file.Close() //nolint:errcheck // only read
	unzip, err := gzip.NewReader(file)
	if err != nil {
		return nil, err
	}
	var all []*class
	if err := json.NewDecoder(unzip).Decode(&all); err != nil {
		return nil, err
	}
	j := &Judge{classes: map[string]*class{}}
	for _, c := range all {
		j.classes[c.Name] = c
	}
	return j, nil
}

// FindJudge returns the judge of the model that a test finds, nil without one.
func FindJudge(t testing.TB) *Judge {
	t.Helper()
	folder := need.FindXenAPI(t)
	if folder == "" {
		return nil
	}
	j, err := NewJudge(folder)
	if err != nil {
		t.Fatal(err)
	}
	return j
}

// Exchange returns what is wrong with a call and its answer.
func (j *Judge) Exchange(call, answer []byte) []string {
	method, params, err := readCall(bytes.NewReader(call))
	if err != nil {
		return []string{"call: " + err.Error()}
	}
	v := &verdict{j: j, method: method}
	m := v.call(params)
	v.answer(m, answer)
	return v.wrong
}

// verdict is what is wrong with an exchange.
type verdict struct {
	j      *Judge
	method string
	class  *class
	sent   bool // what is checked was sent by a client
	wrong  []string
}

func (v *verdict) say(format string, a ...any) {
	v.wrong = append(v.wrong, v.method+": "+fmt.Sprintf(format, a...))
}

// call checks a call and returns its message, nil if there is none.
func (v *verdict) call(params []any) *message {
	name, _ := strings.CutPrefix(v.method, "Async.")
	className, verb, _ := strings.Cut(name, ".")
	v.class, v.sent = v.j.classes[className], true
	if v.class == nil {
		v.say("the API has no class %s", className)
		return nil
	}
	at := slices.IndexFunc(v.class.Messages, func(m message) bool { return m.Name == verb })
	if at < 0 {
		v.say("class %s has no message %s", className, verb)
		return nil
	}
	m := &v.class.Messages[at]
	if len(params) != len(m.Params) {
		v.say("%d parameters, not %d", len(params), len(m.Params))
		return m
	}
	for i, p := range m.Params {
		v.check(p.Name, p.Type, params[i])
	}
	return m
}

// answer checks an answer.
func (v *verdict) answer(m *message, raw []byte) {
	v.sent = false
	if bytes.Contains(raw, []byte("<string>")) || bytes.Contains(raw, []byte("<int>")) {
		v.say("the answer has types that xapi does not send")
	}
	_, values, err := readCall(bytes.NewReader(raw))
	if err != nil || len(values) != 1 {
		v.say("the answer is no methodResponse: %v", err)
		return
	}
	a, _ := values[0].(map[string]any)
	if a["Status"] == "Failure" {
		description, _ := a["ErrorDescription"].([]any)
		v.check("ErrorDescription", "string set", a["ErrorDescription"])
		known := len(description) > 0 && slices.Contains(commonErrors, fmt.Sprint(description[0]))
		if !known && (m == nil || len(description) == 0 || !slices.ContainsFunc(m.Errors, func(e struct{ Name string }) bool { return e.Name == description[0] })) {
			v.say("an error that is not its own: %q", description)
		}
		return
	}
	value, ok := a["Value"]
	switch {
	case a["Status"] != "Success" || !ok || len(a) != 2:
		v.say("the answer has Status %v", a["Status"])
	case m == nil:
	case strings.HasPrefix(v.method, "Async."):
		v.check("answer", "task ref", value)
	case m.Result[0] == "void":
		if value != "" {
			v.say("an answer without a value has %v", value)
		}
	default:
		v.check("answer", m.Result[0], value)
	}
}

// check checks a value against a type of the model.
func (v *verdict) check(where, typ string, value any) {
	if inner, ok := strings.CutSuffix(typ, " set"); ok {
		list, ok := value.([]any)
		if !ok {
			v.say("%s: %v is no set", where, value)
		}
		for _, e := range list {
			v.check(where, inner, e)
		}
		return
	}
	if inner, ok := strings.CutSuffix(typ, ") map"); ok {
		key, of, _ := strings.Cut(strings.TrimPrefix(inner, "("), " -> ")
		members, ok := value.(map[string]any)
		if !ok {
			v.say("%s: %v is no map", where, value)
		}
		for name, e := range members {
			v.check(where, key, name)
			v.check(where+"["+name+"]", of, e)
		}
		return
	}
	if name, ok := strings.CutSuffix(typ, " record"); ok && v.j.classes[name] != nil {
		v.record(where, v.j.classes[name], value)
		return
	}
	text, isText := value.(string)
	ok := isText
	switch enum, isEnum := strings.CutPrefix(typ, "enum "); {
	case isEnum:
		ok = isText && v.j.enum(enum, text)
	case typ == "int":
		_, err := strconv.ParseInt(text, 10, 64)
		ok = isText && err == nil
	case typ == "bool":
		_, ok = value.(bool)
	case typ == "float":
		_, ok = value.(float64)
	case typ == "datetime":
		_, ok = value.(stamp)
	case strings.HasSuffix(typ, " ref"):
		ok = isText && (strings.HasPrefix(text, "OpaqueRef:") || v.sent)
	case typ != "string": // an event batch
		_, ok = value.(map[string]any)
	}
	if !ok {
		v.say("%s: %v (%T) is no %s", where, value, value, typ)
	}
}

// record checks a record: a client sends the fields of the constructor, and xapi all fields.
func (v *verdict) record(where string, c *class, value any) {
	members, ok := value.(map[string]any)
	if !ok {
		v.say("%s: %v is no %s record", where, value, c.Name)
		return
	}
	unknown := maps.Clone(members)
	for _, f := range c.Fields {
		given, there := members[f.Name]
		switch delete(unknown, f.Name); {
		case there && v.sent && f.Qualifier == "RO/runtime":
			v.say("%s: %s is set by xapi alone", where, f.Name)
		case there:
			v.check(where+"."+f.Name, f.Type, given)
		case !v.sent, f.Default == nil && f.Qualifier != "RO/runtime":
			v.say("%s: field %s is missing", where, f.Name)
		}
	}
	for name := range unknown {
		v.say("%s: class %s has no field %s", where, c.Name, name)
	}
}

// enum reports whether an enum of any class has a value.
func (j *Judge) enum(name, value string) bool {
	for _, c := range j.classes {
		for _, e := range c.Enums {
			if e.Name == name {
				return slices.ContainsFunc(e.Values, func(v struct{ Name string }) bool { return v.Name == value })
			}
		}
	}
	return false
}
