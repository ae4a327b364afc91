package ec2

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/morgana-deploy/morgana/ec2lab"
	"github.com/morgana-deploy/morgana/image"
	"github.com/morgana-deploy/morgana/need"
	"github.com/morgana-deploy/morgana/step"
	"github.com/morgana-deploy/morgana/step/steptest"
)

// hello is the path of examples/hello's kernel, built in a copy.
func hello(t *testing.T) string {
	t.Helper()
	need.Tools(t, "make", "gcc")
	folder := filepath.Join(t.TempDir(), "hello")
	no(t, os.CopyFS(folder, os.DirFS("../../examples/hello")))
	if out, err := exec.Command("make", "-s", "-B", "-C", folder, "hello").CombinedOutput(); err != nil {
		t.Fatalf("make hello: %v\n%s", err, out)
	}
	return filepath.Join(folder, "hello")
}

// conform runs the conformance suite against a lab. All options have those of backing.
func conform(t *testing.T, lab *ec2lab.Lab, backing string) {
	options := func(add string) json.RawMessage {
		return json.RawMessage(fmt.Sprintf(`{"endpoint":%q,"timeout":"10m"%s%s}`, lab.URL(), backing, add))
	}
	secret := ""
	for _, e := range lab.Env() {
		if value, ok := strings.CutPrefix(e, "AWS_SECRET_ACCESS_KEY="); ok {
			secret = value
		}
	}
	steptest.Run(t, steptest.Case{
		New:        func(site step.Site) step.Target { return New(site) },
		Spec:       step.Spec{Kind: Kind, Options: options(`,"args":"stay","expect":"staying"`)},
		Kernel:     hello(t),
		ABIs:       []string{image.Multiboot2, image.PVH, image.XenPV},
		Misspelt:   json.RawMessage(`{"instance_typ":"t3.micro"}`),
		Nearest:    "instance_type",
		Changed:    options(`,"args":"stay","expect":"staying","size":"2GiB"`),
		NeverReady: options(`,"args":"stay","expect":"never printed"`),
		ConsoleHas: "hello from a unikernel",
		Ends:       options(`,"expect":"hello from"`),
		Sent:       func(*testing.T) int64 { return sentTo(lab) },
		Tokens:     true,
		Secrets:    []string{secret},
		Resources: func(*testing.T, step.Site) (all []string) {
			for _, line := range lab.Resources() {
				if !strings.HasPrefix(line, "address ") && !strings.HasPrefix(line, "bucket ") {
					all = append(all, line)
				}
			}
			return all
		},
	})
}

// sentTo is the number of bytes of blocks and parts that the lab has received.
func sentTo(lab *ec2lab.Lab) (n int64) {
	for _, c := range lab.Calls() {
		switch {
		case c.Code != "":
		case c.Name == "PutSnapshotBlock":
			n += blockSize
		case c.Name == "UploadPart":
			n += leastPart // at most
		}
	}
	return n
}

// TestConformance boots the image's own bytes.
func TestConformance(t *testing.T) {
	need.Tools(t, "qemu-system-x86_64")
	environ(t)
	conform(t, start(t, ec2lab.NewMachines(t.TempDir())), "")
}

// TestImportConformance does so by VM Import.
func TestImportConformance(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes a minute")
	}
	need.Tools(t, "qemu-system-x86_64")
	environ(t)
	conform(t, start(t, ec2lab.NewMachines(t.TempDir())), `,"backing":"import","bucket":"disks"`)
}

// TestVolumeConformance does so by helpers, which are machines with a real Linux.
func TestVolumeConformance(t *testing.T) {
	need.Lab(t, ec2lab.MissingLinux(t.Context()))
	environ(t)
	conform(t, start(t, ec2lab.NewMachines(t.TempDir())), `,"backing":"volume"`)
}

func start(t *testing.T, h ec2lab.Hypervisor) *ec2lab.Lab {
	t.Helper()
	lab, err := ec2lab.Start(ec2lab.Options{Hypervisor: h, Moment: 5 * time.Millisecond})
	no(t, err)
	closing(t, lab)
	return lab
}
