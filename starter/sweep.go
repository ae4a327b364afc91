package main

import (
	"bufio"
	"cmp"
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	enums "go.temporal.io/api/enums/v1"

	"github.com/morgana-deploy/morgana/step"
	"github.com/morgana-deploy/morgana/workflows"
)

// sweepFlags are the flags of "morgana sweep".
type sweepFlags struct {
	dryRun, yes, unknown bool
	olderThan            time.Duration
}

func (c *cli) sweepCommand() *cobra.Command {
	var f sweepFlags
	var olderThan string
	cmd := &cobra.Command{
		Use:   "sweep [KIND...]",
		Short: "Remove what belongs to no deployment",
		Long: `Remove machines, images, build trees and other resources that carry Morgana's tags
and belong to no running deployment, and files of the store that no deployment
needs. They are looked for in every place that a deployment or morgana.yaml
names, and shown before anything is removed.

A KIND is a target, a toolchain, or "store". Resources of a deployment that this
server does not know stay, because another server's deployment may have made
them; --unknown removes them too.

Exit status: 0 done, 1 a place could not be looked at or a resource not be removed,
3 with --dry-run: there is something to remove.`,
		Example: "  morgana sweep --dry-run\n  morgana sweep qemu command --yes\n  morgana sweep store --older-than 30d",
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if f.olderThan, err = readDuration("--older-than", olderThan); err != nil {
				return err
			}
			return c.sweep(cmd.Context(), args, f)
		},
	}
	c.projectFlags(cmd)
	cmd.Flags().BoolVar(&f.dryRun, "dry-run", false, "show what would be removed")
	cmd.Flags().BoolVarP(&f.yes, "yes", "y", false, "do not ask")
	cmd.Flags().BoolVar(&f.unknown, "unknown", false, "remove resources of deployments that this server does not know, too")
	cmd.Flags().StringVar(&olderThan, "older-than", "7d", "files of the store that were not used for this long: 90h, 7d")
	return cmd
}

const storeKind = "store"

// youngest is the least age of a file of the store that a sweep removes: a day, by which
// the store may take a file for older than it is, and a day for a step to store a file and
// to tell Temporal of it.
const youngest = 48 * time.Hour

func (c *cli) sweep(ctx context.Context, only []string, f sweepFlags) error {
	if f.olderThan < youngest {
		return step.Invalid("--older-than", "48h or more: a deploy that runs may have stored a younger file", "%s is too short", duration(f.olderThan))
	}
	if !f.dryRun && !f.yes && (c.output == "json" || !isTerminal(os.Stdin)) {
		return step.Invalid("", "pass --yes, or --dry-run to see what there is", "sweep asks before it removes, and there is no terminal")
	}
	to, err := c.connect(ctx, true)
	if err != nil {
		return err
	}
	defer to.Close()
	if err := to.needWorker(ctx, nil); err != nil {
		return err
	}
	s := &sweeper{cli: c, to: to, flags: f, lives: map[string]bool{}}
	if err := s.survey(ctx); err != nil {
		return err
	}
	if err := s.choose(only); err != nil {
		return err
	}
	// The order matters: list, then ask Temporal. See judge.
	s.list(ctx)
	s.judge(ctx)
	if s.store != nil {
		s.listStore(ctx)
	}
	if ctx.Err() != nil {
		return errDetached
	}
	s.show()
	todo := len(s.acts)+len(s.files) > 0
	switch {
	case todo && f.dryRun && !s.failed:
		return errSomethingToDo
	case todo && !f.dryRun && (f.yes || s.confirmed()):
		s.remove(ctx)
	}
	if ctx.Err() != nil {
		return errDetached
	}
	if s.failed {
		return errTold
	}
	return nil
}

// sweeper is one sweep.
type sweeper struct {
	*cli
	to    *connection
	flags sweepFlags
	// deployments are those that the server knows, running and ended.
	deployments []known
	// lives are the lives of deployments of this server, as "app/target/life".
	lives  map[string]bool
	places []*sweepPlace
	// found are the resources to remove, acts remove them.
	found []*found
	acts  []act
	live  int // resources that stay because their deployment runs
	// strange are resources of deployments that this server does not know.
	strange []*found
	storeSweep

	mu     sync.Mutex
	failed bool
}

// found is a resource in a place.
type found struct {
	step.Resource
	place *sweepPlace
}

// sweepEvent is a line of "morgana sweep -o json".
type sweepEvent struct {
	Event    string         `json:"event"` // found unknown unreachable removed failed
	Kind     string         `json:"kind,omitempty"`
	Place    string         `json:"place,omitempty"`
	Resource *step.Resource `json:"resource,omitempty"`
	// Artifacts and Bytes are of the files of the store.
	Artifacts int      `json:"artifacts,omitempty"`
	Bytes     int64    `json:"bytes,omitempty"`
	Removed   []string `json:"removed,omitempty"`
	Message   string   `json:"message,omitempty"`
}

// trouble tells that a place could not be looked at or a resource not be removed.
func (s *sweeper) trouble(e sweepEvent) {
	s.mu.Lock()
	s.failed = true
	s.mu.Unlock()
	s.warn(e)
}

func (s *sweeper) warn(e sweepEvent) {
	if s.output == "json" {
		s.emit(e)
		return
	}
	s.say("warning: %s: %s", e.Place, cleanLine(e.Message))
}

// list lists the resources in all places, those of different kinds at the same time. A
// place is left out if a resource of a rollout that named it was found in another place:
// then both are the same place.
func (s *sweeper) list(ctx context.Context) {
	byKind := map[string][]*sweepPlace{}
	for _, p := range s.places {
		byKind[p.kind] = append(byKind[p.kind], p)
	}
	var all sync.WaitGroup
	for _, places := range byKind {
		all.Go(func() {
			seen := map[string]bool{}
			for _, p := range places {
				if slices.ContainsFunc(p.tags, func(t step.Tags) bool { return seen[rolloutName(t)] }) {
					continue
				}
				resources, err := s.to.listPlace(ctx, p)
				if workflows.NotRegistered(err) {
					s.warn(sweepEvent{Event: "unreachable", Kind: p.kind, Place: p.String(), Message: "this kind has no List, so it cannot be swept"})
					break
				}
				if err != nil {
					s.trouble(sweepEvent{Event: "unreachable", Kind: p.kind, Place: p.String(), Message: workflows.Failure(err).Error()})
					continue
				}
				for _, r := range resources {
					seen[rolloutName(r.Tags)] = true
				}
				s.mu.Lock()
				for _, r := range resources {
					s.found = append(s.found, &found{r, p})
				}
				s.mu.Unlock()
			}
		})
	}
	all.Wait()
}

func rolloutName(t step.Tags) string {
	return fmt.Sprintf("%s/%s/%s/%d", t.App, t.Target, t.Life, t.Generation)
}

func lifeName(t step.Tags) string { return t.App + "/" + t.Target + "/" + t.Life }

func (to *connection) listPlace(ctx context.Context, p *sweepPlace) (all []step.Resource, err error) {
	queue := p.list.Queue(p.spec.Host)
	if err := to.awaitPoller(ctx, time.Now(), queue, enums.TASK_QUEUE_TYPE_ACTIVITY, workflows.NoWorker(queue)); err != nil {
		return nil, err
	}
	err = to.call(ctx, "List", "list/"+queue, p.String(), workflows.ListRequest{Step: p.list, Spec: p.spec}, &all)
	return all, err
}

// judge decides which resources are to be removed: those whose deployment and rollout
// have ended.
//
// It asks Temporal after the resources were listed, and then no resource of a rollout in
// flight can be taken. Whatever made a listed resource was started before the list was
// made. If neither its Deployment nor its rollout runs now, both have ended; and a life
// that has ended never begins again, because a later Deployment of the same name has
// another life. So nothing will use the resource any more, however long the user takes to
// answer. In the other order a rollout that starts in between would be missed. The
// resource's age does not matter, so it need not be known.
//
// Destroy gets the exact tags of that rollout: a Deployment that begins meanwhile is not
// touched.
func (s *sweeper) judge(ctx context.Context) {
	asked := map[string]state{}
	ask := func(t step.Tags) state {
		name := rolloutName(t)
		is, ok := asked[name]
		if !ok {
			is = s.to.stateOf(ctx, t)
			asked[name] = is
			if is.err != nil {
				s.trouble(sweepEvent{Event: "unreachable", Place: t.App + "/" + t.Target, Message: workflows.Failure(is.err).Error()})
			}
		}
		return is
	}
	all := s.found
	s.found = nil
	seen := map[string]bool{}
	for _, r := range all {
		id := strings.Join([]string{r.place.kind, r.Kind, r.ID, r.Where, rolloutName(r.Tags)}, "\n")
		if seen[id] {
			continue
		}
		seen[id] = true
		if _, err := r.Tags.Folder(); err != nil {
			s.strange = append(s.strange, r) // it names no rollout
			continue
		}
		is := ask(r.Tags)
		switch {
		case is.err != nil || is.runs:
			s.live++
		case s.lives[lifeName(r.Tags)] || is.last == r.Tags.Life || s.flags.unknown:
			s.found = append(s.found, r)
			if a := (act{r.place, r.Tags}); !slices.Contains(s.acts, a) {
				s.acts = append(s.acts, a)
			}
		default:
			s.strange = append(s.strange, r)
		}
	}
	slices.SortFunc(s.found, func(a, b *found) int {
		return cmp.Or(cmp.Compare(a.place.String(), b.place.String()), cmp.Compare(rolloutName(a.Tags), rolloutName(b.Tags)), cmp.Compare(a.Kind+a.ID, b.Kind+b.ID))
	})
}

// act removes all resources of a rollout in a place.
type act struct {
	place *sweepPlace
	tags  step.Tags
}

func (s *sweeper) show() {
	for _, r := range s.found {
		s.showResource("found", r)
	}
	for _, r := range s.strange {
		s.showResource("unknown", r)
	}
	s.showStore()
	if s.output == "json" {
		return
	}
	if n := len(s.strange); n > 0 && !s.flags.unknown {
		s.say("%d resources are of deployments that this server does not know; they stay without --unknown", n)
	} else if n > 0 {
		s.say("%d resources have no life and generation; they stay", n)
	}
	if len(s.found)+len(s.files) == 0 {
		s.print("nothing to remove; %d resources belong to deployments that run", s.live)
	}
}

func (s *sweeper) showResource(event string, r *found) {
	if s.output == "json" {
		s.emit(sweepEvent{Event: event, Kind: r.place.kind, Place: r.place.String(), Resource: &r.Resource})
		return
	}
	age := ""
	if !r.Created.IsZero() {
		age = ", " + time.Since(r.Created).Round(time.Second).String() + " old"
	}
	s.print("%s: %s %s of %s, generation %d%s", r.place, r.Kind, r.ID, lifeName(r.Tags), r.Tags.Generation, age)
}

// confirmed asks the user.
func (s *sweeper) confirmed() bool {
	_, _ = fmt.Fprintf(s.err, "remove them? [y/N] ")
	answer, err := bufio.NewReader(os.Stdin).ReadString('\n')
	answer = strings.ToLower(strings.TrimSpace(answer))
	return err == nil && (answer == "y" || answer == "yes")
}

// remove runs the acts, by a workflow for every 100, and then removes the files of the
// store.
func (s *sweeper) remove(ctx context.Context) {
	for chunk := range slices.Chunk(s.acts, 100) {
		var acts []*workflows.Undo
		for _, a := range chunk {
			acts = append(acts, a.place.removal(a.tags))
		}
		var results []workflows.Swept
		if err := s.to.call(ctx, "Sweep", "sweep", fmt.Sprintf("remove the resources of %d rollouts", len(acts)), acts, &results); err != nil {
			s.trouble(sweepEvent{Event: "failed", Place: "sweep", Message: workflows.Failure(err).Error()})
			return
		}
		for i, r := range results {
			if len(r.Removed) > 0 {
				s.removed(r.Removed...)
			}
			if r.Failure != "" {
				s.trouble(sweepEvent{Event: "failed", Place: acts[i].Name, Message: r.Failure})
			}
		}
	}
	s.removeFiles(ctx)
}

func (s *sweeper) removed(what ...string) {
	if s.output == "json" {
		s.emit(sweepEvent{Event: "removed", Removed: what})
		return
	}
	for _, r := range what {
		s.print("removed %s", cleanLine(r))
	}
}
