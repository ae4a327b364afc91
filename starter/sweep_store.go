package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	enums "go.temporal.io/api/enums/v1"
	"google.golang.org/protobuf/proto"

	"github.com/morgana-deploy/morgana/config"
	"github.com/morgana-deploy/morgana/step"
	"github.com/morgana-deploy/morgana/store"
	"github.com/morgana-deploy/morgana/workflows"
)

// storeSweep is the part of a sweep that is about the store.
type storeSweep struct {
	store *config.Settings // nil: the store is not swept
	files []store.Entry    // to be removed
}

func (s *sweeper) storeTrouble(err error) {
	s.trouble(sweepEvent{Event: "unreachable", Kind: storeKind, Place: "store " + s.store.Store, Message: workflows.Failure(err).Error()})
	s.files = nil
}

// listStore lists the files of the store that were not used for the time of --older-than
// and that nothing needs. As in judge, the files are listed before Temporal is asked. A
// file that is in use and not known to Temporal yet was stored or read shortly before, so
// it is young; and Remove leaves a file that is used after the list was made.
func (s *sweeper) listStore(ctx context.Context) {
	files, err := store.Open(ctx, s.store.Store)
	if err != nil {
		s.storeTrouble(err)
		return
	}
	defer func() { _ = files.Close() }() // nothing was written
	before := time.Now().Add(-s.flags.olderThan)
	for e, err := range files.List(ctx) {
		if err != nil {
			s.storeTrouble(err)
			return
		}
		if e.Used.Before(before) {
			s.files = append(s.files, e)
		}
	}
	if len(s.files) == 0 {
		return
	}
	needed, err := s.needed(ctx)
	if err != nil { // without one deployment's answer nothing is certain
		s.storeTrouble(err)
		return
	}
	s.files = slices.DeleteFunc(s.files, func(e store.Entry) bool { return needed[e.SHA256] })
}

// digestForm matches the digest of an artifact, wherever it is written.
var digestForm = regexp.MustCompile(`[0-9a-f]{64}`)

// needed returns the digests of all artifacts that a running Deployment knows, and those
// in the histories of the rollouts of its current, kept and last generations: logs, and
// what a rollout that runs has made. Any 64 hex digits count, so a digest in a field that
// this version does not know counts, too.
func (s *sweeper) needed(ctx context.Context) (map[string]bool, error) {
	var mu sync.Mutex
	needed := map[string]bool{}
	var failed error
	add := func(err error, texts ...[]byte) {
		mu.Lock()
		defer mu.Unlock()
		failed = errors.Join(failed, err)
		for _, text := range texts {
			for _, digest := range digestForm.FindAll(text, -1) {
				needed[string(digest)] = true
			}
		}
	}
	// The list of workflows lags behind, as when one continues as new. So every one in
	// it is asked for by its id, also those that have ended.
	ids := map[string]bool{}
	for _, k := range s.deployments {
		ids[k.info.GetExecution().GetWorkflowId()] = true
	}
	all := slices.Sorted(maps.Keys(ids))
	atATime(16, len(all), func(i int) {
		text, d, err := s.to.knows(ctx, all[i])
		add(err, text)
		for _, t := range rolloutsOf(d) {
			history, err := s.to.events(ctx, workflows.RolloutID(t))
			add(err, history...)
		}
	})
	return needed, failed
}

// knows returns all that a running Deployment knows, nothing if it has ended.
func (to *connection) knows(ctx context.Context, id string) (text json.RawMessage, d workflows.DeploymentDetails, err error) {
	info, err := to.newest(ctx, id)
	if err != nil || info == nil || info.GetCloseTime() != nil {
		return nil, d, err
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if err := to.query(ctx, id, "", workflows.QueryDetails, &text); err != nil {
		return nil, d, &step.Error{Op: "ask " + id, Err: config.Innermost(err)}
	}
	return text, d, json.Unmarshal(text, &d)
}

// rolloutsOf returns the rollouts whose histories a deployment may need.
func rolloutsOf(d workflows.DeploymentDetails) (all []step.Tags) {
	add := func(generation int) {
		t := step.Tags{App: d.Last.App, Target: d.Last.Target, Generation: generation}
		if generation > 0 && !slices.Contains(all, t) {
			all = append(all, t)
		}
	}
	for _, c := range append(d.Kept, d.Current) {
		if c != nil {
			add(c.Machine.Registration.Spec.Generation)
		}
	}
	add(d.Generation)
	if d.Rolling != nil {
		add(d.Rolling.Spec.Generation)
	}
	return all
}

// events returns the events of a workflow's newest run, nothing if the server has none.
func (to *connection) events(ctx context.Context, id string) (texts [][]byte, err error) {
	events := to.GetWorkflowHistory(ctx, id, "", false, enums.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT)
	for events.HasNext() {
		event, err := events.Next()
		if absent(err) {
			return nil, nil
		}
		if err != nil {
			return nil, to.refused("read the history of "+id, err)
		}
		text, err := proto.Marshal(event)
		if err != nil {
			return nil, err
		}
		texts = append(texts, text)
	}
	return texts, nil
}

func (s *sweeper) showStore() {
	if len(s.files) == 0 {
		return
	}
	var size int64
	for _, e := range s.files {
		size += e.Size
	}
	if s.output == "json" {
		s.emit(sweepEvent{Event: "found", Kind: storeKind, Place: "store " + s.store.Store, Artifacts: len(s.files), Bytes: size})
		return
	}
	s.print("store %s: %d files, %s, not used for %s and not needed", s.store.Store, len(s.files), workflows.Size(size), s.flags.olderThan)
}

// removeFiles removes the files of the store.
func (s *sweeper) removeFiles(ctx context.Context) {
	if len(s.files) == 0 {
		return
	}
	files, err := store.Open(ctx, s.store.Store)
	if err != nil {
		s.storeTrouble(err)
		return
	}
	defer func() { _ = files.Close() }() // nothing was written
	before := time.Now().Add(-s.flags.olderThan)
	var size int64
	n := 0
	for _, e := range s.files {
		removed, err := files.Remove(ctx, e.Artifact, before)
		if err != nil {
			s.trouble(sweepEvent{Event: "failed", Kind: storeKind, Place: strings.TrimPrefix(e.URI, "file://"), Message: workflows.Failure(err).Error()})
			break // the others would fail, too
		}
		if removed {
			n, size = n+1, size+e.Size
		}
	}
	s.removed(fmt.Sprintf("%d files of the store, %s", n, workflows.Size(size)))
}
