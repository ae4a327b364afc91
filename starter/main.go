// Command morgana deploys unikernels: it starts, watches and ends the
// workflows of package workflows on a Temporal server.
//
// Exit status: 0 done, 1 the deploy failed, 2 bad input or environment, 3 plan
// has something to do, 130 interrupted (a running deploy goes on).
package main

import (
	"context"
	"errors"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.temporal.io/sdk/temporal"

	"github.com/morgana-deploy/morgana/config"
	"github.com/morgana-deploy/morgana/inherit"
	"github.com/morgana-deploy/morgana/step"
	"github.com/morgana-deploy/morgana/workflows"
)

// version is set at link time: -X main.version=v1.2.3.
var version = "dev"

func main() {
	inherit.Nothing()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	go func() {
		<-ctx.Done()
		stop() // the second signal ends the process at once
		time.Sleep(grace)
		os.Exit(interrupted) // a call without a context blocks
	}()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// grace is how long a command may take to end by itself after the first signal.
const grace = 2 * time.Second

const interrupted = 130 // exit status

// cli is one invocation of the command.
type cli struct {
	out, err io.Writer
	// output is text or json.
	output string
	// file is the path of morgana.yaml; empty means search for it.
	file string
	// set holds the values of --set, as "target.field=value".
	set   []string
	flags *pflag.FlagSet
	// commandFlags are the flags of the running command.
	commandFlags *pflag.FlagSet
}

func run(ctx context.Context, args []string, out, errOut io.Writer) int {
	o, e := &output{w: out}, &output{w: errOut}
	c := &cli{out: o, err: e}
	root := c.root()
	root.SetArgs(args)
	err := unwritten(root.ExecuteContext(ctx), o, e)
	switch {
	case err == nil:
		return 0
	case errors.Is(err, errTold):
		return 1
	case errors.Is(err, errToldMine):
		return 2
	case errors.Is(err, errSomethingToDo):
		return somethingToDo
	case errors.Is(err, errDetached), ctx.Err() != nil: // after an interrupt every error is its result
		return interrupted
	}
	return c.tell(err)
}

// Errors of a command that has printed its message already.
var (
	errTold     = errors.New("failed, and said so")
	errToldMine = errors.New("bad input, and said so")
	errDetached = errors.New("detached")
)

func (c *cli) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "morgana",
		Short: "Durable deploys of unikernels",
		Long: `Morgana takes a unikernel from source to a booted machine:

    check -> configure -> build -> package -> register -> boot

Each stage is a durable Temporal activity: kill any process at any moment, and
the deploy still ends with exactly one machine and nothing left behind.

Without a Temporal address (TEMPORAL_ADDRESS, --address or a profile of
temporal.toml) it starts a server of its own on this machine; see "morgana dev".`,
		Example: `  morgana init                 # write a morgana.yaml
  morgana deploy               # from source to a booted machine
  morgana status               # which deployments run
  morgana console --follow     # what the machine prints
  morgana destroy              # remove machine and image`,
		Version:       version,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.NoArgs,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			c.commandFlags = cmd.Flags()
			if c.output != "text" && c.output != "json" {
				return step.Invalid("--output", "use text or json", "%q is no output format", c.output)
			}
			return nil
		},
	}
	root.SetVersionTemplate("morgana {{.Version}}\n")
	root.SetOut(c.out)
	root.SetErr(c.err)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return badFlag(cmd, err)
	})
	c.flags = root.PersistentFlags()
	c.flags.StringVarP(&c.output, "output", "o", "text", "text, or json: one JSON object a line")
	config.StarterFlags(c.flags)
	root.AddCommand(c.initCommand(), c.planCommand(), c.deployCommand(), c.statusCommand(), c.historyCommand(), c.rollbackCommand(), c.consoleCommand(),
		c.logsCommand(), c.cancelCommand(), c.scheduleCommand(), c.sweepCommand(),
		c.destroyCommand(), c.devCommand(), c.doctorCommand(), c.importCommand(), c.schemaCommand(), c.versionCommand())
	root.InitDefaultCompletionCmd()
	checkArguments(root)
	checkHelp(root)
	return root
}

// projectFlags adds the flags of commands that read morgana.yaml.
func (c *cli) projectFlags(cmd *cobra.Command) {
	cmd.Flags().StringVarP(&c.file, "file", "f", "", "morgana.yaml or its folder (default: here or above)")
	config.AppFlag(cmd.Flags())
}

func (c *cli) project() (*config.Project, error) {
	p, err := config.Load(c.file, c.commandFlags)
	if err != nil {
		return nil, err
	}
	for _, s := range c.set {
		if err := p.Set(s); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// tell prints an error, with -o json also as a JSON line, and returns the exit
// status.
func (c *cli) tell(err error) int {
	status := 1
	f := workflows.Failure(err)
	if f.Kind.UserError() || early(err) {
		status = 2
	}
	if c.output == "json" {
		c.emit(event{Event: "error", Error: failureJSON(f)})
	}
	writeFailure(c.err, "", f)
	return status
}

// early reports whether err comes from this command and not from a workflow: then it is
// about the user's input or this host.
func early(err error) bool {
	var ofWorkflow *temporal.ApplicationError
	return !errors.As(err, &ofWorkflow)
}

func (c *cli) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Example: "  morgana version\n  morgana version -o json", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if c.output == "json" {
				c.emit(map[string]string{"version": version})
				return nil
			}
			c.print("morgana %s", version)
			return nil
		},
	}
}
