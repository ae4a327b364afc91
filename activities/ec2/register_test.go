package ec2

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/morgana-deploy/morgana/ec2lab"
	"github.com/morgana-deploy/morgana/image/disk"
	"github.com/morgana-deploy/morgana/step"
)

func TestRegister(t *testing.T) {
	environ(t)
	r := newRegistry(t)
	content := map[int32]byte{0: 1, 3: 2, 200: 3}
	for i, test := range []struct {
		name string
		ami  func(*ami)
		root string
		ena  bool
	}{
		{"hvm bios", nil, "/dev/xvda", true},
		{"hvm uefi", func(a *ami) { a.BootMode, a.Layout = bootUEFI, disk.UEFI }, "/dev/xvda", true},
		{"pv hd0", func(a *ami) {
			a.Virtualization, a.BootMode, a.Layout, a.KernelID = virtPV, "", disk.Whole, "aki-dc9ed9af"
		}, "/dev/sda1", false},
		{"pv hd0,0", func(a *ami) {
			a.Virtualization, a.BootMode, a.Layout, a.KernelID = virtPV, "", disk.Partition, "aki-dc9ed9af"
		}, "/dev/sda", false},
	} {
		img := r.image(1, 300*blockSize, content, test.ami)
		img.Spec.App = fmt.Sprintf("hello%d", i) // no parents
		a := ami{Virtualization: virtHVM, BootMode: bootBIOS}
		if test.ami != nil {
			test.ami(&a)
		}
		reg, _ := r.register(img)
		got, snapshot := r.ami(reg.ID)
		if reg.Adopted || reg.Digest != img.Digest {
			t.Errorf("%s: registration %+v", test.name, reg)
		}
		d := got.BlockDeviceMappings[0]
		if string(got.Architecture) != "x86_64" || string(got.VirtualizationType) != a.Virtualization || string(got.BootMode) != a.BootMode ||
			aws.ToString(got.RootDeviceName) != test.root || aws.ToString(d.DeviceName) != test.root || !aws.ToBool(d.Ebs.DeleteOnTermination) ||
			aws.ToBool(got.EnaSupport) != test.ena || aws.ToString(got.KernelId) != a.KernelID {
			t.Errorf("%s: the AMI is %+v", test.name, got)
		}
		r.same(snapshot, content)
		if n := r.lab.Puts(snapshot); len(n) != 3 || puts(n) != 3 {
			t.Errorf("%s: blocks were sent as %v", test.name, n)
		}
		s, err := r.cloud.ec2.DescribeSnapshots(t.Context(), &ec2.DescribeSnapshotsInput{SnapshotIds: []string{snapshot}})
		no(t, err)
		for what, tags := range map[string][]types.Tag{"AMI": got.Tags, "snapshot": s.Snapshots[0].Tags} {
			made, _ := owner(tags)
			if made != img.Spec.Tags || !slices.Equal(users(tags), []step.Tags{img.Spec.Tags}) || value(tags, tagDigest) != img.Digest {
				t.Errorf("%s: the %s has tags %v", test.name, what, tags)
			}
		}
		if left, err := filepath.Glob(filepath.Join(r.site.State, Kind, "*", "*")); err != nil || len(left) > 0 {
			t.Errorf("%s: left on the host: %q, %v", test.name, left, err)
		}
	}
}

// TestRegisterAgain sends only its use of an image that is there, also for a later generation.
func TestRegisterAgain(t *testing.T) {
	environ(t)
	r := newRegistry(t)
	img := r.image(1, 300*blockSize, map[int32]byte{0: 1, 3: 2}, nil)
	first, _ := r.register(img)
	for generation := 1; generation <= 3; generation++ {
		before := len(r.lab.Calls())
		img.Spec.Generation = generation
		reg, _ := r.register(img)
		if !reg.Adopted || reg.ID != first.ID {
			t.Errorf("generation %d: %+v, want %s adopted", generation, reg, first.ID)
		}
		for _, c := range r.lab.Calls()[before:] {
			if !strings.HasPrefix(c.Name, "Describe") && c.Name != "GetCallerIdentity" && c.Name != "CreateTags" {
				t.Errorf("generation %d: the call %s", generation, c.Name)
			}
		}
	}
	got, snapshot := r.ami(first.ID)
	if n := len(users(got.Tags)); n != 3 {
		t.Errorf("the AMI has %d users, want 3", n)
	}
	if made := r.made(); !slices.Equal(made, oneOfEach) || puts(r.lab.Puts(snapshot)) != 2 {
		t.Errorf("made %q", made)
	}
}

// TestRegisterParent sends only changed blocks, and those that became zero.
func TestRegisterParent(t *testing.T) {
	environ(t)
	before := map[int32]byte{0: 1, 3: 2, 5: 3, 10: 1, 11: 1, 200: 4, 290: 9}
	after := map[int32]byte{0: 1, 3: 7, 5: 3, 10: 1, 11: 1, 250: 6}
	const changed, all = 4, 6
	encrypted := func(a *ami) { a.Encrypted = true }
	for _, test := range []struct {
		name          string
		size          int64 // of the first image
		first, second func(*ami)
		between       func(r *registry, first step.Image)
		puts          int
		says          string
	}{
		{"used", 300 * blockSize, nil, nil, nil, changed, ""},
		{"larger", 3 * gibi, nil, nil, nil, all, "is larger"},
		{"other encryption", 300 * blockSize, encrypted, nil, nil, all, "is not encrypted alike"},
		{"both encrypted", 300 * blockSize, encrypted, encrypted, nil, changed, ""},
		{"list lost", 300 * blockSize, nil, nil, func(r *registry, first step.Image) {
			a, _ := step.FileNamed(first.Files, blocksFile)
			no(r, os.Remove(strings.TrimPrefix(a.URI, "file://")))
		}, all, "has no list of its blocks in the store"},
		{"denied", 300 * blockSize, nil, nil, func(r *registry, _ step.Image) {
			r.lab.Fault(ec2lab.Fault{Call: "StartSnapshot", Code: "AccessDeniedException"})
		}, all, "AWS does not take snap-"},
		{"encryption by default", 300 * blockSize, nil, nil, func(r *registry, _ step.Image) { r.lab.EncryptByDefault() }, all, "AWS does not take snap-"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			r := newRegistry(t)
			first := r.image(1, test.size, before, test.first)
			r.register(first)
			if test.between != nil {
				test.between(r, first)
			}
			reg, notes := r.register(r.image(2, 260*blockSize, after, test.second))
			_, snapshot := r.ami(reg.ID)
			r.same(snapshot, after)
			if n := puts(r.lab.Puts(snapshot)); n != test.puts {
				t.Errorf("%d blocks were sent, want %d", n, test.puts)
			}
			if !strings.Contains(notes, test.says) || test.says == "" && strings.Contains(notes, "all blocks") {
				t.Errorf("the notes do not say %q:\n%s", test.says, notes)
			}
		})
	}
}

// TestRegisterSameBlocks sends no block if only the AMI's parameters have changed.
func TestRegisterSameBlocks(t *testing.T) {
	environ(t)
	r := newRegistry(t)
	r.register(r.image(1, few, fewContent, nil))
	reg, _ := r.register(r.image(2, few, fewContent, func(a *ami) { a.BootMode = bootUEFI }))
	_, snapshot := r.ami(reg.ID)
	r.same(snapshot, fewContent)
	if n := puts(r.lab.Puts(snapshot)); n != 0 {
		t.Errorf("%d blocks were sent", n)
	}
}

// TestRegisterFaults makes one snapshot and one AMI, whatever goes wrong.
func TestRegisterFaults(t *testing.T) {
	environ(t)
	content := map[int32]byte{0: 1, 3: 2, 5: 3, 10: 1, 11: 1, 200: 4, 290: 9}
	faults := map[string]ec2lab.Fault{
		"throttled":       {Call: "PutSnapshotBlock", Skip: 1, Times: 6, Code: "RequestThrottledException", Status: 400},
		"wrong checksums": {Call: "PutSnapshotBlock", Times: 4, Code: wrongChecksum},
		"all throttled":   {Times: 4, Code: "RequestLimitExceeded", Status: 503},
		"internal errors": {Times: 10, Code: "InternalError", Status: 500},
		// Not every server of AWS knows what is new.
		"unknown snapshot": {Call: "RegisterImage", Code: "InvalidSnapshot.NotFound"},
		"unknown AMI":      {Call: "CreateTags", Code: "InvalidAMIID.NotFound"},
	}
	for _, call := range []string{"StartSnapshot", "PutSnapshotBlock", "CompleteSnapshot", "RegisterImage", "CreateTags"} {
		faults[call+" lost before"] = ec2lab.Fault{Call: call, Lose: ec2lab.Before, Times: 2}
		faults[call+" lost after"] = ec2lab.Fault{Call: call, Lose: ec2lab.After}
	}
	for name, fault := range faults {
		for _, hide := range []time.Duration{0, 500 * time.Millisecond} {
			if hide > 0 && fault.Lose != ec2lab.After {
				continue
			}
			t.Run(fmt.Sprintf("%s, hidden for %s", name, hide), func(t *testing.T) {
				t.Parallel()
				r := newRegistry(t)
				r.lab.Hide(hide)
				r.lab.Fault(fault)
				img := r.image(1, 300*blockSize, content, nil)
				reg, _ := r.register(img)
				if fault.Call == "CreateTags" {
					img.Spec.Generation = 2
					reg, _ = r.register(img)
				}
				r.one(reg, content)
				if got, _ := r.ami(reg.ID); fault.Call == "CreateTags" && len(users(got.Tags)) != 2 {
					t.Errorf("the AMI has the tags %v", got.Tags)
				}
			})
		}
	}
}

// TestRegisterHalfTagged tags the snapshot too if only its AMI has the use.
func TestRegisterHalfTagged(t *testing.T) {
	environ(t)
	r := newRegistry(t)
	img := r.image(1, 300*blockSize, map[int32]byte{0: 1}, nil)
	reg, _ := r.register(img)
	img.Spec.Generation = 2
	use, err := useTag(img.Spec.Tags)
	no(t, err)
	no(t, r.cloud.tag(t.Context(), []types.Tag{use}, reg.ID))
	r.register(img)
	all, err := r.cloud.images(t.Context(), img.Spec.Tags)
	if err != nil || len(all) != 2 {
		t.Fatal(all, err)
	}
	for _, made := range all {
		if len(users(made.tags)) != 2 {
			t.Errorf("%s has the tags %v", made, made.tags)
		}
	}
}

// TestRegisterBroken begins another snapshot after one that failed, and deletes that.
func TestRegisterBroken(t *testing.T) {
	environ(t)
	r := newRegistry(t)
	content := map[int32]byte{0: 1, 3: 2}
	r.lab.Fault(ec2lab.Fault{Call: "CompleteSnapshot", Times: 2, Stuck: true})
	go func() { // AWS gives up two of them
		for i := range 2 {
			for t.Context().Err() == nil && r.count("CompleteSnapshot") <= i {
				time.Sleep(10 * time.Millisecond)
			}
			for _, line := range r.lab.Resources() {
				if f := strings.Fields(line); f[0] == "snapshot" && f[2] == "pending" {
					r.lab.Fail(f[1])
				}
			}
		}
	}()
	reg, _ := r.register(r.image(1, 300*blockSize, content, nil))
	r.one(reg, content)
}

// TestRegisterBrokenTooOften gives up.
func TestRegisterBrokenTooOften(t *testing.T) {
	s := types.Snapshot{SnapshotId: aws.String("snap-0a1b"), StateMessage: aws.String("the key is disabled")}
	_, err := new(registering).send(t.Context(), found{broken: []types.Snapshot{s, s, s}})
	refusedWith(t, "send", err, step.Error{Kind: step.Conflict}, "the key is disabled")
}

// TestBlocksTag leaves out the tag of a list whose place does not fit into one.
func TestBlocksTag(t *testing.T) {
	a := step.Artifact{URI: "s3://bucket/sha256/ab/" + strings.Repeat("ab", 32), SHA256: strings.Repeat("ab", 32), Size: 75}
	tag, ok := blocksTag(a)
	if got, read := parseBlocksTag(*tag.Value); !ok || !read || got != a {
		t.Errorf("of %+v the tag has %+v, %v, %v", a, got, ok, read)
	}
	for _, uri := range []string{"file:///" + strings.Repeat("x", 200), "file:///my%20store/sha256"} {
		if tag, ok := blocksTag(step.Artifact{URI: uri, SHA256: a.SHA256}); ok {
			t.Errorf("the tag %s is made", *tag.Value)
		}
	}
}

// TestRegisterForeign does not touch an AMI that has the name and is not ours.
func TestRegisterForeign(t *testing.T) {
	environ(t)
	r := newRegistry(t)
	img := r.image(1, 300*blockSize, map[int32]byte{0: 1}, nil)
	reg, _ := r.register(img)
	no(t, failure(r.cloud.ec2.DeleteTags(t.Context(), &ec2.DeleteTagsInput{Resources: []string{reg.ID}})))
	before := r.lab.Resources()
	_, err := New(r.site).Register(t.Context(), img)
	refusedWith(t, "register", err, step.Error{Kind: step.Conflict}, reg.ID)
	if after := r.lab.Resources(); !slices.Equal(before, after) {
		t.Errorf("changed from %q to %q", before, after)
	}
	if got, _ := r.ami(reg.ID); len(got.Tags) > 0 {
		t.Errorf("the foreign AMI has got tags %v", got.Tags)
	}
}

// TestRegisterDenied names the permission that is missing.
func TestRegisterDenied(t *testing.T) {
	environ(t)
	for _, action := range []string{"ebs:StartSnapshot", "ebs:PutSnapshotBlock", "ebs:CompleteSnapshot", "ec2:RegisterImage", "ec2:DescribeSnapshots"} {
		r := newRegistry(t)
		r.lab.Deny(action)
		_, err := New(r.site).Register(t.Context(), r.image(1, 300*blockSize, map[int32]byte{0: 1}, nil))
		refusedWith(t, action, err, step.Error{Kind: step.Unauthorized}, action)
	}
}

// TestRegisterRefuses refuses images that this target did not make.
func TestRegisterRefuses(t *testing.T) {
	environ(t)
	r := newRegistry(t)
	good := r.image(1, 300*blockSize, map[int32]byte{599: 1}, nil)
	other := good
	other.Digest = strings.Repeat("0", 64)
	short := good
	short.Files = slices.DeleteFunc(slices.Clone(good.Files), func(f step.File) bool { return f.Name == blocksFile })
	short.Digest = step.DigestOf(short.Files)
	for name, img := range map[string]step.Image{
		"another digest": other, "no list": short, "a block beyond the end": r.image(1, 2*gibi, map[int32]byte{2048: 1}, func(a *ami) { a.Size = gibi }),
		"no architecture":   r.image(1, gibi, map[int32]byte{1: 1}, func(a *ami) { a.Architecture = "" }),
		"no virtualization": r.image(1, gibi, map[int32]byte{1: 1}, func(a *ami) { a.Virtualization = virtAuto }),
	} {
		_, err := New(r.site).Register(t.Context(), img)
		if step.KindOf(err) != step.InvalidSpec {
			t.Errorf("%s: %v", name, err)
		}
	}
	if made := r.made(); len(made) > 0 {
		t.Errorf("made %q", made)
	}
}
