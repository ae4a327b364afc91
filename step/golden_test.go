package step_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/morgana-deploy/morgana/step"
)

var update = flag.Bool("update", false, "write testdata/*.json anew from the values in golden_test.go")

// failure is the wire form of an Error beside its kind and text, which are the
// type and message of Temporal's ApplicationError: details[0].
type failure struct {
	Op    string   `json:"op,omitempty"`
	Field string   `json:"field,omitempty"`
	Hint  string   `json:"hint,omitempty"`
	Left  []string `json:"left,omitempty"`
	Host  string   `json:"host,omitempty"`
	// Log is the whole output of a failed configure or build.
	Log *step.Artifact `json:"log,omitempty"`
}

func artifact(digit string, size int64) step.Artifact {
	digest := strings.Repeat(digit, 64)
	return step.Artifact{URI: "file:///var/lib/morgana/store/sha256/" + digest[:2] + "/" + digest, SHA256: digest, Size: size}
}

func pointer[T any](v T) *T { return &v }

var someTime = time.Date(2026, 11, 26, 2, 3, 4, 0, time.UTC)

// The values of one deploy, each with all of its fields.
var (
	goldenSpec = step.Spec{
		Tags:      step.Tags{App: "hello", Target: "dev", Life: "0a1b2c3d", Generation: 3},
		Kind:      "qemu",
		Options:   json.RawMessage(`{"memory":64,"ports":["8080:80"]}`),
		Toolchain: step.Recipe{Kind: "command", Options: json.RawMessage(`{"build":[["make"]],"kernel":"hello"}`)},
		Origin: step.Origin{Project: "example.org/ann/hello", Folder: "/home/ann/hello", Host: "laptop",
			Commit: strings.Repeat("9876543210", 4), Changed: true, Archive: pointer(artifact("1", 20480))},
		Host:    "rack7",
		Rebuild: true,
		Alone:   true,
	}
	goldenPrebuilt = step.Spec{
		Tags:      step.Tags{App: "hello", Target: "prod", Life: "9f8e7d6c", Generation: 1},
		Kind:      "ec2",
		Toolchain: step.Recipe{Kind: "prebuilt"},
		Origin: step.Origin{Folder: "/home/ann/hello", Host: "laptop", Kernel: pointer(artifact("2", 18432)),
			ABIs: []string{"pvh", "xen-pv", "xen-pvh"}},
	}
	goldenGit = step.Spec{
		Tags:      step.Tags{App: "hello", Target: "dev", Life: "0a1b2c3d", Generation: 4},
		Kind:      "qemu",
		Toolchain: step.Recipe{Kind: "prebuilt"},
		Origin: step.Origin{Project: "example.org/ann/hello#web", Folder: "/home/ann/deploy", Host: "laptop",
			Git: &step.Git{URL: "git@example.org:ann/hello.git", Ref: "main", Path: "web", Kernel: "dist/hello"}},
	}
	goldenFiles = []step.File{{Name: "kernel", Artifact: artifact("2", 18432)}, {Name: "machine.json", Artifact: artifact("6", 154)}}
	goldenReg   = step.Registration{Spec: goldenSpec, Digest: step.DigestOf(goldenFiles),
		ID: "/var/lib/morgana/qemu/hello.dev.0a1b2c3d-3", Adopted: true}
	goldenMachine = step.Machine{Registration: goldenReg, ID: "9cc57fe2-bbe9-82b8-8a69-c4c0afad81bf",
		Addresses: []step.Address{{Kind: "tcp", Address: "127.0.0.1", Port: 8080}}, Ready: `console matched "listening"`, Adopted: true}
)

func TestGolden(t *testing.T) {
	golden(t, "spec", goldenSpec)
	golden(t, "spec_prebuilt", goldenPrebuilt)
	golden(t, "spec_git", goldenGit)
	fetched := goldenGit
	fetched.Origin.Git = pointer(*goldenGit.Origin.Git)
	fetched.Origin.Git.Commit, fetched.Origin.Kernel, fetched.Origin.ABIs = strings.Repeat("0123456789", 4), goldenPrebuilt.Origin.Kernel, goldenPrebuilt.Origin.ABIs
	golden(t, "spec_fetched", fetched)
	golden(t, "source", step.Source{Spec: goldenSpec, Host: "rack7", Tree: "/var/lib/morgana/command/hello.dev.0a1b2c3d-3",
		Log: pointer(artifact("3", 311))})
	golden(t, "kernel", step.Kernel{Spec: goldenSpec, File: artifact("2", 18432), ABIs: []string{"multiboot2", "pvh"},
		Files: []step.File{{Name: "manifest.json", Artifact: artifact("4", 97)}}, Log: pointer(artifact("5", 2048)), Cached: true})
	golden(t, "built", step.Built{Host: "rack7", Kernel: &step.Kernel{Spec: goldenSpec, File: artifact("2", 18432), ABIs: []string{"pvh"}, Cached: true}})
	golden(t, "image", step.Image{Spec: goldenSpec, Digest: step.DigestOf(goldenFiles), Format: "kernel", Files: goldenFiles})
	golden(t, "registration", goldenReg)
	golden(t, "machine", goldenMachine)
	ended := goldenMachine
	ended.Addresses, ended.Ended = nil, true
	ended.Ready += "; the machine has ended"
	golden(t, "machine_ended", ended)
	golden(t, "console_from", step.ConsoleFrom{Machine: goldenMachine, Offset: 4096, WaitSeconds: 10})
	golden(t, "console_text", step.ConsoleText{Text: "hello from a unikernel\r\n\u001b[1mgrüße\u001b[0m & <bye>\n", Next: 4148, Ended: true})
	golden(t, "removal", step.Removal{Spec: step.Spec{Tags: step.Tags{App: "hello", Target: "dev"}, Kind: "qemu", Host: "rack7"},
		NotLife: "0a1b2c3d", KeepImage: true})
	golden(t, "health", step.Health{State: step.Ended, How: "exit status 0", Success: true, Since: someTime,
		Addresses: []step.Address{{Kind: "ip", Address: "10.0.0.2"}, {Kind: "udp", Address: "::1", Port: 53}}})
	golden(t, "probation", step.Probation{Machine: goldenMachine,
		Probe: step.Probe{HTTP: ":8080/healthz", Interval: "5s", Failures: 3, Window: "1m"}})
	golden(t, "probed", step.Probed{Answer: "GET http://127.0.0.1:8080/healthz: 200 OK"})
	golden(t, "resources", []step.Resource{{Tags: goldenSpec.Tags, Kind: "folder", ID: "/var/lib/morgana/qemu/hello.dev.0a1b2c3d-3",
		Created: someTime, Where: "rack7"}})
	golden(t, "actions", []step.Action{{Call: "ec2:RegisterImage", Why: "make the AMI", Permission: "ec2:RegisterImage",
		Cost: "$0.05 per GB-month"}})
	golden(t, "destroyed", step.Destroyed{Removed: []string{
		"machine hello.dev.0a1b2c3d-3 (process 4711)", "folder /var/lib/morgana/qemu/hello.dev.0a1b2c3d-3"}})
	golden(t, "progress", step.Progress{Done: 1 << 20, Total: 3 << 20, Unit: "bytes", Note: "uploading"})
	golden(t, "error", failure{Op: "check qemu target", Field: "ports[0]",
		Hint: "choose another host port, or see who has it: ss -lnp 'sport = :8080'", Left: []string{"volume vol-0123"}, Host: "rack7", Log: pointer(artifact("3", 311))})
}

// golden compares v with testdata/<name>.json both ways: v gives its bytes, and
// the file, read strictly, gives its bytes again. The files are the contract
// for steps in other languages: a change here breaks those and running deploys.
func golden[T any](t *testing.T, name string, v T) {
	t.Helper()
	path := filepath.Join("testdata", name+".json")
	made := pretty(t, v)
	if *update {
		if err := os.WriteFile(path, made, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	file, err := os.ReadFile(path)
	if err != nil {
		t.Error(err)
		return
	}
	if !bytes.Equal(made, file) {
		t.Errorf("%s differs\nfile:\n%s\nvalue:\n%s", path, file, made)
	}
	var back T
	d := json.NewDecoder(bytes.NewReader(file))
	d.DisallowUnknownFields()
	if err := d.Decode(&back); err != nil {
		t.Errorf("%s: %v", path, err)
	}
	if again := pretty(t, back); !bytes.Equal(again, file) {
		t.Errorf("%s does not survive reading\nfile:\n%s\nread:\n%s", path, file, again)
	}
}

// pretty is JSON as in the files; a RawMessage in it is indented too.
func pretty[T any](t *testing.T, v T) []byte {
	t.Helper()
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(v); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}
