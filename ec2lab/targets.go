package ec2lab

import "slices"

// targetGroup is the lab's one target group.
type targetGroup struct {
	ARN, VPC string
	members  []target
}

type target struct {
	ID       string `xml:"Id"`
	Port     int
	state    string
	draining bool
}

// TargetGroup returns the ARN of a target group of instances.
func (l *Lab) TargetGroup() string { return l.targets.ARN }

// Targets returns the instances in the target group, those that are draining not.
func (l *Lab) Targets() (all []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, t := range l.targets.members {
		if !t.draining {
			all = append(all, t.ID)
		}
	}
	return all
}

// group refuses another ARN than that of the lab's target group.
func (r *request) group(needed string) error {
	if err := r.allow(needed); err != nil {
		return err
	}
	if needed != r.lab.targets.ARN {
		return refuse("TargetGroupNotFound", "One or more target groups not found")
	}
	return nil
}

func describeTargetGroups(r *request) (any, error) {
	for _, a := range r.list("TargetGroupArns.member") {
		if a != r.lab.targets.ARN {
			return nil, refuse("TargetGroupNotFound", "One or more target groups not found")
		}
	}
	for _, n := range r.list("Names.member") {
		if n != "web" {
			return nil, refuse("TargetGroupNotFound", "One or more target groups not found")
		}
	}
	type group struct {
		TargetGroupArn, TargetGroupName, Protocol, VpcId, TargetType string
		Port                                                         int
	}
	return struct {
		Groups []group `xml:"TargetGroups>member"`
	}{[]group{{r.lab.targets.ARN, "web", "HTTP", r.lab.targets.VPC, "instance", 80}}}, nil
}

// named returns the targets of the request.
func (r *request) named() (all []target) {
	for _, p := range r.each("Targets.member") {
		all = append(all, target{ID: p.get("Id"), Port: p.number("Port", 80), state: "initial"})
	}
	return all
}

func describeTargetHealth(r *request) (any, error) {
	if err := r.group(r.get("TargetGroupArn")); err != nil {
		return nil, err
	}
	type health struct {
		State  string
		Reason string `xml:",omitempty"`
	}
	type one struct {
		Target          target
		HealthCheckPort int
		TargetHealth    health
	}
	var all []one
	wanted := r.named()
	has := func(in []target, t target) bool {
		return slices.ContainsFunc(in, func(o target) bool { return o.ID == t.ID && o.Port == t.Port })
	}
	for _, t := range r.lab.targets.members {
		if wanted != nil && !has(wanted, t) {
			continue
		}
		h := health{State: t.state}
		if i, err := find[*instance](r.lab, t.ID); err == nil && i.State.Name != "running" {
			h = health{"unused", "Target.InvalidState"}
		}
		all = append(all, one{t, t.Port, h})
	}
	for _, t := range wanted {
		if !has(r.lab.targets.members, t) {
			all = append(all, one{t, t.Port, health{"unused", "Target.NotRegistered"}})
		}
	}
	return struct {
		All []one `xml:"TargetHealthDescriptions>member"`
	}{all}, nil
}

// setTargets registers targets, or begins to drain them.
func setTargets(register bool) func(r *request) (any, error) {
	return func(r *request) (any, error) {
		if err := r.group(r.get("TargetGroupArn")); err != nil {
			return nil, err
		}
		group := &r.lab.targets
		for _, t := range r.named() {
			i, err := find[*instance](r.lab, t.ID)
			if register && (err != nil || i.State.Name != "running") {
				return nil, refuse("InvalidTarget", "The following targets are not in a running state and cannot be registered: '%s'", t.ID)
			}
			at := slices.IndexFunc(group.members, func(o target) bool { return o.ID == t.ID && o.Port == t.Port })
			if at < 0 && !register {
				continue
			}
			if at < 0 {
				group.members = append(group.members, t)
				at = len(group.members) - 1
			}
			m := &group.members[at]
			if m.draining = !register; m.draining {
				m.state = "draining"
			} else if m.state == "draining" {
				m.state = "initial"
			}
			r.lab.after(r.stuck, func() { group.settle(t) })
		}
		return struct{}{}, nil
	}
}

// settle makes a new target healthy and removes one that has drained.
func (g *targetGroup) settle(t target) {
	at := slices.IndexFunc(g.members, func(o target) bool { return o.ID == t.ID && o.Port == t.Port })
	switch {
	case at < 0:
	case g.members[at].draining:
		g.members = slices.Delete(g.members, at, at+1)
	default:
		g.members[at].state = "healthy"
	}
}
