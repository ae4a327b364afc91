package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/morgana-deploy/morgana/step"
	"github.com/morgana-deploy/morgana/watch"
	"github.com/morgana-deploy/morgana/workflows"
)

const (
	machines = 1000
	// rest is how long the processor time is measured: a heartbeat of every watch.
	rest = workflows.WatchBeat
	// often is an app that is looked at 1,000 times a second.
	often = "often"
)

// looks counts the looks at the machine of app often.
var looks atomic.Int64

func (noop) Observe(_ context.Context, m step.Machine) (step.Health, error) {
	if m.Of().App == often {
		looks.Add(1)
	}
	return step.Health{State: step.Running}, nil
}

// Watch is what worker registers for a target on this host.
func (n noop) Watch(ctx context.Context, m step.Machine) (step.Health, error) {
	w := watch.Watcher{Observe: n.Observe, Every: 2 * time.Second, Host: host}
	if m.Of().App == often {
		w.Every = time.Millisecond
	}
	return w.Watch(ctx, m)
}

// BenchmarkWatch measures what 1,000 deployments cost at rest, first without a watch and
// then with restart: always. "cpu%" is of one processor, "KiB/machine" the memory that the
// worker gets for the watches, "status-sec" the time of morgana status and "unreachable" how
// many machines it did not reach within its time limits. Events are those
// of one Deployment's history before and after 10,000 looks.
func BenchmarkWatch(b *testing.B) {
	e := startEngine(b)
	all := func(restart step.RestartPolicy) error {
		names := make(chan string, machines)
		for i := range machines {
			names <- fmt.Sprintf("kept%d", i)
		}
		close(names)
		return atATime(50, names, func(ctx context.Context, app string) error { return e.deployAs(ctx, app, restart) })
	}
	before := 0.0
	for _, c := range []struct {
		name    string
		restart step.RestartPolicy
	}{{"unwatched", step.RestartNever}, {"watched", step.RestartAlways}} {
		if err := all(c.restart); err != nil {
			b.Fatal(err)
		}
		b.Run(c.name, func(b *testing.B) {
			b.ReportMetric(0, "ns/op")
			time.Sleep(10 * time.Second) // the deploys' last tasks
			server, worker, began := e.serverTime(b), ownTime(b), time.Now()
			time.Sleep(rest)
			percent := 100 / time.Since(began).Seconds()
			b.ReportMetric((e.serverTime(b)-server)*percent, "server-cpu%")
			b.ReportMetric((ownTime(b)-worker)*percent, "worker-cpu%")
			b.ReportMetric(e.serverMemory(b), "server-MiB")
			used := inUse()
			if before > 0 {
				b.ReportMetric((used-before)/machines, "KiB/machine")
			}
			before = used
			up := 0
			b.ReportMetric(timed(b, func() (err error) { up, err = e.status(b); return err }), "status-sec")
			b.ReportMetric(float64(machines-up), "unreachable")
		})
	}
	b.Run("looks", func(b *testing.B) {
		b.ReportMetric(0, "ns/op")
		if err := e.deployAs(b.Context(), often, step.RestartAlways); err != nil {
			b.Fatal(err)
		}
		for began := looks.Load(); looks.Load() == began; time.Sleep(time.Millisecond) {
		}
		events := e.events(b, often)
		for began := looks.Load(); looks.Load() < began+10_000; time.Sleep(time.Millisecond) {
		}
		b.ReportMetric(float64(events), "events")
		b.ReportMetric(float64(e.events(b, often)), "events-10000-later")
	})
}

// deployAs deploys app with a restart policy.
func (e *engine) deployAs(ctx context.Context, app string, restart step.RestartPolicy) error {
	in := order(app)
	in.Policy.Restart = restart
	return e.deployOrder(ctx, app, in)
}

// status runs morgana status and returns how many machines it lists as up.
func (e *engine) status(b *testing.B) (up int, err error) {
	cmd := exec.CommandContext(b.Context(), binary("morgana"), "status", "-o", "json")
	cmd.Env = append(os.Environ(), "TEMPORAL_ADDRESS="+e.address, "XDG_CONFIG_HOME="+b.TempDir())
	out, err := cmd.Output()
	return strings.Count(string(out), `"state":"up"`), err
}

func (e *engine) events(b *testing.B, app string) int64 {
	about, err := e.DescribeWorkflowExecution(b.Context(), workflows.DeploymentID(app, "dev"), "")
	if err != nil {
		b.Fatal(err)
	}
	return about.GetWorkflowExecutionInfo().GetHistoryLength()
}

// serverTime returns the seconds of processor time that the server has used.
func (e *engine) serverTime(b *testing.B) float64 {
	b.Helper()
	text, err := os.ReadFile(filepath.Join("/proc", fmt.Sprint(e.server), "stat"))
	if err != nil {
		b.Fatal(err)
	}
	var user, system float64 // in hundredths of a second
	_, rest, _ := strings.Cut(string(text), ") ")
	fields := strings.Fields(rest)
	_, err1 := fmt.Sscan(fields[11], &user)
	_, err2 := fmt.Sscan(fields[12], &system)
	if err := errors.Join(err1, err2); err != nil {
		b.Fatal(err)
	}
	return (user + system) / 100
}

// serverMemory returns the resident memory of the server in MiB.
func (e *engine) serverMemory(b *testing.B) float64 {
	b.Helper()
	text, err := os.ReadFile(filepath.Join("/proc", fmt.Sprint(e.server), "statm"))
	var all, resident float64 // in pages
	if err == nil {
		_, err = fmt.Sscan(string(text), &all, &resident)
	}
	if err != nil {
		b.Fatal(err)
	}
	return resident * float64(os.Getpagesize()) / (1 << 20)
}

// ownTime returns the seconds of processor time of this process, which has the workers.
func ownTime(b *testing.B) float64 {
	b.Helper()
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		b.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano()).Seconds()
}

// inUse returns the memory that this process uses, in KiB.
func inUse() float64 {
	debug.FreeOSMemory()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapInuse+m.StackInuse) / 1024
}
