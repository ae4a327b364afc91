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

// searchAttributes are the ones that Morgana's workflows set.
var searchAttributes = map[string]enumspb.IndexedValueType{
	"MorganaApp":        enumspb.INDEXED_VALUE_TYPE_KEYWORD,
	"MorganaTarget":     enumspb.INDEXED_VALUE_TYPE_KEYWORD,
	"MorganaGeneration": enumspb.INDEXED_VALUE_TYPE_INT,
	"MorganaStage":      enumspb.INDEXED_VALUE_TYPE_KEYWORD,
	"MorganaCommit":     enumspb.INDEXED_VALUE_TYPE_KEYWORD,
}

// retryInterval is how often awaitReady asks again: short against a start.
const retryInterval = 25 * time.Millisecond

// awaitReady returns when a client can start workflows: the frontend serves,
// the namespace exists and every search attribute can be used in a query. It
// adds the attributes that a namespace of an older file lacks.
func awaitReady(ctx context.Context, p ports, namespace string) error {
	conn, err := grpc.NewClient(p.address(), grpc.WithTransportCredentials(insecure.NewCredentials()),
		// A proxy from the environment is not for loopback.
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

// addAttributes adds the search attributes that the namespace lacks, then waits
// until every service has read the namespace again: the history service checks
// the attributes that workflows set, and nothing tells when it knows them. A
// file needs this once at most.
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

// untilServed repeats a call while the server answers with a code of a server that is
// still starting, or with one of the codes in further.
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
