package ec2lab

import (
	"bytes"
	"maps"
	"os"
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
	token     string
	asked     string // the request that the token was used for
	completed bool   // CompleteSnapshot was called
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
