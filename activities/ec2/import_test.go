package ec2

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"

	"github.com/morgana-deploy/morgana/ec2lab"
	"github.com/morgana-deploy/morgana/image/disk"
	"github.com/morgana-deploy/morgana/step"
)

// few is the size of a disk with two parts, and fewContent is its content.
const few = 17 * blockSize

var fewContent = map[int32]byte{0: 1, 3: 2, 16: 4}

// importing makes the backing of an image import.
func (r *registry) importing(img step.Image) step.Image {
	img.Spec.Options = bytes.Replace(img.Spec.Options, []byte(`"backing":"direct"`), []byte(`"backing":"import","bucket":"disks"`), 1)
	return img
}

// without returns what a lab has, without a bucket that is empty.
func (r *registry) without() []string {
	return slices.DeleteFunc(r.lab.Resources(), func(line string) bool { return strings.HasPrefix(line, "bucket ") })
}

func (r *registry) destroy(spec step.Spec) {
	r.Helper()
	var err error
	for range 10 {
		if _, err = New(r.site).Destroy(r.Context(), step.Removal{Spec: spec}); err == nil {
			return
		}
		if step.KindOf(err).Final() {
			break
		}
	}
	r.Fatalf("destroy: %v", err)
}

// tidy fails if an import left more than an AMI and its snapshot.
func (r *registry) tidy() {
	r.Helper()
	for _, line := range r.lab.Resources() {
		if word, _, _ := strings.Cut(line, " "); word == "object" || word == "upload" || word == "import-task" {
			r.Errorf("left: %s", line)
		}
	}
}

// came returns how often a call came.
func (r *registry) came(name string) (n int) {
	for _, c := range r.lab.Calls() {
		if c.Name == name {
			n++
		}
	}
	return n
}

// count returns how often a call was done.
func (r *registry) count(name string) (n int) {
	for _, c := range r.lab.Calls() {
		if c.Name == name && c.Code == "" {
			n++
		}
	}
	return n
}

func TestImport(t *testing.T) {
	environ(t)
	r := newRegistry(t)
	for i, change := range []func(*ami){
		nil,
		func(a *ami) { a.BootMode, a.Layout = bootUEFI, disk.UEFI },
		func(a *ami) {
			a.Virtualization, a.BootMode, a.Layout, a.KernelID = virtPV, "", disk.Whole, "aki-dc9ed9af"
		},
		func(a *ami) {
			a.Virtualization, a.BootMode, a.Layout, a.KernelID, a.Encrypted = virtPV, "", disk.Partition, "aki-d09ed9a3", true
		},
	} {
		img := r.importing(r.image(1, few, fewContent, change))
		img.Spec.App = fmt.Sprintf("hello%d", i)
		a := ami{Virtualization: virtHVM, BootMode: bootBIOS, Layout: disk.BIOS}
		if change != nil {
			change(&a)
		}
		reg, notes := r.register(img)
		got, snapshot := r.ami(reg.ID)
		if string(got.VirtualizationType) != a.Virtualization || string(got.BootMode) != a.BootMode || aws.ToString(got.KernelId) != a.KernelID ||
			aws.ToString(got.RootDeviceName) != a.rootDevice() || reg.Adopted {
			t.Errorf("%s: the AMI is %+v", a.Layout, got)
		}
		r.same(snapshot, fewContent)
		out, err := r.cloud.ec2.DescribeSnapshots(t.Context(), &ec2.DescribeSnapshotsInput{SnapshotIds: []string{snapshot}})
		no(t, err)
		s := out.Snapshots[0]
		if made, _ := owner(s.Tags); made != img.Spec.Tags || !slices.Equal(users(s.Tags), []step.Tags{img.Spec.Tags}) || value(s.Tags, tagDigest) != img.Digest ||
			aws.ToBool(s.Encrypted) != a.Encrypted {
			t.Errorf("%s: the snapshot is %+v", a.Layout, s)
		}
		for _, says := range []string{"sending the disk to s3://disks/morgana/hello", "import import-snap-"} {
			if !strings.Contains(notes, says) {
				t.Errorf("%s: the notes do not say %q:\n%s", a.Layout, says, notes)
			}
		}
		r.tidy()
		r.destroy(img.Spec)
		r.as(r.before)
	}
	// What was destroyed can be made again. A later generation sends nothing.
	img := r.importing(r.image(1, few, fewContent, nil))
	r.register(img)
	r.destroy(img.Spec)
	reg, _ := r.register(img)
	r.one(reg, fewContent)
	sent := r.count("UploadPart")
	img.Spec.Generation = 2
	if reg, _ := r.register(img); !reg.Adopted || r.count("UploadPart") != sent {
		t.Errorf("the second generation: %+v, %d parts", reg, r.count("UploadPart")-sent)
	}
}

// TestImportFaults makes one of each, whatever goes wrong.
func TestImportFaults(t *testing.T) {
	environ(t)
	faults := map[string]ec2lab.Fault{
		"throttled":        {Call: "ImportSnapshot", Times: 2, Code: "RequestLimitExceeded"},
		"slow down":        {Call: "UploadPart", Times: 2, Code: "SlowDown"},
		"internal errors":  {Times: 10, Code: "InternalError", Status: 500},
		"unknown task":     {Call: "DescribeImportSnapshotTasks", Skip: 1, Times: 2, Code: noTask},
		"unknown snapshot": {Call: "CreateTags", Code: "InvalidSnapshot.NotFound"},
	}
	for _, call := range []string{"CreateBucket", "CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload", "ImportSnapshot", "CreateTags", "DeleteObject", "RegisterImage"} {
		faults[call+" lost before"] = ec2lab.Fault{Call: call, Lose: ec2lab.Before, Times: 2}
		faults[call+" lost after"] = ec2lab.Fault{Call: call, Lose: ec2lab.After}
	}
	for name, fault := range faults {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRegistry(t)
			r.lab.Fault(fault)
			reg, _ := r.register(r.importing(r.image(1, few, fewContent, nil)))
			r.one(reg, fewContent)
			r.tidy()
			if n := r.count("ImportSnapshot"); n > 1 {
				t.Errorf("%d imports", n)
			}
		})
	}
}

// TestImportFails says AWS's message. What AWS blames on itself is tried again.
func TestImportFails(t *testing.T) {
	environ(t)
	r := newRegistry(t)
	img := r.importing(r.image(1, few, fewContent, nil))
	r.lab.FailImport("ClientError: Disk validation failed [OVF file parsing error]")
	_, err := New(r.site).Register(t.Context(), img)
	refusedWith(t, "the client's fault", err, step.Error{Kind: step.Unsupported}, "Disk validation failed [OVF file parsing error]")
	r.destroy(img.Spec)
	r.as(r.before)

	img.Spec.Generation = 2
	r.lab.FailImport("ServerError: an internal error has occurred during conversion.")
	_, err = New(r.site).Register(t.Context(), img)
	if err == nil || step.KindOf(err).Final() || !strings.Contains(err.Error(), "internal error has occurred during conversion") {
		t.Errorf("the server's fault: %v", err)
	}
	reg, _ := r.register(img)
	r.one(reg, fewContent)
	r.tidy()

	img.Spec.Generation, img.Spec.App = 1, "other"
	for range maxBroken {
		r.lab.FailImport("ServerError: no")
		if _, err = New(r.site).Register(t.Context(), img); step.KindOf(err).Final() {
			t.Fatal(err)
		}
	}
	_, err = New(r.site).Register(t.Context(), img)
	refusedWith(t, "three times", err, step.Error{Kind: step.Conflict}, "3 imports failed, the last: ServerError: no")
}

// TestImportRefused says what to do about role, bucket and permissions.
func TestImportRefused(t *testing.T) {
	environ(t)
	for name, test := range map[string]struct {
		change func(*ec2lab.Lab)
		kind   step.Kind
		field  string
		says   []string
	}{
		"no role": {func(l *ec2lab.Lab) { l.NoImportRole(true) }, step.Unauthorized, "role",
			[]string{"role vmimport does not exist", `"vmie.amazonaws.com"`, `"arn:aws:s3:::disks/*"`, "ec2:ModifySnapshotAttribute"}},
		"bucket elsewhere":   {func(l *ec2lab.Lab) { l.MakeBucket("disks", "us-east-1", "") }, step.InvalidSpec, "bucket", []string{"is in us-east-1", "eu-west-1"}},
		"bucket of another":  {func(l *ec2lab.Lab) { l.TakeBucket("disks") }, step.Unauthorized, "bucket", []string{"choose another name"}},
		"may not make it":    {func(l *ec2lab.Lab) { l.Deny("s3:CreateBucket") }, step.Unauthorized, "", []string{"s3:CreateBucket"}},
		"may not send":       {func(l *ec2lab.Lab) { l.Deny("s3:PutObject") }, step.Unauthorized, "", []string{"s3:PutObject"}},
		"may not import":     {func(l *ec2lab.Lab) { l.Deny("ec2:ImportSnapshot") }, step.Unauthorized, "", []string{"ec2:ImportSnapshot"}},
		"told by the region": {func(l *ec2lab.Lab) { l.Fault(local) }, step.InvalidSpec, "bucket", []string{"disks is not in eu-west-1"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRegistry(t)
			test.change(r.lab)
			img := r.importing(r.image(1, few, fewContent, nil))
			_, err := New(r.site).Register(t.Context(), img)
			for _, says := range test.says {
				refusedWith(t, name, err, step.Error{Kind: test.kind, Field: test.field}, says)
			}
			r.lab.Deny()
			r.lab.NoImportRole(false)
			if name != "bucket of another" {
				r.destroy(img.Spec)
			}
			r.as(r.before)
		})
	}
}

// local is what AWS says of an object in another region.
var local = ec2lab.Fault{Call: "ImportSnapshot", Code: "InvalidParameter", Message: "The given S3 object is not local to the region. The object must be located in us-east-1."}

// TestImportCancelled leaves nothing that Destroy does not find, at whatever call it ends.
func TestImportCancelled(t *testing.T) {
	environ(t)
	r := newRegistry(t)
	at := &cutter{}
	img := r.importing(r.image(1, few, fewContent, nil))
	r.lab.Fault(ec2lab.Fault{Call: "ImportSnapshot", Times: 3, Stuck: true})
	r.through(at, &img)
	for n := int64(1); ; n++ {
		img.Spec.Generation = int(n)
		ctx := at.cut(t.Context(), n)
		_, err := New(r.site).Register(ctx, img)
		if err != nil && (ctx.Err() == nil || step.KindOf(err).Final()) {
			t.Fatalf("cancelled after call %d: %v", n, err)
		}
		r.destroy(img.Spec)
		r.as(r.before)
		if err == nil {
			break
		}
	}
	if n := r.count("CancelImportTask"); n == 0 {
		t.Error("no import was cancelled")
	}
}

// TestDestroyImportFaults removes a running import, whatever goes wrong. List names it before.
func TestDestroyImportFaults(t *testing.T) {
	environ(t)
	for _, call := range []string{"CancelImportTask", "DeleteObject", "AbortMultipartUpload", "CreateTags", "DeleteSnapshot"} {
		for _, lose := range []ec2lab.Lose{ec2lab.Before, ec2lab.After} {
			t.Run(fmt.Sprint(call, lose), func(t *testing.T) {
				t.Parallel()
				r := newRegistry(t)
				img := r.importing(r.image(1, few, fewContent, nil))
				end := ec2lab.Fault{Call: "DescribeImportSnapshotTasks", Skip: 1, Times: -1, Code: "UnauthorizedOperation"} // while it runs
				stuck := ec2lab.Fault{Call: "ImportSnapshot", Stuck: true}
				switch call {
				case "AbortMultipartUpload":
					end = ec2lab.Fault{Call: "UploadPart", Times: -1, Code: "AccessDenied"}
				case "CreateTags", "DeleteSnapshot": // the import is completed, and its snapshot has no tags yet
					stuck = ec2lab.Fault{Call: "ImportSnapshot", Delay: time.Millisecond}
				}
				r.lab.Fault(end)
				r.lab.Fault(stuck)
				if _, err := New(r.site).Register(t.Context(), img); step.KindOf(err) != step.Unauthorized {
					t.Fatal(err)
				}
				r.lab.Heal()
				all, err := New(r.site).List(t.Context(), img.Spec)
				if (call == "CancelImportTask" || call == "AbortMultipartUpload") && (err != nil || len(all) == 0 || all[0].Tags != img.Spec.Tags) {
					t.Errorf("listed %+v, %v", all, err)
				}
				for end := time.Now().Add(2 * time.Minute); call == "CreateTags" || call == "DeleteSnapshot"; time.Sleep(5 * time.Millisecond) {
					if strings.Contains(strings.Join(r.lab.Resources(), "\n"), " completed") {
						break
					}
					if time.Now().After(end) {
						t.Fatalf("the import goes on: %q", r.lab.Resources())
					}
				}
				r.lab.Fault(ec2lab.Fault{Call: call, Lose: lose})
				r.destroy(img.Spec)
				r.as(r.before)
				if !slices.ContainsFunc(r.lab.Calls(), func(c ec2lab.Call) bool { return c.Name == call && c.Code == "lost" }) {
					t.Errorf("%s was not lost", call)
				}
			})
		}
	}
}

// TestImportResumes sends only the parts that the upload lacks.
func TestImportResumes(t *testing.T) {
	environ(t)
	r := newRegistry(t)
	r.lab.Fault(ec2lab.Fault{Call: "UploadPart", Skip: 4, Times: -1, Lose: ec2lab.Before})
	img := r.importing(r.image(1, 150*blockSize, fewContent, nil)) // 10 parts
	if _, err := New(r.site).Register(t.Context(), img); err == nil || step.KindOf(err).Final() {
		t.Fatal(err)
	}
	r.lab.Heal()
	reg, _ := r.register(img)
	r.one(reg, fewContent)
	r.tidy()
	if n := r.count("UploadPart"); n != 10 || r.count("CreateMultipartUpload") != 1 {
		t.Errorf("%d parts were taken, %d uploads", n, r.count("CreateMultipartUpload"))
	}
}

func TestPartSize(t *testing.T) {
	for size, want := range map[int64]int64{1: 8 << 20, 80_000 << 20: 8 << 20, 80_001 << 20: 9 << 20, maxObject: 525 << 20} {
		if got := partSize(size); got != want || (size+got-1)/got > maxParts {
			t.Errorf("of %d bytes: %d, want %d", size, got, want)
		}
	}
}
