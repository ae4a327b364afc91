package xen

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/morgana-deploy/morgana/step"
)

// namespace is the name space of the domains' UUIDs (RFC 9562, version 5).
var namespace = uuid.MustParse("6c8f7c52-5d0e-5f0b-9a43-0d1f4be0c6a1")

// identify returns the name and the UUID of the domain of a rollout.
func identify(tags step.Tags) (name, id string, err error) {
	name, err = tags.Folder()
	return name, uuidOf(name), err
}

func uuidOf(name string) string { return uuid.NewSHA1(namespace, []byte(name)).String() }

// Register puts the image's files into a folder of the Xen host, which verifies their
// digests, and writes the domain's configuration. A transfer that broke off is resumed,
// and files that are there are not sent again. NoSpace if the host's disk is full.
func (t *Target) Register(ctx context.Context, img step.Image) (_ step.Registration, err error) {
	defer step.SetOp("register on xen host", &err)
	reg := step.Registration{Spec: img.Spec, Digest: img.Digest}
	if err := img.Valid(); err != nil {
		return reg, err
	}
	name, id, err := identify(img.Spec.Tags)
	if err != nil {
		return reg, err
	}
	if got := step.DigestOf(img.Files); got != img.Digest {
		return reg, step.Invalid("digest", "deploy again", "the image's files have digest %s, not %s", got, img.Digest)
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
	for tries := 1; ; tries++ {
		reg.Adopted, err = t.deliver(ctx, d, img, name, string(cfg), dom)
		if !exited(err, busy) && !exited(err, absent) || tries == 20 {
			return reg, err
		}
		step.Report(ctx, step.Progress{Note: "another deploy sends the same image"})
		if err := step.Pause(ctx, time.Duration(tries)*100*time.Millisecond); err != nil {
			return reg, err
		}
	}
}

// domainOf reads the image's domain.json.
func (t *Target) domainOf(ctx context.Context, img step.Image) (dom domain, err error) {
	b, err := t.machines.Part(ctx, img, domainFile)
	if err != nil {
		return dom, err
	}
	if err := json.Unmarshal(b, &dom); err != nil {
		return dom, err
	}
	named := []string{dom.Ramdisk}
	for _, v := range dom.Disks {
		named = append(named, v.File)
	}
	for _, name := range named {
		if _, ok := step.FileNamed(img.Files, name); !ok && name != "" && name != bootDisk {
			return dom, step.Invalid("", "deploy again", "%s names the file %.80q, which the image does not have", domainFile, name)
		}
	}
	return dom, nil
}

// deliver makes the folders of the image and of the rollout on the host. It sends the
// bytes that the host does not have. adopted reports that the host had the whole image.
func (t *Target) deliver(ctx context.Context, d *dom0, img step.Image, name, config string, dom domain) (adopted bool, err error) {
	files := slices.DeleteFunc(slices.Clone(img.Files), func(f step.File) bool { return f.Name == domainFile })
	p := step.Progress{Unit: "bytes"}
	for _, f := range files {
		p.Total += f.Artifact.Size
	}
	args := []string{name, img.Digest, config, strings.Join(dom.writes(), "\n"), strconv.FormatInt(p.Total>>10, 10), strconv.Itoa(len(files))}
	for _, f := range files {
		args = append(args, f.Name, strconv.FormatInt(f.Artifact.Size, 10), f.Artifact.SHA256)
	}
	if err := ctx.Err(); err != nil {
		return false, err
	}
	step.Report(ctx, step.Progress{Note: "asking " + d.host.String()})
	k, stop := d.talk(ctx, 3*time.Second, "register", append(args, dom.copies()...)...)
	defer stop()
	for _, f := range files {
		have, err := k.line(context.WithoutCancel(ctx))
		if adopted = have == "whole"; adopted || err != nil {
			break
		}
		p.Note = fmt.Sprintf("sending %s to %s", f.Name, d.host)
		from, err := strconv.ParseInt(have, 10, 64)
		if err == nil {
			err = t.sendFile(ctx, k.in, f.Artifact, from, p)
		}
		if err != nil {
			_ = k.in.CloseWithError(err)
			break
		}
		p.Done += f.Artifact.Size
	}
	err = k.end()
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	return adopted, err
}

// sendFile sends an artifact without its first bytes, which the host has; from is their
// number.
func (t *Target) sendFile(ctx context.Context, to io.Writer, a step.Artifact, from int64, p step.Progress) (err error) {
	r, err := t.site.Store.Open(ctx, a)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	if _, err := io.CopyN(io.Discard, r, from); err != nil {
		return err
	}
	p.Done += from
	_, err = io.Copy(to, &counting{ctx, r, p})
	return err
}

// counting reports the progress of reading r.
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
