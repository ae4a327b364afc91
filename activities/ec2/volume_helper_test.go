package ec2

import (
	"bytes"
	"context"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/morgana-deploy/morgana/ec2lab"
	"github.com/morgana-deploy/morgana/need"
	"github.com/morgana-deploy/morgana/step"
)

// realDancer is a dancer whose helpers are machines with a real Linux.
func realDancer(t *testing.T) *dancer {
	t.Helper()
	need.Lab(t, ec2lab.MissingLinux(t.Context()))
	environ(t)
	return newDancerOn(t, ec2lab.NewMachines(t.TempDir()))
}

// patient is a target that waits for a helper as long as QEMU may take.
func patient(site step.Site) *Target {
	t := New(site)
	t.limits.reach, t.limits.grace = 5*time.Minute, time.Second
	return t
}

// TestVolumeByHelper writes a disk by ssh to a real block device, and no block of zeros.
func TestVolumeByHelper(t *testing.T) {
	d := realDancer(t)
	began := time.Now()
	var notes []string
	ctx := step.WithReporter(t.Context(), func(p step.Progress) { notes = append(notes, p.Note) }, nil)
	reg, err := patient(d.site).Register(ctx, d.img)
	no(t, err)
	t.Logf("the dance took %s", time.Since(began).Round(time.Millisecond))
	_, snapshot := d.ami(reg.ID)
	d.same(snapshot, fewContent)
	d.alone()
	for _, note := range []string{"waiting for ssh of the helper i-", "writing to vol-", "comparing the blocks on /dev/nvme1n1", "waiting for snap-"} {
		if !strings.Contains(strings.Join(notes, "\n"), note) {
			t.Errorf("no note says %q", note)
		}
	}
}

// TestVolumeResumes goes on with a helper that a cancelled try and a killed process have left,
// and writes only the blocks that differ.
func TestVolumeResumes(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes a machine")
	}
	d := realDancer(t)
	const all = 120
	content := map[int32]byte{}
	for i := range all {
		content[int32(2*i)] = byte(i + 1)
	}
	d.img = d.dancing(d.image(1, 2*all*blockSize, content, nil), `{"type":"t2.micro","user":"ec2-user"}`)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	_, err := patient(d.site).Register(step.WithReporter(ctx, func(p step.Progress) {
		if strings.HasPrefix(p.Note, "writing to ") && p.Done > 40*blockSize {
			cancel()
		}
	}, nil), d.img)
	if err == nil || ctx.Err() == nil {
		t.Fatalf("it was not cut off: %v", err)
	}
	d.once()

	v := *d.mine().volumes[0].VolumeId
	before := d.onDisk(v)
	ctx, kill := context.WithCancel(t.Context())
	defer kill()
	go func() {
		for ctx.Err() == nil && d.onDisk(v) < before+10 {
			time.Sleep(20 * time.Millisecond)
		}
		kill()
	}()
	c, out := d.victim(ctx, d.img, false)
	if err := c.Run(); err == nil || c.ProcessState.Exited() {
		t.Fatalf("it was not killed: %v\n%s", err, out)
	}

	total := int64(-1)
	reg, err := patient(d.site).Register(step.WithReporter(t.Context(), func(p step.Progress) {
		if strings.HasPrefix(p.Note, "writing to ") {
			total = max(total, p.Total/blockSize)
		}
	}, nil), d.img)
	no(t, err)
	t.Logf("%d blocks were there after the first try; the last one wrote %d of %d", before, total, all)
	if before == 0 || total < 0 || total > all-before-10 {
		t.Error("blocks were written again")
	}
	if n := d.count("RunInstances") + d.count("CreateVolume"); n != 2 {
		t.Errorf("%d helpers and volumes were made", n)
	}
	_, snapshot := d.ami(reg.ID)
	d.same(snapshot, content)
	d.alone()
}

// onDisk returns how many blocks the file of a volume has.
func (d *dancer) onDisk(volume string) int64 {
	path, err := d.lab.VolumeFile(volume)
	var s syscall.Stat_t
	if err == nil {
		err = syscall.Stat(path, &s)
	}
	if err != nil {
		d.Error(err)
	}
	return s.Blocks * 512 / blockSize
}

// TestVolumeNotLetIn says what to do if a helper is not the one that was made, or does not
// let the worker in. See dancer.closed for a helper that does not answer.
func TestVolumeNotLetIn(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes machines")
	}
	for name, test := range map[string]struct {
		trouble ec2lab.Trouble
		option  string
		want    step.Error
		says    string
	}{
		"other host key": {ec2lab.Trouble{OtherHostKey: true}, "", step.Error{Kind: step.Unauthorized}, "has not the host key that it was given"},
		"other user":     {ec2lab.Trouble{}, `"user":"admin"`, step.Error{Kind: step.Unauthorized, Field: "helper.user"}, "does not let admin log in"},
	} {
		t.Run(name, func(t *testing.T) {
			d := realDancer(t)
			d.lab.Trouble(test.trouble)
			if test.option != "" {
				d.img.Spec.Options = bytes.Replace(d.img.Spec.Options, []byte(`"user":"ec2-user"`), []byte(test.option), 1)
			}
			_, err := patient(d.site).Register(t.Context(), d.img)
			refusedWith(t, name, err, test.want, test.says)
			d.destroyed(false)
		})
	}
}
