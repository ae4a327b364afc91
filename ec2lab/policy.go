package ec2lab

import (
	"cmp"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// statement is a statement of an IAM policy.
type statement struct {
	Effect           string
	Action, Resource patterns
	Condition        map[string]map[string]patterns // by operator and key
}

// patterns are a member of a policy that is a text or several. They may have wildcards.
type patterns []string

// UnmarshalJSON implements [json.Unmarshaler].
func (w *patterns) UnmarshalJSON(data []byte) error {
	var one string
	if json.Unmarshal(data, &one) == nil {
		*w = patterns{one}
		return nil
	}
	return json.Unmarshal(data, (*[]string)(w))
}

func (w patterns) match(text string) bool {
	return slices.ContainsFunc(w, func(pattern string) bool { return wildcard(pattern).MatchString(text) })
}

// wildcard compiles a pattern in which * and ? are wildcards.
func wildcard(pattern string) *regexp.Regexp {
	return regexp.MustCompile("^(?s:" + strings.NewReplacer(`\*`, ".*", `\?`, ".").Replace(regexp.QuoteMeta(pattern)) + ")$")
}

// Permit leaves the user what IAM policies allow, and nothing else. The lab knows the
// conditions StringEquals and StringLike, and no statement that denies.
func (l *Lab) Permit(policies ...[]byte) error {
	var all []statement
	for _, data := range policies {
		var p struct{ Statement []statement }
		if err := json.Unmarshal(data, &p); err != nil {
			return err
		}
		all = append(all, p.Statement...)
	}
	for _, s := range all {
		if s.Effect != "Allow" {
			return fmt.Errorf("the lab has no effect %q", s.Effect)
		}
		for operator := range s.Condition {
			if !slices.Contains([]string{"StringEquals", "StringLike"}, operator) {
				return fmt.Errorf("the lab has no condition %q", operator)
			}
		}
	}
	l.set(func() {
		l.denied = func(r *request, action, arn string) bool {
			return !slices.ContainsFunc(all, func(s statement) bool { return s.allows(action, arn, r.context(action, arn)) })
		}
	})
	return nil
}

func (s statement) allows(action, arn string, context map[string]string) bool {
	if !s.Action.match(action) || !s.Resource.match(arn) {
		return false
	}
	for operator, keys := range s.Condition {
		for key, wanted := range keys {
			have, ok := context[key]
			if !ok || !wanted.match(have) || operator == "StringEquals" && !slices.Contains(wanted, have) {
				return false
			}
		}
	}
	return true
}

// context returns the condition keys of an action on a resource.
func (r *request) context(action, arn string) map[string]string {
	c := map[string]string{}
	kind, id, _ := strings.Cut(arn[strings.LastIndexByte(arn, ':')+1:], "/")
	// Whether StartSnapshot sets the key is not documented.
	if action == "ec2:CreateTags" && r.name != "CreateTags" && r.service == "ec2" {
		c["ec2:CreateAction"] = r.name
	}
	p := params{r.v, "", map[string]bool{}} // what it reads stays unseen
	given := append(p.each("Tag"), p.each("Tags")...)
	for _, spec := range p.each("TagSpecification") {
		if spec.get("ResourceType") == kind {
			given = append(given, spec.each("Tag")...)
		}
	}
	for _, t := range given {
		c["aws:RequestTag/"+t.get("Key")] = t.get("Value")
	}
	for _, o := range r.lab.resources {
		if o.kind().word != kind || o.id() != id {
			continue
		}
		for _, t := range o.root().Tags {
			c["aws:ResourceTag/"+t.Key] = t.Value
		}
	}
	for m := range kept[*image](r.lab) {
		if m.ID == id || slices.ContainsFunc(m.Disks, func(d diskMapping) bool { return d.EBS.Snapshot == id }) {
			c["ec2:Owner"] = cmp.Or(m.Alias, m.Owner)
		}
	}
	return c
}

// touched returns the resources for which the user needs an action: arn, unless that is "*",
// and those whose ids the request has.
func (r *request) touched(action, arn string) (all []string) {
	if arn != "*" {
		all = []string{arn}
	}
	p := params{r.v, "", map[string]bool{}}
	switch {
	case r.service != "ec2":
	case action == "ec2:CreateTags" && r.name != "CreateTags":
		all = nil
		for _, spec := range p.each("TagSpecification") {
			all = append(all, (&kind{word: spec.get("ResourceType")}).arn("*"))
		}
	case action == word(r.service, r.name):
		for name, values := range r.v {
			for _, k := range taggable {
				if parameterID.MatchString(name) && k.well(values[0]) == nil {
					all = append(all, k.arn(values[0]))
				}
			}
		}
		switch r.name {
		case "ImportSnapshot":
			all = append(all, snapshots.arn("*"))
		case "RunInstances":
			all = append(all, interfaces.arn("*"))
			for name, k := range map[string]*kind{"KeyName": &keyPairs, "Placement.GroupName": &placementGroups} {
				if r.v.Has(name) {
					all = append(all, k.arn(r.v.Get(name)))
				}
			}
			for m := range kept[*image](r.lab) {
				if m.ID != resolved(r.v.Get("ImageId")) {
					continue
				}
				all = append(all, images.arn(m.ID))
				for _, d := range m.Disks {
					all = append(all, volumes.arn("*"), snapshots.arn(d.EBS.Snapshot))
				}
			}
		}
	}
	if all == nil {
		return []string{arn}
	}
	return all
}

// parameterID matches the names of parameters that have the id of a resource.
var parameterID = regexp.MustCompile(`Id(\.\d+)?$`)
