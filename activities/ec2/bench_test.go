package ec2

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/morgana-deploy/morgana/ec2lab"
	"github.com/morgana-deploy/morgana/image/disk"
	"github.com/morgana-deploy/morgana/step"
	"github.com/morgana-deploy/morgana/step/steptest"
)

// BenchmarkUpload compares uploads to a bare server, which takes a time for each request,
// with a raw HTTP client that has the same number of connections and sends the same blocks.
// It also compares the number of requests with that of the blocks to send, and the memory
// for a disk of 8 GiB with that for one of 1 GiB.
func BenchmarkUpload(b *testing.B) {
	const sparse, data = 1 * gibi, 20 // 10 MiB
	for _, line := range []struct {
		delay       time.Duration
		first, most int
		blocks      int
	}{{200 * time.Millisecond, 8, 8, 120}, {20 * time.Millisecond, usual.first, 64, 768}} {
		compare(b, fmt.Sprintf("%dx%s/raw-client", line.most, line.delay), "sec/op", func(b *testing.B) (ours, raw float64) {
			s := &bare{delay: line.delay}
			c, url := serve(b, s)
			u := newUpload(b, c, line.blocks)
			u.first, u.most = line.first, line.most
			ours = seconds(b, func() error { return u.run(b.Context()) })
			return ours, seconds(b, func() error { return rawUpload(url, u.disk, u.blocks, line.most) })
		})
	}
	compare(b, "sparse-1GiB/raw-client", "sec/op", func(b *testing.B) (ours, raw float64) {
		w := newWorker(b, sparse, data)
		ours = seconds(b, w.upload)
		return ours, seconds(b, func() error { return rawUpload(w.url, w.raw, w.list, maxConnections) })
	})
	compare(b, "sparse-1GiB/all-blocks", "requests", func(b *testing.B) (ours, peer float64) {
		w := newWorker(b, sparse, data)
		seconds(b, w.upload)
		return float64(puts(w.server.puts)), sparse / blockSize
	})
	for _, changed := range []int{data, 1, 0} {
		compare(b, fmt.Sprintf("of-%d-blocks-%d-changed/blocks", data, changed), "requests", func(b *testing.B) (ours, want float64) {
			w := newWorker(b, sparse, data)
			parent := slices.Clone(w.list)
			for i := range changed {
				parent[i].sum[0]++
			}
			w.list = w.list.since(parent)
			seconds(b, w.upload)
			return float64(puts(w.server.puts)), float64(changed)
		})
	}
	compare(b, "memory-8GiB/1GiB", "MiB", func(b *testing.B) (large, small float64) {
		small = peak(b, func() { seconds(b, newWorker(b, 1*gibi, data).upload) })
		return peak(b, func() { seconds(b, newWorker(b, 8*gibi, data).upload) }), small
	})
}

// backed has a function for each backing that makes the image of a disk for a lab.
var backed = map[string]func(r *registry, path string, size int64) step.Image{
	backingDirect: func(r *registry, path string, size int64) step.Image { return r.imageOf(path, 1, size, nil) },
	backingImport: func(r *registry, path string, size int64) step.Image {
		return r.importing(r.imageOf(path, 1, size, nil))
	},
	backingBundle: (*registry).bundled,
	backingVolume: func(r *registry, path string, size int64) step.Image {
		return r.dancing(r.imageOf(path, 1, size, nil), `{"type":"t3.micro","user":"ec2-user"}`)
	},
}

// BenchmarkBackings compares Register of the other backings with that of direct against a
// lab: requests, bytes sent and time, for a disk of 64 MiB with 10 MiB of data. Backing volume
// boots a real helper, and its bytes go by ssh, so they are not counted.
func BenchmarkBackings(b *testing.B) {
	labKeys(b)
	const size = 128 * blockSize
	path := sparse(b, size, nil)
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	no(b, err)
	for i := range int64(20) {
		no(b, failure(f.WriteAt(incompressible(b, blockSize), 6*i*blockSize)))
	}
	no(b, f.Close())
	for _, backing := range slices.Sorted(maps.Keys(backed)) {
		if backing == backingDirect {
			continue
		}
		runs := map[string][]registered{}
		for unit, of := range map[string]func(registered) float64{"requests": func(r registered) float64 { return r.requests },
			"MB": func(r registered) float64 { return r.megabytes }, "sec/op": func(r registered) float64 { return r.seconds }} {
			if backing == backingVolume && unit == "MB" {
				continue
			}
			n := 0
			compare(b, backing+"-"+strings.TrimSuffix(unit, "/op")+"/direct", unit, func(b *testing.B) (ours, direct float64) {
				for _, name := range []string{backing, backingDirect} {
					if len(runs[name]) == n {
						runs[name] = append(runs[name], register(b, name, path, size))
					}
				}
				n++
				return of(runs[backing][n-1]), of(runs[backingDirect][n-1])
			})
		}
	}
}

// registered is what a Register took.
type registered struct{ requests, megabytes, seconds float64 }

func register(b *testing.B, backing, path string, size int64) (took registered) {
	var machines ec2lab.Hypervisor
	if backing == backingVolume {
		if missing := ec2lab.MissingLinux(b.Context()); missing != nil {
			b.Skip(missing)
		}
		machines = ec2lab.NewMachines(b.TempDir())
	}
	r := newRegistryOn(b, machines)
	url, sent := counted(b, r.lab.URL())
	img := backed[backing](r, path, size)
	img.Spec.Options = bytes.ReplaceAll(img.Spec.Options, []byte(r.lab.URL()), []byte(url))
	took.seconds = seconds(b, func() error {
		_, err := patient(r.site).Register(b.Context(), img)
		return err
	})
	took.requests, took.megabytes = float64(len(r.lab.Calls())), float64(sent.Load())/1e6
	return took
}

// counted is another address of a server that counts the bytes sent to it.
func counted(b *testing.B, server string) (url string, sent *atomic.Int64) {
	b.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	no(b, err)
	b.Cleanup(func() { _ = l.Close() }) // ends its goroutine
	sent = &atomic.Int64{}
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", strings.TrimPrefix(server, "http://"))
			if err != nil {
				_ = in.Close() // the client sees it
				continue
			}
			go func() {
				_, _ = io.Copy(out, io.TeeReader(in, sentBytes{sent}))
				_ = out.Close()
			}()
			go func() {
				_, _ = io.Copy(in, out)
				_ = in.Close()
			}()
		}
	}()
	return "http://" + l.Addr().String(), sent
}

type sentBytes struct{ n *atomic.Int64 }

func (c sentBytes) Write(p []byte) (int, error) {
	c.n.Add(int64(len(p)))
	return len(p), nil
}

// compare reports what run measures, and the ratio if the peer has none of it.
func compare(b *testing.B, name, unit string, run func(b *testing.B) (ours, peer float64)) {
	b.Run(name, func(b *testing.B) {
		var ours, peer float64
		for range b.N {
			one, other := run(b)
			ours, peer = ours+one/float64(b.N), peer+other/float64(b.N)
		}
		b.ReportMetric(0, "ns/op") // 0 is not printed
		b.ReportMetric(ours, unit)
		b.ReportMetric(peer, "peer-"+unit)
		if peer > 0 {
			b.ReportMetric(ours/peer, "x-peer")
		}
	})
}

func seconds(b *testing.B, do func() error) float64 {
	b.Helper()
	began := time.Now()
	no(b, do())
	return time.Since(began).Seconds()
}

// worker uploads as Register does, from the packed disk in a store.
type worker struct {
	*testing.B
	registering
	server *bare
	url    string
	raw    *os.File
	list   blocks
}

// newWorker packs a disk that has n blocks, far from each other, as Package does.
func newWorker(b *testing.B, size int64, n int) *worker {
	b.Helper()
	w := &worker{B: b, server: &bare{delay: 20 * time.Millisecond}}
	content := map[int32]byte{}
	for i := range n {
		content[int32(int64(i)*size/blockSize/int64(n))] = byte(i + 1)
	}
	path := sparse(b, size, content)
	site := step.Site{Host: "testhost", State: b.TempDir(), Store: steptest.NewStore(b)}
	packed, err := disk.Store(b.Context(), site.Store, path)
	no(b, err)
	if w.raw, err = os.Open(path); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = w.raw.Close() }) // only read
	w.list = list(b, path)
	w.registering = registering{Target: New(site), ami: ami{Size: size}, limits: usual, img: step.Image{
		Spec:  step.Spec{Tags: step.Tags{App: "hello", Target: "prod", Life: "00c0ffee", Generation: 1}},
		Files: []step.File{{Name: packedDisk, Artifact: packed}}}}
	w.cloud, w.url = serve(b, w.server)
	return w
}

func (w *worker) upload() error {
	s, err := openSent(filepath.Join(w.machines.Root(), "uploads"), "snap-0a1b", w.list, step.Progress{})
	if err != nil || s.all() {
		return err
	}
	return w.registering.upload(w.Context(), "snap-0a1b", w.list, s, "")
}

// rawUpload sends blocks by net/http alone, without signatures.
func rawUpload(url string, disk io.ReaderAt, list blocks, connections int) error {
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: connections}}
	defer client.CloseIdleConnections()
	next, errs := make(chan block), make(chan error, connections)
	var all sync.WaitGroup
	for range connections {
		all.Go(func() {
			for b := range next {
				r, err := http.NewRequest(http.MethodPut, fmt.Sprintf("%s/snapshots/snap-0a1b/blocks/%d", url, b.index),
					io.NewSectionReader(disk, int64(b.index)*blockSize, blockSize))
				if err == nil {
					var answer *http.Response
					r.ContentLength = blockSize
					if answer, err = client.Do(r); err == nil {
						err = answer.Body.Close()
					}
				}
				if err != nil {
					select {
					case errs <- err:
					default:
					}
				}
			}
		})
	}
	for _, b := range list {
		next <- b
	}
	close(next)
	all.Wait()
	close(errs)
	return <-errs
}

// peak returns the peak memory of this process during do, in MiB.
func peak(b *testing.B, do func()) float64 {
	b.Helper()
	debug.FreeOSMemory()
	if err := os.WriteFile("/proc/self/clear_refs", []byte("5"), 0); err != nil { // resets VmHWM
		b.Fatal(err)
	}
	do()
	status, err := os.ReadFile("/proc/self/status")
	found := regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindSubmatch(status)
	if err != nil || found == nil {
		b.Fatalf("no VmHWM in /proc/self/status: %v", err)
	}
	kib, err := strconv.ParseFloat(string(found[1]), 64)
	no(b, err)
	return kib / 1024
}
