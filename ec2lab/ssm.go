package ec2lab

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
)

// linuxes are Amazon's newest images of Linux: the last part of the parameter of Systems
// Manager, the id, the root device and the boot mode.
var linuxes = [][4]string{
	{"al2023-ami-kernel-default-x86_64", "ami-0b9fd8b55a6e3c9d5", "/dev/xvda", "uefi-preferred"},
	{"al2023-ami-kernel-default-arm64", "ami-0f1bae6c3bedcc3b5", "/dev/xvda", "uefi"},
	{"amzn2-ami-hvm-x86_64-gp2", "ami-07a2c2cd3b5e9c1d8", "/dev/xvda", ""},
}

const linuxParameter = "/aws/service/ami-amazon-linux-latest/"

func (l *Lab) furnishLinuxes() {
	for _, x := range linuxes {
		arch := "x86_64"
		if strings.HasSuffix(x[0], "arm64") {
			arch = "arm64"
		}
		l.add(&image{
			ID: x[1], Name: x[0] + "-2026.11.09.0", Location: "amazon/" + x[0], State: "available", Owner: amazon, Alias: "amazon",
			Created: "2026-11-10T01:02:03.000Z", Public: true, Architecture: arch, Type: "machine", RootType: "ebs", RootName: x[2],
			Virt: "hvm", Hypervisor: "xen", ENA: true, BootMode: x[3], Description: "Amazon Linux", linux: true,
			Disks: []diskMapping{{x[2], mappedDisk{Snapshot: newID(snapshots.prefix), Size: 8, Delete: true, Type: "gp3"}}},
		})
	}
}

// parameter is a parameter of Systems Manager.
type parameter struct {
	ARN              string
	DataType         string
	LastModifiedDate int
	Name             string
	Type             string
	Value            string
	Version          int
}

// parameter returns the parameter of a name, if there is one.
func (r *request) parameter(name string) (*parameter, error) {
	arn := "arn:aws:ssm:" + region + "::parameter/" + strings.TrimPrefix(name, "/")
	if err := r.allow(arn); err != nil {
		return nil, err
	}
	if id := resolved(byParameter + name); id != "" {
		return &parameter{arn, "aws:ec2:image", 1_794_272_523, name, "String", id, 130}, nil
	}
	return nil, nil
}

// byParameter begins an ImageId that names a parameter.
const byParameter = "resolve:ssm:"

// resolved returns the id of an ImageId, "" if it names a parameter that is not there.
func resolved(id string) string {
	name, ok := strings.CutPrefix(id, byParameter)
	if !ok {
		return id
	}
	for _, x := range linuxes {
		if name == linuxParameter+x[0] {
			return x[1]
		}
	}
	return ""
}

func getParameter(r *request) (any, error) {
	_ = r.get("WithDecryption")
	p, err := r.parameter(r.get("Name"))
	if err == nil && p == nil {
		return nil, refuse("ParameterNotFound", "")
	}
	return struct{ Parameter *parameter }{p}, err
}

func getParameters(r *request) (any, error) {
	_ = r.get("WithDecryption")
	all, missing := []*parameter{}, []string{}
	for _, name := range r.list("Names") {
		p, err := r.parameter(name)
		switch {
		case err != nil:
			return nil, err
		case p == nil:
			missing = append(missing, name)
		default:
			all = append(all, p)
		}
	}
	return struct {
		InvalidParameters []string
		Parameters        []*parameter
	}{missing, all}, nil
}

// readJSON reads a request of the JSON protocol, which Systems Manager has.
func (r *request) readJSON() error {
	r.v = url.Values{}
	var ok bool
	if r.name, ok = strings.CutPrefix(r.http.Header.Get("X-Amz-Target"), "AmazonSSM."); !ok {
		return refuse("UnknownOperationException", "")
	}
	var in map[string]any
	if err := json.Unmarshal(r.body, &in); err != nil {
		return refuse("SerializationException", "%v", err)
	}
	r.flatten("", in)
	return nil
}

func (r *request) actJSON() (any, error) {
	a, ok := actions[word(r.service, r.name)]
	if !ok {
		return nil, refuse("UnknownOperationException", "The lab has no %s", r.name)
	}
	for _, name := range a.required {
		if !r.has(name) {
			return nil, refuse("ValidationException", "1 validation error detected: Value null at '%s' failed to satisfy constraint: Member must not be null", name)
		}
	}
	r.lab.mu.Lock()
	defer r.lab.mu.Unlock()
	answer, err := a.do(r)
	if err == nil {
		err = r.unseen()
	}
	if err != nil {
		return nil, err
	}
	made, err := jsonAnswer(http.StatusOK, answer)
	made.header["Content-Type"] = "application/x-amz-json-1.1"
	return made, err
}
