package workflows

import (
	"time"

	"go.temporal.io/sdk/workflow"

	"github.com/morgana-deploy/morgana/step"
)

// ConsoleRequest is the input of Console.
type ConsoleRequest struct {
	Step step.Step        `json:"step"`
	From step.ConsoleFrom `json:"from"`
}

// Console reads a piece of a machine's console. It is a workflow of one activity, so
// that the console of any host can be read through Temporal.
func Console(ctx workflow.Context, in ConsoleRequest) (text step.ConsoleText, err error) {
	r := in.From.Machine.Registration
	wait := time.Duration(in.From.WaitSeconds) * time.Second
	err = execute(ctx, in.Step, r.Spec.Host, consoleOptions(wait), "console of "+in.From.Machine.ID, in.From, &text)
	if err != nil {
		return text, Fail(Failure(err))
	}
	return text, nil
}
