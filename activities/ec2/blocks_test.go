package ec2

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/morgana-deploy/morgana/step"
	"github.com/morgana-deploy/morgana/step/steptest"
)

// sparse makes a disk with a block of each number in content, which fills the block.
func sparse(t testing.TB, size int64, content map[int32]byte) string {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "disk"))
	no(t, err)
	defer f.Close() //nolint:errcheck // synced by its size alone
	for index, fill := range content {
		no(t, failure(f.WriteAt(bytes.Repeat([]byte{fill}, blockSize), int64(index)*blockSize)))
	}
	no(t, f.Truncate(size))
	return f.Name()
}

func list(t testing.TB, path string) blocks {
	t.Helper()
	l, _, err := blocksOf(t.Context(), path)
	no(t, err)
	return l
}

func TestBlocksOf(t *testing.T) {
	path := sparse(t, 100*blockSize, map[int32]byte{0: 1, 7: 0, 99: 2})
	if err := os.Truncate(path, 99*blockSize+512); err != nil { // the last block is short
		t.Fatal(err)
	}
	got, size, err := blocksOf(t.Context(), path)
	last := make([]byte, blockSize)
	copy(last, bytes.Repeat([]byte{2}, 512))
	want := blocks{{0, sha256.Sum256(bytes.Repeat([]byte{1}, blockSize))}, {99, sha256.Sum256(last)}}
	if err != nil || size != 99*blockSize+512 || !slices.Equal(got, want) {
		t.Fatalf("blocksOf: %v, %d, %v; want %v", got, size, err, want)
	}
	store := steptest.NewStore(t)
	a, err := store.Put(t.Context(), bytes.NewReader(got.text()))
	no(t, err)
	if back, err := readBlocks(t.Context(), store, a); err != nil || !slices.Equal(back, want) {
		t.Errorf("readBlocks: %v, %v; want %v", back, err, want)
	}
}

func TestReadBlocksRefuses(t *testing.T) {
	sum := strings.Repeat("ab", 32)
	for _, text := range []string{
		"1", "x " + sum, "1 " + sum[2:], "1 " + sum + "cd", "1 " + sum + " ", "-1 " + sum, "3000000000 " + sum,
		fmt.Sprintf("2 %s\n1 %s", sum, sum), fmt.Sprintf("1 %s\n1 %s", sum, sum),
	} {
		store := steptest.NewStore(t)
		a, err := store.Put(t.Context(), strings.NewReader(text+"\n"))
		no(t, err)
		if got, err := readBlocks(t.Context(), store, a); step.KindOf(err) != step.InvalidSpec {
			t.Errorf("readBlocks of %q: %v, %v", text, got, err)
		}
	}
}

func TestBlocksSince(t *testing.T) {
	of := func(content map[int32]byte) blocks { return list(t, sparse(t, 10*blockSize, content)) }
	for _, test := range []struct {
		name        string
		now, parent map[int32]byte
		want        []int32
		zero        []int32 // those of want that are sent as zeros
	}{
		{"equal", map[int32]byte{1: 1, 5: 5}, map[int32]byte{1: 1, 5: 5}, nil, nil},
		{"changed", map[int32]byte{1: 1, 5: 6}, map[int32]byte{1: 1, 5: 5}, []int32{5}, nil},
		{"became zero", map[int32]byte{1: 1}, map[int32]byte{0: 9, 1: 1, 5: 5}, []int32{0, 5}, []int32{0, 5}},
		{"was zero", map[int32]byte{0: 3, 1: 1, 9: 9}, map[int32]byte{1: 1}, []int32{0, 9}, nil},
		{"all zero", nil, map[int32]byte{2: 2}, []int32{2}, []int32{2}},
		{"no parent", map[int32]byte{2: 2, 3: 3}, nil, []int32{2, 3}, nil},
		{"mixed", map[int32]byte{0: 1, 2: 7, 4: 4}, map[int32]byte{1: 1, 2: 2, 4: 4}, []int32{0, 1, 2}, []int32{1}},
	} {
		now := of(test.now)
		var got, zero []int32
		for _, b := range now.since(of(test.parent)) {
			got = append(got, b.index)
			if b.sum == zeroSum {
				zero = append(zero, b.index)
			} else if at, ok := now.find(b.index); !ok || now[at] != b {
				t.Errorf("%s: block %d has not the disk's digest", test.name, b.index)
			}
		}
		if !slices.Equal(got, test.want) || !slices.Equal(zero, test.zero) {
			t.Errorf("%s: since gives %v, of them zero %v; want %v, %v", test.name, got, zero, test.want, test.zero)
		}
	}
}

// TestSent opens the record of an upload that was cut off, on the same host and on another.
func TestSent(t *testing.T) {
	l := list(t, sparse(t, 20*blockSize, map[int32]byte{0: 1, 1: 2, 3: 3, 8: 4, 9: 5, 15: 6}))
	folder := t.TempDir()
	open := func(folder string, last step.Progress) *sent {
		t.Helper()
		s, err := openSent(folder, "snap-0a1b", l, last)
		no(t, err)
		return s
	}
	s := open(folder, step.Progress{})
	for _, at := range []int{0, 1, 4} {
		no(t, s.add(at))
	}
	progress := step.Progress{State: s.state("snap-0a1b")}
	// A line that a power cut has spoilt, one of another list, and one that was cut off.
	no(t, failure(s.file.WriteString("3 0000000000000000\n77 "+record(l[2])[2:]+record(l[5])[:6])))
	for name, got := range map[string]*sent{"this host": open(folder, step.Progress{}), "another host": open(t.TempDir(), progress)} {
		if want := []bool{true, true, false, false, true, false}; !slices.Equal(got.has, want) || got.count != 3 || got.low != 2 {
			t.Errorf("%s: %v, count %d, low %d; want %v, 3, 2", name, got.has, got.count, got.low, want)
		}
	}
	again := open(folder, step.Progress{})
	no(t, again.add(5))
	if got := open(folder, step.Progress{}); !got.has[5] || got.count != 4 {
		t.Errorf("a line behind one that was cut off is lost: %v", got.has)
	}
	other := step.Progress{State: s.state("snap-other")}
	if got := open(t.TempDir(), other); got.count != 0 {
		t.Errorf("the state of another snapshot is used: %v", got.has)
	}
	if _, err := openSent(folder, "../snap-1", l, step.Progress{}); err == nil {
		t.Error("openSent takes an id that leads elsewhere")
	}
}
