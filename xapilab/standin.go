package xapilab

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"sync"
)

// StandIn is a [Hypervisor] without machines, for quick tests. A guest prints its text when it is unpaused.
type StandIn struct {
	// Text returns what a guest prints. Without it a guest prints nothing.
	Text func(g Guest) string
	// Ends reports whether a guest ends after its text.
	Ends func(g Guest) bool
}

// Start implements [Hypervisor]. The disk must have what a guest of the type boots: an ext2
// for pygrub, or a boot sector.
func (s StandIn) Start(_ context.Context, g Guest) (Running, error) {
	if g.Disk == "" {
		return nil, errors.New("no disk")
	}
	disk, err := os.Open(g.Disk)
	if err != nil {
		return nil, err
	}
	defer disk.Close() //nolint:errcheck // only read
	if err := bootable(disk, g.Type); err != nil {
		return nil, err
	}
	r := &standIn{}
	if s.Text != nil {
		r.text = s.Text(g)
	}
	r.ends = s.Ends != nil && s.Ends(g)
	return r, nil
}

// bootable looks for what a guest of a type boots.
func bootable(disk io.ReaderAt, domainType string) error {
	sector := make([]byte, 512)
	if _, err := disk.ReadAt(sector, 0); err != nil {
		return err
	}
	table := sector[510] == 0x55 && sector[511] == 0xaa
	if domainType == "hvm" {
		if !table || sector[0] == 0 {
			return errors.New("no boot sector")
		}
		return nil
	}
	starts := []int64{0}
	if table {
		starts = append(starts, int64(binary.LittleEndian.Uint32(sector[0x1be+8:]))*512)
	}
	for _, start := range starts {
		magic := make([]byte, 2)
		if _, err := disk.ReadAt(magic, start+1024+56); err == nil && magic[0] == 0x53 && magic[1] == 0xef {
			return nil
		}
	}
	return errors.New("Unable to find partition containing kernel") //nolint:staticcheck // pygrub's words
}

type standIn struct {
	text string
	ends bool

	mu     sync.Mutex
	runs   bool
	before bool // it ran
}

func (s *standIn) Pause() error { return s.set(false) }

func (s *standIn) Unpause() error { return s.set(true) }

func (s *standIn) set(runs bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.runs, s.before = runs, s.before || runs
	return nil
}

// Console implements [Running].
func (s *standIn) Console() ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.before {
		return nil, nil
	}
	return []byte(s.text), nil
}

// Ended implements [Running].
func (s *standIn) Ended() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.before && s.ends
}

// Stop implements [Running].
func (s *standIn) Stop() error { return nil }
