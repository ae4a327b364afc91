package xenserver

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"testing"
	"time"

	"github.com/morgana-deploy/morgana/step"
	"github.com/morgana-deploy/morgana/store"
	"github.com/morgana-deploy/morgana/xapilab"
)

// killed has the work of a process that is killed.
const killed = "XENSERVER_DEPLOYS"

// victim is that work: to deploy an image, or to destroy it.
type victim struct {
	Image        step.Image
	State, Store string
	Destroy      bool
}

func TestMain(m *testing.M) {
	if text := os.Getenv(killed); text != "" {
		if err := work(text); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	home, err := os.MkdirTemp("", "home-")
	if err == nil {
		err = os.Setenv("HOME", home)
	}
	if err != nil {
		panic(err)
	}
	code := m.Run()
	_ = os.RemoveAll(home) // a temporary folder
	os.Exit(code)
}

func work(text string) error {
	var v victim
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		return err
	}
	s, err := store.Open(context.Background(), v.Store)
	if err != nil {
		return err
	}
	t := New(step.Site{Host: "testhost", State: v.State, Store: s})
	t.patience = time.Second
	if v.Destroy {
		_, err = t.Destroy(context.Background(), step.Removal{Spec: v.Image.Spec})
		return err
	}
	r, err := t.Register(context.Background(), v.Image)
	if err == nil {
		_, err = t.Boot(context.Background(), r)
	}
	return err
}

// TestKilled kills the process that deploys, and that which destroys, after a number of calls,
// which grows. The next process goes on: there is one VDI and one VM, and then nothing.
func TestKilled(t *testing.T) {
	t.Parallel()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	b := newBench(t, xapilab.Config{})
	url := "file://" + t.TempDir()
	if b.site.Store, err = store.Open(t.Context(), url); err != nil {
		t.Fatal(err)
	}
	if b.kernel, err = b.site.Store.Put(t.Context(), bytes.NewReader(must(hello()))); err != nil {
		t.Fatal(err)
	}
	img := b.image("killed", usual)
	// kill runs a process until it has ended by itself, and kills it before.
	kill := func(v victim) (kills int) {
		text, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		for after := 1; ; after += 2 {
			c := exec.CommandContext(t.Context(), self)
			c.Env = append(os.Environ(), killed+"="+string(text))
			var out bytes.Buffer
			c.Stdout, c.Stderr = &out, &out
			calls := len(b.lab.Calls())
			remove := b.lab.Fault(xapilab.Fault{Skip: after, Times: -1, Delay: time.Hour}) // the next call waits for the kill
			if err := c.Start(); err != nil {
				t.Fatal(err)
			}
			ended := make(chan error, 1)
			go func() { ended <- c.Wait() }()
			for running := true; running; {
				select {
				case err := <-ended:
					remove()
					if err != nil {
						t.Fatalf("%v\n%s", err, out.String())
					}
					return kills
				case <-time.After(time.Millisecond):
					if running = len(b.lab.Calls())-calls < after; !running {
						kills++
						_ = c.Process.Kill()
						err := <-ended
						remove()
						if err == nil { // it had ended
							return kills - 1
						}
					}
				}
			}
		}
	}
	deploys := kill(victim{Image: img, State: b.site.State, Store: url})
	all, err := b.target().List(t.Context(), img.Spec)
	if err != nil {
		t.Fatal(err)
	}
	// The task of a killed import stays until Destroy.
	all = slices.DeleteFunc(all, func(r step.Resource) bool { return r.Kind == "task" })
	if len(all) != 2 || all[0].Kind != "VM" || all[1].Kind != "VDI" {
		t.Errorf("listed %+v", all)
	}
	destroys := kill(victim{Image: img, State: b.site.State, Store: url, Destroy: true})
	t.Logf("%d kills of deploy and %d of destroy", deploys, destroys)
	if deploys < 5 || destroys < 2 {
		t.Error("too few kills")
	}
	// See TestAnswersLost.
	b.before = slices.DeleteFunc(b.lab.Resources(), func(line string) bool { return line != "task Async.VM.start" })
	b.asBefore()
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
