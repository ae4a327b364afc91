package ec2lab

import (
	"bytes"
	"encoding/hex"
	"encoding/xml"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"
)

// object is an object of S3. Its file ends with the lab.
type object struct {
	file     string
	size     int64
	etag     string // in quotes
	modified string
	seen     time.Time
	acl      string
	tags     []tag
	header   http.Header // Content-Type and the user's metadata
	sum      [2]string   // the checksum's algorithm and value
}

const day = "2006-01-02T15:04:05.000Z"

// keep returns what a request says of the object that it makes.
func (r *request) keep(b *bucket) (*object, error) {
	o := &object{acl: r.or("ACL", "private"), header: http.Header{}, seen: time.Now().Add(r.lab.hide)}
	if r.has("ACL") {
		if err := b.canHave(o.acl); err != nil {
			return nil, err
		}
	}
	for k, v := range r.http.Header {
		if k == "Content-Type" || strings.HasPrefix(k, "X-Amz-Meta-") {
			o.header[k] = v
		}
	}
	query, err := url.ParseQuery(r.get("Tagging"))
	if err != nil {
		return nil, refuse("InvalidArgument", "The header 'x-amz-tagging' shall be encoded as UTF-8 then URLEncoded URL query parameters without tag name duplicates.")
	}
	for k := range query {
		o.tags = append(o.tags, tag{k, query.Get(k)})
	}
	return o, checkObjectTags(o.tags)
}

func checkObjectTags(tags []tag) error {
	if err := checkTags(tags); err != nil {
		return refuse("InvalidTag", "%s", err)
	}
	if len(tags) > 10 {
		return refuse("BadRequest", "Object tags cannot be greater than 10")
	}
	return nil
}

// canHave refuses an ACL that an object of the bucket cannot have.
func (b *bucket) canHave(acl string) error {
	switch acl {
	case "private", "aws-exec-read", "bucket-owner-full-control", "bucket-owner-read", "authenticated-read":
	case "public-read", "public-read-write":
		return refuse("AccessDenied", "Access Denied") // by the bucket's public access block
	default:
		return refuse("InvalidArgument", "")
	}
	if !b.acls() && acl != "bucket-owner-full-control" {
		return refuse("AccessControlListNotSupported", "The bucket does not allow ACLs")
	}
	return nil
}

// precondition refuses a write whose If-None-Match or If-Match does not hold.
func (r *request) precondition(b *bucket) error {
	o := b.objects[r.get("Key")]
	if none := r.get("IfNoneMatch"); none != "" && none != "*" {
		return refuse("NotImplemented", "A header you provided implies functionality that is not implemented")
	}
	if r.has("IfNoneMatch") && o != nil || r.has("IfMatch") && (o == nil || o.etag != r.get("IfMatch")) {
		return refuse("PreconditionFailed", "")
	}
	return nil
}

// store makes an object of the body of the request.
func (r *request) store(o *object, file string, size int64, etag string) {
	o.file, o.size, o.etag, o.modified = file, size, `"`+etag+`"`, time.Now().UTC().Format(day)
}

func putObject(r *request, b *bucket) (any, error) {
	o, err := r.keep(b)
	if err == nil {
		err = r.precondition(b)
	}
	if err != nil {
		return nil, err
	}
	if r.size > 5<<30 {
		return nil, refuse("EntityTooLarge", "")
	}
	o.sum = [2]string{"CRC64NVME", r.sums.sums["CRC64NVME"]}
	if r.sums.sent != "" {
		o.sum = [2]string{r.sums.sent, r.sums.sums[r.sums.sent]}
	}
	r.store(o, r.file, r.size, hex.EncodeToString(r.sums.md5))
	r.file = "" // the object has it
	b.objects[r.get("Key")] = o
	return restAnswer{200, map[string]string{"ETag": o.etag, "X-Amz-Checksum-" + o.sum[0]: o.sum[1]}, nil}, nil
}

// existing returns the object of the request.
func (r *request) existing(b *bucket) (*object, error) {
	o := b.objects[r.get("Key")]
	if o != nil && !time.Now().Before(o.seen) {
		return o, nil
	}
	if r.lab.denied(r, "s3:ListBucket", "arn:aws:s3:::"+r.get("Bucket")) { // S3 does not tell
		return nil, refuse("AccessDenied", "Access Denied")
	}
	return nil, refuse("NoSuchKey", "")
}

func getObject(r *request, b *bucket) (any, error) {
	o, err := r.existing(b)
	if err != nil {
		return nil, err
	}
	if r.has("IfMatch") && r.get("IfMatch") != o.etag {
		return nil, refuse("PreconditionFailed", "")
	}
	if r.get("IfNoneMatch") == o.etag {
		return restAnswer{304, map[string]string{"ETag": o.etag}, nil}, nil
	}
	at, _ := time.Parse(day, o.modified)
	header := map[string]string{"ETag": o.etag, "Last-Modified": at.Format(http.TimeFormat), "Accept-Ranges": "bytes"}
	for k, v := range o.header {
		header[k] = v[0]
	}
	if len(o.tags) > 0 {
		header["X-Amz-Tagging-Count"] = strconv.Itoa(len(o.tags))
	}
	from, to, status := int64(0), o.size, 200
	if text := r.get("Range"); text != "" {
		if n, err := fmt.Sscanf(text, "bytes=%d-%d", &from, &to); n < 1 || from >= o.size {
			return nil, refuse("InvalidRange", "%v", err)
		} else if n == 1 {
			to = o.size - 1
		}
		to, status = min(to+1, o.size), 206
		header["Content-Range"] = fmt.Sprintf("bytes %d-%d/%d", from, to-1, o.size)
	} else if r.get("ChecksumMode") == "ENABLED" {
		header["X-Amz-Checksum-"+o.sum[0]] = o.sum[1]
	}
	header["Content-Length"] = strconv.FormatInt(to-from, 10)
	if r.name == "HeadObject" {
		return restAnswer{status, header, nil}, nil
	}
	f, err := os.Open(o.file)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // only read
	body := make([]byte, to-from)
	_, err = f.ReadAt(body, from)
	return restAnswer{status, header, body}, err
}

func deleteObject(r *request, b *bucket) (any, error) {
	delete(b.objects, r.get("Key"))
	return restAnswer{status: 204}, nil
}

func deleteObjects(r *request, b *bucket) (any, error) {
	var in struct {
		Quiet  bool
		Object []struct{ Key string }
	}
	if err := r.parseXML(&in); err != nil {
		return nil, err
	}
	if len(in.Object) == 0 || len(in.Object) > 1000 {
		return nil, refuse("MalformedXML", "")
	}
	if r.sums.sent == "" && !r.has("ContentMD5") {
		return nil, refuse("InvalidRequest", "Missing required header for this request: Content-MD5 OR x-amz-checksum-*")
	}
	type one struct{ Key string }
	out := struct {
		root
		Deleted []one
	}{}
	for _, o := range in.Object {
		delete(b.objects, o.Key)
		if !in.Quiet {
			out.Deleted = append(out.Deleted, one{o.Key})
		}
	}
	return xmlAnswer("DeleteResult", out)
}

func putACL(r *request, b *bucket) (any, error) {
	o, err := r.existing(b)
	if err != nil {
		return nil, err
	}
	if !r.has("ACL") {
		return nil, refuse("NotImplemented", "The lab has canned ACLs alone")
	}
	if err := b.canHave(r.get("ACL")); err != nil {
		return nil, err
	}
	o.acl = r.get("ACL")
	return restAnswer{status: 200}, nil
}

// zaTeam is the canonical id that aws-exec-read lets read: EC2's.
const zaTeam = "6aa5a366c34c1cbe25dc49211496e913e0351eb0e8c37aa3477e40942ec6b97c"

func getACL(r *request, b *bucket) (any, error) {
	o, err := r.existing(b)
	if err != nil {
		return nil, err
	}
	const grant = `<Grant><Grantee xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:type="CanonicalUser"><ID>%s</ID></Grantee><Permission>%s</Permission></Grant>`
	grants := fmt.Sprintf(grant, "owner", "FULL_CONTROL")
	if o.acl == "aws-exec-read" {
		grants += fmt.Sprintf(grant, zaTeam, "READ")
	}
	return xmlAnswer("AccessControlPolicy", struct {
		root
		Text string `xml:",innerxml"`
	}{Text: "<Owner><ID>owner</ID></Owner><AccessControlList>" + grants + "</AccessControlList>"})
}

type tagging struct {
	root
	Tags []struct {
		Key   string
		Value string
	} `xml:"TagSet>Tag"`
}

func putTags(r *request, b *bucket) (any, error) {
	o, err := r.existing(b)
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(r.file)
	if err != nil {
		return nil, err
	}
	var in struct {
		Tags []struct{ Key, Value string } `xml:"TagSet>Tag"`
	}
	if xml.NewDecoder(bytes.NewReader(text)).Decode(&in) != nil {
		return nil, refuse("MalformedXML", "")
	}
	var tags []tag
	for _, t := range in.Tags {
		tags = append(tags, tag(t))
	}
	if err := checkObjectTags(tags); err != nil {
		return nil, err
	}
	o.tags = tags
	return restAnswer{status: 200}, nil
}

func getTags(r *request, b *bucket) (any, error) {
	o, err := r.existing(b)
	if err != nil {
		return nil, err
	}
	var out tagging
	for _, t := range o.tags {
		out.Tags = append(out.Tags, struct {
			Key   string
			Value string
		}(t))
	}
	return xmlAnswer("Tagging", out)
}
