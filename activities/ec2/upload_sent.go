package ec2

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/morgana-deploy/morgana/step"
)

// sent records which blocks of a list a snapshot has acknowledged. The record is a file on
// this host, with a line for each block, written as soon as it is acknowledged: a try after
// a killed worker sends at most those blocks again that were on the way. The state of the
// step's progress has the record for a try on another host, as of some seconds ago.
type sent struct {
	blocks blocks
	has    []bool
	count  int
	low    int // the first position that is not acknowledged
	file   *os.File
}

// uploadState is the State of an upload's progress.
type uploadState struct {
	Snapshot string `json:"snapshot"`
	// Before is the number of blocks at the list's start that are acknowledged; Also are
	// positions of more of them.
	Before int   `json:"before"`
	Also   []int `json:"also,omitempty"`
}

// farthest is how far behind Before positions are listed in Also.
const farthest = 256

var snapshotForm = regexp.MustCompile(`^snap-[0-9a-f]{1,32}$`)

// openSent opens the record of an upload of list to a snapshot, in folder. last is the
// progress of an earlier try.
func openSent(folder, snapshot string, list blocks, last step.Progress) (*sent, error) {
	if !snapshotForm.MatchString(snapshot) { // it becomes a path
		return nil, fmt.Errorf("%.80q is no id of a snapshot", snapshot)
	}
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return nil, err
	}
	sweepSent(folder)
	f, err := os.OpenFile(filepath.Join(folder, snapshot), os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	s := &sent{blocks: list, has: make([]bool, len(list)), file: f}
	text, err := io.ReadAll(f)
	if err == nil && len(text) > 0 && text[len(text)-1] != '\n' { // it was cut off
		_, err = f.WriteString("\n")
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	for line := range strings.Lines(string(text)) {
		var index int32
		if _, err := fmt.Sscan(line, &index); err != nil {
			continue
		}
		// The digest guards against lines that a power cut has spoilt.
		if at, ok := list.find(index); ok && line == record(list[at]) {
			s.mark(at)
		}
	}
	var state uploadState
	if json.Unmarshal(last.State, &state) == nil && state.Snapshot == snapshot {
		for at := range min(state.Before, len(list)) {
			s.mark(at)
		}
		for _, at := range state.Also {
			if at >= 0 && at < len(list) {
				s.mark(at)
			}
		}
	}
	return s, nil
}

func record(b block) string { return fmt.Sprintf("%d %x\n", b.index, b.sum[:8]) }

// add records that the block at a position is acknowledged.
func (s *sent) add(at int) error {
	_, err := s.file.WriteString(record(s.blocks[at]))
	s.mark(at)
	return err
}

func (s *sent) mark(at int) {
	if !s.has[at] {
		s.has[at] = true
		s.count++
	}
	s.low = s.after(s.low)
}

// after returns the first position from at on that is not acknowledged.
func (s *sent) after(at int) int {
	for at < len(s.has) && s.has[at] {
		at++
	}
	return at
}

func (s *sent) all() bool { return s.count == len(s.blocks) }

func (s *sent) state(snapshot string) json.RawMessage {
	state := uploadState{Snapshot: snapshot, Before: s.low}
	for at := s.low; at < min(s.low+farthest, len(s.has)); at++ {
		if s.has[at] {
			state.Also = append(state.Also, at)
		}
	}
	b, err := json.Marshal(state)
	if err != nil {
		panic(err) // numbers and a string
	}
	return b
}

// uploads is the folder of the records.
func (t *Target) uploads() string { return filepath.Join(t.machines.Root(), "uploads") }

// dropSent removes the record of a snapshot that is completed or deleted, if this host has
// it.
func (t *Target) dropSent(snapshot string) {
	if snapshotForm.MatchString(snapshot) {
		_ = os.Remove(filepath.Join(t.uploads(), snapshot)) // sweepSent tries again
	}
}

// sweepSent removes the records that other hosts could not. AWS cancels a snapshot hours
// after its last block.
func sweepSent(folder string) {
	entries, _ := os.ReadDir(folder) // after an error no record is removed
	for _, e := range entries {
		if info, err := e.Info(); err == nil && time.Since(info.ModTime()) > 7*24*time.Hour {
			_ = os.Remove(filepath.Join(folder, e.Name())) // the next upload tries again
		}
	}
}
