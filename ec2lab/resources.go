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

// base is what each resource has.
type base struct {
	Tags tagSet `xml:"tagSet"`

	seen         time.Time // when it becomes visible
	gone         bool      // deleted
	token, asked string    // the client token, and the request that it was used for
}

func (b *base) root() *base   { return b }
func (b *base) line() string  { return "" }
func (b *base) label() string { return "" }

// resource is something that EC2 describes. Its exported fields are those of the API.
type resource interface {
	root() *base
	kind() *kind
	// id names the resource in parameters.
	id() string
	// label names it in the parameter kind.also.
	label() string
	// line is its line in Lab.Resources; "" if it has none.
	line() string
}

// kind is what EC2 says of one kind of resource.
type kind struct {
	word          string // in ARNs and TagSpecifications
	prefix, other string // of ids; "" if it has names
	param, set    string // of its Describe call
	also          string // another parameter that names it
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

// arn returns the ARN of a resource. Those of images and snapshots name no account.
func (k *kind) arn(id string) string {
	owner := account
	if k.word == images.word || k.word == snapshots.word {
		owner = ""
	}
	return "arn:aws:ec2:" + region + ":" + owner + ":" + k.word + "/" + id
}

// find returns the resource of an id.
func find[T resource](l *Lab, id string) (found T, err error) {
	if err := found.kind().well(id); err != nil {
		return found, err
	}
	return look[T](l, id, func(t T) bool { return t.id() == id })
}

// look returns the visible resource that is the one, which name names.
func look[T resource](l *Lab, name string, one func(T) bool) (found T, err error) {
	for t := range kept[T](l) {
		if one(t) && !time.Now().Before(t.root().seen) {
			return t, nil
		}
	}
	return found, found.kind().notFound(name)
}

// named returns the resource that the request names by one of the parameters of its kind.
func named[T resource](r *request) (found T, err error) {
	k := found.kind()
	name := r.get(k.also)
	switch {
	case k.also == "" || name == "":
		return find[T](r.lab, r.get(k.param))
	case r.has(k.param):
		return found, refuse("InvalidParameterCombination", "The parameter %s cannot be used with the parameter %s", k.param, k.also)
	}
	return look[T](r.lab, name, func(t T) bool { return t.label() == name })
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
	ids, labels := r.list(k.param), r.list(k.also)
	_, _ = r.list("Owner"), r.bool("IncludeDeprecated", false) // of some calls, whose only reads them
	match, err := r.filter(attrs(zero))
	if err != nil {
		return nil, "", err
	}
	var all []T
	for t := range kept[T](r.lab) {
		if !time.Now().Before(t.root().seen) && (ids == nil && labels == nil || slices.Contains(ids, t.id()) || slices.Contains(labels, t.label())) {
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
	for _, label := range labels {
		if _, err := look[T](r.lab, label, func(t T) bool { return t.label() == label }); err != nil {
			return nil, "", err
		}
	}
	all, next, err = cutPage(r, k, ids != nil || labels != nil, all)
	for _, t := range all {
		if match(t.root().Tags, attrs(t)) && (only == nil || only(r, t)) {
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
	switch {
	case !r.has("MaxResults"):
	case byID && k.word != "image":
		return nil, "", refuse("InvalidParameterCombination", "The parameter %s cannot be used with the parameter MaxResults", k.param)
	case n < k.least:
		return nil, "", refuse("InvalidParameterValue", "Value ( %d ) for parameter maxResults is invalid. Expecting a value greater than or equal to %d.", n, k.least)
	case n > k.most:
		return nil, "", refuse("InvalidParameterValue", "Value ( %d ) for parameter maxResults is invalid. Expecting a value less than or equal to %d.", n, k.most)
	}
	if l := r.lab.page; l > 0 && !byID && k.most > 0 {
		n = min(n, l)
	}
	if n >= len(all) {
		return all, "", nil
	}
	return all[:n], base64.StdEncoding.EncodeToString([]byte(r.name + strconv.Itoa(from+n))), nil
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
