package ec2lab

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// restAnswer is an answer of the EBS direct APIs.
type restAnswer struct {
	status int
	header map[string]string
	body   []byte
}

func jsonAnswer(status int, v any) (restAnswer, error) {
	body, err := json.Marshal(v)
	return restAnswer{status, map[string]string{"Content-Type": "application/json"}, body}, err
}

// routes are the operations of the EBS direct APIs. Their paths have the parameters of
// the API as groups.
var routes = []struct {
	method, name string
	path         *regexp.Regexp
	do           func(*request) (any, error)
}{
	{"POST", "StartSnapshot", regexp.MustCompile(`^/snapshots$`), startSnapshot},
	{"PUT", "PutSnapshotBlock", regexp.MustCompile(`^/snapshots/(?P<SnapshotId>[^/]+)/blocks/(?P<BlockIndex>[^/]+)$`), putBlock},
	{"POST", "CompleteSnapshot", regexp.MustCompile(`^/snapshots/completion/(?P<SnapshotId>[^/]+)$`), completeSnapshot},
	{"GET", "GetSnapshotBlock", regexp.MustCompile(`^/snapshots/(?P<SnapshotId>[^/]+)/blocks/(?P<BlockIndex>[^/]+)$`), getBlock},
	{"GET", "ListSnapshotBlocks", regexp.MustCompile(`^/snapshots/(?P<SnapshotId>[^/]+)/blocks$`), listBlocks},
	{"GET", "ListChangedBlocks", regexp.MustCompile(`^/snapshots/(?P<SecondSnapshotId>[^/]+)/changedblocks$`), listChanged},
}

// members are the API's names of query parameters and headers.
var members = map[string]string{
	"blockToken": "BlockToken", "firstSnapshotId": "FirstSnapshotId", "maxResults": "MaxResults",
	"pageToken": "NextToken", "startingBlockIndex": "StartingBlockIndex",
	"X-Amz-Checksum": "Checksum", "X-Amz-Checksum-Algorithm": "ChecksumAlgorithm",
	"X-Amz-Checksum-Aggregation-Method": "ChecksumAggregationMethod",
	"X-Amz-Changedblockscount":          "ChangedBlocksCount",
	"X-Amz-Data-Length":                 "DataLength", "X-Amz-Progress": "Progress",
}

func (r *request) readREST() error {
	r.v = url.Values{}
	for _, from := range []map[string][]string{r.http.Header, r.http.URL.Query()} {
		for k, v := range from {
			if m := members[k]; m != "" {
				r.v.Set(m, v[0])
			}
		}
	}
	for _, o := range routes {
		groups := o.path.FindStringSubmatch(r.http.URL.Path)
		if groups == nil || o.method != r.http.Method {
			continue
		}
		r.name = o.name
		for i, name := range o.path.SubexpNames()[1:] {
			r.v.Set(name, groups[i+1])
		}
	}
	if r.name == "StartSnapshot" {
		var in map[string]any
		if err := json.Unmarshal(r.body, &in); err != nil {
			return &refusal{"SerializationException", err.Error(), "", 400}
		}
		r.flatten("", in)
	}
	for k := range r.http.URL.Query() {
		if members[k] == "" {
			return invalid("INVALID_PARAMETER_VALUE", "The parameter %s is not recognized", k)
		}
	}
	return nil
}

// flatten records JSON in the form of Query parameters.
func (r *request) flatten(at string, v any) {
	switch v := v.(type) {
	case map[string]any:
		for k, v := range v {
			r.flatten(strings.TrimPrefix(at+"."+k, "."), v)
		}
	case []any:
		for i, v := range v {
			r.flatten(at+"."+strconv.Itoa(i+1), v)
		}
	default:
		r.v.Set(at, fmt.Sprint(v))
	}
}

func (r *request) actREST() (any, error) {
	for _, o := range routes {
		if o.name == r.name {
			return o.do(r)
		}
	}
	return nil, &refusal{"UnknownOperationException", "", "", 404}
}

// on checks the permission and returns the snapshot of a parameter. The lab is locked.
func (r *request) on(param string) (*snapshot, error) {
	id := r.get(param)
	if err := r.allow(snapshots.arn(id)); err != nil {
		return nil, err
	}
	return r.lab.snapshot(id)
}

// RememberTokens lets StartSnapshot answer with a deleted snapshot to the token of that, as
// AWS does. Without it a test may start one with the same tags again.
func (l *Lab) RememberTokens() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.remember = true
}

func startSnapshot(r *request) (any, error) {
	var in struct {
		ClientToken, Description, KmsKeyArn, ParentSnapshotId string
		Encrypted                                             *bool
		Tags                                                  []tag
		Timeout, VolumeSize                                   *int
	}
	d := json.NewDecoder(bytes.NewReader(r.body))
	d.DisallowUnknownFields()
	if err := d.Decode(&in); err != nil {
		return nil, &refusal{"SerializationException", err.Error(), "", 400}
	}
	l := r.lab
	l.mu.Lock()
	defer l.mu.Unlock()
	var also []string
	if len(in.Tags) > 0 {
		also = []string{"ec2:CreateTags"}
	}
	if err := r.allow(snapshots.arn("*"), also...); err != nil {
		return nil, err
	}
	switch {
	case in.VolumeSize == nil || *in.VolumeSize < 1 || *in.VolumeSize > 64<<10:
		return nil, invalid("INVALID_VOLUME_SIZE", "The volume size must be from 1 to 65536 GiB")
	case in.Timeout != nil && (*in.Timeout < 10 || *in.Timeout > 4320):
		return nil, invalid("INVALID_PARAMETER_VALUE", "The timeout must be from 10 to 4320 minutes")
	case len(in.ClientToken) > 64 || !ascii(in.ClientToken):
		return nil, invalid("INVALID_PARAMETER_VALUE", "The client token is invalid")
	case len(in.Description) > 255:
		return nil, invalid("INVALID_PARAMETER_VALUE", "The description is too long")
	case in.ParentSnapshotId != "" && (in.Encrypted != nil || in.KmsKeyArn != ""):
		return nil, invalid("INVALID_PARAMETER_VALUE", "Encrypted and KmsKeyArn cannot be specified with ParentSnapshotId")
	case in.KmsKeyArn != "" && (in.Encrypted == nil || !*in.Encrypted):
		return nil, invalid("INVALID_PARAMETER_VALUE", "KmsKeyArn needs Encrypted")
	}
	if err := checkTags(in.Tags); err != nil {
		return nil, invalid("INVALID_TAG", "%s", err)
	}
	for _, o := range l.resources {
		if s, ok := o.(*snapshot); ok && in.ClientToken != "" && s.token == in.ClientToken && (l.remember || !s.gone) {
			if s.asked != string(r.body) {
				return nil, refuse("ConflictException", "")
			}
			return s.started()
		}
	}
	encrypted := l.encrypt || in.Encrypted != nil && *in.Encrypted
	var parent *snapshot
	if in.ParentSnapshotId != "" {
		var err error
		if parent, err = l.snapshot(in.ParentSnapshotId); err != nil {
			return nil, err
		}
		switch {
		case parent.State != "completed":
			return nil, invalid("INVALID_SNAPSHOT_ID", "The parent snapshot %s is not completed", parent.ID)
		case parent.Size > *in.VolumeSize:
			return nil, invalid("INVALID_VOLUME_SIZE", "The volume size is smaller than that of the parent snapshot")
		case l.encrypt && !parent.Encrypted:
			return nil, invalid("INVALID_SNAPSHOT_ID", "The parent snapshot %s is not encrypted, and encryption by default is on", parent.ID)
		}
		encrypted = parent.Encrypted
	}
	s := &snapshot{
		base: base{Tags: in.Tags, token: in.ClientToken, asked: string(r.body)}, Size: *in.VolumeSize, Description: in.Description,
		Encrypted: encrypted, parent: parent, puts: map[int]int{}, busy: map[int]bool{},
	}
	if err := l.open(s); err != nil {
		return nil, err
	}
	l.add(s)
	return s.started()
}

// started is the answer of StartSnapshot.
func (s *snapshot) started() (any, error) {
	at, _ := time.Parse(time.RFC3339, s.Started)
	a := map[string]any{
		"BlockSize": blockSize, "Description": s.Description, "OwnerId": s.Owner, "SnapshotId": s.ID, "StartTime": at.Unix(),
		"Status": s.State, "Tags": s.Tags, "VolumeSize": s.Size,
	}
	if s.parent != nil {
		a["ParentSnapshotId"] = s.parent.ID
	}
	return jsonAnswer(http.StatusCreated, a)
}

// open refuses a snapshot that takes no blocks.
func (s *snapshot) open() error {
	if s.State != "pending" || s.completed {
		return invalid("INVALID_SNAPSHOT_ID", "The snapshot %s is not in a state that can be written", s.ID)
	}
	return nil
}

func putBlock(r *request) (any, error) {
	l := r.lab
	s, at, err := r.beginPut()
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(r.body)
	text := base64.StdEncoding.EncodeToString(sum[:])
	var e error
	switch {
	case r.get("ChecksumAlgorithm") != "SHA256":
		e = invalid("INVALID_PARAMETER_VALUE", "The checksum algorithm is invalid")
	case r.get("DataLength") != strconv.Itoa(blockSize):
		e = invalid("INVALID_BLOCK", "The data length must be %d", blockSize)
	case len(r.body) != blockSize:
		e = invalid("INVALID_PARAMETER_VALUE", "Failed to read block data")
	case r.get("Checksum") != text:
		e = refuse("InvalidSignatureException", "The checksum %q does not match the block's data", r.get("Checksum"))
	case r.has("Progress") && (r.number("Progress", -1) < 0 || r.number("Progress", 101) > 100):
		e = invalid("INVALID_PARAMETER_VALUE", "The progress must be from 0 to 100")
	default:
		_, e = s.file.WriteAt(r.body, int64(at)*blockSize)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(s.busy, at)
	if e == nil {
		e = s.open()
	}
	if e != nil {
		return nil, e
	}
	s.sums[at] = sum
	s.puts[at]++
	if r.has("Progress") {
		s.Progress = r.get("Progress") + "%"
	}
	return restAnswer{http.StatusCreated, map[string]string{"X-Amz-Checksum": text, "X-Amz-Checksum-Algorithm": "SHA256"}, nil}, nil
}

// beginPut returns the snapshot and index of a block that is to be written.
func (r *request) beginPut() (*snapshot, int, error) {
	r.lab.mu.Lock()
	defer r.lab.mu.Unlock()
	s, err := r.on("SnapshotId")
	if err != nil {
		return nil, 0, err
	}
	if err := s.open(); err != nil {
		return nil, 0, err
	}
	at, err := strconv.Atoi(r.get("BlockIndex"))
	if err != nil || at < 0 || at >= s.Size<<30/blockSize {
		return nil, 0, invalid("INVALID_PARAMETER_VALUE", "The block index %s is outside of the volume", r.get("BlockIndex"))
	}
	if s.busy[at] {
		return nil, 0, invalid("CONFLICTING_BLOCK_UPDATE", "The block %d is being written by another request", at)
	}
	s.busy[at] = true
	return s, at, nil
}

func completeSnapshot(r *request) (any, error) {
	l := r.lab
	l.mu.Lock()
	defer l.mu.Unlock()
	s, err := r.on("SnapshotId")
	if err != nil {
		return nil, err
	}
	if err := s.open(); err != nil {
		return nil, err
	}
	count, err := strconv.Atoi(r.get("ChangedBlocksCount"))
	if err != nil || count < 0 {
		return nil, invalid("INVALID_PARAMETER_VALUE", "The count of changed blocks is invalid")
	}
	if r.has("Checksum") {
		all := sha256.New()
		for _, i := range slices.Sorted(maps.Keys(s.sums)) {
			sum := s.sums[i]
			all.Write(sum[:])
		}
		switch {
		case count == 0: // what the checksum of no blocks is, AWS does not document
			return nil, invalid("INVALID_PARAMETER_VALUE", "There are no blocks that a checksum is of")
		case r.get("ChecksumAlgorithm") != "SHA256" || r.get("ChecksumAggregationMethod") != "LINEAR":
			return nil, invalid("INVALID_PARAMETER_VALUE", "The checksum needs its algorithm and aggregation method")
		case r.get("Checksum") != base64.StdEncoding.EncodeToString(all.Sum(nil)):
			return nil, invalid("INVALID_PARAMETER_VALUE", "The checksum does not match that of the written blocks")
		}
	}
	s.completed = true
	l.after(r.stuck, func() {
		switch {
		case s.State != "pending":
		case count != len(s.sums):
			s.State, s.Message = "error", fmt.Sprintf("%d blocks were written, not %d", len(s.sums), count)
		default:
			s.State, s.Progress = "completed", "100%"
		}
	})
	return jsonAnswer(http.StatusAccepted, map[string]any{"Status": s.State})
}

func now() string { return time.Now().UTC().Format("2006-01-02T15:04:05.000Z") }

// ascii reports whether s has printable ASCII alone.
func ascii(s string) bool {
	return !strings.ContainsFunc(s, func(c rune) bool { return c > unicode.MaxASCII || c < ' ' })
}
