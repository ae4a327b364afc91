package disk

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// A packed disk is a tar archive of one sparse file in GNU's PAX format 1.0 ("GNU
// tar", D.2): an extended header, a header, the list of spans, their bytes, the end
// of the archive. archive/tar reads this format, but does not write it.
const (
	memberName = imageName
	// storedName is the file's name for programs that do not know the format.
	storedName = "GNUSparseFile.0/" + memberName
	tarBlock   = 512
	// maxRecords limits the extended header, which has about 100 bytes.
	maxRecords = 1024
)

// tarHead returns the archive's bytes up to the list of spans. size is the disk's size,
// and stored is the size of the list together with the bytes of the spans.
func tarHead(size, stored int64) ([]byte, error) {
	records := record("GNU.sparse.major", "1") + record("GNU.sparse.minor", "0") +
		record("GNU.sparse.name", memberName) + record("GNU.sparse.realsize", strconv.FormatInt(size, 10))
	const inHeader = 8<<30 - 1 // 11 octal digits
	if stored > inHeader {
		records += record("size", strconv.FormatInt(stored, 10))
		stored = 0
	}
	ext, err := tarHeader(tar.TypeXHeader, "PaxHeaders.0/"+memberName, int64(len(records)))
	if err != nil {
		return nil, err
	}
	own, err := tarHeader(tar.TypeReg, storedName, stored)
	if err != nil {
		return nil, err
	}
	ext = append(ext, records...)
	return append(append(ext, make([]byte, padding(int64(len(records))))...), own...), nil
}

// record is a PAX record: its own length in decimal, a blank, key=value, newline.
func record(key, value string) string {
	rest := " " + key + "=" + value + "\n"
	n := len(rest)
	for n != len(strconv.Itoa(n))+len(rest) {
		n = len(strconv.Itoa(n)) + len(rest)
	}
	return strconv.Itoa(n) + rest
}

// tarHeader returns a ustar header block. The owner is root; the time is that of all
// files on the disk.
func tarHeader(kind byte, name string, size int64) ([]byte, error) {
	var block bytes.Buffer
	h := &tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o644, ModTime: time.Unix(epoch, 0), Format: tar.FormatUSTAR}
	if err := tar.NewWriter(&block).WriteHeader(h); err != nil {
		return nil, err
	}
	b := block.Bytes()
	b[156] = kind // archive/tar does not let its caller write extended headers
	copy(b[148:156], "        ")
	sum := 0
	for _, c := range b {
		sum += int(c)
	}
	copy(b[148:156], fmt.Sprintf("%06o\x00 ", sum))
	return b, nil
}

// spanText returns the list of spans, padded. If the disk ends in a hole the list ends
// with an empty span at the disk's end, as GNU tar writes it.
func spanText(spans []span, size int64) []byte {
	if n := len(spans); n == 0 || spans[n-1].at+spans[n-1].size < size {
		spans = append(spans[:n:n], span{size, 0})
	}
	text := strconv.AppendInt(nil, int64(len(spans)), 10)
	for _, s := range spans {
		text = strconv.AppendInt(append(text, '\n'), s.at, 10)
		text = strconv.AppendInt(append(text, '\n'), s.size, 10)
	}
	text = append(text, '\n')
	return append(text, make([]byte, padding(int64(len(text))))...)
}

// parseRecords finds the numbers in the records of an extended header. It does not
// check the rest: readHead writes the header again and compares.
func parseRecords(records string) (size, stored int64, err error) {
	for line := range strings.Lines(records) {
		_, field, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		key, value, _ := strings.Cut(field, "=")
		switch key {
		case "GNU.sparse.realsize":
			size, err = number(value)
		case "size":
			stored, err = number(value)
		}
		if err != nil {
			return 0, 0, err
		}
	}
	return size, stored, nil
}

// number reads a decimal number without sign and leading zeros.
func number(text string) (int64, error) {
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 0 || strconv.FormatInt(n, 10) != text {
		return 0, errors.New("a number is malformed")
	}
	return n, nil
}

// padding is the number of bytes missing to a whole block.
func padding(n int64) int64 { return roundUp(n, tarBlock) - n }
