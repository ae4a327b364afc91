package main

import (
	"context"
	"sync"
	"time"

	"go.temporal.io/sdk/client"

	"github.com/morgana-deploy/morgana/step"
	"github.com/morgana-deploy/morgana/workflows"
)

const (
	// batch is how many machines one workflow looks at.
	batch = 50
	// lookTime is how long status waits for the answers.
	lookTime = 15 * time.Second
)

// observed lists the deployments with the health of their machines.
func (to *connection) observed(ctx context.Context, app, target string, all bool) ([]deploymentLine, error) {
	lines, err := to.deployments(ctx, app, target, all)
	if err == nil {
		to.observe(ctx, lines)
	}
	return lines, err
}

// observe asks the targets for the health of the machines. A machine whose kind cannot tell
// keeps the state of its last deploy. Machines of one task queue are asked for together, so
// a host that does not answer delays no other's.
func (to *connection) observe(ctx context.Context, lines []deploymentLine) {
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	type place struct {
		step  step.Step
		queue string
	}
	places := map[place][]*deploymentLine{}
	var batches [][]*deploymentLine
	for i := range lines {
		l := &lines[i]
		if l.Machine == nil || l.Route.Observe.Activity == "" || l.State != "up" && l.State != "ended" {
			continue
		}
		at := place{l.Route.Observe, l.Route.Observe.Queue(l.Machine.Registration.Spec.Host)}
		places[at] = append(places[at], l)
		if len(places[at]) == batch {
			batches = append(batches, places[at])
			delete(places, at)
		}
	}
	for _, some := range places {
		batches = append(batches, some)
	}
	atATime(8, len(batches), func(i int) { to.look(ctx, batches[i]) })
}

// look asks for the health of machines with the same step.
func (to *connection) look(ctx context.Context, lines []*deploymentLine) {
	in := workflows.ObserveRequest{Step: lines[0].Route.Observe}
	for _, l := range lines {
		in.Machines = append(in.Machines, *l.Machine)
	}
	var answers []workflows.Observed
	run, err := to.ExecuteWorkflow(ctx, client.StartWorkflowOptions{TaskQueue: workflows.TaskQueue,
		StaticSummary: in.Step.Activity, WorkflowRunTimeout: lookTime}, workflows.Observe, in)
	if err == nil {
		err = run.Get(ctx, &answers)
	}
	for i, l := range lines {
		var is workflows.Observed
		switch {
		case err != nil && ctx.Err() != nil:
			is.Failure = "no answer in time"
		case err != nil:
			is.Failure = workflows.Failure(err).Error()
		case i < len(answers):
			is = answers[i]
		}
		l.take(is)
	}
}

// take sets the state of the machine to the answer about it.
func (l *deploymentLine) take(is workflows.Observed) {
	switch {
	case is.Failure != "":
		l.State, l.Note = "unreachable", is.Failure
	case is.Health == nil:
		return
	case is.Health.State == step.Running:
		l.State, l.Health = "up", is.Health
	default:
		l.State, l.Health = string(is.Health.State), is.Health
	}
}

// atATime calls do with 0 to n-1, c calls at a time.
func atATime(c, n int, do func(i int)) {
	slots := make(chan struct{}, c)
	var all sync.WaitGroup
	for i := range n {
		slots <- struct{}{}
		all.Go(func() {
			do(i)
			<-slots
		})
	}
	all.Wait()
}
