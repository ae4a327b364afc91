package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	enums "go.temporal.io/api/enums/v1"
	workflowpb "go.temporal.io/api/workflow/v1"

	"github.com/morgana-deploy/morgana/config"
	"github.com/morgana-deploy/morgana/step"
	"github.com/morgana-deploy/morgana/workflows"
)

// known is a deployment that the server knows.
type known struct {
	info    *workflowpb.WorkflowExecutionInfo
	details workflows.DeploymentDetails
}

func (k known) runs() bool { return k.info.GetStatus() == enums.WORKFLOW_EXECUTION_STATUS_RUNNING }

// mostEnded bounds how many ended deployments are asked for their places, the newest
// first.
const mostEnded = 1000

// survey asks all deployments what they know. An ended one answers as long as the server
// keeps it.
func (s *sweeper) survey(ctx context.Context) error {
	infos, err := s.to.list(ctx, "WorkflowType = 'Deployment'")
	if err != nil {
		return err
	}
	ended := 0
	var ask []int
	for i, info := range infos {
		k := known{info: info}
		s.deployments = append(s.deployments, k)
		continued := info.GetStatus() == enums.WORKFLOW_EXECUTION_STATUS_CONTINUED_AS_NEW
		if !k.runs() && !continued {
			ended++
		}
		if k.runs() || !continued && ended <= mostEnded {
			ask = append(ask, i)
		}
	}
	atATime(16, len(ask), func(i int) {
		k := &s.deployments[ask[i]]
		asking, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		id := k.info.GetExecution()
		err := s.to.query(asking, id.GetWorkflowId(), id.GetRunId(), workflows.QueryDetails, &k.details)
		if err != nil && k.runs() {
			s.trouble(sweepEvent{Event: "unreachable", Place: id.GetWorkflowId(), Message: workflows.Failure(err).Error()})
		}
	})
	for _, k := range s.deployments {
		if d := k.details; d.Life != "" {
			s.lives[strings.TrimPrefix(k.info.GetExecution().GetWorkflowId(), "deployment/")+"/"+d.Life] = true
		}
	}
	return ctx.Err()
}

// state says whether the resources of a rollout may still be in use.
type state struct {
	runs bool
	// last is the life of the newest Deployment of its app and target.
	last string
	err  error
}

// stateOf asks Temporal for the Deployment and the rollout of tags. Describe is
// consistent; a list of workflows lags behind.
func (to *connection) stateOf(ctx context.Context, t step.Tags) (s state) {
	info, err := to.newest(ctx, workflows.DeploymentID(t.App, t.Target))
	if err != nil {
		return state{err: err}
	}
	if info != nil {
		first := info.GetFirstRunId()
		if s.last = workflows.LifeOf(first); first == "" { // an old server
			s.last, s.runs = "", info.GetCloseTime() == nil
		}
		s.runs = s.runs || info.GetCloseTime() == nil && s.last == t.Life
	}
	// The rollout of a Deployment that was terminated still removes its resources.
	rollout, err := to.newest(ctx, workflows.RolloutID(t))
	if err != nil {
		return state{err: err}
	}
	s.runs = s.runs || rollout != nil && rollout.GetCloseTime() == nil
	return s
}

// newest describes the newest run of a workflow, nil if there is none.
func (to *connection) newest(ctx context.Context, id string) (*workflowpb.WorkflowExecutionInfo, error) {
	answer, err := to.DescribeWorkflowExecution(ctx, id, "")
	if absent(err) {
		return nil, nil
	}
	if err != nil {
		return nil, to.refused("ask for "+id, err)
	}
	return answer.GetWorkflowExecutionInfo(), nil
}

// sweepPlace is a place that may have resources.
type sweepPlace struct {
	kind          string
	list, destroy step.Step
	// spec has no app, target, life and generation.
	spec step.Spec
	// tags are those of the rollouts that named the place.
	tags []step.Tags
	tree bool // of a toolchain
}

func (p *sweepPlace) String() string {
	if p.spec.Host != "" {
		return p.kind + " on " + p.spec.Host
	}
	var o struct{ Host, Region string }    // of our kinds that are elsewhere
	_ = json.Unmarshal(p.spec.Options, &o) // of another shape: the kind has to do
	return p.kind + prefixed(" at ", cmp.Or(o.Host, o.Region))
}

// removal returns the act that removes the resources of a rollout.
func (p *sweepPlace) removal(t step.Tags) *workflows.Undo {
	spec := p.spec
	spec.Tags = t
	u := &workflows.Undo{Name: fmt.Sprintf("remove %s life %s generation %d from %s", t.App+"/"+t.Target, t.Life, t.Generation, p),
		Step: p.destroy, Host: spec.Host}
	if p.tree {
		u.Tree = &spec
	} else {
		u.Machine = &step.Removal{Spec: spec}
	}
	return u
}

// onHosts are our targets whose machines are on worker hosts. They are looked for on the
// hosts of all workers, even if no deployment names one.
var onHosts = []string{"local", "qemu"}

// choose sets the places: those that deployments name, those of morgana.yaml, and the
// hosts of workers. If only is not empty it names the kinds.
func (s *sweeper) choose(only []string) error {
	toolchains := slices.DeleteFunc(kinds("toolchain"), func(k string) bool { return k == config.Prebuilt })
	bound := slices.Clone(onHosts)
	var specs []step.Spec
	var routes []step.Route
	add := func(spec step.Spec, route step.Route) {
		if spec.Kind == "" {
			return
		}
		if spec.Host != "" && !slices.Contains(bound, spec.Kind) {
			bound = append(bound, spec.Kind)
		}
		if t := spec.Toolchain.Kind; t != "" && t != config.Prebuilt && !slices.Contains(toolchains, t) {
			toolchains = append(toolchains, t)
		}
		specs, routes = append(specs, spec), append(routes, route)
	}
	for _, k := range s.deployments {
		d := k.details
		for _, m := range append(d.Kept, d.Current) {
			if m != nil {
				add(m.Machine.Registration.Spec, m.Route)
			}
		}
		for _, u := range d.Remains {
			if u.Machine != nil {
				route := step.NewRoute("", u.Machine.Spec.Kind)
				route.Destroy = u.Step
				add(u.Machine.Spec, route)
			}
		}
		add(d.Last, d.LastRoute)
	}
	project, err := s.project()
	if err != nil && (s.file != "" || step.KindOf(err) != step.NotFound) {
		return err
	}
	if err == nil {
		for _, t := range project.Targets {
			add(step.Spec{Kind: t.Kind, Options: t.Options, Toolchain: project.Toolchain}, project.Route(t))
		}
	}
	known := slices.Concat(kinds("target"), toolchains, []string{storeKind})
	for _, spec := range specs {
		known = append(known, spec.Kind)
	}
	slices.Sort(known)
	known = slices.Compact(known)
	for _, kind := range only {
		if !slices.Contains(known, kind) {
			return step.Invalid("", step.OneOf(kind, known...), "%q is no kind to sweep", kind)
		}
	}
	wanted := func(kind string) bool { return len(only) == 0 || slices.Contains(only, kind) }
	if wanted(storeKind) {
		s.store = &s.to.settings
	}
	for i, spec := range specs {
		if wanted(spec.Kind) && (spec.Host != "" || !slices.Contains(bound, spec.Kind)) {
			s.place(&sweepPlace{kind: spec.Kind, list: routes[i].List, destroy: routes[i].Destroy, spec: spec})
		}
	}
	for _, kind := range slices.Concat(bound, toolchains) {
		if !wanted(kind) {
			continue
		}
		tree := slices.Contains(toolchains, kind)
		route := step.NewRoute(kind, kind)
		p := sweepPlace{kind: kind, list: route.List, destroy: route.Destroy, tree: tree, spec: step.Spec{Kind: kind}}
		if tree {
			p.destroy = route.Clean
		}
		for _, host := range s.to.workerHosts(kind) {
			p.spec.Host = host
			s.place(&p)
		}
	}
	for _, kind := range only {
		if kind != storeKind && !slices.ContainsFunc(s.places, func(p *sweepPlace) bool { return p.kind == kind }) {
			s.say("no deployment, morgana.yaml or worker names a place of kind %s", kind)
		}
	}
	return nil
}

// place adds a place, unless it is there. A host is one place, whatever the options.
func (s *sweeper) place(p *sweepPlace) {
	one := *p
	tags := one.spec.Tags
	one.spec.Tags, one.spec.Origin, one.spec.Toolchain, one.spec.Alone = step.Tags{}, step.Origin{}, step.Recipe{}, false
	for _, have := range s.places {
		if have.kind == one.kind && have.list == one.list && have.destroy == one.destroy && have.spec.Host == one.spec.Host &&
			(one.spec.Host != "" || string(have.spec.Options) == string(one.spec.Options)) {
			have.tags = append(have.tags, tags)
			return
		}
	}
	one.tags = []step.Tags{tags}
	s.places = append(s.places, &one)
}

// workerIdentity is the identity of a worker: "4711@rack7 morgana-worker".
var workerIdentity = regexp.MustCompile(`^\d+@(\S+) morgana-worker$`)

// workerHosts returns the hosts of the workers that poll a kind's queue.
func (to *connection) workerHosts(kind string) (hosts []string) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	pollers, _ := to.pollers(ctx, kind, enums.TASK_QUEUE_TYPE_ACTIVITY) // without an answer no host is known
	for _, p := range pollers {
		if m := workerIdentity.FindStringSubmatch(p.GetIdentity()); m != nil && !slices.Contains(hosts, m[1]) {
			hosts = append(hosts, m[1])
		}
	}
	slices.Sort(hosts)
	return hosts
}
