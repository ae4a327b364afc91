package ec2

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/morgana-deploy/morgana/ec2lab"
	"github.com/morgana-deploy/morgana/image/disk"
	"github.com/morgana-deploy/morgana/step"
	"github.com/morgana-deploy/morgana/store"
)

// registry is a lab with a worker's site, where images are registered.
type registry struct {
	testing.TB
	lab   *ec2lab.Lab
	site  step.Site
	store string // its folder
	cloud *cloud
	last  *step.Progress // of an earlier try
	// before is what the lab has, without buckets.
	before []string
}

// newRegistry starts a lab. The test has called environ.
func newRegistry(t testing.TB) *registry {
	t.Helper()
	return newRegistryOn(t, nil)
}

// newRegistryOn starts a lab with a hypervisor.
func newRegistryOn(t testing.TB, h ec2lab.Hypervisor) *registry {
	t.Helper()
	lab, err := ec2lab.Start(ec2lab.Options{Hypervisor: h, Moment: time.Millisecond})
	no(t, err)
	closing(t, lab)
	r := &registry{TB: t, lab: lab, store: t.TempDir()}
	r.site = siteOf(t, t.TempDir(), r.store)
	r.cloud, err = open(t.Context(), settings{Options: Options{Region: lab.Region(), Endpoint: lab.URL()}})
	no(t, err)
	r.before = r.without()
	return r
}

// as fails the test unless the lab has the same as before, but for buckets.
func (r *registry) as(before []string) {
	r.Helper()
	if now := r.without(); !slices.Equal(now, before) {
		r.Errorf("left %q, before %q", now, before)
	}
}

func siteOf(t testing.TB, state, folder string) step.Site {
	t.Helper()
	s, err := store.Open(t.Context(), folder)
	no(t, err)
	closing(t, s)
	return step.Site{Host: "testhost", State: state, Store: s, Log: slog.New(slog.NewTextHandler(t.Output(), nil))}
}

// image makes the image of a disk with the content.
func (r *registry) image(generation int, size int64, content map[int32]byte, change func(*ami)) step.Image {
	r.Helper()
	return r.imageOf(sparse(r, size, content), generation, size, change)
}

// imageOf makes the image of a disk.
func (r *registry) imageOf(path string, generation int, size int64, change func(*ami)) step.Image {
	r.Helper()
	a := ami{Architecture: "x86_64", Virtualization: virtHVM, BootMode: bootBIOS, Layout: disk.BIOS, Size: size}
	if change != nil {
		change(&a)
	}
	config, err := json.Marshal(a)
	no(r, err)
	packed, err := disk.Store(r.Context(), r.site.Store, path)
	no(r, err)
	img := step.Image{Format: "disk", Files: []step.File{{Name: packedDisk, Artifact: packed}}}
	for name, b := range map[string][]byte{blocksFile: list(r, path).text(), amiFile: config} {
		put, err := r.site.Store.Put(r.Context(), bytes.NewReader(b))
		no(r, err)
		img.Files = append(img.Files, step.File{Name: name, Artifact: put})
	}
	img.Digest = step.DigestOf(img.Files)
	img.Spec = step.Spec{Kind: Kind, Tags: step.Tags{App: "hello", Target: "prod", Life: "00c0ffee", Generation: generation},
		Options: json.RawMessage(fmt.Sprintf(`{"backing":"direct","virtualization":"hvm","endpoint":%q,"region":%q,"account":%q,"timeout":"10m"}`,
			r.lab.URL(), r.lab.Region(), r.lab.Account()))}
	return img
}

// register registers an image, with as many tries as Temporal would make. It returns the
// notes of the progress too.
func (r *registry) register(img step.Image) (step.Registration, string) {
	r.Helper()
	last := r.last
	var notes []string
	for range 20 {
		ctx := step.WithReporter(r.Context(), func(p step.Progress) {
			if notes = append(notes, p.Note); p.State == nil && last != nil {
				p.State = last.State
			}
			last = &p
		}, last)
		reg, err := New(r.site).Register(ctx, img)
		switch {
		case err == nil:
			return reg, strings.Join(notes, "\n")
		case step.KindOf(err).Final():
			r.Fatalf("register: %v (%s)", err, step.KindOf(err))
		}
		r.Logf("try again: %v", err)
	}
	r.Fatal("register does not end")
	panic("unreachable")
}

// ami describes an AMI, and its snapshot.
func (r *registry) ami(id string) (types.Image, string) {
	r.Helper()
	out, err := r.cloud.ec2.DescribeImages(r.Context(), &ec2.DescribeImagesInput{ImageIds: []string{id}})
	if err != nil || len(out.Images) != 1 || len(out.Images[0].BlockDeviceMappings) != 1 {
		r.Fatalf("describe %s: %v, %v", id, out, err)
	}
	return out.Images[0], *out.Images[0].BlockDeviceMappings[0].Ebs.SnapshotId
}

// made lists the AMIs and snapshots of the account, without their ids.
func (r *registry) made() (all []string) {
	for _, line := range r.lab.Resources() {
		if f := strings.Fields(line); f[0] == "image" && strings.HasPrefix(f[1], "ami-") || f[0] == "snapshot" {
			all = append(all, f[0]+" "+f[2])
		}
	}
	return all
}

var oneOfEach = []string{"image available", "snapshot completed"}

// same fails if a snapshot's bytes are not those of a disk with the content.
func (r *registry) same(snapshot string, content map[int32]byte) {
	r.Helper()
	path := filepath.Join(r.TempDir(), "bytes")
	no(r, r.lab.WriteSnapshot(snapshot, path))
	want := list(r, sparse(r, gibi, content))
	if got := list(r, path); !slices.Equal(got, want) {
		r.Errorf("the snapshot has %d blocks that are not zero, want %d", len(got), len(want))
	}
}

func puts(of map[int]int) (all int) {
	for _, n := range of {
		all += n
	}
	return all
}

// one fails unless there is one AMI and one snapshot, with the content.
func (r *registry) one(reg step.Registration, content map[int32]byte) {
	r.Helper()
	_, snapshot := r.ami(reg.ID)
	r.same(snapshot, content)
	if made := r.made(); !slices.Equal(made, oneOfEach) {
		r.Errorf("made %q", made)
	}
}
