package ec2lab

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// readable returns a completed snapshot; others have no blocks to read.
func (r *request) readable(param string) (*snapshot, error) {
	s, err := r.on(param)
	if err == nil && s.State != "completed" {
		e := refuse("ResourceNotFoundException", "The snapshot '%s' does not exist.", s.ID)
		e.reason = "SNAPSHOT_NOT_FOUND"
		return nil, e
	}
	return s, err
}

// blockToken is the token by which a block of a snapshot is read.
func blockToken(s *snapshot, i int) string {
	return base64.StdEncoding.EncodeToString(fmt.Appendf(nil, "%s %d", s.ID, i))
}

func getBlock(r *request) (any, error) {
	r.lab.mu.Lock()
	s, err := r.readable("SnapshotId")
	at, bad := strconv.Atoi(r.get("BlockIndex"))
	var from *snapshot
	if err == nil {
		from = s.blocks()[at]
	}
	r.lab.mu.Unlock()
	switch {
	case err != nil:
		return nil, err
	case bad != nil || from == nil || r.get("BlockToken") != blockToken(s, at):
		return nil, invalid("INVALID_BLOCK_TOKEN", "The block token is invalid")
	}
	data := make([]byte, blockSize)
	if _, err := from.file.ReadAt(data, int64(at)*blockSize); err != nil {
		return nil, err
	}
	sum := sha256.Sum256(data)
	return restAnswer{http.StatusOK, map[string]string{
		"Content-Type": "application/octet-stream", "X-Amz-Data-Length": strconv.Itoa(blockSize),
		"X-Amz-Checksum": base64.StdEncoding.EncodeToString(sum[:]), "X-Amz-Checksum-Algorithm": "SHA256",
	}, data}, nil
}

func listBlocks(r *request) (any, error) {
	r.lab.mu.Lock()
	defer r.lab.mu.Unlock()
	s, err := r.readable("SnapshotId")
	if err != nil {
		return nil, err
	}
	return r.blockPage("Blocks", s, slices.Sorted(maps.Keys(s.blocks())), func(i int) any {
		return map[string]any{"BlockIndex": i, "BlockToken": blockToken(s, i)}
	})
}

func listChanged(r *request) (any, error) {
	r.lab.mu.Lock()
	defer r.lab.mu.Unlock()
	second, err := r.readable("SecondSnapshotId")
	if err != nil {
		return nil, err
	}
	var first *snapshot
	if r.has("FirstSnapshotId") {
		if first, err = r.readable("FirstSnapshotId"); err != nil {
			return nil, err
		}
		related := false
		for s := second; s != nil; s = s.parent {
			related = related || s == first
		}
		if !related {
			return nil, invalid("UNRELATED_SNAPSHOTS", "The snapshots are not of one lineage")
		}
	}
	before, after := first.blocks(), second.blocks()
	var changed []int
	for _, i := range slices.Sorted(maps.Keys(after)) {
		if before[i] != after[i] {
			changed = append(changed, i)
		}
	}
	return r.blockPage("ChangedBlocks", second, changed, func(i int) any {
		m := map[string]any{"BlockIndex": i, "SecondBlockToken": blockToken(second, i)}
		if before[i] != nil {
			m["FirstBlockToken"] = blockToken(first, i)
		}
		return m
	})
}

// blockPage answers with a page of a list of blocks.
func (r *request) blockPage(name string, s *snapshot, all []int, item func(int) any) (any, error) {
	n := r.number("MaxResults", 10000)
	if n < 100 || n > 10000 {
		return nil, invalid("INVALID_PARAMETER_VALUE", "MaxResults must be from 100 to 10000")
	}
	from := r.number("StartingBlockIndex", 0)
	if t := r.get("NextToken"); t != "" {
		text, _ := base64.StdEncoding.DecodeString(t)
		at, err := strconv.Atoi(strings.TrimPrefix(string(text), s.ID+" "))
		if err != nil {
			return nil, invalid("INVALID_PAGE_TOKEN", "The page token is invalid")
		}
		from = at
	}
	all = slices.DeleteFunc(all, func(i int) bool { return i < from })
	answer := map[string]any{"BlockSize": blockSize, "VolumeSize": s.Size, "ExpiryTime": time.Now().Add(time.Hour).Unix()}
	if n < len(all) {
		answer["NextToken"] = blockToken(s, all[n])
		all = all[:n]
	}
	items := []any{}
	for _, i := range all {
		items = append(items, item(i))
	}
	answer[name] = items
	return jsonAnswer(http.StatusOK, answer)
}
