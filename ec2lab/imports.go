package ec2lab

import (
	"errors"
	"fmt"
	"strings"
)

// importTask is a task that makes a snapshot of an object of S3.
type importTask struct {
	base
	ID          string       `xml:"importTaskId"`
	Description string       `xml:"description,omitempty"`
	Detail      importDetail `xml:"snapshotTaskDetail"`

	path, failure string // of the object, and of the task
	made          *snapshot
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

func importSnapshot(r *request) (*importTask, error) {
	disk := r.sub("DiskContainer")
	t := &importTask{
		ID: newID(importTasks.prefix), Description: r.get("Description"),
		Detail: importDetail{Description: disk.get("Description"), Format: disk.get("Format"), Status: "active", Message: "pending",
			Encrypted: r.lab.encrypt || r.bool("Encrypted", false),
			Bucket:    importPlace{disk.get("UserBucket.S3Bucket"), disk.get("UserBucket.S3Key")}},
	}
	place := t.Detail.Bucket
	switch {
	case t.Detail.Format != "RAW":
		return nil, refuse("Unsupported", "The lab imports RAW disks only, not %q", t.Detail.Format)
	case place.Bucket == "" || place.Key == "":
		return nil, refuse("InvalidParameter", "The disk container must have a S3 bucket and key")
	}
	_ = r.get("RoleName")
	return t, nil
}

// begin looks at the role and the object, which a dry run does not.
func (t *importTask) begin(r *request) error {
	l, place := r.lab, t.Detail.Bucket
	if role := r.or("RoleName", "vmimport"); l.imports.missing || role != "vmimport" {
		return refuse("InvalidParameter", "The service role %s provided does not exist or does not have sufficient permissions", role)
	}
	from, err := l.objectOf(place.Bucket, place.Key)
	switch {
	case err != nil && err.Error() == refuse("PermanentRedirect", "").Error():
		return refuse("InvalidParameter", "The given S3 object is not local to the region. The object must be located in %s.", region)
	case err != nil:
		return refuse("InvalidParameter", "User does not have access to the S3 object (%s/%s).", place.Bucket, place.Key)
	}
	t.Detail.Size = fmt.Sprintf("%.1f", float64(from.size))
	t.path, t.failure, l.imports.failure = from.file, l.imports.failure, ""
	return nil
}

// ripen takes a task through its states.
func (t *importTask) ripen(l *Lab) {
	d := &t.Detail
	if d.Status != "active" {
		return
	}
	next := func(progress, message string) {
		d.Progress, d.Message = progress, message
		l.after(false, func() { t.ripen(l) })
	}
	switch d.Message {
	case "pending":
		next("19", "downloading/converting")
	case "downloading/converting":
		var err error
		if t.failure != "" {
			err = errors.New(t.failure)
		} else {
			t.made, err = l.imported(t)
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
func (l *Lab) imported(t *importTask) (*snapshot, error) {
	s := &snapshot{Description: "Created by AWS-VMImport service for " + t.ID, Encrypted: t.Detail.Encrypted}
	err := l.copy(s, t.path)
	if err == nil {
		l.add(s)
	}
	return s, err
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
