package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/operatorservice/v1"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

// searchAttributes are what Morgana's workflows are found by.
var searchAttributes = map[string]enumspb.IndexedValueType{
	"MorganaApp":        enumspb.INDEXED_VALUE_TYPE_KEYWORD,
	"MorganaTarget":     enumspb.INDEXED_VALUE_TYPE_KEYWORD,
	"MorganaGeneration": enumspb.INDEXED_VALUE_TYPE_INT,
	"MorganaStage":      enumspb.INDEXED_VALUE_TYPE_KEYWORD,
}

// retryInterval is how often awaitReady asks again: short against a start.
const retryInterval = 25 * time.Millisecond

// awaitReady returns when a client can start workflows: the frontend serves,
// the namespace exists and every search attribute can be used in a query.
// Attributes the namespace lacks, because its file is older than they are, are
// added here; those of a new namespace come with it.
func awaitReady(ctx context.Context, p ports, namespace string) error {
	conn, err := grpc.NewClient(p.address(), grpc.WithTransportCredentials(insecure.NewCredentials()),
		// No proxy from the environment comes between us and our own loopback.
		grpc.WithNoProxy())
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	if err := untilServed(ctx, func() error { return addAttributes(ctx, conn, namespace) }); err != nil {
		return fmt.Errorf("search attributes of namespace %s: %w", namespace, err)
	}
	if err := untilServed(ctx, func() error { return queryAttributes(ctx, conn, namespace) },
		codes.InvalidArgument); err != nil {
		return fmt.Errorf("query by search attributes: %w", err)
	}
	return nil
}

// addAttributes adds the search attributes that the namespace lacks. This is
// once in the life of a file, and worth waiting until every service has read
// the namespace again: history, which checks the attributes that workflows
// set, cannot be asked whether it has.
func addAttributes(ctx context.Context, conn *grpc.ClientConn, namespace string) error {
	operator := operatorservice.NewOperatorServiceClient(conn)
	have, err := operator.ListSearchAttributes(ctx,
		&operatorservice.ListSearchAttributesRequest{Namespace: namespace})
	if err != nil {
		return err
	}
	missing := map[string]enumspb.IndexedValueType{}
	for name, want := range searchAttributes {
		switch is, ok := have.GetCustomAttributes()[name]; {
		case !ok:
			missing[name] = want
		case is != want:
			return inputErrorf("%s is of type %v in this file, not %v: use another --namespace or --db", name, is, want)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	_, err = operator.AddSearchAttributes(ctx, &operatorservice.AddSearchAttributesRequest{
		Namespace: namespace, SearchAttributes: missing})
	if err != nil {
		return err
	}
	const margin = 500 * time.Millisecond
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(namespaceCache + margin):
		return nil
	}
}

// queryAttributes uses every search attribute in one query, which the frontend
// refuses as invalid as long as it does not know them all.
func queryAttributes(ctx context.Context, conn *grpc.ClientConn, namespace string) error {
	var terms []string
	for _, name := range slices.Sorted(maps.Keys(searchAttributes)) {
		terms = append(terms, name+" IS NOT NULL")
	}
	_, err := workflowservice.NewWorkflowServiceClient(conn).CountWorkflowExecutions(ctx,
		&workflowservice.CountWorkflowExecutionsRequest{Namespace: namespace, Query: strings.Join(terms, " AND ")})
	return err
}

// untilServed repeats a call while its answer is one that a server gives which
// is still starting, or one of the further codes.
func untilServed(ctx context.Context, call func() error, further ...codes.Code) error {
	again := append([]codes.Code{codes.Unavailable, codes.NotFound, codes.ResourceExhausted}, further...)
	for {
		err := call()
		if !slices.Contains(again, status.Code(err)) {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w (last answer: %w)", ctx.Err(), err)
		case <-time.After(retryInterval):
		}
	}
}
