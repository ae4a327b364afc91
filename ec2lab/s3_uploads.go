package ec2lab

import (
	"cmp"
	"crypto/md5"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
)

// leastPart is the least size of each part but the last.
const leastPart = 5 << 20

// s3Upload is an unfinished multipart upload.
type s3Upload struct {
	key     string
	object  *object
	sum     string // the algorithm of its checksums, "" if it has none
	began   string
	parts   map[int]s3Part
	whole   bool // its checksum is that of the whole object
	inOrder int
}

type s3Part struct {
	file, etag, modified string
	size                 int64
	sum                  string // base64
}

func createUpload(r *request, b *bucket) (any, error) {
	o, err := r.keep(b)
	if err != nil {
		return nil, err
	}
	sum := r.get("ChecksumAlgorithm")
	if sum != "" && checksums[sum] == nil {
		return nil, refuse("InvalidRequest", "Checksum algorithm provided is unsupported. Please try again with any of the valid types: [CRC32, CRC32C, CRC64NVME, SHA1, SHA256]")
	}
	r.lab.uploads++
	id := fmt.Sprintf("lab%04d.%s", r.lab.uploads, r.id)
	b.uploads[id] = &s3Upload{key: r.get("Key"), object: o, sum: sum, began: now(), parts: map[int]s3Part{}, whole: r.get("ChecksumType") == "FULL_OBJECT" || sum == "CRC64NVME", inOrder: r.lab.uploads}
	return xmlAnswer("InitiateMultipartUploadResult", struct {
		root
		Bucket, Key string
		UploadID    string `xml:"UploadId"`
	}{Bucket: b.name, Key: r.get("Key"), UploadID: id})
}

func (r *request) upload(b *bucket) (*s3Upload, error) {
	u := b.uploads[r.get("UploadId")]
	if u == nil || u.key != r.get("Key") {
		return nil, refuse("NoSuchUpload", "")
	}
	return u, nil
}

func uploadPart(r *request, b *bucket) (any, error) {
	n, err := r.partNumber()
	if err != nil {
		return nil, err
	}
	u, err := r.upload(b)
	if err != nil {
		return nil, err
	}
	if u.sum != "" && r.sums.sent != u.sum && (!u.whole || r.sums.sent != "") {
		return nil, refuse("InvalidRequest", "Checksum Type mismatch occurred, expected checksum Type: %s, actual checksum Type: %s", strings.ToLower(u.sum), strings.ToLower(cmp.Or(r.sums.sent, "null")))
	}
	p := s3Part{r.file, hex.EncodeToString(r.sums.md5), now(), r.size, r.sums.sums[u.sum]}
	r.file = "" // the part has it
	u.parts[n] = p
	header := map[string]string{"ETag": `"` + p.etag + `"`}
	if r.sums.sent != "" {
		header["X-Amz-Checksum-"+r.sums.sent] = r.sums.sums[r.sums.sent]
	}
	return restAnswer{200, header, nil}, nil
}

func abortUpload(r *request, b *bucket) (any, error) {
	if _, err := r.upload(b); err != nil {
		return nil, err
	}
	delete(b.uploads, r.get("UploadId"))
	return restAnswer{status: 204}, nil
}

func completeUpload(r *request, b *bucket) (any, error) {
	u, err := r.upload(b)
	if err != nil {
		return nil, err
	}
	var in struct {
		Part []struct {
			PartNumber                                                                           int
			ETag, ChecksumCRC32, ChecksumCRC32C, ChecksumCRC64NVME, ChecksumSHA1, ChecksumSHA256 string
		}
	}
	if err := r.parseXML(&in); err != nil {
		return nil, err
	}
	if len(in.Part) == 0 {
		return nil, refuse("MalformedXML", "")
	}
	if err := r.precondition(b); err != nil {
		return nil, err
	}
	for i, p := range in.Part[1:] {
		if in.Part[i].PartNumber >= p.PartNumber {
			return nil, refuse("InvalidPartOrder", "")
		}
	}
	var chosen []s3Part
	for i, p := range in.Part {
		have, ok := u.parts[p.PartNumber]
		sum := cmp.Or(p.ChecksumCRC32, p.ChecksumCRC32C, p.ChecksumCRC64NVME, p.ChecksumSHA1, p.ChecksumSHA256)
		switch {
		case !ok || have.etag != strings.Trim(p.ETag, `"`) || sum != "" && u.sum != "" && sum != have.sum:
			return nil, refuse("InvalidPart", "")
		case sum == "" && u.sum != "" && !u.whole:
			return nil, refuse("InvalidRequest", "The upload was created using a %s checksum. The complete request must include the checksum for each part. It was missing for part %d in the request.", strings.ToLower(u.sum), p.PartNumber)
		case i < len(in.Part)-1 && have.size < leastPart:
			return nil, refuse("EntityTooSmall", "")
		}
		chosen = append(chosen, have)
	}
	if err := r.join(u, chosen); err != nil {
		return nil, err
	}
	delete(b.uploads, r.get("UploadId"))
	b.objects[u.key] = u.object
	return xmlAnswer("CompleteMultipartUploadResult", struct {
		root
		Location, Bucket, Key, ETag string
	}{Location: r.lab.url + "/" + b.name + "/" + u.key, Bucket: b.name, Key: u.key, ETag: u.object.etag})
}

// join makes the object of an upload's parts.
func (r *request) join(u *s3Upload, parts []s3Part) error {
	f, err := os.CreateTemp(r.lab.dir, "s3-")
	if err != nil {
		return err
	}
	etags, size := md5.New(), int64(0)
	var sums hashed
	if u.sum != "" {
		sums = checksums[u.sum]()
	}
	to := io.Writer(f)
	if u.whole {
		to = io.MultiWriter(f, sums)
	}
	for _, p := range parts {
		text, err := os.ReadFile(p.file)
		if err == nil {
			_, err = to.Write(text)
		}
		if err != nil {
			return errors.Join(err, f.Close())
		}
		size += p.size
		one, _ := hex.DecodeString(p.etag)
		_, _ = etags.Write(one)
		if u.sum != "" && !u.whole {
			one, _ := base64.StdEncoding.DecodeString(p.sum)
			_, _ = sums.Write(one)
		}
	}
	r.store(u.object, f.Name(), size, fmt.Sprintf("%x-%d", etags.Sum(nil), len(parts)))
	if u.sum != "" {
		u.object.sum = [2]string{u.sum, base64.StdEncoding.EncodeToString(sums.Sum(nil))}
		if !u.whole {
			u.object.sum[1] += "-" + strconv.Itoa(len(parts))
		}
	}
	return f.Close()
}

// hashed is a hash, or nil.
type hashed interface {
	io.Writer
	Sum([]byte) []byte
}

func listParts(r *request, b *bucket) (any, error) {
	u, err := r.upload(b)
	if err != nil {
		return nil, err
	}
	type part struct {
		PartNumber         int
		LastModified, ETag string
		Size               int64
		ChecksumCRC32      string `xml:",omitempty"`
		ChecksumCRC32C     string `xml:",omitempty"`
		ChecksumCRC64NVME  string `xml:",omitempty"`
		ChecksumSHA1       string `xml:",omitempty"`
		ChecksumSHA256     string `xml:",omitempty"`
	}
	out := struct {
		root
		Bucket, Key          string
		UploadID             string `xml:"UploadId"`
		NextPartNumberMarker int
		MaxParts             int
		IsTruncated          bool
		Part                 []part
	}{Bucket: b.name, Key: u.key, UploadID: r.get("UploadId"), MaxParts: min(1000, r.number("MaxParts", 1000))}
	if r.lab.page > 0 {
		out.MaxParts = min(out.MaxParts, r.lab.page)
	}
	for _, n := range slices.Sorted(maps.Keys(u.parts)) {
		if n <= r.number("PartNumberMarker", 0) {
			continue
		}
		if len(out.Part) == out.MaxParts {
			out.IsTruncated = true
			break
		}
		have := u.parts[n]
		p := part{PartNumber: n, LastModified: have.modified, ETag: `"` + have.etag + `"`, Size: have.size}
		switch u.sum {
		case "CRC32":
			p.ChecksumCRC32 = have.sum
		case "CRC32C":
			p.ChecksumCRC32C = have.sum
		case "CRC64NVME":
			p.ChecksumCRC64NVME = have.sum
		case "SHA1":
			p.ChecksumSHA1 = have.sum
		case "SHA256":
			p.ChecksumSHA256 = have.sum
		}
		out.Part, out.NextPartNumberMarker = append(out.Part, p), n
	}
	return xmlAnswer("ListPartsResult", out)
}

func listUploads(r *request, b *bucket) (any, error) {
	type one struct {
		Key       string
		UploadID  string `xml:"UploadId"`
		Initiated string
	}
	out := struct {
		root
		Bucket, Prefix string
		IsTruncated    bool
		Upload         []one
	}{Bucket: b.name, Prefix: r.get("Prefix")}
	for id, u := range b.uploads {
		if strings.HasPrefix(u.key, r.get("Prefix")) {
			out.Upload = append(out.Upload, one{u.key, id, u.began})
		}
	}
	slices.SortFunc(out.Upload, func(a, c one) int {
		return cmp.Or(cmp.Compare(a.Key, c.Key), cmp.Compare(b.uploads[a.UploadID].inOrder, b.uploads[c.UploadID].inOrder))
	})
	return xmlAnswer("ListMultipartUploadsResult", out)
}
