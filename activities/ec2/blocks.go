package ec2

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/morgana-deploy/morgana/image/disk"
	"github.com/morgana-deploy/morgana/step"
)

const (
	// blockSize is the size of the blocks of a snapshot.
	blockSize = 512 << 10
	gibi      = 1 << 30
)

// block is a block of a disk.
type block struct {
	index int32
	sum   [sha256.Size]byte
}

// zeroSum is the digest of a block of zeros.
var zeroSum = sha256.Sum256(make([]byte, blockSize))

// blocks lists blocks in the order of their indices: those of a disk that are not zero,
// or those that are sent. It takes 36 bytes of memory for each.
type blocks []block

// blocksOf lists the blocks of the raw disk at path that are not zero. It also returns the
// disk's size.
func blocksOf(ctx context.Context, path string) (list blocks, size int64, err error) {
	buf := make([]byte, blockSize)
	size, err = disk.Blocks(ctx, path, blockSize, func(index int64, data []byte) error {
		if index > math.MaxInt32 {
			return fmt.Errorf("a snapshot has no block %d", index)
		}
		clear(buf[copy(buf, data):]) // the disk's last block may be short
		list = append(list, block{int32(index), sha256.Sum256(buf)})
		return nil
	})
	return list, size, err
}

// text returns the list as a file of the image: a line "<index> <digest>" for each block.
func (l blocks) text() []byte {
	var b bytes.Buffer
	for _, k := range l {
		fmt.Fprintf(&b, "%d %x\n", k.index, k.sum)
	}
	return b.Bytes()
}

// readBlocks reads a list from the store. It refuses one that text does not write: a step
// of another team may have made it.
func readBlocks(ctx context.Context, store step.Store, a step.Artifact) (list blocks, err error) {
	r, err := store.Open(ctx, a)
	if err != nil {
		return nil, err
	}
	defer r.Close() //nolint:errcheck // only read
	lines := bufio.NewScanner(io.LimitReader(r, a.Size))
	last := int32(-1)
	for lines.Scan() {
		index, sum, ok := strings.Cut(lines.Text(), " ")
		n, err := strconv.ParseInt(index, 10, 32)
		b := block{index: int32(n)}
		if d, bad := hex.DecodeString(sum); !ok || err != nil || bad != nil || copy(b.sum[:], d) != len(b.sum) || len(d) != len(b.sum) || b.index <= last {
			return nil, step.Invalid("", "deploy again", "the image's file %s has the line %.80q", blocksFile, lines.Text())
		}
		last = b.index
		list = append(list, b)
	}
	return list, lines.Err()
}

// since lists the blocks to write over a copy of parent, so that it becomes l. A block that
// became zero is one of them: the copy has the parent's.
func (l blocks) since(parent blocks) (changed blocks) {
	for len(l) > 0 || len(parent) > 0 {
		switch {
		case len(parent) == 0 || len(l) > 0 && l[0].index < parent[0].index:
			changed, l = append(changed, l[0]), l[1:]
		case len(l) == 0 || parent[0].index < l[0].index:
			changed, parent = append(changed, block{parent[0].index, zeroSum}), parent[1:]
		default:
			if l[0].sum != parent[0].sum {
				changed = append(changed, l[0])
			}
			l, parent = l[1:], parent[1:]
		}
	}
	return changed
}

// find returns the position of the block with an index.
func (l blocks) find(index int32) (int, bool) {
	return slices.BinarySearchFunc(l, index, func(b block, index int32) int { return cmp.Compare(b.index, index) })
}

// checksum returns the aggregated checksum by the method LINEAR of CompleteSnapshot.
func (l blocks) checksum() string {
	all := sha256.New()
	for _, b := range l {
		all.Write(b.sum[:])
	}
	return base64.StdEncoding.EncodeToString(all.Sum(nil))
}

// checksum returns the block's checksum as PutSnapshotBlock takes it.
func (b block) checksum() string { return base64.StdEncoding.EncodeToString(b.sum[:]) }

// end returns the size in bytes of the smallest disk that has all blocks of the list.
func (l blocks) end() int64 {
	if len(l) == 0 {
		return 0
	}
	return (int64(l[len(l)-1].index) + 1) * blockSize
}
