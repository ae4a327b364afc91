package xenserver

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/morgana-deploy/morgana/image/disk"
	"github.com/morgana-deploy/morgana/step"
	"github.com/morgana-deploy/morgana/xapilab"
)

// disk returns the bytes of a VDI in the lab.
func (b *bench) disk(r step.Registration) []byte {
	b.Helper()
	text, err := os.ReadFile(filepath.Join(filepath.Dir(b.lab.CA), r.ID))
	if err != nil {
		b.Fatal(err)
	}
	return text
}

// holds reports whether a VDI has a disk and zeros behind it: an SR rounds sizes up.
func holds(vdi, disk []byte) bool {
	return bytes.HasPrefix(vdi, disk) && len(bytes.Trim(vdi[len(disk):], "\x00")) == 0
}

// want returns the raw disk of an image.
func (b *bench) want(img step.Image) []byte {
	b.Helper()
	a, _ := step.FileNamed(img.Files, packedDisk)
	packed, err := b.site.Store.Open(b.Context(), a)
	if err != nil {
		b.Fatal(err)
	}
	path := filepath.Join(b.TempDir(), "disk")
	if err := disk.Unpack(b.Context(), packed, path); err != nil {
		b.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		b.Fatal(err)
	}
	return text
}

// TestRegisterFormats sends a disk in each format, half of them to another host.
func TestRegisterFormats(t *testing.T) {
	t.Parallel()
	b := newBench(t, xapilab.Config{})
	for i, test := range []struct{ options, format string }{
		{``, "raw"}, // the whole disk is 1 MiB
		{`,"format":"vhd"`, "vhd"},
		{`,"size":"16MiB"`, "vhd"},
		{`,"size":"7MiB"`, "vhd"},
		{`,"size":"16MiB","format":"raw"`, "raw"},
		{`,"type":"hvm","size":"5MiB"`, "vhd"},
	} {
		if i%2 == 1 {
			b.lab.Fault(xapilab.Fault{Call: "PUT /import_raw_vdi", Redirect: true})
		}
		img := b.image(fmt.Sprintf("app%d", i), test.options)
		r := b.register(img)
		if got, want := b.disk(r), b.want(img); !holds(got, want) {
			t.Errorf("%s: the VDI has %d bytes, not those of the disk of %d", test.options, len(got), len(want))
		}
		if call := b.last("PUT /import_raw_vdi"); call.Params[0].(map[string]any)["format"] != test.format {
			t.Errorf("%s: sent as %v, want %s", test.options, call.Params, test.format)
		}
	}
}

// last returns the last call of a method.
func (b *bench) last(method string) (last xapilab.Call) {
	for _, c := range b.lab.Calls() {
		if c.Method == method {
			last = c
		}
	}
	return last
}

// vdis returns the lines of the VDIs that were made.
func (b *bench) vdis() (all []string) {
	for _, line := range b.lab.Resources() {
		if strings.HasPrefix(line, "VDI ") {
			all = append(all, line)
		}
	}
	return all
}

// TestRegisterCut cuts an upload after any byte. The next try makes the disk whole, and there
// is one VDI. TestAnswersLost loses the answers.
func TestRegisterCut(t *testing.T) {
	t.Parallel()
	b := newBench(t, xapilab.Config{})
	img := b.image("cut", `,"size":"16MiB"`)
	want := b.want(img)
	const sent = 512 + 1024 + 512 + 512 + 2<<20 + 512 // a VHD of one block
	cuts := []int64{1, 511, 512, 1536, 2048, 2560, 1 << 20, sent - 513, sent - 512, sent - 1}
	for range 5 {
		cuts = append(cuts, 1+rand.Int64N(sent-1))
	}
	faults := []xapilab.Fault{
		{Call: "PUT /import_raw_vdi", Status: 500},
		{Call: "PUT /import_raw_vdi", TaskError: []string{"VDI_IO_ERROR", "Device I/O errors"}},
	}
	for _, at := range cuts {
		faults = append(faults, xapilab.Fault{Call: "PUT /import_raw_vdi", Cut: at})
	}
	for _, f := range faults {
		remove := b.lab.Fault(f)
		_, first := b.target().Register(t.Context(), img)
		remove()
		if step.KindOf(first).Final() {
			t.Errorf("%+v: a final error: %v", f, first)
		}
		r := b.register(img)
		if got := b.disk(r); !holds(got, want) {
			t.Errorf("%+v: the VDI is not whole, after %v", f, first)
		}
		if all := b.vdis(); len(all) != 1 {
			t.Errorf("%+v: VDIs %q", f, all)
		}
		if f.Cut > 0 && first == nil {
			t.Errorf("%+v: no error", f)
		}
		b.destroy(img.Spec)
	}
}

// TestRegisterAdopts adopts whole VDIs only.
func TestRegisterAdopts(t *testing.T) {
	t.Parallel()
	b := newBench(t, xapilab.Config{})
	img := b.image("web", `,"type":"pv"`)
	first := b.register(img)
	if again := b.register(img); again.ID != first.ID || !again.Adopted || first.Adopted {
		t.Errorf("registered as %+v, then as %+v", first, again)
	}
	// Another generation whose VM has more memory has the same disk.
	more := b.image("web", `,"type":"pv","memory":256,"args":"stay"`)
	more.Spec.Generation = 2
	if other := b.register(more); other.ID != first.ID || !other.Adopted || more.Digest == img.Digest {
		t.Errorf("another generation of image %s registered as %+v", more.Digest, other)
	}
	// Another life has another disk, and so has another app.
	life := img
	life.Spec.Life = "99999999"
	if other := b.register(life); other.ID == first.ID || other.Adopted {
		t.Errorf("another life registered as %+v", other)
	}
	// An hvm VM writes to its disk.
	hvm := b.image("hvm", `,"type":"hvm"`)
	one := b.register(hvm)
	hvm.Spec.Generation = 2
	if other := b.register(hvm); other.ID == one.ID || other.Adopted {
		t.Errorf("another generation of an hvm VM registered as %+v, the first as %s", other, one.ID)
	}
	// Another SR has another disk.
	second := b.lab.AddSR("second", 1<<30)
	moved := b.image("web", `,"type":"pv","sr":"second"`)
	moved.Spec.Generation = 3
	if other := b.register(moved); other.ID == first.ID || other.Adopted || !slices.Contains(b.lab.Get(second, "VDIs").([]string), b.lab.Ref("VDI", nameOf(moved.Spec.Tags))) {
		t.Errorf("another SR registered as %+v", other)
	}
	if n := b.count("PUT /import_raw_vdi"); n != 5 {
		t.Errorf("%d uploads, want 5", n)
	}
}

// TestRegisterTogether makes one VDI in calls at the same time. A call may fail, for another
// takes its half-filled VDI for one that was left, and is retried.
func TestRegisterTogether(t *testing.T) {
	t.Parallel()
	b := newBench(t, xapilab.Config{})
	img := b.image("web", "")
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	done := make(chan error)
	for range 4 {
		go func() {
			_, err := b.target().Register(ctx, img)
			for err != nil && ctx.Err() == nil && !step.KindOf(err).Final() {
				t.Log(err)
				_, err = b.target().Register(ctx, img)
			}
			done <- err
		}()
	}
	for range 4 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	r := b.register(img)
	if all := b.vdis(); len(all) != 1 || b.lab.Get(b.lab.Ref("VDI", nameOf(img.Spec.Tags)), "uuid") != r.ID {
		t.Errorf("%q, registered as %s", all, r.ID)
	}
}

func TestRegisterFull(t *testing.T) {
	t.Parallel()
	b := newBench(t, xapilab.Config{})
	b.lab.AddSR("small", 2<<20)
	img := b.image("web", `,"sr":"small"`)
	b.lab.AddVDI(map[string]any{"SR": b.lab.Ref("SR", "small"), "virtual_size": int64(2 << 20), "physical_utilisation": int64(2 << 20)})
	_, err := b.target().Register(t.Context(), img)
	if step.KindOf(err) != step.Conflict || !strings.Contains(fmt.Sprint(err), "the SR small has 0 MiB left, and the disk needs 1") {
		t.Errorf("%v", err)
	}
	if n := b.count("VDI.create"); n > 0 {
		t.Errorf("made %d VDIs", n)
	}
}

// TestRegisterBusy fills another VDI if a half-filled one stays in use, as by a user.
func TestRegisterBusy(t *testing.T) {
	t.Parallel()
	b := newBench(t, xapilab.Config{})
	img := b.image("busy", usual)
	b.lab.Fault(xapilab.Fault{Call: "PUT /import_raw_vdi", Cut: 1000})
	if _, err := b.target().Register(t.Context(), img); err == nil {
		t.Fatal("the upload was not cut")
	}
	half := b.lab.Ref("VDI", nameOf(img.Spec.Tags))
	remove := b.lab.Fault(xapilab.Fault{Call: "VDI.destroy", Times: -1, Error: []string{"VDI_IN_USE", half, "destroy"}})
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	target := b.target()
	target.busy = time.Second
	r, err := target.Register(ctx, img)
	if err != nil || r.ID == b.lab.Get(half, "uuid") || !holds(b.disk(r), b.want(img)) {
		t.Errorf("registered %+v: %v", r, err)
	}
	remove()
	b.destroy(img.Spec)
}

// TestRegisterSpares destroys no VDI that another call has returned since the list of VDIs.
func TestRegisterSpares(t *testing.T) {
	t.Parallel()
	b := newBench(t, xapilab.Config{})
	img := b.image("spares", usual)
	r := b.register(img)
	first := b.lab.Ref("VDI", nameOf(img.Spec.Tags))
	use := keyUse + must(img.Spec.Folder())
	// more is another VDI, which comes before the first.
	config := b.lab.Get(first, "other_config").(map[string]string)
	delete(config, use)
	b.lab.Set(first, "other_config", config)
	var more string
	for more == "" || more > first {
		more = b.lab.AddVDI(map[string]any{"virtual_size": b.lab.Get(first, "virtual_size")})
	}
	config = maps.Clone(config)
	config[keyUUID] = b.lab.Get(more, "uuid").(string)
	b.lab.Set(more, "other_config", config)
	x := newBetween(t, b.lab)
	once := sync.OnceFunc(func() {
		config := maps.Clone(b.lab.Get(first, "other_config").(map[string]string))
		config[use] = ""
		b.lab.Set(first, "other_config", config)
	})
	x.after = func(method, answer string) string {
		if method == "VDI.get_all_records" {
			once()
		}
		return answer
	}
	img.Spec.Options = x.options(img.Spec.Options)
	if other, err := b.target().Register(t.Context(), img); err != nil || other.ID != r.ID {
		t.Errorf("registered %+v after %+v: %v", other, r, err)
	}
	if b.lab.Ref("VDI", nameOf(img.Spec.Tags)) != first {
		t.Error("the VDI that another call returned was destroyed")
	}
}
