package ec2lab

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// importTask is a task that makes a snapshot of an object of S3.
type importTask struct {
	base
	ID          string       `xml:"importTaskId"`
	Description string       `xml:"description,omitempty"`
	Detail      importDetail `xml:"snapshotTaskDetail"`

	token, asked string
	made         *snapshot
}

type importDetail struct {
	Description string      `xml:"description,omitempty"`
	Size        string      `xml:"diskImageSize"` // in bytes
	Encrypted   bool        `xml:"encrypted"`
	Format      string      `xml:"format"`
	Progress    string      `xml:"progress,omitempty"`
	Snapshot    string      `xml:"snapshotId,omitempty"`
	Status      string      `xml:"status"` // active, completed, deleting or deleted
	Message     string      `xml:"statusMessage,omitempty"`
	Bucket      importPlace `xml:"userBucket"`
}

type importPlace struct {
	Bucket string `xml:"s3Bucket"`
	Key    string `xml:"s3Key"`
}

var importTasks = kind{
	word: "import-snapshot-task", prefix: "import-snap-", param: "ImportTaskId", set: "importSnapshotTaskSet",
	missing: "InvalidConversionTaskId", text: "The import task ID '%s' does not exist.", malformed: "InvalidConversionTaskId.Malformed",
	least: 1, most: 1000,
}

func (t *importTask) kind() *kind { return &importTasks }
func (t *importTask) id() string  { return t.ID }
func (t *importTask) line() string {
	if t.over() {
		return ""
	}
	return "import-task " + t.ID + " " + t.Detail.Status
}

func (t *importTask) over() bool {
	return t.Detail.Status == "completed" || t.Detail.Status == "deleted"
}

// importRole is what the lab knows of the role by which imports read the bucket.
type importRole struct {
	missing bool
	failure string // of the next import
}

// NoImportRole takes the role vmimport from the account, or gives it back.
func (l *Lab) NoImportRole(missing bool) { l.set(func() { l.imports.missing = missing }) }

// FailImport makes the next import fail with a message, as "ClientError: Disk validation failed".
func (l *Lab) FailImport(message string) { l.set(func() { l.imports.failure = message }) }

func importSnapshot(r *request) (any, error) {
	l := r.lab
	var also []string
	if r.sub("TagSpecification").any() {
		also = []string{"ec2:CreateTags"}
	}
	if err := r.allow(importTasks.arn("*"), also...); err != nil {
		return nil, err
	}
	tags, err := r.tags(importTasks.word)
	if err != nil {
		return nil, err
	}
	disk := r.sub("DiskContainer")
	t := &importTask{
		base: base{Tags: tags[importTasks.word]}, ID: newID(importTasks.prefix), Description: r.get("Description"),
		Detail: importDetail{Description: disk.get("Description"), Format: disk.get("Format"), Status: "active", Message: "pending",
			Encrypted: l.encrypt || r.bool("Encrypted", false),
			Bucket:    importPlace{disk.get("UserBucket.S3Bucket"), disk.get("UserBucket.S3Key")}},
		token: r.get("ClientToken"), asked: r.v.Encode(),
	}
	place := t.Detail.Bucket
	switch {
	case t.Detail.Format != "RAW":
		return nil, refuse("Unsupported", "The lab imports RAW disks only, not %q", t.Detail.Format)
	case place.Bucket == "" || place.Key == "":
		return nil, refuse("InvalidParameter", "The disk container must have a S3 bucket and key")
	}
	for o := range kept[*importTask](l) {
		if t.token == "" || o.token != t.token {
			continue
		}
		if o.asked != t.asked {
			return nil, refuse("IdempotentParameterMismatch", "")
		}
		return o, nil
	}
	if err := r.dry(); err != nil { // a dry run does not look at the role and the object
		return nil, err
	}
	if role := r.or("RoleName", "vmimport"); l.imports.missing || role != "vmimport" {
		return nil, refuse("InvalidParameter", "The service role %s provided does not exist or does not have sufficient permissions", role)
	}
	from, err := l.objectOf(place.Bucket, place.Key)
	switch {
	case err != nil && err.Error() == refuse("PermanentRedirect", "").Error():
		return nil, refuse("InvalidParameter", "The given S3 object is not local to the region. The object must be located in %s.", region)
	case err != nil:
		return nil, refuse("InvalidParameter", "User does not have access to the S3 object (%s/%s).", place.Bucket, place.Key)
	}
	t.Detail.Size = fmt.Sprintf("%.1f", float64(from.size))
	failure := l.imports.failure
	l.imports.failure = ""
	l.add(t)
	l.after(r.stuck, func() { t.advance(l, from.file, failure) })
	return t, nil
}

// advance takes a task through its states. The lab is locked.
func (t *importTask) advance(l *Lab, path, failure string) {
	d := &t.Detail
	if d.Status != "active" {
		return
	}
	next := func(progress, message string) {
		d.Progress, d.Message = progress, message
		l.after(false, func() { t.advance(l, path, failure) })
	}
	switch d.Message {
	case "pending":
		next("19", "downloading/converting")
	case "downloading/converting":
		var err error
		if failure != "" {
			err = errors.New(failure)
		} else {
			t.made, err = l.imported(t, path)
		}
		if err != nil {
			t.end(l, err.Error())
			return
		}
		d.Snapshot = t.made.ID
		next("85", "updating")
	default:
		t.made.State, t.made.Progress = "completed", "100%"
		d.Status, d.Message, d.Progress = "completed", "", ""
	}
}

// end ends a task without a snapshot.
func (t *importTask) end(l *Lab, message string) {
	d := &t.Detail
	d.Status, d.Message, d.Progress = "deleting", message, ""
	if t.made != nil {
		t.made.gone, d.Snapshot = true, ""
	}
	l.after(false, func() { d.Status = "deleted" })
}

// imported makes the pending snapshot of a task, without tags.
func (l *Lab) imported(t *importTask, path string) (*snapshot, error) {
	object, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("ClientError: the object is gone: %w", err)
	}
	defer object.Close() //nolint:errcheck // only read
	s := &snapshot{
		ID: newID(snapshots.prefix), Volume: "vol-ffffffff", State: "pending", Started: now(), Progress: "0%", Owner: account,
		Description: "Created by AWS-VMImport service for " + t.ID, Encrypted: t.Detail.Encrypted, Tier: "standard",
		sums: map[int][32]byte{}, puts: map[int]int{}, busy: map[int]bool{}, completed: true,
	}
	if s.file, err = os.Create(filepath.Join(l.dir, s.ID)); err != nil {
		return nil, err
	}
	zero := make([]byte, blockSize)
	at := 0
	for ; err == nil; at++ {
		block := make([]byte, blockSize)
		var n int
		if n, err = io.ReadFull(object, block); n > 0 && !bytes.Equal(block, zero) {
			s.sums[at] = sha256.Sum256(block)
			if _, err := s.file.WriteAt(block, int64(at)*blockSize); err != nil {
				return nil, errors.Join(err, s.file.Close())
			}
		}
	}
	if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, errors.Join(err, s.file.Close())
	}
	s.Size = (at*blockSize + 1<<30 - 1) >> 30
	l.add(s)
	return s, nil
}

func cancelImport(r *request) (any, error) {
	id := r.get("ImportTaskId")
	if err := r.allow(importTasks.arn(id)); err != nil {
		return nil, err
	}
	t, err := find[*importTask](r.lab, id)
	if err == nil {
		err = r.dry()
	}
	if err != nil {
		return nil, err
	}
	before := t.Detail.Status
	if before != "active" {
		return nil, refuse("IncorrectState", "The import task %s is %s and cannot be cancelled", id, before)
	}
	t.end(r.lab, strings.TrimSpace("cancelled "+r.get("CancelReason")))
	return struct {
		ID     string `xml:"importTaskId"`
		Before string `xml:"previousState"`
		State  string `xml:"state"`
	}{id, before, t.Detail.Status}, nil
}
