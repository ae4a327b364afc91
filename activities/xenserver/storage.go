package xenserver

import (
	"context"
	"fmt"

	"github.com/morgana-deploy/morgana/step"
)

// storage returns the SR of the options, or the pool's default, if it takes a VDI of size
// bytes.
func (p *pool) storage(ctx context.Context, s settings, size int64) (sr ref, err error) {
	if s.SR != "" {
		sr, err = p.named(ctx, "SR", "sr", s.SR)
	} else {
		sr, err = p.defaultSR(ctx)
	}
	if err != nil {
		return sr, err
	}
	rec, err := one[srRecord](ctx, p, "SR", sr)
	if err != nil {
		return sr, err
	}
	plugged, err := p.plugged(ctx, rec)
	if err != nil {
		return sr, err
	}
	free := integer(rec.PhysicalSize) - integer(rec.PhysicalUtilisation)
	switch {
	case rec.ContentType == "iso" || rec.Type == "udev":
		return sr, unsupported("sr", "name an SR of disks, by xe sr-list", "the SR %s is for ISO images or removable disks", rec.Name)
	case !plugged:
		return sr, unsupported("sr", "xe pbd-plug, or name another SR", "the SR %s is not plugged in to any host", rec.Name)
	case integer(rec.PhysicalSize) > 0 && free < size: // an SR that does not know its size has 0 or -1
		return sr, &step.Error{Kind: step.Conflict, Field: "sr", Hint: "free space there, or name another SR",
			Err: fmt.Errorf("the SR %s has %d MiB left, and the disk needs %d", rec.Name, free>>20, (size+1<<20-1)>>20)}
	}
	return sr, nil
}

// plugged reports whether a host is connected to an SR.
func (p *pool) plugged(ctx context.Context, sr srRecord) (bool, error) {
	for _, pbd := range sr.PBDs {
		var attached bool
		err := p.call(ctx, &attached, "PBD.get_currently_attached", pbd)
		if attached || err != nil && !is(err, "HANDLE_INVALID") {
			return attached, err
		}
	}
	return false, nil
}

// defaultSR returns the SR that the pool has for new disks.
func (p *pool) defaultSR(ctx context.Context) (ref, error) {
	const hint = "name one that xe sr-list tells"
	pools, err := all[poolRecord](ctx, p, "pool")
	if err != nil {
		return null, err
	}
	for _, rec := range pools {
		if rec.DefaultSR == null || rec.DefaultSR == "" {
			break
		}
		var uuid string
		if err := p.call(ctx, &uuid, "SR.get_uuid", rec.DefaultSR); err == nil || !is(err, "HANDLE_INVALID") {
			return rec.DefaultSR, err
		}
	}
	return null, step.Invalid("sr", hint, "needed: the pool has no default SR")
}
