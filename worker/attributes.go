package main

import (
	"context"
	"fmt"
	"time"

	"go.temporal.io/api/operatorservice/v1"
	"go.temporal.io/sdk/client"

	"github.com/morgana-deploy/morgana/step"
	"github.com/morgana-deploy/morgana/workflows"
)

// ensureAttributes adds the missing search attributes of the workflows. Without them the
// server would fail the first task of each workflow.
func ensureAttributes(ctx context.Context, c client.Client, namespace string) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	want := workflows.SearchAttributes()
	hint := fmt.Sprintf("ask the namespace's operator to run:\n"+
		"temporal operator search-attribute create --namespace %s --name MorganaApp --type Keyword "+
		"--name MorganaTarget --type Keyword --name MorganaGeneration --type Int --name MorganaStage --type Keyword --name MorganaCommit --type Keyword", namespace)

	known, err := c.OperatorService().ListSearchAttributes(ctx, &operatorservice.ListSearchAttributesRequest{Namespace: namespace})
	if err != nil {
		return &step.Error{Op: "list search attributes", Err: err, Hint: hint}
	}
	for name, kind := range want {
		have, ok := known.GetCustomAttributes()[name]
		if ok && have != kind {
			return &step.Error{Kind: step.Conflict, Op: "search attribute " + name,
				Err: fmt.Errorf("is of type %s in namespace %s, want %s", have, namespace, kind), Hint: hint}
		}
		if ok {
			delete(want, name)
		}
	}
	if len(want) == 0 {
		return nil
	}
	_, err = c.OperatorService().AddSearchAttributes(ctx, &operatorservice.AddSearchAttributesRequest{
		SearchAttributes: want, Namespace: namespace,
	})
	if err != nil {
		return &step.Error{Op: "add search attributes", Err: err, Hint: hint}
	}
	return nil
}
