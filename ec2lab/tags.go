package ec2lab

import (
	"encoding/xml"
	"slices"
	"strings"
	"time"
)

// tag is a tag of a resource.
type tag struct {
	Key   string `xml:"key"`
	Value string `xml:"value"`
}

// tagSet is an element that an answer lacks if it has no tags.
type tagSet []tag

// MarshalXML implements [xml.Marshaler].
func (s tagSet) MarshalXML(e *xml.Encoder, start xml.StartElement) error {
	if len(s) == 0 {
		return nil
	}
	return e.EncodeElement(list{Items: []tag(s)}, start)
}

// tagging returns the permission that the TagSpecification needs, if there is one.
func (r *request) tagging() []string {
	if r.sub("TagSpecification").any() {
		return []string{"ec2:CreateTags"}
	}
	return nil
}

// tags returns the tags of the TagSpecification of each kind of resource.
func (r *request) tags(kinds ...string) (map[string][]tag, error) {
	all := map[string][]tag{}
	for _, p := range r.each("TagSpecification") {
		of := p.get("ResourceType")
		if !slices.Contains(kinds, of) {
			return nil, refuse("InvalidParameterValue", "'%s' is not a valid taggable resource type for this operation.", of)
		}
		if all[of] != nil {
			return nil, refuse("InvalidParameterValue", "Duplicate tag specification for resource type '%s'", of)
		}
		for _, t := range p.each("Tag") {
			all[of] = append(all[of], tag{t.get("Key"), t.get("Value")})
		}
		if err := checkTags(all[of]); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// checkTags refuses tags that no resource can have.
func checkTags(tags []tag) error {
	seen := map[string]bool{}
	for _, t := range tags {
		switch {
		case t.Key == "":
			return refuse("InvalidParameterValue", "Tag key cannot be null or empty.")
		case strings.HasPrefix(strings.ToLower(t.Key), "aws:"):
			return refuse("InvalidParameterValue", "Tag keys starting with 'aws:' are reserved for internal use")
		case len([]rune(t.Key)) > 128:
			return refuse("InvalidParameterValue", "Tag key exceeds the maximum length of 128 characters")
		case len([]rune(t.Value)) > 256:
			return refuse("InvalidParameterValue", "Tag value exceeds the maximum length of 256 characters")
		case seen[t.Key]:
			return refuse("InvalidParameterValue", "Duplicate tag key '%s' specified.", t.Key)
		}
		seen[t.Key] = true
	}
	if len(seen) > 50 {
		return refuse("TagLimitExceeded", "The maximum number of Tags for a resource has been reached.")
	}
	return nil
}

// taggable are the kinds of resources that CreateTags finds by their id.
var taggable = []*kind{&images, &snapshots, &instances, &volumes, &interfaces, &addresses, &subnets, &vpcs, &securityGroups, &importTasks}

// tagged returns the visible resources of the ResourceId parameters.
func (r *request) tagged() (all []resource, err error) {
	for _, id := range r.list("ResourceId") {
		at := slices.IndexFunc(taggable, func(k *kind) bool { return k.well(id) == nil })
		if at < 0 {
			return nil, refuse("InvalidID", "The ID '%s' is not valid", id)
		}
		found := slices.IndexFunc(r.lab.resources, func(o resource) bool {
			return o.id() == id && !time.Now().Before(o.root().seen) && !o.root().gone
		})
		if found < 0 {
			return nil, taggable[at].notFound(id)
		}
		all = append(all, r.lab.resources[found])
	}
	return all, nil
}

func createTags(r *request) (any, error) {
	if err := r.allow("*"); err != nil {
		return nil, err
	}
	var news []tag
	for _, t := range r.each("Tag") {
		news = append(news, tag{t.get("Key"), t.get("Value")})
	}
	if err := checkTags(news); err != nil {
		return nil, err
	}
	all, err := r.tagged()
	if err != nil {
		return nil, err
	}
	if err := r.dry(); err != nil {
		return nil, err
	}
	for _, o := range all {
		tags := slices.DeleteFunc(slices.Clone(o.root().Tags), func(t tag) bool {
			return slices.ContainsFunc(news, func(n tag) bool { return n.Key == t.Key })
		})
		if tags = append(tags, news...); len(tags) > 50 {
			return nil, checkTags(tags)
		}
		o.root().Tags = tags
	}
	return done, nil
}

func deleteTags(r *request) (any, error) {
	all, err := r.tagged()
	if err != nil {
		return nil, err
	}
	type pattern struct {
		tag
		any bool // value
	}
	var olds []pattern
	for _, p := range r.each("Tag") {
		olds = append(olds, pattern{tag{p.get("Key"), p.get("Value")}, !p.has("Value")})
	}
	for _, o := range all {
		o.root().Tags = slices.DeleteFunc(o.root().Tags, func(t tag) bool {
			return olds == nil || slices.ContainsFunc(olds, func(p pattern) bool { return p.Key == t.Key && (p.any || p.Value == t.Value) })
		})
	}
	return done, nil
}
