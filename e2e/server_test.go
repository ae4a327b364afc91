package e2e

import (
	"context"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"go.temporal.io/api/operatorservice/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/morgana-deploy/morgana/workflows"
)

// shared is one Temporal server for all labs, each of which takes a namespace.
var shared struct {
	once       sync.Once
	lab        *lab
	namespaces chan string
}

func TestMain(m *testing.M) {
	status := m.Run()
	if shared.lab != nil {
		shared.lab.kill(shared.lab.server)
		_ = os.RemoveAll(shared.lab.folder) // in the system's folder for what is temporary
	}
	os.Exit(status)
}

// namespace gives the lab one that nobody works in.
func (l *lab) namespace() {
	l.t.Helper()
	shared.once.Do(func() {
		folder, err := os.MkdirTemp("", "morgana-e2e-*")
		if err != nil {
			l.t.Fatal(err)
		}
		shared.lab = &lab{t: l.t, folder: folder, env: l.env}
		shared.lab.startServer()
		if shared.namespaces, err = namespaces(shared.lab.ready.Address, 80); err != nil {
			l.t.Fatal(err)
		}
	})
	select {
	case name := <-shared.namespaces:
		l.ready = shared.lab.ready
		l.ready.Namespace = name
	default:
		l.t.Fatal("the shared server did not start, or has too few namespaces")
	}
	l.env = append(l.env, "TEMPORAL_ADDRESS="+l.ready.Address, "TEMPORAL_NAMESPACE="+l.ready.Namespace)
}

// namespaces makes n of them, with the attributes that workers would add, and
// waits until the server's caches know them: all at once, as that takes seconds.
func namespaces(address string, n int) (chan string, error) {
	c, err := client.Dial(client.Options{HostPort: address})
	if err != nil {
		return nil, err
	}
	defer c.Close()
	attributes := workflows.SearchAttributes()
	all := make(chan string, n)
	ctx, cancel := context.WithTimeout(context.Background(), waits)
	defer cancel()
	for _, do := range []func(name string) error{
		func(name string) error {
			_, err := c.WorkflowService().RegisterNamespace(ctx, &workflowservice.RegisterNamespaceRequest{
				Namespace: name, WorkflowExecutionRetentionPeriod: durationpb.New(24 * time.Hour)})
			return err
		},
		func(name string) error {
			_, err := c.OperatorService().AddSearchAttributes(ctx, &operatorservice.AddSearchAttributesRequest{
				Namespace: name, SearchAttributes: attributes})
			return err
		},
		func(name string) error {
			_, err := c.WorkflowService().ListWorkflowExecutions(ctx, &workflowservice.ListWorkflowExecutionsRequest{
				Namespace: name, Query: workflows.AppAttribute.GetName() + " = 'any'"})
			if err == nil {
				all <- name
			}
			return err
		},
	} {
		for i := range n {
			// The server refuses what comes too soon, or too much of it.
			err := do(fmt.Sprintf("lab-%d", i))
			for ; err != nil && ctx.Err() == nil; err = do(fmt.Sprintf("lab-%d", i)) {
				time.Sleep(50 * time.Millisecond)
			}
			if err != nil {
				return nil, err
			}
		}
	}
	return all, nil
}
