package tree

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/morgana-deploy/morgana/files"
	"github.com/morgana-deploy/morgana/step"
)

// groupFile is the file in a rollout's folder that records the running process group.
const groupFile = "group.json"

// group is a process group: a command and its descendants. If the worker is killed the
// command dies at once (Pdeathsig), but its children do not. So the group is on record
// while it lives, with enough detail to tell it from a later group with the same number.
//
// If the worker is killed between a command's start and its record, the command dies
// too. Children that the command has by then are not found.
type group struct {
	// ID is the group's number, and the pid of its leader.
	ID int `json:"id"`
	// Started is when the leader started, in clock ticks since boot.
	Started uint64 `json:"started"`
	// Session is the worker's session, which commands stay in.
	Session int `json:"session"`
	// Boot identifies the boot of the host that Started counts from.
	Boot string `json:"boot"`
}

// groupOf describes the group that a process just started leads.
func groupOf(pid int) (group, error) {
	p, err := readProcess(pid)
	if err != nil {
		return group{}, err
	}
	return group{ID: pid, Started: p.started, Session: p.session, Boot: bootID()}, nil
}

// process has the fields of /proc/<pid>/stat.
type process struct {
	pid, group, session int
	state               byte
	started             uint64
}

func (p process) dead() bool { return p.state == 'Z' || p.state == 'X' }

func readProcess(pid int) (process, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return process{}, err
	}
	// The name, in parentheses, may itself hold spaces and parentheses. After
	// it: state ppid pgrp session ... and, as field 22 of all, starttime.
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	if len(fields) < 20 {
		return process{}, fmt.Errorf("/proc/%d/stat: cut short", pid)
	}
	p := process{pid: pid, state: fields[0][0]}
	var errs [3]error
	p.group, errs[0] = strconv.Atoi(fields[2])
	p.session, errs[1] = strconv.Atoi(fields[3])
	p.started, errs[2] = strconv.ParseUint(fields[19], 10, 64)
	return p, errors.Join(errs[:]...)
}

func bootID() string {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "" // then only Started identifies the group
	}
	return strings.TrimSpace(string(id))
}

// members lists the processes of the group that still run.
//
// Linux gives no new process the number of a group that has members. So the group is over
// if the process of that number started at another time. A member has the group's session
// and is no older than the leader.
func (g group) members() ([]int, error) {
	if g.Boot != bootID() {
		return nil, nil
	}
	if leader, err := readProcess(g.ID); err == nil && leader.started != g.Started {
		return nil, nil
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		p, err := readProcess(pid)
		if err != nil {
			continue // it ended meanwhile
		}
		if p.group == g.ID && p.session == g.Session && p.started >= g.Started && !p.dead() {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// kill ends the group and waits until it is gone, at most 3 s.
func (g group) kill(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 3*time.Second, errors.New("they were sent SIGKILL 3s ago"))
	defer cancel()
	for {
		pids, err := g.members()
		if err != nil || len(pids) == 0 {
			return err
		}
		if err := unix.Kill(-g.ID, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("end process group %d: %w", g.ID, err)
		}
		if step.Pause(ctx, 10*time.Millisecond) != nil {
			return fmt.Errorf("processes %v do not end: %w", pids, context.Cause(ctx))
		}
	}
}

func (g group) record(path string) error {
	text, err := json.Marshal(g)
	if err != nil {
		return err
	}
	return files.Write(path, text)
}

// endLeftGroup ends the group on record at path, if there is one, and removes the record.
// The caller has the rollout's lock.
func endLeftGroup(ctx context.Context, path string) error {
	if err := killGroup(ctx, path); err != nil {
		return err
	}
	return removeIfThere(path)
}

// killGroup ends the group on record at path, if there is one.
func killGroup(ctx context.Context, path string) error {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var g group
	// files.Write leaves no half record, so one that cannot be read is not ours. An ID of 1
	// or less would address far more than a group (kill(2)).
	if json.Unmarshal(text, &g) == nil && g.ID > 1 {
		return g.kill(ctx)
	}
	return nil
}
