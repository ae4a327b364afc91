package ec2lab

import (
	"encoding/xml"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// bucket is a bucket of S3.
type bucket struct {
	base
	name      string
	region    string
	owner     string
	ownership string // "" if its ownership controls were deleted
	objects   map[string]*object
	uploads   map[string]*s3Upload // by their ids
}

func (b *bucket) kind() *kind { return &kind{word: "bucket"} }
func (b *bucket) id() string  { return "s3:" + b.name }
func (b *bucket) line() string {
	if b.owner != account {
		return ""
	}
	return "bucket " + b.name
}

// acls reports whether objects of the bucket can have ACLs.
func (b *bucket) acls() bool {
	return b.ownership == "ObjectWriter" || b.ownership == "BucketOwnerPreferred"
}

// MakeBucket makes a bucket of the lab's account. With ownership "ObjectWriter" its
// objects can have ACLs. A bucket in another region is there to be refused.
func (l *Lab) MakeBucket(name, region, ownership string) {
	l.set(func() { l.addBucket(name, region, ownership) })
}

// TakeBucket makes a bucket of another account.
func (l *Lab) TakeBucket(name string) {
	l.set(func() { l.addBucket(name, region, "BucketOwnerEnforced").owner = amazon })
}

func (l *Lab) addBucket(name, region, ownership string) *bucket {
	b := &bucket{name: name, region: region, owner: account, ownership: ownership, objects: map[string]*object{}, uploads: map[string]*s3Upload{}}
	l.add(b)
	return b
}

// bucketOf returns the bucket of a name, nil if there is none.
func (l *Lab) bucketOf(name string) *bucket {
	for b := range kept[*bucket](l) {
		if b.name == name {
			return b
		}
	}
	return nil
}

// objectOf returns an object as a service of the region reads it. The lab is locked.
func (l *Lab) objectOf(bucket, key string) (*object, error) {
	b := l.bucketOf(bucket)
	switch {
	case b == nil:
		return nil, refuse("NoSuchBucket", "")
	case b.region != region:
		return nil, refuse("PermanentRedirect", "")
	case b.objects[key] == nil:
		return nil, refuse("NoSuchKey", "")
	}
	return b.objects[key], nil
}

// s3Call is an operation of S3.
type s3Call struct {
	method string
	object bool   // its path has a key
	marks  string // the query parameters that name it, in order
	name   string
	action string // of the permission, if it is not the name
	do     func(r *request, b *bucket) (any, error)
}

// s3Calls are the operations of S3. Of those that fit a request the first counts.
var s3Calls = []s3Call{
	{"PUT", false, "ownershipControls", "PutBucketOwnershipControls", "", putOwnership},
	{"GET", false, "ownershipControls", "GetBucketOwnershipControls", "", getOwnership},
	{"GET", false, "location", "GetBucketLocation", "", getLocation},
	{"GET", false, "uploads", "ListMultipartUploads", "ListBucketMultipartUploads", listUploads},
	{"GET", false, "list-type", "ListObjectsV2", "ListBucket", listObjects},
	{"POST", false, "delete", "DeleteObjects", "DeleteObject", deleteObjects},
	{"PUT", false, "", "CreateBucket", "", nil},
	{"HEAD", false, "", "HeadBucket", "ListBucket", headBucket},
	{"DELETE", false, "", "DeleteBucket", "", deleteBucket},

	{"PUT", true, "partNumber uploadId", "UploadPart", "PutObject", uploadPart},
	{"GET", true, "uploadId", "ListParts", "ListMultipartUploadParts", listParts},
	{"POST", true, "uploads", "CreateMultipartUpload", "PutObject", createUpload},
	{"POST", true, "uploadId", "CompleteMultipartUpload", "PutObject", completeUpload},
	{"DELETE", true, "uploadId", "AbortMultipartUpload", "", abortUpload},
	{"PUT", true, "acl", "PutObjectAcl", "", putACL},
	{"GET", true, "acl", "GetObjectAcl", "", getACL},
	{"PUT", true, "tagging", "PutObjectTagging", "", putTags},
	{"GET", true, "tagging", "GetObjectTagging", "", getTags},
	{"PUT", true, "", "PutObject", "", putObject},
	{"HEAD", true, "", "HeadObject", "GetObject", getObject},
	{"GET", true, "", "GetObject", "", getObject},
	{"DELETE", true, "", "DeleteObject", "", deleteObject},
}

// s3Members are the API's names of query parameters and headers.
var s3Members = map[string]string{
	"partNumber": "PartNumber", "uploadId": "UploadId", "prefix": "Prefix", "max-keys": "MaxKeys", "continuation-token": "ContinuationToken",
	"start-after": "StartAfter", "max-uploads": "MaxUploads", "max-parts": "MaxParts", "part-number-marker": "PartNumberMarker",
	"encoding-type": "EncodingType",
	"X-Amz-Acl":     "ACL", "X-Amz-Object-Ownership": "ObjectOwnership", "X-Amz-Tagging": "Tagging", "If-None-Match": "IfNoneMatch", "If-Match": "IfMatch",
	"Content-Md5": "ContentMD5", "Content-Type": "ContentType", "X-Amz-Checksum-Algorithm": "ChecksumAlgorithm", "X-Amz-Checksum-Type": "ChecksumType",
	"X-Amz-Sdk-Checksum-Algorithm": "ChecksumAlgorithm", "X-Amz-Checksum-Mode": "ChecksumMode", "X-Amz-Checksum-Crc32": "ChecksumCRC32",
	"X-Amz-Checksum-Crc32c": "ChecksumCRC32C", "X-Amz-Checksum-Crc64nvme": "ChecksumCRC64NVME", "X-Amz-Checksum-Sha1": "ChecksumSHA1", "X-Amz-Checksum-Sha256": "ChecksumSHA256",
	"X-Amz-Expected-Bucket-Owner": "ExpectedBucketOwner", "X-Amz-Mp-Object-Size": "MpuObjectSize", "Range": "Range",
}

// s3Silent are the query parameters that are no members of the API.
var s3Silent = []string{"x-id", "list-type", "ownershipControls", "location", "uploads", "delete", "acl", "tagging"}

// readS3 finds the operation and its parameters. Addresses are of the path style.
func (r *request) readS3() error {
	r.v = url.Values{}
	bucket, key, _ := strings.Cut(strings.TrimPrefix(r.http.URL.Path, "/"), "/")
	query := r.http.URL.Query()
	for _, c := range s3Calls {
		marks := strings.Fields(c.marks)
		if c.method == r.http.Method && c.object == (key != "") && !slices.ContainsFunc(marks, func(m string) bool { return !query.Has(m) }) {
			r.name = c.name
			break
		}
	}
	for _, from := range []map[string][]string{r.http.Header, query} {
		for k, v := range from {
			if m := s3Members[k]; m != "" {
				r.v.Set(m, v[0])
			}
		}
	}
	if bucket != "" {
		r.v.Set("Bucket", bucket)
	}
	if key != "" {
		r.v.Set("Key", key)
	}
	for k := range query {
		if s3Members[k] == "" && !slices.Contains(s3Silent, k) {
			return refuse("NotImplemented", "The lab has no parameter %s", k)
		}
	}
	if owner := r.v.Get("ExpectedBucketOwner"); owner != "" && owner != account {
		return refuse("AccessDenied", "Access Denied")
	}
	return nil
}

func (r *request) actS3() (any, error) {
	at := slices.IndexFunc(s3Calls, func(c s3Call) bool { return c.name == r.name })
	if at < 0 {
		return nil, refuse("NotImplemented", "The lab has no %s %s", r.http.Method, r.http.URL)
	}
	c := s3Calls[at]
	if err := r.checkBody(); err != nil {
		return nil, err
	}
	l, name := r.lab, r.get("Bucket")
	l.mu.Lock()
	defer l.mu.Unlock()
	r.action = c.action
	arn := "arn:aws:s3:::" + name
	if c.object {
		arn += "/" + r.get("Key")
	}
	var also []string
	for member, action := range map[string]string{"ACL": "s3:PutObjectAcl", "Tagging": "s3:PutObjectTagging", "ObjectOwnership": "s3:PutBucketOwnershipControls"} {
		if r.has(member) {
			also = append(also, action)
		}
	}
	if err := r.allow(arn, also...); err != nil {
		return nil, err
	}
	b := l.bucketOf(name)
	switch {
	case c.name == "CreateBucket":
		return createBucket(r, b)
	case b == nil:
		return nil, refuse("NoSuchBucket", "")
	case c.name == "GetBucketLocation" && b.owner == account: // it is answered everywhere
	case b.owner != account:
		return nil, refuse("AccessDenied", "Access Denied")
	case b.region != region:
		r.bucketRegion = b.region
		return nil, refuse("PermanentRedirect", "")
	}
	r.bucketRegion = b.region
	return c.do(r, b)
}

// xmlAnswer is an answer whose body is XML.
func xmlAnswer(root string, v any) (any, error) {
	body, err := xml.Marshal(v)
	text := strings.NewReplacer("<"+cut+">", "<"+root+` xmlns="http://s3.amazonaws.com/doc/2006-03-01/">`, "</"+cut+">", "</"+root+">").Replace(string(body))
	return restAnswer{200, map[string]string{"Content-Type": "application/xml"}, []byte(xml.Header + text)}, err
}

// root is the name of the outer element of an answer, which xmlAnswer gives it.
type root struct {
	XMLName xml.Name `xml:"lab-answer"`
}

func (r *request) parseXML(into any) error {
	text, err := os.ReadFile(r.file)
	if err == nil {
		err = xml.Unmarshal(text, into)
	}
	if err != nil {
		return refuse("MalformedXML", "")
	}
	return nil
}

var bucketName = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$`)

func createBucket(r *request, b *bucket) (any, error) {
	var in struct{ LocationConstraint string }
	if r.size > 0 {
		if err := r.parseXML(&in); err != nil {
			return nil, err
		}
	}
	ownership := r.or("ObjectOwnership", "BucketOwnerEnforced")
	switch {
	case !bucketName.MatchString(r.get("Bucket")):
		return nil, refuse("InvalidBucketName", "")
	case in.LocationConstraint != region:
		return nil, refuse("IllegalLocationConstraintException", "The %s location constraint is incompatible for the region specific endpoint this request was sent to.", in.LocationConstraint)
	case !slices.Contains([]string{"BucketOwnerEnforced", "BucketOwnerPreferred", "ObjectWriter"}, ownership):
		return nil, refuse("InvalidArgument", "Invalid x-amz-object-ownership header: %s", ownership)
	case b != nil && b.owner != account:
		return nil, refuse("BucketAlreadyExists", "")
	case b != nil:
		return nil, refuse("BucketAlreadyOwnedByYou", "")
	}
	r.lab.addBucket(r.get("Bucket"), region, ownership)
	return restAnswer{200, map[string]string{"Location": "/" + r.get("Bucket")}, nil}, nil
}

func headBucket(*request, *bucket) (any, error) { return restAnswer{status: 200}, nil }

func deleteBucket(_ *request, b *bucket) (any, error) {
	if len(b.objects) > 0 || len(b.uploads) > 0 {
		return nil, refuse("BucketNotEmpty", "")
	}
	b.gone = true
	return restAnswer{status: 204}, nil
}

func getLocation(_ *request, b *bucket) (any, error) {
	return xmlAnswer("LocationConstraint", struct {
		root
		Region string `xml:",chardata"`
	}{Region: b.region})
}

type ownershipControls struct {
	root
	Ownership string `xml:"Rule>ObjectOwnership"`
}

func getOwnership(_ *request, b *bucket) (any, error) {
	if b.ownership == "" {
		return nil, refuse("OwnershipControlsNotFoundError", "")
	}
	return xmlAnswer("OwnershipControls", ownershipControls{Ownership: b.ownership})
}

func putOwnership(r *request, b *bucket) (any, error) {
	var in struct {
		Ownership string `xml:"Rule>ObjectOwnership"`
	}
	if err := r.parseXML(&in); err != nil {
		return nil, err
	}
	if !slices.Contains([]string{"BucketOwnerEnforced", "BucketOwnerPreferred", "ObjectWriter"}, in.Ownership) {
		return nil, refuse("MalformedXML", "")
	}
	b.ownership = in.Ownership
	return restAnswer{status: 200}, nil
}

// keysFrom returns a page of sorted keys with a prefix behind a key.
func (r *request) keysFrom(all []string, after string, most string) (page []string, truncated bool) {
	slices.Sort(all)
	n := min(1000, r.number(most, 1000))
	if r.lab.page > 0 {
		n = min(n, r.lab.page)
	}
	for _, k := range all {
		switch {
		case !strings.HasPrefix(k, r.get("Prefix")) || k <= after:
		case len(page) == n:
			return page, true
		default:
			page = append(page, k)
		}
	}
	return page, false
}

// escaped returns a key as a list has it.
func (r *request) escaped(key string) string {
	if r.get("EncodingType") == "url" {
		return strings.ReplaceAll(url.QueryEscape(key), "%2F", "/")
	}
	return key
}

func listObjects(r *request, b *bucket) (any, error) {
	type entry struct {
		Key, LastModified, ETag string
		Size                    int64
		StorageClass            string
	}
	var all []string
	for k, o := range b.objects {
		if !time.Now().Before(o.seen) {
			all = append(all, k)
		}
	}
	keys, truncated := r.keysFrom(all, r.or("ContinuationToken", r.get("StartAfter")), "MaxKeys")
	out := struct {
		root
		Name, Prefix          string
		KeyCount, MaxKeys     int
		EncodingType          string `xml:",omitempty"`
		IsTruncated           bool
		NextContinuationToken string `xml:",omitempty"`
		Contents              []entry
	}{Name: b.name, Prefix: r.escaped(r.get("Prefix")), KeyCount: len(keys), MaxKeys: 1000, EncodingType: r.get("EncodingType"), IsTruncated: truncated}
	for _, k := range keys {
		o := b.objects[k]
		out.Contents = append(out.Contents, entry{r.escaped(k), o.modified, o.etag, o.size, "STANDARD"})
		out.NextContinuationToken = k
	}
	if !truncated {
		out.NextContinuationToken = ""
	}
	return xmlAnswer("ListBucketResult", out)
}

// refusedS3 sends a refusal of S3. An answer to HEAD has no body.
func (r *request) refusedS3(w http.ResponseWriter, e *refusal) {
	type fault struct {
		XMLName                   xml.Name `xml:"Error"`
		Code, Message, BucketName string
		Endpoint, Region          string `xml:",omitempty"`
		RequestID                 string `xml:"RequestId"`
	}
	f := fault{Code: e.code, Message: e.message, BucketName: r.v.Get("Bucket"), RequestID: r.id}
	if r.bucketRegion != "" {
		w.Header().Set("X-Amz-Bucket-Region", r.bucketRegion)
	}
	if e.code == "PermanentRedirect" {
		f.Endpoint = fmt.Sprintf("%s.s3.%s.amazonaws.com", f.BucketName, r.bucketRegion)
	}
	body, err := xml.Marshal(f)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(e.status)
	if r.http.Method != http.MethodHead {
		_, _ = w.Write(append([]byte(xml.Header), body...))
	}
}

// partNumber returns the number of a part.
func (r *request) partNumber() (int, error) {
	n, err := strconv.Atoi(r.get("PartNumber"))
	if err != nil || n < 1 || n > 10000 {
		return 0, refuse("InvalidArgument", "Part number must be an integer between 1 and 10000, inclusive")
	}
	return n, nil
}
