package local

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/morgana-deploy/morgana/step"
)

// What the program itself had started survives the kill of its supervisor, and
// ends with destroy or before the machine is started again.
func TestOrphansAreEnded(t *testing.T) {
	for _, how := range []string{"child", "bare", "daemon"} {
		for _, linked := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, linked %t", how, linked), func(t *testing.T) {
				t.Parallel()
				b := newBench(t)
				if linked {
					link := filepath.Join(t.TempDir(), "state")
					if err := os.Symlink(b.site.State, link); err != nil {
						t.Fatal(err)
					}
					b.site.State = link
				}
				b.quit = 2 * time.Minute // nothing is asked to end
				spec := b.spec(`{"args":["leave","` + how + `","hello","stay"],"expect":"hello"}`)
				r := b.register(linux, spec)
				for range 2 {
					m := b.boot(r)
					if m.Adopted {
						t.Errorf("got %+v", m)
					}
					left := b.left(m)
					b.killSupervisor(r)
					if gone(left) {
						t.Error("nothing was left")
					}
					defer func() { // by the next boot or destroy
						if !gone(left) {
							t.Error("it is left")
						}
					}()
				}
				began := time.Now()
				b.destroy(spec)
				if took := time.Since(began); took > b.quit {
					t.Errorf("took %s", took)
				}
			})
		}
	}
}

// Another machine's, and one of no machine, is left alone.
func TestOrphansOfOthersAreLeft(t *testing.T) {
	b := newBench(t)
	spec := b.spec(`{"args":["leave","daemon","hello","stay"],"expect":"hello"}`)
	running := b.boot(b.register(linux, spec))
	other := spec
	other.Generation++
	r := b.register(linux, other)
	orphan := b.left(b.boot(r))
	b.killSupervisor(r)
	third := spec
	third.Generation = 3
	b.destroy(third)
	if gone(orphan) || gone(b.left(running)) {
		t.Error("another's is ended")
	}
	b.destroy(other)
	if !gone(orphan) || gone(b.left(running)) {
		t.Errorf("the orphan is gone: %t, what runs is: %t", gone(orphan), gone(b.left(running)))
	}
}

// What a program leaves ends with it, whatever session it made for itself.
func TestWhatAProgramLeaves(t *testing.T) {
	for _, how := range []string{"child", "bare", "daemon"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			m := b.boot(b.register(linux, b.spec(`{"args":["leave","`+how+`","hello"],"expect":"hello"}`)))
			b.until("its end", func() bool { return len(processes(t, b.site)) == 0 })
			if !gone(b.left(m)) {
				t.Error("it is left")
			}
		})
	}
}

// processes are those that stand in a machine's folder, also a removed one.
func processes(t *testing.T, site step.Site) (pids []int) {
	t.Helper()
	state, err := filepath.EvalSymlinks(site.State)
	if err != nil {
		t.Fatal(err)
	}
	folders, err := filepath.Glob("/proc/[0-9]*/cwd")
	if err != nil {
		t.Fatal(err)
	}
	for _, cwd := range folders {
		pid, _ := strconv.Atoi(strings.Split(cwd, "/")[2])
		if at, err := os.Readlink(cwd); err == nil && strings.HasPrefix(at, state+"/") && !zombie(pid) {
			pids = append(pids, pid)
		}
	}
	slices.Sort(pids)
	return pids
}

// stat is the fields of /proc/PID/stat from the state on.
func stat(pid int) []string {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, rest, _ := strings.Cut(string(b), ") ")
	return append(strings.Fields(rest), "", "")
}

func zombie(pid int) bool { return stat(pid)[0] == "Z" }

func gone(pid int) bool { return zombie(pid) || parent(pid) == 0 }

func parent(pid int) int {
	n, _ := strconv.Atoi(stat(pid)[1])
	return n
}
