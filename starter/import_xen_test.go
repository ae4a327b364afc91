package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"

	"github.com/morgana-deploy/morgana/activities/xen"
	"github.com/morgana-deploy/morgana/config"
	"github.com/morgana-deploy/morgana/docs"
	"github.com/morgana-deploy/morgana/step"
	"github.com/morgana-deploy/morgana/step/steptest"
)

// oldWeb has every key of mirari's, and xl- lines of every sort.
const oldWeb = `ip-use-dhcp: false
ip-address: 10.0.0.9
ip-netmask: 255.255.255.0
ip-gateway: 10.0.0.1
fs-static: files
http-port: 80
http-address: *
main-http: Dispatch.main
depends: cohttp
packages: cow
compiler: 4.01.0+mirage-xen
xl-name: 'web'
xl-kernel: 'mir-web.xen'
xl-builder: 'linux'
xl-memory: 32
xl-vcpus: 2
xl-extra: '-v "x"'
xl-vif: ['mac=00:16:3E:00:00:01,bridge=br0']
xl-disk: ['phy:/dev/vg/a,xvdb,r']
xl-on_crash: 'preserve'
xl-cpus: '2-3'
`

// oldDomain is what the target makes of it, with an xl.in of MirageOS 4.
const oldDomain = `{"tool":"xl","type":"pvh","args":"--ipv4=10.0.0.9/24 --ipv4-gateway=10.0.0.1 -v \"x\"","memory":32,"vcpus":2,` +
	`"vif":[{"mac":"00:16:3e:00:00:01","bridge":"br0"}],` +
	`"disks":[{"path":"/dev/vg/a","vdev":"xvdb","access":"r","format":"raw"}],"on_crash":"preserve","extra":["cpus = '2-3'"]}`

// xlIn is of one that MirageOS 4 makes: it asks for a network.
const xlIn = `type = 'pvh'
memory = @MEMORY@
on_crash = 'preserve'
disk = [  ]
vif = [ 'bridge=@NETWORK:service@' ]
`

// TestImportedXen: the schema and the target take what import wrote, and the
// domain is the one that was described.
func TestImportedXen(t *testing.T) {
	kernel := buildHello(t)
	inFolder(t, map[string]string{"web.conf": oldWeb, "files/a": ""})
	status, out, errOut := morgana(t, "import")
	if status != 0 {
		t.Fatalf("exit %d, %s%s", status, out, errOut)
	}
	validate(t, config.Filename)
	p, err := config.Load("", nil)
	if err != nil {
		t.Fatal(err)
	}
	target, err := p.Target("xen")
	if err != nil || target.Kind != xen.Kind {
		t.Fatalf("%+v, %v", target, err)
	}
	store := steptest.NewStore(t)
	put := func(b []byte) step.Artifact {
		a, err := store.Put(t.Context(), bytes.NewReader(b))
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	img, err := xen.New(step.Site{Host: "here", State: t.TempDir(), Store: store}).Package(t.Context(), step.Kernel{
		File: put(kernel), Files: []step.File{{Name: "xl.in", Artifact: put([]byte(xlIn))}},
		Spec: step.Spec{Kind: target.Kind, Options: target.Options, Tags: step.Tags{App: "web", Target: "xen", Life: "00c0ffee", Generation: 1}}})
	if err != nil {
		t.Fatal(err)
	}
	a, _ := step.FileNamed(img.Files, "domain.json")
	r, err := store.Open(t.Context(), a)
	if err != nil {
		t.Fatal(err)
	}
	indented, err := io.ReadAll(r)
	var domain bytes.Buffer
	if err := errors.Join(err, r.Close(), json.Compact(&domain, indented)); err != nil {
		t.Fatal(err)
	}
	if got := domain.String(); got != oldDomain {
		t.Errorf("domain\n%s\nwant\n%s", got, oldDomain)
	}
	// What Morgana sets by itself is named.
	for _, key := range []string{"xl-name", "xl-kernel", "xl-builder"} {
		if !strings.Contains(out, ": "+key+": left out, Morgana sets it: ") {
			t.Errorf("%s is lost: %s", key, out)
		}
	}
}

// validate sees to it that the schema takes a morgana.yaml.
func validate(t *testing.T, path string) {
	t.Helper()
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(docs.Schema))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("morgana.schema.json", document); err != nil {
		t.Fatal(err)
	}
	schema, err := c.Compile("morgana.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var values any
	if err := yaml.Unmarshal(content, &values); err != nil {
		t.Fatal(err)
	}
	asJSON, err := json.Marshal(values)
	if err != nil {
		t.Fatal(err)
	}
	if values, err = jsonschema.UnmarshalJSON(bytes.NewReader(asJSON)); err != nil {
		t.Fatal(err)
	}
	if err := schema.Validate(values); err != nil {
		t.Errorf("the schema refuses it: %v\n%s", err, content)
	}
}

// buildHello gives the kernel of examples/hello, built in a folder of its own.
func buildHello(t *testing.T) []byte {
	t.Helper()
	folder := t.TempDir()
	if err := os.CopyFS(folder, os.DirFS("../examples/hello")); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), "make", "-s", "-B", "-C", folder, "hello").CombinedOutput(); err != nil {
		t.Fatalf("make hello: %v\n%s", err, out)
	}
	kernel, err := os.ReadFile(filepath.Join(folder, "hello"))
	if err != nil {
		t.Fatal(err)
	}
	return kernel
}
