package ec2lab

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/google/uuid"
)

// request is a request to one of the services.
type request struct {
	params
	lab           *Lab
	http          *http.Request
	body          []byte
	sum           string // the body's SHA-256 in hex
	service, name string
	id            string
	stuck         bool

	// Of a request to S3:
	file         string // has the body; "" once an object has it
	size         int64
	sums         bodySums
	action       string // of the permission, if it is not the name
	bucketRegion string
}

// dialect is how a service of the Query protocol answers.
type dialect struct{ version, namespace string }

var dialects = map[string]dialect{
	"ec2":                  {"2016-11-15", "http://ec2.amazonaws.com/doc/2016-11-15/"},
	"sts":                  {"2011-06-15", "https://sts.amazonaws.com/doc/2011-06-15/"},
	"elasticloadbalancing": {"2015-12-01", "http://elasticloadbalancing.amazonaws.com/doc/2015-12-01/"},
}

// authorization finds date, region, service, signed headers and signature.
var authorization = regexp.MustCompile(`^AWS4-HMAC-SHA256 Credential=([^/]+)/(\d{8})/([^/]+)/([^/]+)/aws4_request, ?SignedHeaders=([^,]+), ?Signature=([0-9a-f]{64})$`)

// ServeHTTP answers a request.
func (l *Lab) ServeHTTP(w http.ResponseWriter, h *http.Request) {
	if !l.enter() {
		return
	}
	defer l.work.Done()
	r := &request{lab: l, http: h, id: uuid.NewString(), service: "ec2", params: params{seen: map[string]bool{}}}
	sign := authorization.FindStringSubmatch(h.Header.Get("Authorization"))
	if sign != nil {
		r.service = sign[4]
	}
	if err := r.readBody(); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	defer r.dropFile()
	call, parsed := r.read()

	l.mu.Lock()
	f := l.fault(r.name)
	l.calls = append(l.calls, call)
	at := len(l.calls) - 1
	l.mu.Unlock()
	r.stuck = f.Stuck

	select {
	case <-time.After(f.Delay + l.options.Delay):
	case <-h.Context().Done():
	case <-l.ctx.Done():
	}
	var answer any
	var err error
	switch {
	case f.Lose == Before:
		l.lose(w, at)
		return
	case f.Code != "":
		refused := refuse(f.Code, "%s", f.Message)
		refused.reason = f.Reason
		if f.Status != 0 {
			refused.status = f.Status
		}
		err = refused
	default:
		if err = errors.Join(r.authentic(sign), parsed); err == nil {
			answer, err = r.act()
		}
	}
	if f.Lose == After {
		l.lose(w, at)
		return
	}
	var refused *refusal
	if errors.As(err, &refused) {
		l.set(func() { l.calls[at].Code = refused.code })
		r.refused(w, refused)
		return
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	r.write(w, answer)
}

// readBody reads the body: that of S3 into a file.
func (r *request) readBody() error {
	if r.service == "s3" {
		return r.spool()
	}
	r.body = make([]byte, max(0, min(r.http.ContentLength, 1<<20)))
	if _, err := io.ReadFull(r.http.Body, r.body); err != nil || r.http.ContentLength != int64(len(r.body)) {
		return errors.New("the lab needs a body of a known length, at most 1 MiB")
	}
	r.sum = fmt.Sprintf("%x", sha256.Sum256(r.body))
	return nil
}

// dropFile removes the file of a body that no object has.
func (r *request) dropFile() {
	if r.file != "" {
		_ = os.Remove(r.file)
	}
}

// enter counts a request among the lab's work, unless the lab has ended.
func (l *Lab) enter() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ctx.Err() != nil {
		return false
	}
	l.work.Add(1)
	return true
}

// lose closes the connection of a call.
func (l *Lab) lose(w http.ResponseWriter, at int) {
	l.set(func() { l.calls[at].Code = "lost" })
	if c, _, err := w.(http.Hijacker).Hijack(); err == nil {
		_ = c.Close()
	}
}

// read finds the operation and its parameters.
func (r *request) read() (Call, error) {
	var err error
	switch r.service {
	case "ebs":
		err = r.readREST()
	case "s3":
		err = r.readS3()
	case "ssm":
		err = r.readJSON()
	default:
		r.v, err = url.ParseQuery(string(r.body))
		r.name = r.get("Action")
		if r.http.Method != http.MethodPost || r.http.URL.Path != "/" {
			err = refuse("InvalidAction", "%s %s is no Query request", r.http.Method, r.http.URL.Path)
		}
	}
	return Call{Service: r.service, Name: r.name, Params: r.v, At: time.Now()}, err
}

// authentic refuses a request that the lab's keys did not sign just now.
func (r *request) authentic(sign []string) error {
	codes := map[string][3]string{ // unknown key, wrong signature, expired
		"ec2": {"AuthFailure", "AuthFailure", "RequestExpired"},
		"ebs": {"UnrecognizedClientException", "InvalidSignatureException", "ExpiredTokenException"},
		"s3":  {"InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken"},
		"ssm": {"UnrecognizedClientException", "InvalidSignatureException", "ExpiredTokenException"},
	}[r.service]
	if codes[0] == "" {
		codes = [3]string{"InvalidClientTokenId", "SignatureDoesNotMatch", "ExpiredToken"}
	}
	if sign == nil {
		return &refusal{"MissingAuthenticationToken", "Request is missing Authentication Token", "", 403}
	}
	h := r.http.Header
	at, err := time.Parse("20060102T150405Z", h.Get("X-Amz-Date"))
	switch {
	case sign[1] != accessKey:
		return refuse(codes[0], "")
	case r.lab.isExpired(), err != nil, time.Since(at).Abs() > 5*time.Minute:
		return refuse(codes[2], "")
	case sign[3] != region:
		return refuse(codes[1], "Credential should be scoped to a valid region. ")
	}
	hash := h.Get("X-Amz-Content-Sha256")
	switch {
	case hash == "UNSIGNED-PAYLOAD", r.service == "s3" && hash == "STREAMING-UNSIGNED-PAYLOAD-TRAILER":
	case r.service == "s3" && hash != r.sum:
		return refuse("XAmzContentSHA256Mismatch", "")
	case hash != "" && hash != r.sum:
		return refuse(codes[1], "")
	default:
		hash = r.sum
	}
	again := r.http.Clone(r.http.Context())
	again.URL.Host, again.ContentLength = r.http.Host, -1
	again.Header = http.Header{}
	for name := range strings.SplitSeq(sign[5], ";") {
		if name == "content-length" {
			again.ContentLength = r.http.ContentLength
		} else if name != "host" {
			again.Header[http.CanonicalHeaderKey(name)] = h.Values(name)
		}
	}
	keys := aws.Credentials{AccessKeyID: accessKey, SecretAccessKey: secretKey, SessionToken: h.Get("X-Amz-Security-Token")}
	err = v4.NewSigner(func(o *v4.SignerOptions) { o.DisableURIPathEscaping = r.service == "s3" }).SignHTTP(r.http.Context(), keys, again, hash, sign[4], sign[3], at)
	if got := authorization.FindStringSubmatch(again.Header.Get("Authorization")); err != nil || got == nil || got[6] != sign[6] {
		return refuse(codes[1], "")
	}
	return nil
}

func (l *Lab) isExpired() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.expired
}

// act checks the request against the API and has it done.
func (r *request) act() (any, error) {
	switch r.service {
	case "ebs":
		return r.actREST()
	case "s3":
		return r.actS3()
	case "ssm":
		return r.actJSON()
	}
	d, ok := dialects[r.service]
	a, has := actions[word(r.service, r.name)]
	switch {
	case !ok, !has:
		return nil, refuse("InvalidAction", "The action %s is not valid for this web service. (The lab has none such.)", r.name)
	case r.get("Version") != d.version:
		return nil, refuse("NoSuchVersion", "The requested version (%s) of service %s does not exist", r.get("Version"), r.service)
	}
	if err := r.checkParams(a.required); err != nil {
		return nil, err
	}
	r.lab.mu.Lock()
	defer r.lab.mu.Unlock()
	r.lab.settle()
	if !a.late {
		if err := r.allow("*"); err != nil {
			return nil, err
		}
		if err := r.dry(); err != nil {
			return nil, err
		}
	}
	answer, err := a.do(r)
	if err != nil {
		return nil, err
	}
	if err := r.unseen(); err != nil {
		return nil, err
	}
	r.lab.tend()
	// The lock is held until the answer is text.
	return r.text(answer)
}

// dry ends a dry run: the request would have succeeded as far as is known until here.
func (r *request) dry() error {
	if r.bool("DryRun", false) {
		return refuse("DryRunOperation", "")
	}
	return nil
}

// text encodes an answer of the Query protocol.
func (r *request) text(answer any) ([]byte, error) {
	var b bytes.Buffer
	b.WriteString(xml.Header)
	outer := r.name + "Response"
	e := xml.NewEncoder(&b)
	start := xml.StartElement{Name: xml.Name{Local: outer}, Attr: []xml.Attr{{Name: xml.Name{Local: "xmlns"}, Value: dialects[r.service].namespace}}}
	id := struct {
		XMLName xml.Name
		ID      string `xml:",chardata"`
	}{ID: r.id}
	err := e.EncodeToken(start)
	if r.service == "ec2" {
		id.XMLName.Local = "requestId"
		err = errors.Join(err, e.Encode(id), e.EncodeElement(answer, xml.StartElement{Name: xml.Name{Local: cut}}))
	} else {
		id.XMLName.Local = "RequestId"
		err = errors.Join(err,
			e.EncodeElement(answer, xml.StartElement{Name: xml.Name{Local: r.name + "Result"}}),
			e.EncodeElement(struct{ X any }{id}, xml.StartElement{Name: xml.Name{Local: "ResponseMetadata"}}))
	}
	err = errors.Join(err, e.EncodeToken(start.End()), e.Close())
	text := strings.NewReplacer("<"+cut+">", "", "</"+cut+">", "").Replace(b.String())
	return []byte(text), err
}

// cut is an element whose tags are not sent: EC2 has the answer's members beside the
// request's id.
const cut = "lab-answer"

// write sends an answer.
func (r *request) write(w http.ResponseWriter, answer any) {
	w.Header().Set("X-Amzn-Requestid", r.id)
	switch a := answer.(type) {
	case []byte:
		w.Header().Set("Content-Type", "text/xml;charset=UTF-8")
		_, _ = w.Write(a)
	case restAnswer:
		for k, v := range a.header {
			w.Header().Set(k, v)
		}
		w.WriteHeader(a.status)
		_, _ = w.Write(a.body)
	}
}

// refused sends a refusal in the protocol of the service.
func (r *request) refused(w http.ResponseWriter, e *refusal) {
	w.Header().Set("X-Amzn-Requestid", r.id)
	type fault struct{ Type, Code, Message string }
	var body []byte
	var err error
	switch r.service {
	case "s3":
		r.refusedS3(w, e)
		return
	case "ebs":
		w.Header().Set("X-Amzn-Errortype", e.code)
		w.Header().Set("Content-Type", "application/json")
		body, err = json.Marshal(struct {
			Message string
			Reason  string `json:",omitempty"`
		}{e.message, e.reason})
	case "ssm":
		w.Header().Set("Content-Type", "application/x-amz-json-1.1")
		body, err = json.Marshal(map[string]string{"__type": e.code, "message": e.message})
	case "ec2":
		type one struct{ Code, Message string }
		body, err = xml.Marshal(struct {
			XMLName   xml.Name `xml:"Response"`
			Error     one      `xml:"Errors>Error"`
			RequestID string
		}{Error: one{e.code, e.message}, RequestID: r.id})
	default:
		body, err = xml.Marshal(struct {
			XMLName   xml.Name `xml:"ErrorResponse"`
			NS        string   `xml:"xmlns,attr"`
			Error     fault
			RequestID string `xml:"RequestId"`
		}{NS: dialects[r.service].namespace, Error: fault{"Sender", e.code, e.message}, RequestID: r.id})
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.WriteHeader(e.status)
	_, _ = w.Write(body)
}
