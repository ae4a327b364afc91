package machine

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/morgana-deploy/morgana/step"
	"github.com/morgana-deploy/morgana/store"
)

// workUntilKilled packages for one machine and registers another, and says in
// which folders once it is in the midst of both.
func workUntilKilled(state string) {
	s, err := store.Open(context.Background(), state+"/store")
	if err != nil {
		panic(err)
	}
	machines := In(step.Site{State: state, Store: s}, "test")
	tags := step.Tags{App: "killed", Target: "dev", Life: "0a1b2c3d", Generation: 1}
	packs, _, err := machines.Scratch(tags)
	if err != nil {
		panic(err)
	}
	tags.Generation = 2
	img, err := machines.Image(context.Background(), step.Spec{Tags: tags, Kind: "test"}, "kernel", json.RawMessage(`{}`))
	if err != nil {
		panic(err)
	}
	_, err = machines.Register(context.Background(), img, func(_ context.Context, made Machine, _ json.RawMessage) error {
		fmt.Println(packs)
		fmt.Println(made.Path)
		time.Sleep(10 * time.Minute)
		return nil
	})
	panic(err)
}

// What a killed worker left is removed by whatever comes next of that kind on the
// host, also when the deploy went on elsewhere or in another generation. What a
// running worker works on stays.
func TestScratchOfKilledWorkerIsSwept(t *testing.T) {
	state := t.TempDir()
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe")
	cmd.Env = []string{asMachine + "=scratch in " + state}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	var left []string
	for in := bufio.NewScanner(out); len(left) < 2 && in.Scan(); {
		left = append(left, in.Text())
	}
	if len(left) < 2 || strings.Contains(left[1], "killed.dev.0a1b2c3d-1") {
		t.Fatalf("it works in %q", left)
	}
	there := func(want bool) {
		t.Helper()
		for _, folder := range left {
			if _, err := os.Stat(folder); err == nil != want || err != nil && !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s: %v", folder, err)
			}
		}
	}
	machines := In(step.Site{State: state}, "test")
	work := func() {
		t.Helper()
		_, done, err := machines.Scratch(step.Tags{App: "other", Target: "prod", Life: "ffffffff", Generation: 9})
		if err == nil {
			err = done()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	work()
	there(true)
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // it was killed
	there(true)
	work()
	there(false)
}
