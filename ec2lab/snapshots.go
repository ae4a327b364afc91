package ec2lab

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"maps"
	"os"
	"path/filepath"

	"github.com/morgana-deploy/morgana/image/disk"
)

// blockSize is that of a snapshot's blocks.
const blockSize = 512 << 10

// snapshot is a snapshot. Its blocks are in a sparse file; what it lacks is its parent's.
type snapshot struct {
	base
	ID          string `xml:"snapshotId" filter:"snapshot-id"`
	Volume      string `xml:"volumeId" filter:"volume-id"`
	State       string `xml:"status" filter:"status"`
	Message     string `xml:"statusMessage,omitempty"`
	Started     string `xml:"startTime" filter:"start-time"`
	Progress    string `xml:"progress" filter:"progress"`
	Owner       string `xml:"ownerId" filter:"owner-id"`
	Size        int    `xml:"volumeSize" filter:"volume-size"` // in GiB
	Description string `xml:"description" filter:"description"`
	Encrypted   bool   `xml:"encrypted" filter:"encrypted"`
	Tier        string `xml:"storageTier" filter:"storage-tier"`

	parent    *snapshot
	file      *os.File
	sums      map[int][32]byte
	puts      map[int]int
	busy      map[int]bool
	completed bool // CompleteSnapshot was called
}

var snapshots = kind{
	word: "snapshot", prefix: "snap-", param: "SnapshotId", set: "snapshotSet",
	missing: "InvalidSnapshot.NotFound", text: "The snapshot '%s' does not exist.", malformed: "InvalidParameterValue",
	least: 5, most: 1000,
}

func (s *snapshot) kind() *kind  { return &snapshots }
func (s *snapshot) id() string   { return s.ID }
func (s *snapshot) line() string { return "snapshot " + s.ID + " " + s.State }

// blocks returns for each block that is not a hole the snapshot whose file has it.
func (s *snapshot) blocks() map[int]*snapshot {
	all := map[int]*snapshot{}
	for ; s != nil; s = s.parent {
		for i := range s.sums {
			if all[i] == nil {
				all[i] = s
			}
		}
	}
	return all
}

// open makes the file of a new snapshot, which is pending.
func (l *Lab) open(s *snapshot) (err error) {
	if s.Volume == "" {
		s.Volume = "vol-ffffffff"
	}
	s.ID, s.State, s.Started, s.Progress, s.Owner, s.Tier = newID(snapshots.prefix), "pending", now(), "0%", account, "standard"
	s.sums = map[int][32]byte{}
	s.file, err = os.Create(filepath.Join(l.dir, s.ID))
	return err
}

// copy is open for a snapshot with the bytes of a file.
func (l *Lab) copy(s *snapshot, path string) error {
	if err := l.open(s); err != nil {
		return err
	}
	s.completed = true
	block := make([]byte, blockSize)
	size, err := disk.Blocks(l.ctx, path, blockSize, func(i int64, data []byte) error {
		clear(block[copy(block, data):])
		s.sums[int(i)] = sha256.Sum256(block)
		_, err := s.file.WriteAt(block, i*blockSize)
		return err
	})
	if err != nil && !errors.Is(err, os.ErrNotExist) { // an instance without a guest has no disk
		return errors.Join(err, s.file.Close())
	}
	s.Size = max(s.Size, int((size+1<<30-1)>>30))
	return nil
}

// createSnapshot is CreateSnapshot: the snapshot has the volume's bytes of this moment.
func createSnapshot(r *request) (*snapshot, error) {
	v, err := find[*volume](r.lab, r.get("VolumeId"))
	switch {
	case err != nil:
		return nil, err
	case v.State != "available" && v.State != "in-use":
		return nil, refuse("IncorrectState", "The volume '%s' is '%s'.", v.ID, v.State)
	}
	return &snapshot{Volume: v.ID, Size: v.Size, Encrypted: v.Encrypted, Description: r.get("Description")}, nil
}

func (s *snapshot) begin(r *request) error {
	v, err := find[*volume](r.lab, s.Volume)
	if err != nil {
		return err
	}
	return r.lab.copy(s, v.file)
}

func (s *snapshot) ripen(*Lab) {
	if s.State == "pending" {
		s.State, s.Progress = "completed", "100%"
	}
}

// writer returns what writes the bytes that the snapshot has now.
func (s *snapshot) writer() func(path string) error {
	blocks := s.blocks()
	return func(path string) error { return s.write(path, blocks) }
}

// write writes the snapshot's bytes to a sparse file.
func (s *snapshot) write(path string, blocks map[int]*snapshot) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	block, zero := make([]byte, blockSize), make([]byte, blockSize)
	err = f.Truncate(int64(s.Size) << 30)
	for i, from := range blocks {
		if err == nil {
			_, err = from.file.ReadAt(block, int64(i)*blockSize)
		}
		if err == nil && !bytes.Equal(block, zero) {
			_, err = f.WriteAt(block, int64(i)*blockSize)
		}
	}
	if closed := f.Close(); err == nil {
		err = closed
	}
	return err
}

// WriteSnapshot writes the bytes that a snapshot has now to a new sparse file.
func (l *Lab) WriteSnapshot(id, path string) error {
	l.mu.Lock()
	s, err := l.snapshot(id)
	var blocks map[int]*snapshot
	if err == nil {
		blocks = s.blocks()
	}
	l.mu.Unlock()
	if err != nil {
		return err
	}
	return s.write(path, blocks)
}

// Puts returns how often each block of a snapshot was received and accepted.
func (l *Lab) Puts(id string) map[int]int {
	l.mu.Lock()
	defer l.mu.Unlock()
	s, err := l.snapshot(id)
	if err != nil {
		return nil
	}
	return maps.Clone(s.puts)
}

// Fail gives a snapshot the state error.
func (l *Lab) Fail(id string) {
	l.set(func() {
		if s, err := l.snapshot(id); err == nil {
			s.State, s.Message = "error", "The snapshot failed."
		}
	})
}

// snapshot returns a snapshot for the EBS direct APIs, which see it at once.
func (l *Lab) snapshot(id string) (*snapshot, error) {
	if snapshots.well(id) != nil {
		return nil, invalid("INVALID_SNAPSHOT_ID", "The snapshot ID %q is invalid", id)
	}
	for s := range kept[*snapshot](l) {
		if s.ID == id {
			return s, nil
		}
	}
	e := refuse("ResourceNotFoundException", "The snapshot '%s' does not exist.", id)
	e.reason = "SNAPSHOT_NOT_FOUND"
	return nil, e
}
