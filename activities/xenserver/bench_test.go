package xenserver

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/morgana-deploy/morgana/need"
	"github.com/morgana-deploy/morgana/step"
	"github.com/morgana-deploy/morgana/step/steptest"
	"github.com/morgana-deploy/morgana/xapilab"
)

// BenchmarkImport compares Register's upload of a disk with curl -T of the raw disk, which
// sends all bytes, to the same lab, from the VDI to the task's verdict.
func BenchmarkImport(b *testing.B) {
	need.Tools(b, "curl")
	for _, test := range []struct {
		name, format string
		data         int64 // of 256 MiB
	}{{"raw-full", "raw", 256 << 20}, {"vhd-sparse", "vhd", 8 << 20}} {
		b.Run(test.name+"/curl", func(b *testing.B) {
			r := newSender(b, test.format, test.data)
			var ours, peer time.Duration
			for range b.N {
				ours += r.timed(b, func(vdi ref) error { return r.send(b.Context(), vdi, r.path, r.size) })
				peer += r.timed(b, func(vdi ref) error { return r.curl(b.Context(), vdi) })
			}
			b.ReportMetric(0, "ns/op") // 0 is not printed
			b.ReportMetric(ours.Seconds()/float64(b.N), "sec/op")
			b.ReportMetric(peer.Seconds()/float64(b.N), "peer-sec/op")
			b.ReportMetric(ours.Seconds()/peer.Seconds(), "x-peer")
		})
	}
}

// sender sends a raw disk to a lab.
type sender struct {
	*registering
	lab  *xapilab.Lab
	path string
	size int64
}

func newSender(b *testing.B, format string, data int64) *sender {
	b.Helper()
	lab, err := xapilab.Start(b.Context(), xapilab.Config{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = lab.Close() })
	b.Setenv("XENSERVER_HOST", lab.URL)
	b.Setenv("XENSERVER_PASSWORD", lab.Password)
	s := &sender{lab: lab, path: filepath.Join(b.TempDir(), "disk"), size: 256 << 20}
	f, err := os.Create(s.path)
	if err == nil {
		_, err = io.CopyN(f, rand.Reader, data)
	}
	if err == nil {
		err = f.Truncate(s.size)
	}
	if err != nil || f.Close() != nil {
		b.Fatal(err)
	}
	options, err := json.Marshal(map[string]string{"host": lab.URL, "fingerprint": lab.Fingerprint, "format": format})
	if err != nil {
		b.Fatal(err)
	}
	s.registering = &registering{Target: New(step.Site{State: b.TempDir(), Store: steptest.NewStore(b)}), folder: "bench.lab.0a1b2c3d-1"}
	if s.s, err = complete(options); err == nil {
		s.p, err = s.connect(b.Context(), s.s)
	}
	if err != nil {
		b.Fatal(err)
	}
	return s
}

// timed makes a VDI, and returns the time of do.
func (s *sender) timed(b *testing.B, do func(vdi ref) error) time.Duration {
	b.Helper()
	var vdi ref
	sr, err := s.p.storage(b.Context(), s.s, s.size)
	if err == nil {
		err = s.p.call(b.Context(), &vdi, "VDI.create", newVDI{Name: "bench", SR: sr, VirtualSize: s.size, Type: "user"})
	}
	if err != nil {
		b.Fatal(err)
	}
	began := time.Now()
	if err := do(vdi); err != nil {
		b.Fatal(err)
	}
	took := time.Since(began)
	if err := s.p.call(b.Context(), nil, "VDI.destroy", vdi); err != nil {
		b.Fatal(err)
	}
	return took
}

func (s *sender) curl(ctx context.Context, vdi ref) error {
	var task ref
	if err := s.p.call(ctx, &task, "task.create", "curl", ""); err != nil {
		return err
	}
	v, err := s.p.enter(ctx)
	if err != nil {
		return err
	}
	// By itself curl waits a second for an answer to its header Expect before it sends.
	cmd := exec.CommandContext(ctx, "curl", "-sSf", "--http1.1", "-H", "Expect:", "--cacert", s.lab.CA, "-T", s.path, "-o", os.DevNull, "-K", "-")
	cmd.Stdin = strings.NewReader(fmt.Sprintf("url = \"%s/import_raw_vdi?session_id=%s&task_id=%s&vdi=%s&format=raw\"\n", s.lab.URL, v.session, task, vdi))
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("curl: %w: %s", err, out)
	}
	_, err = s.p.await(ctx, task, nil)
	return err
}
