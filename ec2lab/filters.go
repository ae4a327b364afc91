package ec2lab

import (
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"
)

// attrs returns the values of the filters for a resource, besides its tags: those of the
// fields with a filter tag. Of a nil resource it has the filters without values.
func attrs(r resource) map[string][]string {
	all := map[string][]string{}
	gather(reflect.TypeOf(r), reflect.ValueOf(r), all)
	return all
}

// gather adds the filters of a type and, if v is valid, their values.
func gather(t reflect.Type, v reflect.Value, all map[string][]string) {
	switch t.Kind() {
	case reflect.Pointer:
		if v.IsValid() {
			v = v.Elem()
		}
		gather(t.Elem(), v, all)
	case reflect.Slice:
		gather(t.Elem(), reflect.Value{}, all)
		for i := 0; v.IsValid() && i < v.Len(); i++ {
			gather(t.Elem(), v.Index(i), all)
		}
	case reflect.Struct:
		for f := range t.Fields() {
			name, value := f.Tag.Get("filter"), reflect.Value{}
			if v.IsValid() {
				value = v.FieldByIndex(f.Index)
			}
			switch {
			case name == "-", !f.IsExported() && !f.Anonymous:
			case name == "":
				gather(f.Type, value, all)
			default:
				all[name] = append(all[name], texts(value)...)
			}
		}
	}
}

// texts returns the values of a field.
func texts(v reflect.Value) (all []string) {
	switch {
	case !v.IsValid():
	case v.Kind() == reflect.Slice:
		return v.Interface().([]string)
	case v.Kind() != reflect.String || v.Len() > 0:
		return []string{fmt.Sprint(v.Interface())}
	}
	return nil
}

// filter returns the function of the request's filters. known has the names of the
// filters of the call.
func (r *request) filter(known map[string][]string) (func([]tag, map[string][]string) bool, error) {
	type one struct {
		name   string
		values []*regexp.Regexp
	}
	var all []one
	for _, p := range r.each("Filter") {
		f := one{name: p.get("Name")}
		_, ok := known[f.name]
		if !ok && f.name != "tag-key" && f.name != "tag-value" && !strings.HasPrefix(f.name, "tag:") {
			return nil, refuse("InvalidParameterValue", "The filter '%s' is invalid", f.name)
		}
		values := p.list("Value")
		if len(values) == 0 {
			return nil, refuse("InvalidParameterValue", "The filter '%s' must have a value", f.name)
		}
		if len(values) > 200 {
			return nil, refuse("FilterLimitExceeded", "The maximum number of filter values specified on a single call is 200")
		}
		for _, v := range values {
			f.values = append(f.values, wildcard(v))
		}
		all = append(all, f)
	}
	return func(tags []tag, attrs map[string][]string) bool {
		for _, f := range all {
			have := attrs[f.name]
			for _, t := range tags {
				if f.name == "tag-key" || f.name == "tag-value" && t.Value != "" {
					have = append(have, map[string]string{"tag-key": t.Key, "tag-value": t.Value}[f.name])
				}
				if f.name == "tag:"+t.Key {
					have = append(have, t.Value)
				}
			}
			if !slices.ContainsFunc(have, func(v string) bool {
				return slices.ContainsFunc(f.values, func(p *regexp.Regexp) bool { return p.MatchString(v) })
			}) {
				return false
			}
		}
		return true
	}, nil
}
