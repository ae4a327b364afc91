package ec2lab

import (
	"bufio"
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"hash"
	"hash/crc32"
	"hash/crc64"
	"io"
	"maps"
	"net/http"
	"net/textproto"
	"os"
	"slices"
	"strconv"
	"strings"
)

// bodySums are the sums of a body of S3.
type bodySums struct {
	md5  []byte
	sums map[string]string // base64, by algorithm, as "CRC32"
	sent string            // the algorithm of the sum that the client sent, "" if none
}

// checksums are the algorithms of S3.
var checksums = map[string]func() hash.Hash{
	"CRC32":     func() hash.Hash { return crc32.NewIEEE() },
	"CRC32C":    func() hash.Hash { return crc32.New(crc32.MakeTable(crc32.Castagnoli)) },
	"CRC64NVME": func() hash.Hash { return crc64.New(crc64.MakeTable(0x9a6c9329ac4bc9b5)) },
	"SHA1":      sha1.New,
	"SHA256":    sha256.New,
}

// spool reads the body of a request to S3 into a file, with its sums.
func (r *request) spool() error {
	f, err := os.CreateTemp(r.lab.dir, "s3-")
	if err != nil {
		return err
	}
	r.file = f.Name()
	var body io.Reader = r.http.Body
	raw := sha256.New()
	if strings.Contains(r.http.Header.Get("Content-Encoding"), "aws-chunked") {
		body = &awsChunked{in: bufio.NewReader(body), trailer: r.http.Header}
	}
	sums, to := map[string]hash.Hash{}, []io.Writer{f, raw}
	for name, sum := range checksums {
		sums[name] = sum()
		to = append(to, sums[name])
	}
	m := md5.New()
	r.size, err = io.Copy(io.MultiWriter(append(to, m)...), body)
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	r.sum, r.sums.md5, r.sums.sums = hex.EncodeToString(raw.Sum(nil)), m.Sum(nil), map[string]string{}
	for name, h := range sums {
		r.sums.sums[name] = base64.StdEncoding.EncodeToString(h.Sum(nil))
	}
	return nil
}

// awsChunked reads a body that the SDK has cut into chunks, whose trailer it puts into the
// header of the request. Signatures of chunks are not verified.
type awsChunked struct {
	in      *bufio.Reader
	trailer http.Header
	left    int64
	over    bool
}

func (c *awsChunked) Read(p []byte) (int, error) {
	if c.over {
		return 0, io.EOF
	}
	if c.left == 0 {
		line, err := c.in.ReadString('\n')
		if err != nil {
			return 0, io.ErrUnexpectedEOF
		}
		size, _, _ := strings.Cut(strings.TrimSpace(line), ";")
		if c.left, err = strconv.ParseInt(size, 16, 64); err != nil {
			return 0, err
		}
		if c.left == 0 {
			trailer, err := textproto.NewReader(c.in).ReadMIMEHeader()
			if err != nil && !errors.Is(err, io.EOF) {
				return 0, err
			}
			maps.Copy(c.trailer, trailer)
			c.over = true
			return 0, io.EOF
		}
	}
	n, err := c.in.Read(p[:min(int64(len(p)), c.left)])
	c.left -= int64(n)
	if err == nil && c.left == 0 {
		_, err = c.in.Discard(len("\r\n"))
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// checkBody compares the body with the sums that came with it.
func (r *request) checkBody() error {
	h := r.http.Header
	if want := h.Get("Content-Md5"); want != "" {
		sum, err := base64.StdEncoding.DecodeString(want)
		switch {
		case err != nil || len(sum) != md5.Size:
			return refuse("InvalidDigest", "")
		case !slices.Equal(sum, r.sums.md5):
			return refuse("BadDigest", "The Content-MD5 you specified did not match what we received.")
		}
	}
	if want := h.Get("X-Amz-Decoded-Content-Length"); want != "" && want != strconv.FormatInt(r.size, 10) {
		return refuse("IncompleteBody", "")
	}
	for name, have := range r.sums.sums {
		want := h.Get("X-Amz-Checksum-" + name)
		if want == "" || r.name == "CompleteMultipartUpload" { // there it is the object's
			continue
		}
		if want != have {
			return refuse("BadDigest", "The %s you specified did not match the calculated checksum.", name)
		}
		r.sums.sent = name
	}
	return nil
}
