package ec2

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/morgana-deploy/morgana/ec2lab"
	"github.com/morgana-deploy/morgana/image/disk"
	"github.com/morgana-deploy/morgana/step"
)

// bundling is a registry whose images are bundled in a lab that opens them.
type bundling struct {
	*registry
	img  step.Image
	path string // of the disk
}

// newBundling makes an image of three parts.
func newBundling(t *testing.T) *bundling {
	t.Helper()
	b := &bundling{registry: newRegistry(t), path: filepath.Join(t.TempDir(), "disk.raw")}
	const size = 2*bundlePartSize + 1<<20
	no(t, os.WriteFile(b.path, incompressible(t, size), 0o600))
	b.img = b.bundled(b.path, size)
	return b
}

// bundled makes the image of a disk with backing bundle. The lab trusts the worker.
func (r *registry) bundled(path string, size int64) step.Image {
	r.Helper()
	r.trust()
	cert, err := r.lab.CloudCertificate()
	pem := filepath.Join(r.TempDir(), "ec2.pem")
	no(r, errors.Join(err, os.WriteFile(pem, cert, 0o600)))
	img := r.imageOf(path, 1, size, func(a *ami) {
		a.Virtualization, a.BootMode, a.Layout, a.KernelID, a.Backing = virtPV, "", disk.Whole, "aki-dc9ed9af", backingBundle
	})
	img.Spec.Options = json.RawMessage(fmt.Sprintf(`{"backing":"bundle","bucket":"bundles","cloud_cert":%q,"virtualization":"paravirtual","layout":"hd0","kernel_id":"aki-dc9ed9af","instance_type":"m1.small","endpoint":%q,"region":%q,"account":%q,"timeout":"10m"}`,
		pem, r.lab.URL(), r.lab.Region(), r.lab.Account()))
	return img
}

// trust makes the lab trust the worker's own certificate.
func (r *registry) trust() {
	r.Helper()
	own, err := ownIdentity(filepath.Join(r.site.State, Kind), time.Now())
	if err == nil {
		err = r.lab.Trust(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: own.cert.Raw}))
	}
	no(r, err)
}

// objects lists the names of the objects and AMIs, without those of folders and ids.
func (b *bundling) objects() (all []string) {
	for _, line := range b.lab.Resources() {
		switch word, rest, _ := strings.Cut(line, " "); {
		case word == "object":
			all = append(all, rest[strings.LastIndex(rest, "/")+1:])
		case strings.HasPrefix(line, "image ami-"):
			all = append(all, "image")
		}
	}
	slices.Sort(all)
	return all
}

var wholeBundle = []string{"image", "image.manifest.xml", "image.part.0", "image.part.1", "image.part.2"}

// puts returns how often each object was taken.
func (b *bundling) puts() map[string]int {
	all := map[string]int{}
	for _, c := range b.lab.Calls() {
		if key := c.Params.Get("Key"); c.Name == "PutObject" && c.Code == "" {
			all[key[strings.LastIndex(key, "/")+1:]]++
		}
	}
	return all
}

// The AMI is that of the bundle. A later generation sends nothing. The parts go with the
// last rollout that uses the AMI.
func TestBundleRegister(t *testing.T) {
	environ(t)
	b := newBundling(t)
	reg, notes := b.register(b.img)
	out, err := b.cloud.ec2.DescribeImages(t.Context(), &ec2.DescribeImagesInput{ImageIds: []string{reg.ID}})
	no(t, err)
	m := out.Images[0]
	if m.RootDeviceType != types.DeviceTypeInstanceStore || aws.ToString(m.KernelId) != "aki-dc9ed9af" || m.VirtualizationType != types.VirtualizationTypeParavirtual ||
		!strings.HasPrefix(*m.ImageLocation, "bundles/morgana/hello.prod.00c0ffee-1/") || !strings.HasSuffix(*m.ImageLocation, "/"+manifestName) {
		t.Errorf("the AMI is %+v", m)
	}
	if got := b.objects(); !slices.Equal(got, wholeBundle) {
		t.Errorf("there is %q", got)
	}
	if !strings.Contains(notes, "sending image.part.2 to s3://bundles/morgana/hello") {
		t.Errorf("the notes are\n%s", notes)
	}
	first := b.img.Spec
	b.img.Spec.Generation = 2
	if again, _ := b.register(b.img); !again.Adopted || again.ID != reg.ID || b.puts()["image.part.0"] != 1 {
		t.Errorf("the second generation: %+v, sent %v", again, b.puts())
	}
	all, err := New(b.site).List(t.Context(), b.img.Spec)
	if err != nil || len(all) != 1 || all[0].Kind != kindImage {
		t.Errorf("listed %+v, %v", all, err)
	}
	b.destroy(first)
	if got := b.objects(); !slices.Equal(got, wholeBundle) {
		t.Errorf("the second generation needs all, and there is %q", got)
	}
	b.destroy(b.img.Spec)
	b.as(b.before)
	ec2lab.Judge(t, b.lab.Calls())
}

// TestBundleFaults makes one of each and sends no part twice, whatever goes wrong.
func TestBundleFaults(t *testing.T) {
	environ(t)
	faults := map[string]ec2lab.Fault{
		"slow down":       {Call: "PutObject", Skip: 1, Times: 2, Code: "SlowDown"},
		"internal errors": {Times: 6, Code: "InternalError", Status: 500},
	}
	for _, call := range []string{"CreateBucket", "PutObject", "RegisterImage"} {
		faults[call+" lost before"] = ec2lab.Fault{Call: call, Lose: ec2lab.Before, Times: 2}
		faults[call+" lost after"] = ec2lab.Fault{Call: call, Lose: ec2lab.After}
	}
	faults["second part lost after"] = ec2lab.Fault{Call: "PutObject", Skip: 1, Lose: ec2lab.After}
	faults["manifest lost after"] = ec2lab.Fault{Call: "PutObject", Skip: 3, Lose: ec2lab.After}
	for name, fault := range faults {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBundling(t)
			b.lab.Fault(fault)
			b.register(b.img)
			if got := b.objects(); !slices.Equal(got, wholeBundle) {
				t.Errorf("there is %q", got)
			}
			for part, n := range b.puts() {
				if n > 1 && part != manifestName {
					t.Errorf("%s was taken %d times", part, n)
				}
			}
		})
	}
}

// TestDestroyBundleFaults removes everything, whatever goes wrong.
func TestDestroyBundleFaults(t *testing.T) {
	environ(t)
	for _, call := range []string{"DeregisterImage", "DeleteObject"} {
		for _, lose := range []ec2lab.Lose{ec2lab.Before, ec2lab.After} {
			t.Run(fmt.Sprint(call, lose), func(t *testing.T) {
				t.Parallel()
				b := newBundling(t)
				b.register(b.img)
				b.lab.Fault(ec2lab.Fault{Call: call, Lose: lose})
				b.destroy(b.img.Spec)
				b.as(b.before)
			})
		}
	}
}

// TestBundleCancelled leaves nothing that Destroy does not find, at whatever call it ends.
func TestBundleCancelled(t *testing.T) {
	environ(t)
	b := newBundling(t)
	at := &cutter{}
	b.through(at, &b.img)
	for n := int64(1); ; n++ {
		b.img.Spec.Generation = int(n)
		ctx := at.cut(t.Context(), n)
		_, err := New(b.site).Register(ctx, b.img)
		if err != nil && (ctx.Err() == nil || step.KindOf(err).Final()) {
			t.Fatalf("cancelled after call %d: %v", n, err)
		}
		b.destroy(b.img.Spec)
		b.as(b.before)
		if err == nil {
			return
		}
	}
}

// TestBundleKilled kills the process in the upload. The next one sends the parts that are
// not there.
func TestBundleKilled(t *testing.T) {
	environ(t)
	for kill := 1; kill <= 4; kill++ { // in which part, or the manifest
		t.Run(fmt.Sprint(kill), func(t *testing.T) {
			t.Parallel()
			b := newBundling(t)
			b.lab.Fault(ec2lab.Fault{Call: "PutObject", Skip: kill - 1, Times: 1, Lose: ec2lab.Before, Delay: time.Hour})
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			c, out := b.victim(ctx, b.img, false)
			no(t, c.Start())
			for end := time.Now().Add(5 * time.Minute); b.count("PutObject") < kill; time.Sleep(5 * time.Millisecond) {
				if time.Now().After(end) {
					t.Fatal("nothing is sent")
				}
			}
			cancel()
			if c.Wait() == nil || c.ProcessState.Exited() {
				t.Fatalf("it was not killed: %s", out.String())
			}
			b.register(b.img)
			if got := b.objects(); !slices.Equal(got, wholeBundle) {
				t.Errorf("there is %q", got)
			}
			if n := b.count("PutObject"); n != 4 {
				t.Errorf("%d objects were taken", n)
			}
		})
	}
}

// Another worker, which has another key, goes on with a bundle of its own. Destroy removes
// those of both.
func TestBundleOfTwoWorkers(t *testing.T) {
	environ(t)
	b := newBundling(t)
	b.lab.Fault(ec2lab.Fault{Call: "PutObject", Skip: 2, Lose: ec2lab.Before})
	if _, err := New(b.site).Register(t.Context(), b.img); err == nil || step.KindOf(err).Final() {
		t.Fatal(err)
	}
	b.site = siteOf(t, t.TempDir(), b.store)
	b.trust()
	b.register(b.img)
	if got := b.objects(); len(got) != len(wholeBundle)+2 {
		t.Errorf("there is %q", got)
	}
	b.destroy(b.img.Spec)
	b.as(b.before)
}

// disks is a hypervisor that keeps the disks of its guests.
type disks struct {
	guests
	mu  sync.Mutex
	all [][]byte
}

func (d *disks) Start(ctx context.Context, g ec2lab.Guest) (ec2lab.Running, error) {
	text, err := os.ReadFile(g.Disk)
	if err != nil || g.Virtualization != virtPV || g.Layout != "hd0" {
		return nil, fmt.Errorf("the guest is %+v: %w", g, err)
	}
	d.mu.Lock()
	d.all = append(d.all, text)
	d.mu.Unlock()
	return d.guests.Start(ctx, g)
}

// An instance has the disk that was bundled. Without the parts there are no more instances.
func TestBundleBoots(t *testing.T) {
	environ(t)
	b := newBundling(t)
	h := &disks{guests: guests{text: "hello\n"}}
	url := b.lab.URL()
	b.lab = start(t, h)
	b.before = b.without()
	b.img.Spec.Options = bytes.Replace(b.img.Spec.Options, []byte(url), []byte(b.lab.URL()), 1)
	b.trust()
	reg, _ := b.register(b.img)
	no(t, failure(New(b.site).Boot(t.Context(), reg)))
	want, err := os.ReadFile(b.path)
	if err != nil || len(h.all) != 1 || !bytes.Equal(h.all[0], want) {
		t.Errorf("%d guests, another disk: %v", len(h.all), err)
	}
	b.destroy(b.img.Spec)
	b.as(b.before)
}

// A bundle that this service cannot open, and a bucket without ACLs, are told so.
func TestBundleRefused(t *testing.T) {
	environ(t)
	for name, test := range map[string]struct {
		change func(b *bundling)
		want   step.Error
		says   string
	}{
		"Amazon's certificate": {func(b *bundling) {
			b.img.Spec.Options = bytes.Replace(b.img.Spec.Options, []byte(`"cloud_cert"`), []byte(`"user_data"`), 1)
		}, step.Error{Kind: step.InvalidSpec, Field: "bucket"}, "not encrypted for EC2"},
		"no ACLs": {func(b *bundling) { b.lab.MakeBucket("bundles", b.lab.Region(), "BucketOwnerEnforced") },
			step.Error{Kind: step.Unsupported, Field: "bucket"}, "ObjectOwnership=ObjectWriter"},
		"elsewhere": {func(b *bundling) { b.lab.MakeBucket("bundles", "us-west-2", "ObjectWriter") },
			step.Error{Kind: step.InvalidSpec, Field: "bucket"}, "us-west-2"},
		"may not send": {func(b *bundling) { b.lab.Deny("s3:PutObjectAcl") }, step.Error{Kind: step.Unauthorized}, "s3:PutObjectAcl"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBundling(t)
			test.change(b)
			_, err := New(b.site).Register(t.Context(), b.img)
			refusedWith(t, name, err, test.want, test.says)
		})
	}
}

// Check tells what register would fail at.
func TestCheckBundle(t *testing.T) {
	lab := labFor(t)
	lab.MakeBucket("plain", lab.Region(), "BucketOwnerEnforced")
	lab.MakeBucket("far", "us-west-2", "ObjectWriter")
	lab.MakeBucket("good", lab.Region(), "ObjectWriter")
	folder := t.TempDir()
	no(t, failure(ownIdentity(folder, time.Now())))
	no(t, failure(ownIdentity(filepath.Join(folder, "b"), time.Now())))
	no(t, failure(ownIdentity(filepath.Join(folder, "c"), time.Now().AddDate(-40, 0, 0))))
	mine, other, old := filepath.Join(folder, "bundle.pem"), filepath.Join(folder, "b", "bundle.pem"), filepath.Join(folder, "c", "bundle.pem")
	for options, want := range map[string]struct {
		field, says string
	}{
		`{"bucket":"new"}`:                             {},
		`{"bucket":"good"}`:                            {},
		`{"bucket":"good","instance_type":"t1.micro"}`: {"instance_type", "t1.micro does not boot S3-backed images"},
		`{"bucket":"plain"}`:                           {"bucket", "put-bucket-ownership-controls --bucket plain"},
		`{"bucket":"far"}`:                             {"bucket", "us-west-2"},
		`{"bucket":"good","virtualization":"hvm"}`:     {"virtualization", "paravirtual"},
		`{"bucket":"good","layout":"hd0,0"}`:           {"layout", "no partitions"},
		`{"bucket":"good","encrypted":true}`:           {"encrypted", "no volume"},
		`{"bucket":"good","size":"11GiB"}`:             {"size", "10GiB"},
		`{"bucket":"good","ec2_cert":"/a"}`:            {"ec2_cert", "belong together"},
		`{"bucket":"good","cloud_cert":"a"}`:           {"cloud_cert", "no absolute path"},
		`{"bucket":"good","cloud_cert":"/none"}`:       {"cloud_cert", "no such file"},
		fmt.Sprintf(`{"bucket":"good","ec2_cert":%q,"ec2_private_key":%q}`, mine, mine):  {},
		fmt.Sprintf(`{"bucket":"good","ec2_cert":%q,"ec2_private_key":%q}`, mine, other): {"ec2_private_key", "does not belong"},
		fmt.Sprintf(`{"bucket":"good","ec2_cert":%q,"ec2_private_key":%q}`, old, old):    {"ec2_cert", "expired on"},
	} {
		spec, err := checked(t, helloABIs, strings.Replace(options, "{", `{"backing":"bundle",`, 1))
		if want.field != "" {
			refusedWith(t, options, err, step.Error{Kind: step.KindOf(err), Field: want.field}, want.says)
			continue
		}
		if err != nil || !strings.Contains(string(spec.Options), `"instance_type":"m1.small","virtualization":"paravirtual","layout":"hd0","kernel_id":"aki-dc9ed9af"`) {
			t.Errorf("%s: %v %s", options, err, spec.Options)
		}
	}
	if _, err := checked(t, helloABIs, `{"ec2_cert":"/a"}`); err == nil {
		t.Error("a certificate without a bundle")
	}

	// The variables of EC2's first tools are those of backing bundle.
	for name, value := range map[string]string{"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "EC2_ACCESS": os.Getenv("AWS_ACCESS_KEY_ID"),
		"EC2_ACCESS_SECRET": os.Getenv("AWS_SECRET_ACCESS_KEY"), "EC2_USER": "1111-2222-3333", "EC2_CERT": mine, "EC2_PRIVATE_KEY": mine} {
		t.Setenv(name, value)
	}
	const bundle = `{"backing":"bundle","bucket":"good"}`
	if spec, err := checked(t, helloABIs, bundle); err != nil || strings.Contains(string(spec.Options), "PRIVATE KEY") {
		t.Errorf("%s %v", spec.Options, err)
	}
	t.Setenv("EC2_PRIVATE_KEY", other)
	_, err := checked(t, helloABIs, bundle)
	refusedWith(t, "EC2_PRIVATE_KEY", err, step.Error{Kind: step.InvalidSpec, Field: "ec2_private_key"}, "does not belong")
	t.Setenv("EC2_PRIVATE_KEY", mine)
	t.Setenv("EC2_USER", "999999999999")
	_, err = checked(t, helloABIs, bundle)
	refusedWith(t, "EC2_USER", err, step.Error{Kind: step.Unauthorized, Field: "account"}, "999999999999")
}
