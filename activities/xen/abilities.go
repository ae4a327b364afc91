package xen

import (
	"cmp"
	"context"
	"fmt"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/morgana-deploy/morgana/step"
)

// Observe asks Xen for the domain's state. A domain that ended by itself is Ended until
// it is destroyed. With tool xl, xl's log gives the reason and the time.
func (t *Target) Observe(ctx context.Context, m step.Machine) (_ step.Health, err error) {
	defer step.SetOp("observe domain", &err)
	gone := step.Health{State: step.Gone}
	spec := m.Registration.Spec
	name, id, err := identify(spec.Tags)
	if err != nil {
		return gone, err
	}
	s, err := read(spec.Options)
	if err != nil {
		return gone, err
	}
	d, err := t.dom0(s.Host, s.Tool)
	if err != nil {
		return gone, err
	}
	h, err := d.health(ctx, name, id)
	if step.KindOf(err) == step.Conflict { // the name is another domain's now
		return gone, nil
	}
	if h.State == step.Running {
		h.Addresses = s.addresses()
	}
	return h, err
}

func (d *dom0) health(ctx context.Context, name, uuid string) (step.Health, error) {
	out, err := d.do(ctx, "observe", name, uuid)
	return healthOf(out), err
}

// reasons names the reasons of a shutdown by Xen's codes (SHUTDOWN_*).
var reasons = map[string]string{"0": "shut down", "1": "rebooted", "3": "crashed", "4": "was ended by Xen's watchdog"}

// healthOf reads the output of verb observe. Its line "is" has the state letters of xl
// list; a domain that waits for a processor has none and counts as running.
func healthOf(out string) step.Health {
	h := step.Health{State: step.Ended}
	var began, ended time.Time
	is := ""
	for line := range strings.Lines(out) {
		word, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		switch word {
		case "is":
			is = word
			if strings.Contains(rest, "c") {
				h.How = reasons["3"]
			} else if !strings.ContainsAny(rest, "sd") {
				h.State = step.Running
			}
		case "gone":
			if is == "" {
				h.State = step.Gone
			}
		case "rebooted":
			h.How = "ended with its host"
		case "since":
			began = seconds(rest)
		case "reason":
			h.How, h.Success = cmp.Or(reasons[rest], "shut down with reason "+rest), rest == "0"
		case "ended":
			ended = seconds(rest)
		}
	}
	switch h.State {
	case step.Running:
		h.Since, h.How, h.Success = began, "", false
	case step.Ended:
		h.Since = ended
	}
	return h
}

func seconds(text string) time.Time {
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return time.Time{}
	}
	return time.Unix(n, 0).UTC()
}

// List returns the domains, folders and images of rollouts on a host, half-made ones too.
// An image is listed once for each rollout that uses it.
func (t *Target) List(ctx context.Context, spec step.Spec) ([]step.Resource, error) {
	d, err := t.reach(spec)
	if err != nil || d == nil {
		return nil, err
	}
	all, err := d.list(ctx)
	if err != nil {
		return nil, step.During("list xen host", err)
	}
	where := d.host.String()
	if d.host.Local() {
		where = t.site.Host
	}
	var matching []step.Resource
	for _, r := range all {
		_, id, err := identify(r.Tags)
		foreign := r.Kind == domainKind && r.ID != id
		if r.Where = where; err == nil && !foreign && (spec.App == "" && spec.Target == "" || spec.Match(r.Tags)) {
			matching = append(matching, r)
		}
	}
	return matching, nil
}

const domainKind = "domain"

// list returns all resources that have the name of a rollout, foreign domains too.
func (d *dom0) list(ctx context.Context) (all []step.Resource, err error) {
	out, err := d.do(ctx, "list")
	if err != nil {
		return nil, err
	}
	times, uses := map[string]time.Time{}, map[string]string{}
	add := func(kind, id, name string, created time.Time) {
		if tags, ok := step.ParseFolder(name); ok {
			all = append(all, step.Resource{Tags: tags, Kind: kind, ID: id, Created: created})
		}
	}
	for line := range strings.Lines(out) {
		word, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		first, second, _ := strings.Cut(rest, " ")
		switch word {
		case "domain":
			add(domainKind, first, second, time.Time{})
		case "folder":
			add("folder", second, path.Base(second), seconds(first))
		case "use":
			uses[first] = second
		case "image", "mark":
			times[second] = seconds(first)
		}
	}
	for i, r := range all {
		if name, err := r.Tags.Folder(); err == nil && r.Kind == domainKind {
			all[i].Created = times[d.root+"/domains/"+name+"/created"]
		}
	}
	for name, digest := range uses {
		for kind, id := range map[string]string{"image": d.root + "/" + digest, "half-sent image": d.root + "/." + digest + ".part"} {
			if created, ok := times[id]; ok {
				add(kind, id, name, created)
			}
		}
	}
	return all, nil
}

// Forecast returns the actions of register and boot on the host.
func (t *Target) Forecast(_ context.Context, spec step.Spec) (_ []step.Action, err error) {
	defer step.SetOp("forecast", &err)
	s, err := read(spec.Options)
	if err != nil {
		return nil, err
	}
	d, err := t.dom0(s.Host, s.Tool)
	if err != nil {
		return nil, err
	}
	name, _, err := identify(spec.Tags)
	if err != nil {
		return nil, err
	}
	what := "the kernel"
	if s.disk() {
		what = "the boot disk"
	}
	memory := fmt.Sprintf("the memory of its xl.in, else %d MiB", defaultMemory)
	if s.Memory > 0 {
		memory = fmt.Sprintf("%d MiB", s.Memory)
	}
	root := "root of " + d.host.String()
	return []step.Action{
		{Call: "write " + d.root + "/<digest>", Why: "put " + what + " there, unless the host has it", Permission: root},
		{Call: "write " + d.root + "/domains/" + name, Why: "keep the domain's configuration and console", Permission: root},
		{Call: s.Tool + " create -p", Why: "make domain " + name + " with " + memory, Permission: root},
		{Call: s.Tool + " unpause", Why: "start it and wait for its console", Permission: root},
	}, nil
}
