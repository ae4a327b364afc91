package xen

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/morgana-deploy/morgana/step"
)

// namespace makes UUIDs of domains' names (RFC 9562, version 5).
var namespace = uuid.MustParse("6c8f7c52-5d0e-5f0b-9a43-0d1f4be0c6a1")

// identify gives the name and the UUID that the domain of a rollout has.
func identify(tags step.Tags) (name, id string, err error) {
	name, err = tags.Folder()
	return name, uuidOf(name), err
}

func uuidOf(name string) string { return uuid.NewSHA1(namespace, []byte(name)).String() }

// Register puts the image's files into a folder of the Xen host, verified by
// their digests, and the domain's configuration beside it. A transfer that broke
// off goes on where it was; files that are there are not sent again.
// NoSpace if the host's disk is full.
func (t *Target) Register(ctx context.Context, img step.Image) (step.Registration, error) {
	const op = "register on xen host"
	reg, err := t.register(ctx, img)
	if err != nil {
		return step.Registration{}, step.During(op, err)
	}
	return reg, nil
}

func (t *Target) register(ctx context.Context, img step.Image) (step.Registration, error) {
	reg := step.Registration{Spec: img.Spec, Digest: img.Digest}
	if err := img.Valid(); err != nil {
		return reg, err
	}
	name, id, err := identify(img.Spec.Tags)
	if err != nil {
		return reg, err
	}
	if got := step.DigestOf(img.Files); got != img.Digest {
		return reg, &step.Error{Kind: step.InvalidSpec, Field: "digest", Hint: "deploy again",
			Err: fmt.Errorf("the image's files have digest %s, not %s", got, img.Digest)}
	}
	s, err := read(img.Spec.Options)
	if err != nil {
		return reg, err
	}
	d, err := t.dom0(s.Host, s.Tool)
	if err != nil {
		return reg, err
	}
	dom, err := t.domainOf(ctx, img)
	if err != nil {
		return reg, err
	}
	reg.ID = d.root + "/" + img.Digest
	cfg, err := dom.render(place{Name: name, UUID: id, Image: reg.ID, Folder: d.root + "/domains/" + name})
	if err != nil {
		return reg, err
	}
	if reg.Adopted, err = t.send(ctx, d, name, img); err != nil {
		return reg, err
	}
	step.Report(ctx, step.Progress{Note: "writing the domain's configuration"})
	args := append([]string{name, img.Digest, strconv.Itoa(len(cfg)), strings.Join(dom.writes(), "\n")}, dom.copies()...)
	if _, err := d.do(ctx, bytes.NewReader(cfg), "configure", args...); err != nil {
		return reg, err
	}
	return reg, nil
}

// domainOf reads the image's domain.json.
func (t *Target) domainOf(ctx context.Context, img step.Image) (dom domain, err error) {
	a, ok := step.FileNamed(img.Files, domainFile)
	if !ok {
		return dom, &step.Error{Kind: step.InvalidSpec, Err: fmt.Errorf("the image has no %s", domainFile),
			Hint: "only images of the xen target can be registered here"}
	}
	r, err := t.site.Store.Open(ctx, a)
	if err != nil {
		return dom, err
	}
	defer r.Close() //nolint:errcheck // only read
	b, err := io.ReadAll(io.LimitReader(r, 1<<20))
	if err != nil {
		return dom, err
	}
	return dom, json.Unmarshal(b, &dom)
}

// send makes the image's folder on the host, and says whether it was there.
// Another call may be sending the same; then they take turns.
func (t *Target) send(ctx context.Context, d *dom0, name string, img step.Image) (adopted bool, err error) {
	const tries = 20
	for i := 0; ; i++ {
		adopted, err = t.sendOnce(ctx, d, name, img)
		if !exited(err, busy) && !exited(err, absent) {
			return adopted, err
		}
		if i == tries {
			return false, fmt.Errorf("another deploy sends the same image to %s, and does not get on", d.host)
		}
		step.Report(ctx, step.Progress{Note: "another deploy sends the same image"})
		select {
		case <-ctx.Done():
			return false, ctx.Err()
		case <-time.After(time.Duration(i) * 100 * time.Millisecond):
		}
	}
}

func (t *Target) sendOnce(ctx context.Context, d *dom0, name string, img step.Image) (adopted bool, err error) {
	files := slices.DeleteFunc(slices.Clone(img.Files), func(f step.File) bool { return f.Name == domainFile })
	total := int64(0)
	for _, f := range files {
		total += f.Artifact.Size
	}
	if err := ctx.Err(); err != nil {
		return false, err
	}
	lingering, end := linger(ctx)
	out, err := d.do(lingering, nil, "reserve", name, img.Digest, strconv.FormatInt(total>>10, 10))
	end()
	if err != nil || out == "whole\n" {
		return err == nil, err
	}
	have := map[string]int64{}
	for line := range strings.Lines(out) {
		name, size, _ := strings.Cut(strings.TrimSpace(line), " ")
		have[name], _ = strconv.ParseInt(size, 10, 64)
	}
	before := int64(0)
	for _, f := range files {
		p := step.Progress{Done: before, Total: total, Unit: "bytes", Note: fmt.Sprintf("sending %s to %s", f.Name, d.host)}
		if err := t.sendFile(ctx, d, img.Spec.Tags, img.Digest, f, have[f.Name], p); err != nil {
			return false, err
		}
		before += f.Artifact.Size
	}
	return false, nil
}

// sendFile sends what is missing of a file: the host has its first bytes.
func (t *Target) sendFile(ctx context.Context, d *dom0, tags step.Tags, digest string, f step.File, from int64, p step.Progress) (err error) {
	from = min(from, f.Artifact.Size) // of one that has more, the host says so
	// From a file of our own: what the store gives is verified only at its end,
	// and nothing unverified is to leave this host.
	folder, done, err := t.machines.Scratch(tags)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, done()) }()
	path := filepath.Join(folder, "file")
	if err := t.site.Store.Fetch(ctx, f.Artifact, path); err != nil {
		return err
	}
	local, err := os.Open(path)
	if err != nil {
		return err
	}
	defer local.Close() //nolint:errcheck // only read
	if _, err := local.Seek(from, io.SeekStart); err != nil {
		return err
	}
	p.Done += from
	_, err = d.do(ctx, &counting{ctx, local, p}, "receive", digest, f.Name,
		strconv.FormatInt(from, 10), strconv.FormatInt(f.Artifact.Size, 10), f.Artifact.SHA256)
	return err // of one that came incomplete or damaged: the next try goes on from there
}

// counting reports what is read.
type counting struct {
	ctx context.Context
	r   io.Reader
	p   step.Progress
}

func (c *counting) Read(b []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := c.r.Read(b)
	c.p.Done += int64(n)
	step.Report(c.ctx, c.p)
	return n, err
}
