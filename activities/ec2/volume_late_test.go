package ec2

import (
	"bytes"
	"context"
	"errors"
	"os"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/ec2"

	"github.com/morgana-deploy/morgana/ec2lab"
	"github.com/morgana-deploy/morgana/step"
)

// TestVolumeAdoptsOtherAMI removes the parts of its dance also if another rollout has registered
// the image meanwhile.
func TestVolumeAdoptsOtherAMI(t *testing.T) {
	environ(t)
	d := newDancer(t)
	d.img.Spec.Generation = 2
	_, err := d.try(t.Context())
	d.closed(err)
	d.once()
	other := d.img
	other.Spec.Options = bytes.Replace(other.Spec.Options, []byte(`"backing":"volume","helper":{"type":"t3.micro","user":"ec2-user"}`), []byte(`"backing":"direct"`), 1)
	other.Spec.Generation = 1
	no(t, failure(hasty(d.site).Register(t.Context(), other)))
	reg, err := d.try(t.Context())
	if err != nil || !reg.Adopted {
		t.Fatalf("adopted %t, %v", reg.Adopted, err)
	}
	d.alone()
}

// TestVolumeSnapshotListedLate removes the first of two snapshots: EC2 has listed it only after the
// second was begun.
func TestVolumeSnapshotListedLate(t *testing.T) {
	environ(t)
	d := newDancer(t)
	_, err := d.try(t.Context())
	d.closed(err)
	d.written()
	d.lab.Fault(ec2lab.Fault{Call: "CreateSnapshot", Lose: ec2lab.After})
	d.lab.Hide(300 * time.Millisecond)
	target := hasty(d.site)
	target.limits.unlisted = time.Millisecond
	for err = errors.New("not yet"); err != nil; _, err = target.Register(t.Context(), d.img) {
		if step.KindOf(err).Final() {
			t.Fatal(err)
		}
	}
	time.Sleep(300 * time.Millisecond) // the AMI is hidden too
	d.alone()
}

// TestVolumeDetachStuck terminates a helper that does not let go of the volume.
func TestVolumeDetachStuck(t *testing.T) {
	environ(t)
	d := newDancer(t)
	_, err := d.try(t.Context())
	d.closed(err)
	d.written()
	d.lab.Fault(ec2lab.Fault{Call: "DetachVolume", Stuck: true})
	target := hasty(d.site)
	target.limits.detached = 500 * time.Millisecond
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	no(t, failure(target.Register(ctx, d.img)))
	if n := d.count("DetachVolume"); n != 1 {
		t.Errorf("DetachVolume was called %d times", n)
	}
	d.alone()
}

// TestVolumeDeleted makes another volume if somebody has deleted the first.
func TestVolumeDeleted(t *testing.T) {
	environ(t)
	d := newDancer(t)
	_, err := d.try(t.Context())
	d.closed(err)
	first := d.mine().volumes[0].VolumeId
	no(t, failure(d.cloud.ec2.DetachVolume(t.Context(), &ec2.DetachVolumeInput{VolumeId: first})))
	if _, err := poll(t.Context(), time.Minute, func() (bool, error) {
		_, err := d.cloud.ec2.DeleteVolume(t.Context(), &ec2.DeleteVolumeInput{VolumeId: first})
		return err == nil, nil
	}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	_, err = d.try(ctx)
	d.closed(err)
	d.once()
}

// TestVolumeNothingToWaitFor removes nothing at once if the dance did not come to its first act at
// EC2, and waits only where it may have.
func TestVolumeNothingToWaitFor(t *testing.T) {
	environ(t)
	for name, test := range map[string]struct {
		register func(d *dancer) // what Register does before
		all      bool            // generations are removed
		waits    bool
	}{
		"refused before": {func(d *dancer) {
			d.img.Spec.Options = bytes.Replace(d.img.Spec.Options, []byte(`"user"`), []byte(`"subnet":"`+d.lab.PrivateSubnet()+`","user"`), 1)
		}, false, false},
		"refused":         {func(d *dancer) { d.lab.Fault(ec2lab.Fault{Call: "CreateSecurityGroup", Code: "UnauthorizedOperation"}) }, false, false},
		"lost":            {func(d *dancer) { d.lab.Fault(ec2lab.Fault{Call: "CreateSecurityGroup", Lose: ec2lab.Before}) }, false, true},
		"not here":        {nil, false, true},
		"all generations": {nil, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDancer(t)
			if test.register != nil {
				test.register(d)
				if _, err := hasty(d.site).Register(t.Context(), d.img); err == nil {
					t.Fatal("registered")
				}
			}
			what := step.Removal{Spec: d.img.Spec}
			if test.all {
				what.Spec.Generation = 0
			}
			before := d.count("DescribeSecurityGroups")
			target := hasty(d.site)
			target.limits.unlisted = 3 * time.Second
			if done, err := target.Destroy(t.Context(), what); err != nil || len(done.Removed) > 0 {
				t.Errorf("removed %q, %v", done.Removed, err)
			}
			// Once for the last act of the dance, and once for what is left of it.
			if n := d.count("DescribeSecurityGroups") - before; n > 2 != test.waits {
				t.Errorf("it listed the security groups %d times", n)
			}
		})
	}
}

// TestVolumeKeysElsewhere removes old keys of a dance that a worker on another host has ended,
// when another rollout is destroyed, and keys of that rollout whose making was cut off.
func TestVolumeKeysElsewhere(t *testing.T) {
	environ(t)
	d := newDancer(t)
	folder := func(name string, age time.Duration) {
		path := New(d.site).keysFolder(name)
		at := time.Now().Add(-age)
		no(t, errors.Join(os.MkdirAll(path, 0o700), os.Chtimes(path, at, at)))
	}
	const young, whole = "hello.test.0a1b2c3d-2", "hello.test.0a1b2c3d-1"
	folder(whole, 8*24*time.Hour)
	folder(young, 6*24*time.Hour)
	folder(newKeys+"hello.test.0a1b2c3d-3~1", 2*time.Hour)
	own, err := d.img.Spec.Folder()
	no(t, err)
	folder(newKeys+own+"~1", 0)
	d.destroyed(false)
	left, err := os.ReadDir(New(d.site).keysFolder(""))
	if err != nil || len(left) != 1 || left[0].Name() != young {
		t.Errorf("left %v, %v", left, err)
	}
}
