package xenserver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/morgana-deploy/morgana/image/disk"
	"github.com/morgana-deploy/morgana/machine"
	"github.com/morgana-deploy/morgana/step"
)

// registering is one call of Register.
type registering struct {
	*Target
	p      *pool
	s      settings
	img    step.Image
	digest string // of the disk
	folder string // the rollout's name
	sr     ref    // of option sr; "" if that is not given
}

// Register makes a VDI and sends the disk into it. If a rollout of this life has made a whole
// one of the same disk in the SR of the options, Register adopts it and sends nothing; but an
// hvm VM can write to its disk, so it gets one that no other rollout uses. A half-filled VDI
// of a try that was cut off is destroyed: it looks like a whole one.
//
// Errors: Conflict if the SR has too little space.
func (t *Target) Register(ctx context.Context, img step.Image) (reg step.Registration, err error) {
	defer step.SetOp("register image", &err)
	reg = step.Registration{Spec: img.Spec, Digest: img.Digest}
	if err := img.Valid(); err != nil {
		return reg, err
	}
	if got := step.DigestOf(img.Files); got != img.Digest {
		return reg, step.Invalid("digest", "deploy again", "the image's files have digest %s, not %s", got, img.Digest)
	}
	r := &registering{Target: t, img: img, digest: machine.ContentDigest(img)}
	if r.s, err = read(img.Spec.Options); err != nil {
		return reg, err
	}
	if r.folder, err = img.Spec.Folder(); err != nil {
		return reg, err
	}
	if _, ok := step.FileNamed(img.Files, packedDisk); !ok || r.s.Type == auto {
		return reg, step.Invalid("", "only images of the xenserver target can be registered here", "the image has no %s, or no type of VM", packedDisk)
	}
	if r.p, err = t.connect(ctx, r.s); err != nil {
		return reg, err
	}
	step.Report(ctx, step.Progress{Note: "asking the pool for the disk"})
	if r.s.SR != "" {
		if r.sr, err = r.p.named(ctx, "SR", "sr", r.s.SR); err != nil {
			return reg, err
		}
	}
	vdi, rec, err := r.adopt(ctx)
	if err != nil {
		return reg, err
	}
	if reg.Adopted = vdi != null; !reg.Adopted {
		if vdi, rec, err = r.make(ctx); err != nil {
			return reg, err
		}
	}
	reg.ID = rec.UUID
	return reg, r.p.set(ctx, "VDI", vdi, keyUse+r.folder, "")
}

// adopt returns a whole VDI of the disk, the null reference if there is none. It destroys
// the half-filled ones of this rollout. One that stays in use for [busy] it leaves: Destroy
// removes it later.
func (r *registering) adopt(ctx context.Context) (ref, vdiRecord, error) {
	end := time.Now().Add(r.busy)
	for pause := 200 * time.Millisecond; ; pause = min(pause*3/2, 5*time.Second) {
		whole, halves, err := r.find(ctx)
		if err != nil {
			return null, vdiRecord{}, err
		}
		used := ""
		for vdi, rec := range halves {
			err := r.p.call(ctx, nil, "VDI.destroy", vdi)
			switch {
			case is(err, "VDI_IN_USE", "OTHER_OPERATION_IN_PROGRESS"):
				used = rec.UUID // the pool has not seen yet that its import was cut off, or another call fills it
			case err != nil && !is(err, "HANDLE_INVALID"):
				return null, vdiRecord{}, err
			}
		}
		if len(whole) > 0 {
			return r.pick(ctx, whole)
		}
		if used == "" || time.Now().After(end) {
			return null, vdiRecord{}, nil
		}
		step.Report(ctx, step.Progress{Note: "waiting for the end of an earlier import into " + used})
		if err := step.Pause(ctx, pause); err != nil {
			return null, vdiRecord{}, err
		}
	}
}

// find returns the whole VDIs of the disk that the rollout may take, and the half-filled ones
// of the rollout.
func (r *registering) find(ctx context.Context) (whole, halves map[ref]vdiRecord, err error) {
	tags := r.img.Spec.Tags
	life := tags
	life.Generation = 0
	whole, err = r.p.vdis(ctx, life.Match)
	halves = maps.Clone(whole)
	maps.DeleteFunc(halves, func(_ ref, rec vdiRecord) bool {
		of, _ := owner(rec.UUID, rec.OtherConfig)
		return isWhole(rec) || of != tags
	})
	maps.DeleteFunc(whole, func(_ ref, rec vdiRecord) bool {
		return !isWhole(rec) || rec.OtherConfig[keyDigest] != r.digest || r.sr != "" && rec.SR != r.sr ||
			r.s.Type == typeHVM && !slices.Equal(users(rec), []step.Tags{tags})
	})
	return whole, halves, err
}

// isWhole reports whether a VDI has the whole disk.
func isWhole(vdi vdiRecord) bool {
	return vdi.OtherConfig[keyComplete] != "" && vdi.OtherConfig[keyUUID] == vdi.UUID
}

// pick chooses one of whole VDIs, and destroys others that calls at the same time have made of
// the same rollout. One that a call has returned has the rollout's use key.
func (r *registering) pick(ctx context.Context, whole map[ref]vdiRecord) (ref, vdiRecord, error) {
	unused := func(vdi ref) int {
		if _, used := whole[vdi].OtherConfig[keyUse+r.folder]; used {
			return 0
		}
		return 1
	}
	best := slices.SortedFunc(maps.Keys(whole), func(a, b ref) int {
		return cmp.Or(cmp.Compare(unused(a), unused(b)), cmp.Compare(a, b))
	})
	for _, vdi := range best[1:] {
		if slices.Equal(users(whole[vdi]), []step.Tags{r.img.Spec.Tags}) && len(whole[vdi].VBDs) == 0 {
			// A call that has listed fewer may have returned it meanwhile.
			now, err := one[vdiRecord](ctx, r.p, "VDI", vdi)
			if _, used := now.OtherConfig[keyUse+r.folder]; used && unused(vdi) == 1 {
				return r.adopt(ctx)
			}
			if err = unless(cmp.Or(err, r.discard(ctx, vdi)), "HANDLE_INVALID"); err != nil {
				return null, vdiRecord{}, err
			}
		}
	}
	rec := whole[best[0]]
	return best[0], rec, r.check(rec, integer(rec.OtherConfig[keyComplete]))
}

// discard destroys a VDI that another call may have destroyed.
func (r *registering) discard(ctx context.Context, vdi ref) error {
	return unless(r.p.call(ctx, nil, "VDI.destroy", vdi), "HANDLE_INVALID")
}

// check compares the size of a VDI with the disk's: the pool takes an import that is shorter
// or longer than its VDI.
func (r *registering) check(rec vdiRecord, size int64) error {
	if have := integer(rec.VirtualSize); have < size || size <= 0 {
		return fmt.Errorf("the VDI %s has %d bytes, and the disk %d", rec.UUID, have, size)
	}
	return nil
}

// make makes a VDI, fills it, and marks it as complete.
func (r *registering) make(ctx context.Context) (vdi ref, rec vdiRecord, err error) {
	path, done, err := r.unpack(ctx)
	if err != nil {
		return null, rec, err
	}
	defer func() { err = errors.Join(err, done()) }()
	info, err := os.Stat(path)
	if err != nil {
		return null, rec, err
	}
	sr, err := r.p.storage(ctx, r.s, info.Size())
	if err != nil {
		return null, rec, err
	}
	step.Report(ctx, step.Progress{Note: "making the VDI"})
	tags := r.img.Spec.Tags
	if err := r.p.call(ctx, &vdi, "VDI.create", newVDI{Name: nameOf(tags), Description: "made by morgana", SR: sr, VirtualSize: info.Size(), Type: "user",
		OtherConfig: r.s.otherConfig(tags, r.digest), Tags: r.s.tags()}); err != nil {
		return null, rec, err
	}
	if rec, err = one[vdiRecord](ctx, r.p, "VDI", vdi); err != nil {
		return null, rec, err
	}
	if err := r.check(rec, info.Size()); err != nil {
		return null, rec, err
	}
	if err := r.p.set(ctx, "VDI", vdi, keyUUID, rec.UUID); err != nil {
		return null, rec, err
	}
	if err := r.send(ctx, vdi, path, info.Size()); err != nil {
		return null, rec, err
	}
	whole, _, err := r.find(ctx)
	if err != nil {
		return null, rec, err
	}
	if len(whole) > 0 { // another call at the same time was faster
		if err := r.discard(ctx, vdi); err != nil {
			return null, rec, err
		}
		return r.pick(ctx, whole)
	}
	if err := r.p.set(ctx, "VDI", vdi, keyComplete, strconv.FormatInt(info.Size(), 10)); err != nil {
		return null, rec, err
	}
	other, rec, err := r.adopt(ctx) // another call may have done the same
	if err == nil && other == null {
		err = fmt.Errorf("the VDI %s was destroyed meanwhile", nameOf(tags))
	}
	return other, rec, err
}

// newVDI has the fields of a VDI for VDI.create.
type newVDI struct {
	Name         string            `xmlrpc:"name_label"`
	Description  string            `xmlrpc:"name_description"`
	SR           ref               `xmlrpc:"SR"`
	VirtualSize  int64             `xmlrpc:"virtual_size"`
	Type         string            `xmlrpc:"type"`
	Sharable     bool              `xmlrpc:"sharable"`
	ReadOnly     bool              `xmlrpc:"read_only"`
	OtherConfig  map[string]string `xmlrpc:"other_config"`
	XenstoreData map[string]string `xmlrpc:"xenstore_data"`
	SMConfig     map[string]string `xmlrpc:"sm_config"`
	Tags         []string          `xmlrpc:"tags"`
}

// unpack unpacks the disk, sparse. done removes it.
func (r *registering) unpack(ctx context.Context) (path string, done func() error, err error) {
	folder, done, err := r.machines.Scratch(r.img.Spec.Tags)
	if err != nil {
		return "", nil, err
	}
	path = filepath.Join(folder, "disk")
	step.Report(ctx, step.Progress{Note: "unpacking the disk"})
	a, _ := step.FileNamed(r.img.Files, packedDisk)
	packed, err := r.site.Store.Open(ctx, a)
	if err == nil {
		err = errors.Join(disk.Unpack(ctx, packed, path), packed.Close())
	}
	if err != nil {
		return "", nil, errors.Join(machine.TooBig(err, folder, "size", r.s.Size), done())
	}
	return path, done, nil
}

// send sends the disk in the format of the options: with auto, in that of fewer bytes.
func (r *registering) send(ctx context.Context, vdi ref, path string, size int64) (err error) {
	format, body := formatRaw, func() (io.ReadCloser, error) { return os.Open(path) }
	if r.s.Format != formatRaw {
		vhd, err := disk.OpenVHD(ctx, path)
		if err != nil {
			return err
		}
		defer vhd.Close() //nolint:errcheck // only read
		if r.s.Format == formatVHD || vhd.Size < size {
			format, size, body = formatVHD, vhd.Size, func() (io.ReadCloser, error) { return io.NopCloser(vhd.Reader()), nil }
		}
	}
	p := step.Progress{Total: size, Unit: "bytes", Note: "sending the disk to " + r.s.Host + " as " + format}
	return r.p.upload(ctx, vdi, importName+r.folder, format, size, body, func(sent int64) {
		p.Done = sent
		step.Report(ctx, p)
	})
}
