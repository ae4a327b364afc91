package e2e

import (
	"fmt"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/morgana-deploy/morgana/carrier/carriertest"
	"github.com/morgana-deploy/morgana/need"
)

// An app whose HTTP turns bad two seconds after its boot is rolled back within its window,
// and the machine before answers at the same address. The test prints the time without a
// good answer.
func TestUnhealthyIsRolledBack(t *testing.T) {
	t.Parallel()
	linux := carriertest.Linux(t)
	l := newLab(t)
	port := need.Port(t)
	folder := l.project("")
	l.write(filepath.Join(folder, "server.c"), server)
	if out, err := exec.Command("cc", "-static", "-o", filepath.Join(folder, "server"), filepath.Join(folder, "server.c")).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	version := func(args, more string) {
		l.write(filepath.Join(folder, "morgana.yaml"), fmt.Sprintf("app: sick\ntoolchain: {kind: prebuilt, kernel: server}\n"+
			"targets:\n  dev: {kind: qemu, memory: 256, carrier: linux, linux: %s, ports: ['%d:80'], args: %s, expect: ready, timeout: 5m%s}\n",
			linux, port, args, more))
	}
	version("0 80 0 one", "")
	l.deployed(folder)
	before := l.one("sick")

	watch := lookAt(fmt.Sprintf("127.0.0.1:%d", port))
	version("0 80 2 two", ", health: {http: /, interval: 3s, failures: 2, window: 30m}")
	began := time.Now()
	r := l.ends(l.begin(folder, "deploy"), 1)
	took := time.Since(began)
	gap := watch.end(l)
	t.Logf("rolled back after %v; %v without a good answer", took.Round(10*time.Millisecond), gap.Round(10*time.Millisecond))
	for _, want := range []string{
		"sick/dev health     failed",
		fmt.Sprintf("error: probe generation 2: GET http://127.0.0.1:%d/: 500 Bad, 2 times in a row", port),
		fmt.Sprintf("hint: rolled back: generation 1 runs at 127.0.0.1:%d", port),
	} {
		if !strings.Contains(r.out+r.errOut, want) {
			t.Errorf("no %q in:\n%s%s", want, r.out, r.errOut)
		}
	}
	if now := l.one("sick"); now != before {
		t.Errorf("process %d runs, it was %d", now, before)
	}
	if gap == 0 || gap > waits || watch.bad == 0 {
		t.Errorf("%v without a good answer, %d bad ones", gap, watch.bad)
	}
	if s := l.morgana(folder, "status"); !strings.Contains(s.out, "up, last deploy rolled back") {
		t.Errorf("status:\n%s", s.out)
	}
	if h := l.morgana(folder, "history"); !strings.Contains(h.out, "rolled back by 1: probe generation 2") && !strings.Contains(h.out, "rolled back: probe generation 2") {
		t.Errorf("history:\n%s", h.out)
	}
	l.ends(l.begin(folder, "destroy"), 0)
	l.gone()
}

// watcher asks an HTTP server again and again.
type watcher struct {
	url     string
	stop    chan struct{}
	stopped sync.WaitGroup
	gap     time.Duration // the longest time between two good answers
	bad     int
}

func lookAt(address string) *watcher {
	w := &watcher{url: "http://" + address, stop: make(chan struct{})}
	last := time.Now()
	w.stopped.Go(func() {
		for over := false; !over; {
			select {
			case <-w.stop:
				over = true // after a last look
			case <-time.After(20 * time.Millisecond):
			}
			if w.asks() {
				w.gap = max(w.gap, time.Since(last))
				last = time.Now()
			} else {
				w.bad++
			}
		}
	})
	return w
}

// asks reports whether the answer is good.
func (w *watcher) asks() bool {
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	answer, err := client.Get(w.url)
	if err != nil {
		return false
	}
	_ = answer.Body.Close() // only its status counts
	return answer.StatusCode == http.StatusOK
}

// end waits for a good answer, ends the questions, and returns the longest time between two.
func (w *watcher) end(l *lab) time.Duration {
	l.t.Helper()
	l.eventually("the machine before answers", w.asks)
	close(w.stop)
	w.stopped.Wait()
	return w.gap
}

// An app on EC2 that is bad on its second instance is rolled back within its window. The Elastic
// IP and the place in the target group go back to the first instance, which answers. The test
// prints the time without a good answer.
func TestUnhealthyIsRolledBackAtEC2(t *testing.T) {
	t.Parallel()
	e := newEC2(t, nil)
	id := e.cloud.ElasticIP()
	folder := e.atEC2(e.kernel(), "sick", fmt.Sprintf("elastic_ip: %s, target_group: %q", id, e.cloud.TargetGroup()))
	e.deployed(folder)
	there, first := e.cloud.Resources(), e.cloud.Targets()
	if len(first) != 1 || !slices.Contains(there, "address "+id+" "+first[0]) {
		t.Fatalf("targets %q; in the account: %q", first, there)
	}
	listener, err := net.Listen("tcp", e.deployment(e.client(), "sick").Machine.Addresses[0].Address+":0")
	if err != nil {
		t.Fatal(err)
	}
	app := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if !slices.Contains(e.cloud.Resources(), "address "+id+" "+first[0]) {
			w.WriteHeader(http.StatusInternalServerError)
		}
	})}
	go app.Serve(listener) //nolint:errcheck // until Close
	defer app.Close()      //nolint:errcheck // only read

	address := listener.Addr().String()
	_, port, _ := net.SplitHostPort(address)
	yaml := e.read(folder + "/morgana.yaml")
	e.write(folder+"/morgana.yaml", strings.Replace(yaml, "kind: ec2", "kind: ec2, health: {http: ':"+port+"/', interval: 1s, failures: 2, window: 30m}", 1))
	watch := lookAt(address)
	r := e.ends(e.begin(folder, "deploy", "--set", "dev.args=stay anew"), 1)
	gap := watch.end(e.lab)
	t.Logf("%v without a good answer", gap.Round(10*time.Millisecond))
	for _, want := range []string{"sick/dev health     failed", "error: probe generation 2: GET http://" + address + "/: ", ", 2 times in a row", "hint: rolled back: generation 1 runs at "} {
		if !strings.Contains(r.out+r.errOut, want) {
			t.Errorf("no %q in:\n%s%s", want, r.out, r.errOut)
		}
	}
	if now := e.cloud.Resources(); !slices.Equal(now, there) {
		t.Errorf("in the account: %q, before: %q", now, there)
	}
	if now := e.cloud.Targets(); !slices.Equal(now, first) {
		t.Errorf("in the target group: %q, before: %q", now, first)
	}
	if gap == 0 || gap > waits || watch.bad == 0 {
		t.Errorf("%v without a good answer, %d bad ones", gap, watch.bad)
	}
	e.ends(e.begin(folder, "destroy"), 0)
	e.asBefore()
}

// The worker is killed in the window of a healthy version, and in that of a bad one.
func TestWorkerDiesInTheWindow(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	c := l.client()
	first, second, bad := need.Port(t), need.Port(t), filepath.Join(l.folder, "bad")
	folder := l.serving("window", fmt.Sprintf(`"0", "%d", "0", one`, first), "")
	l.deployed(folder)
	deploy := func(generation, status int, args, times string) result {
		t.Helper()
		yaml := l.read(filepath.Join(l.serving("window", args, fmt.Sprintf("health: {http: ':%d/', failures: 2, %s}", second, times)), "morgana.yaml"))
		l.write(filepath.Join(folder, "morgana.yaml"), yaml)
		deploy := l.begin(folder, "deploy")
		l.started(c, rollout("window", generation), "local.Probe")
		l.kill(l.worker)
		l.startWorker()
		l.write(bad, "")
		return l.ends(deploy, status)
	}
	if r := deploy(2, 1, fmt.Sprintf(`"0", "%d", %q, two`, second, bad), "interval: 2s, window: 30m"); !strings.Contains(r.errOut, "500 Bad, 2 times in a row") ||
		!strings.Contains(r.errOut, "hint: rolled back: generation 1 runs") {
		t.Errorf("the bad version:\n%s%s", r.out, r.errOut)
	}
	if c := l.morgana(folder, "console"); c.out != "ready one\n" || len(l.programs()) != 1 {
		t.Errorf("console %+v, programs %q", c, l.programs())
	}
	// A probe may take as long as the interval.
	if r := deploy(3, 0, fmt.Sprintf(`"0", "%d", "0", three`, second), "interval: 10s, window: 15s"); !strings.Contains(r.out, fmt.Sprintf("GET http://127.0.0.1:%d/: 200 OK", second)) {
		t.Errorf("the good version:\n%s%s", r.out, r.errOut)
	}
	if c := l.morgana(folder, "console"); c.out != "ready three\n" || len(l.programs()) != 1 {
		t.Errorf("console %+v, programs %q", c, l.programs())
	}
	l.ends(l.begin(folder, "destroy"), 0)
	if len(l.programs()) > 0 {
		t.Errorf("programs %q", l.programs())
	}
}
