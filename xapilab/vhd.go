package xapilab

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
)

// vhdSector is the unit of a VHD's offsets.
const vhdSector = 512

// vhdBlock is the size of the blocks of a VHD that an SR makes.
const vhdBlock = 2 << 20

// readVHD reads a dynamic VHD from its first to its last byte and writes its blocks.
func readVHD(r io.Reader, to *os.File, limit int64) error {
	head := make([]byte, 3*vhdSector)
	if _, err := io.ReadFull(r, head); err != nil {
		return err
	}
	footer, header := head[:vhdSector], head[vhdSector:]
	if err := errors.Join(checkVHD(footer, "conectix", 64), checkVHD(header, "cxsparse", 36)); err != nil {
		return err
	}
	size := int64(binary.BigEndian.Uint64(footer[48:]))
	if kind := binary.BigEndian.Uint32(footer[60:]); kind != 3 || size > limit {
		return fmt.Errorf("a VHD of type %d with %d bytes", kind, size)
	}
	table := int64(binary.BigEndian.Uint64(header[16:]))
	entries, block := binary.BigEndian.Uint32(header[28:]), int64(binary.BigEndian.Uint32(header[32:]))
	if block <= 0 || block%vhdSector != 0 || int64(entries)*block < size || table < int64(len(head)) {
		return errors.New("a VHD with a bad header")
	}
	at := int64(len(head))
	skip := func(to int64) error {
		if to < at {
			return errors.New("a VHD whose parts overlap")
		}
		_, err := io.CopyN(io.Discard, r, to-at)
		at = to
		return err
	}
	if err := skip(table); err != nil {
		return err
	}
	bat := make([]uint32, entries)
	if err := binary.Read(r, binary.BigEndian, bat); err != nil {
		return err
	}
	at += 4 * int64(entries)
	var order []int
	for i, sector := range bat {
		if sector != 1<<32-1 {
			order = append(order, i)
		}
	}
	slices.SortFunc(order, func(a, b int) int { return cmp.Compare(bat[a], bat[b]) })
	bitmap := (block/vhdSector/8 + vhdSector - 1) / vhdSector * vhdSector
	content := make([]byte, bitmap+block)
	for _, i := range order {
		if err := skip(int64(bat[i]) * vhdSector); err != nil {
			return err
		}
		if _, err := io.ReadFull(r, content); err != nil {
			return err
		}
		at += int64(len(content))
		for s := range block / vhdSector {
			offset := int64(i)*block + s*vhdSector
			if content[s/8]&(0x80>>(s%8)) == 0 || offset >= size {
				continue
			}
			if _, err := to.WriteAt(content[bitmap+s*vhdSector:][:vhdSector], offset); err != nil {
				return err
			}
		}
	}
	rest, err := io.ReadAll(io.LimitReader(r, 1<<20))
	if err == nil && (len(rest) < vhdSector || !bytes.Equal(rest[len(rest)-vhdSector:], footer)) {
		err = errors.New("a VHD without its footer at the end")
	}
	return err
}

// checkVHD checks the cookie and the checksum of a part of a VHD.
func checkVHD(part []byte, cookie string, at int) error {
	var sum uint32
	for i, b := range part {
		if i < at || i >= at+4 {
			sum += uint32(b)
		}
	}
	if !bytes.HasPrefix(part, []byte(cookie)) || binary.BigEndian.Uint32(part[at:]) != ^sum {
		return fmt.Errorf("no %s, or its checksum is wrong", cookie)
	}
	return nil
}
