package ec2lab

import (
	"encoding/base64"
	"encoding/json"
	"encoding/xml"
	"iter"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// tag is a tag of a resource.
type tag struct {
	Key   string `xml:"key"`
	Value string `xml:"value"`
}

// base is what each resource has.
type base struct {
	Tags []tag     `xml:"tagSet>item"`
	seen time.Time // when it becomes visible
	gone bool      // deleted
}

func (b *base) root() *base { return b }

// resource is something that EC2 describes. Its exported fields are those of the API.
type resource interface {
	root() *base
	kind() *kind
	// id names the resource in parameters.
	id() string
	// attrs are the values of the filters for it, besides the tags'.
	attrs() map[string][]string
	// line is its line in Lab.Resources; "" if it has none.
	line() string
}

// kind is what EC2 says of one kind of resource.
type kind struct {
	word          string // in ARNs and TagSpecifications
	prefix, other string // of ids; "" if it has names
	param, set    string // of its Describe call
	missing, text string // code and text of a resource that is not there
	malformed     string // code of an id that is none
	least, most   int    // limits of MaxResults; none if the call has no pages
}

var idNumber = regexp.MustCompile(`^([0-9a-f]{8}|[0-9a-f]{17})$`)

// kept iterates over the resources of a type that are not deleted.
func kept[T resource](l *Lab) iter.Seq[T] {
	return func(yield func(T) bool) {
		for _, r := range l.resources {
			if t, ok := r.(T); ok && !r.root().gone && !yield(t) {
				return
			}
		}
	}
}

// add puts a new resource into the lab.
func (l *Lab) add(r resource) {
	r.root().seen = time.Now().Add(l.hide)
	l.resources = append(l.resources, r)
}

// well refuses an id that is none.
func (k *kind) well(id string) error {
	if k.prefix == "" {
		return nil
	}
	number, ok := strings.CutPrefix(id, k.prefix)
	if !ok && k.other != "" {
		number, ok = strings.CutPrefix(id, k.other)
	}
	if !ok || !idNumber.MatchString(number) {
		return refuse(k.malformed, `Invalid id: "%s" (expecting "%s...")`, id, k.prefix)
	}
	return nil
}

func (k *kind) notFound(id string) error { return refuse(k.missing, k.text, id) }

// find returns the resource of an id.
func find[T resource](l *Lab, id string) (found T, err error) {
	k := found.kind()
	if err := k.well(id); err != nil {
		return found, err
	}
	for t := range kept[T](l) {
		if t.id() == id && !time.Now().Before(t.root().seen) {
			return t, nil
		}
	}
	return found, k.notFound(id)
}

// list is an element with items.
type list struct {
	XMLName xml.Name
	Items   any `xml:"item"`
}

func listed(name string, items any) list { return list{xml.Name{Local: name}, items} }

// page is the answer of a Describe call.
type page struct {
	Set  list
	Next string `xml:"nextToken,omitempty"`
}

// describe returns the action that describes the resources of a type.
func describe[T resource](only func(r *request, t T) bool) action {
	return action{do: func(r *request) (any, error) {
		var zero T
		items, next, err := selected(r, only)
		return page{listed(zero.kind().set, items), next}, err
	}}
}

// selected returns the resources that a Describe call asks for. Pages are cut before the
// filters have effect, as EC2 does: so a page may be empty and not the last.
func selected[T resource](r *request, only func(r *request, t T) bool) (items []T, next string, err error) {
	var zero T
	k := zero.kind()
	ids := r.list(k.param)
	match, err := r.filter(zero.attrs())
	if err != nil {
		return nil, "", err
	}
	var all []T
	for t := range kept[T](r.lab) {
		if !time.Now().Before(t.root().seen) && (ids == nil || slices.Contains(ids, t.id())) {
			all = append(all, t)
		}
	}
	for _, id := range ids {
		if err := k.well(id); err != nil {
			return nil, "", err
		}
		there := slices.ContainsFunc(r.lab.resources, func(o resource) bool {
			t, ok := o.(T)
			return ok && t.id() == id && !time.Now().Before(t.root().seen) && (!t.root().gone || k.word == "image")
		})
		if !there {
			return nil, "", k.notFound(id)
		}
	}
	all, next, err = cutPage(r, k, ids != nil, all)
	for _, t := range all {
		if match(t.root().Tags, t.attrs()) && (only == nil || only(r, t)) {
			items = append(items, t)
		}
	}
	return items, next, err
}

// cutPage returns a page of all and the token of the next.
func cutPage[T any](r *request, k *kind, byID bool, all []T) ([]T, string, error) {
	from := 0
	if r.has("NextToken") {
		text, err := base64.StdEncoding.DecodeString(r.get("NextToken"))
		if err == nil {
			from, err = strconv.Atoi(strings.TrimPrefix(string(text), r.name))
		}
		if err != nil || from > len(all) {
			return nil, "", refuse("InvalidNextToken", "The NextToken is invalid.")
		}
	}
	all = all[from:]
	n := r.number("MaxResults", len(all))
	if l := r.lab.page; l > 0 && !byID && k.most > 0 {
		n = min(n, l)
	}
	switch {
	case !r.has("MaxResults"):
	case byID && k.word != "image":
		return nil, "", refuse("InvalidParameterCombination", "The parameter %s cannot be used with the parameter MaxResults", k.param)
	case n < k.least && r.lab.page == 0:
		return nil, "", refuse("InvalidParameterValue", "Value ( %d ) for parameter maxResults is invalid. Expecting a value greater than or equal to %d.", n, k.least)
	case n > k.most:
		return nil, "", refuse("InvalidParameterValue", "Value ( %d ) for parameter maxResults is invalid. Expecting a value less than or equal to %d.", n, k.most)
	}
	if n >= len(all) {
		return all, "", nil
	}
	return all[:n], base64.StdEncoding.EncodeToString([]byte(r.name + strconv.Itoa(from+n))), nil
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
			pattern := strings.NewReplacer(`\*`, ".*", `\?`, ".").Replace(regexp.QuoteMeta(v))
			f.values = append(f.values, regexp.MustCompile("^(?s:"+pattern+")$"))
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
var taggable = []*kind{&images, &snapshots, &instances, &volumes, &interfaces, &addresses, &subnets, &vpcs, &securityGroups}

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
	if err := r.allow(arn("*/*")); err != nil {
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
	for _, o := range all {
		o.root().Tags = slices.DeleteFunc(o.root().Tags, func(t tag) bool {
			return !r.sub("Tag.1").any() || slices.ContainsFunc(r.each("Tag"), func(p params) bool {
				return p.get("Key") == t.Key && (!p.has("Value") || p.get("Value") == t.Value)
			})
		})
	}
	return done, nil
}

// done is the answer of an action that has nothing more to say.
var done = struct {
	Return bool `xml:"return"`
}{true}

// encoded is what EC2 gives for sts:DecodeAuthorizationMessage.
func encoded(action, resource string) string {
	type context struct {
		Principal map[string]string `json:"principal"`
		Action    string            `json:"action"`
		Resource  string            `json:"resource"`
	}
	text, _ := json.Marshal(struct {
		Allowed      bool    `json:"allowed"`
		ExplicitDeny bool    `json:"explicitDeny"`
		Context      context `json:"context"`
	}{Context: context{map[string]string{"id": "AIDALABLABLABLABLABLA", "arn": user}, action, resource}})
	return base64.RawURLEncoding.EncodeToString(text)
}
