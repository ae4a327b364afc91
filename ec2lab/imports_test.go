package ec2lab

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

func TestImport(t *testing.T) {
	s := newShop(t)
	s.MakeBucket(*mine, region, "")
	s.MakeBucket("far", "us-east-1", "")
	s.no(s.put("disk", strings.Repeat("x", blockSize+1)))
	importing := func(change func(*ec2.ImportSnapshotInput)) *ec2.ImportSnapshotInput {
		in := &ec2.ImportSnapshotInput{ClientToken: aws.String("a"), TagSpecifications: tagSpec("import-snapshot-task", "a", "b"),
			DiskContainer: &types.SnapshotDiskContainer{Format: aws.String("RAW"), UserBucket: &types.UserBucket{S3Bucket: mine, S3Key: aws.String("disk")}}}
		change(in)
		return in
	}
	var first string
	for _, c := range []struct {
		name, code string
		change     func(*ec2.ImportSnapshotInput)
	}{
		{"taken", "", func(*ec2.ImportSnapshotInput) {}},
		{"again", "", func(*ec2.ImportSnapshotInput) {}},
		{"the token for another request", "IdempotentParameterMismatch", func(m *ec2.ImportSnapshotInput) { m.Description = aws.String("other") }},
		{"dry run", "DryRunOperation", func(m *ec2.ImportSnapshotInput) { m.ClientToken, m.DryRun = nil, aws.Bool(true) }},
		{"format", "Unsupported", func(m *ec2.ImportSnapshotInput) { m.ClientToken, m.DiskContainer.Format = nil, aws.String("VMDK") }},
		{"no object", "InvalidParameter", func(m *ec2.ImportSnapshotInput) {
			m.ClientToken, m.DiskContainer.UserBucket.S3Key = nil, aws.String("none")
		}},
		{"bucket elsewhere", "InvalidParameter", func(m *ec2.ImportSnapshotInput) {
			m.ClientToken, m.DiskContainer.UserBucket.S3Bucket = nil, aws.String("far")
		}},
		{"another role", "InvalidParameter", func(m *ec2.ImportSnapshotInput) { m.ClientToken, m.RoleName = nil, aws.String("other") }},
		{"tags of a snapshot", "InvalidParameterValue", func(m *ec2.ImportSnapshotInput) { m.TagSpecifications = tagSpec("snapshot", "a", "b") }},
	} {
		out, err := s.ec2.ImportSnapshot(s.ctx, importing(c.change))
		if got := code(err); got != c.code {
			t.Errorf("%s: %v, want %q", c.name, err, c.code)
		}
		if err == nil && first != "" && *out.ImportTaskId != first {
			t.Errorf("%s: another task", c.name)
		}
		if err == nil {
			first = *out.ImportTaskId
		}
	}
	task := func() types.ImportSnapshotTask {
		out, err := s.ec2.DescribeImportSnapshotTasks(s.ctx, &ec2.DescribeImportSnapshotTasksInput{ImportTaskIds: []string{first}})
		s.no(err)
		return out.ImportSnapshotTasks[0]
	}
	s.until(func() bool { return *task().SnapshotTaskDetail.Status == "completed" })
	if v := task(); len(v.Tags) != 1 || *v.SnapshotTaskDetail.UserBucket.S3Key != "disk" {
		t.Errorf("the task is %+v", v)
	}
	path := filepath.Join(t.TempDir(), "bytes")
	s.no(s.WriteSnapshot(*task().SnapshotTaskDetail.SnapshotId, path))
	f, err := os.Open(path)
	s.no(err)
	defer f.Close() //nolint:errcheck // only read
	start, err := io.ReadAll(io.LimitReader(f, blockSize+2))
	s.no(err)
	if text := strings.TrimLeft(string(start), "x"); text != "\x00" {
		t.Errorf("the snapshot begins with other bytes, then %.9q", text)
	}
	if info, err := f.Stat(); err != nil || info.Size() != 1<<30 {
		t.Errorf("the snapshot: %v, %v", info, err)
	}

	if _, err := s.ec2.CancelImportTask(s.ctx, &ec2.CancelImportTaskInput{ImportTaskId: &first}); code(err) != "IncorrectState" {
		t.Errorf("cancel what is completed: %v", err)
	}
	s.Fault(Fault{Call: "ImportSnapshot", Stuck: true})
	out, err := s.ec2.ImportSnapshot(s.ctx, importing(func(m *ec2.ImportSnapshotInput) { m.ClientToken = nil }))
	s.no(err)
	first = *out.ImportTaskId
	_, err = s.ec2.CancelImportTask(s.ctx, &ec2.CancelImportTaskInput{ImportTaskId: &first})
	s.no(err)
	s.until(func() bool { return *task().SnapshotTaskDetail.Status == "deleted" })
	s.FailImport("ClientError: no")
	out, err = s.ec2.ImportSnapshot(s.ctx, importing(func(m *ec2.ImportSnapshotInput) { m.ClientToken = nil }))
	s.no(err)
	first = *out.ImportTaskId
	s.until(func() bool { return *task().SnapshotTaskDetail.Status == "deleted" })
	if v := task(); *v.SnapshotTaskDetail.StatusMessage != "ClientError: no" {
		t.Errorf("the task is %+v", v.SnapshotTaskDetail)
	}
	Judge(t, s.Calls())
}
