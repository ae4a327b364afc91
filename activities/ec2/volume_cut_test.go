package ec2

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/morgana-deploy/morgana/ec2lab"
	"github.com/morgana-deploy/morgana/step"
)

// TestVolumeCancelled leaves nothing that Destroy does not find, at whatever call it ends.
func TestVolumeCancelled(t *testing.T) {
	environ(t)
	d := newDancer(t)
	at := &cutter{}
	d.through(at, &d.img)
	steps := int64(1)
	if testing.Short() {
		steps = 5
	}
	for n := int64(1); ; n += steps {
		d.img.Spec.Generation = int(n)
		ctx := at.cut(t.Context(), n)
		_, err := d.try(ctx)
		if ctx.Err() == nil {
			d.closed(err)
			d.written()
			_, err = d.try(ctx)
		}
		if err != nil && ctx.Err() == nil {
			t.Fatalf("cancelled after call %d: %v", n, err)
		}
		d.destroyed(false)
		if t.Failed() {
			t.Fatalf("cancelled after call %d", n)
		}
		if ctx.Err() == nil {
			break
		}
	}
}

// TestVolumeKilled kills the process before the n-th answer, in both parts of a dance. The next
// try makes one of each.
func TestVolumeKilled(t *testing.T) {
	environ(t)
	d := newDancer(t)
	at := &cutter{}
	d.through(at, &d.img)
	// kill reports whether the process was cut off before its work was done.
	kill := func(n int64) bool {
		c, out := d.victim(at.cut(t.Context(), n), d.img, true)
		return c.Run() != nil && !strings.Contains(out.String(), "could not reach port 22")
	}
	steps := int64(1)
	if testing.Short() {
		steps = 6
	}
	for n, more := int64(1), true; more; n += steps {
		d.img.Spec.Generation = int(n)
		more = kill(n)
		_, err := d.try(t.Context())
		d.closed(err)
		d.once()
		d.written()
		if kill(n) {
			more = true
		}
		no(t, failure(d.try(t.Context())))
		d.alone()
		d.destroyed(false)
		if t.Failed() {
			t.Fatalf("killed before answer %d", n)
		}
	}
}

// TestVolumeDestroyFaults removes a half-made dance, whatever answer is lost. List names all
// of it, Observe finds no machine in it, and KeepImage does not keep it.
func TestVolumeDestroyFaults(t *testing.T) {
	environ(t)
	for _, call := range []string{"TerminateInstances", "DeleteVolume", "DeleteKeyPair", "DeleteSecurityGroup"} {
		for _, lose := range []ec2lab.Lose{ec2lab.Before, ec2lab.After} {
			t.Run(fmt.Sprint(call, lose), func(t *testing.T) {
				t.Parallel()
				d := newDancer(t)
				_, err := d.try(t.Context())
				d.closed(err)
				list, err := hasty(d.site).List(t.Context(), d.img.Spec)
				no(t, err)
				var kinds []string
				for _, r := range list {
					if r.Tags != d.img.Spec.Tags {
						t.Errorf("listed %+v", r)
					}
					kinds = append(kinds, r.Kind)
				}
				slices.Sort(kinds)
				if want := []string{kindHelper, kindKeyPair, kindInterface, kindGroup, kindVolume, kindVolume}; !slices.Equal(kinds, want) {
					t.Errorf("listed %q, not %q", kinds, want)
				}
				h, err := hasty(d.site).Observe(t.Context(), step.Machine{Registration: step.Registration{Spec: d.img.Spec}})
				if err != nil || h.State != step.Gone {
					t.Errorf("the helper counts as the machine: %+v, %v", h, err)
				}
				d.lab.Fault(ec2lab.Fault{Call: call, Lose: lose})
				d.destroyed(true)
				d.as(d.before)
			})
		}
	}
}

// TestVolumeLost removes what EC2 lists only later: the worker was killed before the answer. A
// worker on another host does so too.
func TestVolumeLost(t *testing.T) {
	environ(t)
	for _, call := range []string{"CreateSecurityGroup", "ImportKeyPair", "RunInstances", "CreateVolume"} {
		t.Run(call, func(t *testing.T) {
			t.Parallel()
			isFound(t, call, false)
		})
		t.Run(call+" elsewhere", func(t *testing.T) {
			t.Parallel()
			isFound(t, call, true)
		})
	}
}

func isFound(t *testing.T, call string, elsewhere bool) {
	t.Helper()
	d := newDancer(t)
	waiting := func() *Target {
		target := hasty(d.site)
		target.limits.unlisted = 20 * time.Second
		return target
	}
	for _, lose := range []ec2lab.Lose{ec2lab.Before, ec2lab.After} { // the first leaves what comes before call
		d.lab.Fault(ec2lab.Fault{Call: call, Lose: lose})
		if _, err := waiting().Register(t.Context(), d.img); err == nil || step.KindOf(err).Final() {
			t.Fatal(err)
		}
		d.lab.Hide(300 * time.Millisecond)
	}
	if elsewhere {
		d.site = siteOf(t, t.TempDir(), d.store)
	}
	no(t, failure(waiting().Destroy(t.Context(), step.Removal{Spec: d.img.Spec})))
	time.Sleep(300 * time.Millisecond)
	d.as(d.before)
}

// TestVolumeElsewhere goes on from another host with another helper, and the volume.
func TestVolumeElsewhere(t *testing.T) {
	environ(t)
	d := newDancer(t)
	_, err := d.try(t.Context())
	d.closed(err)
	first := d.mine()
	d.img.Spec.Options = bytes.Replace(d.img.Spec.Options, []byte(`"user"`), []byte(`"from":"127.0.0.0/8","user"`), 1)
	d.site = siteOf(t, t.TempDir(), d.store)
	_, err = d.try(t.Context())
	d.closed(err)
	second := d.mine()
	if len(second.helpers) != 1 || *second.helpers[0].InstanceId == *first.helpers[0].InstanceId || len(second.volumes) != 1 || *second.volumes[0].VolumeId != *first.volumes[0].VolumeId {
		t.Errorf("first %v, then %v", first, second)
	}
	if p := second.groups[0].IpPermissions; len(p) != 1 || len(p[0].IpRanges) != 1 || *p[0].IpRanges[0].CidrIp != "127.0.0.0/8" {
		t.Errorf("the security group lets in %+v", p)
	}
	d.written()
	no(t, failure(d.try(t.Context())))
	d.alone()
}

// TestVolumeHelperEnds makes another helper if one ends, and gives up after some.
func TestVolumeHelperEnds(t *testing.T) {
	environ(t)
	g := &guests{ended: true}
	d := newDancerOn(t, g)
	target := hasty(d.site)
	target.limits.reach = time.Minute
	var err error
	tries := 1
	for ; tries < 20; tries++ {
		if _, err = target.Register(t.Context(), d.img); step.KindOf(err).Final() {
			break
		}
		t.Log(err)
	}
	refusedWith(t, "helpers that end", err, step.Error{Kind: step.Conflict}, "helpers ended before their work was done")
	if n := d.count("RunInstances"); n != maxDied || tries > 2*maxDied {
		t.Errorf("%d helpers were made in %d tries", n, tries)
	}
	d.destroyed(false)
}

// TestVolumeNotAttached leaves it to the next try to see that the helper has ended meanwhile.
func TestVolumeNotAttached(t *testing.T) {
	environ(t)
	d := newDancer(t)
	d.lab.Fault(ec2lab.Fault{Call: "AttachVolume", Code: "IncorrectState"})
	if _, err := hasty(d.site).Register(t.Context(), d.img); err == nil || step.KindOf(err) != "" {
		t.Fatalf("not attached: %v", err)
	}
	_, err := d.try(t.Context())
	d.closed(err)
	d.once()
}

// TestVolumeOtherZone makes another volume if the next helper is in another zone.
func TestVolumeOtherZone(t *testing.T) {
	environ(t)
	d := newDancer(t)
	_, err := d.try(t.Context())
	d.closed(err)
	first := d.mine()
	no(t, d.cloud.terminate(t.Context(), *first.helpers[0].InstanceId))
	d.lab.Withdraw("t3.micro", *first.helpers[0].Placement.AvailabilityZone)
	_, err = d.try(t.Context())
	d.closed(err)
	d.once()
	second := d.mine()
	if zone := *second.helpers[0].Placement.AvailabilityZone; zone == *first.volumes[0].AvailabilityZone || *second.volumes[0].AvailabilityZone != zone {
		t.Errorf("the volume is in %s, the helper in %s", *second.volumes[0].AvailabilityZone, zone)
	}
	d.destroyed(false)
}
