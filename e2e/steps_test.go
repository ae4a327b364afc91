package e2e

import (
	"bytes"
	"crypto/sha256"
	"debug/elf"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/morgana-deploy/morgana/step"
)

// A stage is replaced and two steps are inserted behind it: the kernel that
// boots has no symbols, and what boots is signed.
func TestStepsOfOnesOwn(t *testing.T) {
	t.Parallel()
	p := newPythonLab(t)
	p.deployed(p.folder, "-t", "signed")
	pid, machine := p.only("hello.signed")

	kernel, err := elf.Open(filepath.Join(machine, "kernel"))
	if err != nil {
		t.Fatal(err)
	}
	if kernel.Section(".symtab") != nil {
		t.Error("the kernel has symbols: package was not replaced")
	}
	if err := kernel.Close(); err != nil {
		t.Error(err)
	}

	listing, signature := []byte(readAll(t, filepath.Join(machine, "SHA256SUMS"))), filepath.Join(machine, "SHA256SUMS.sig")
	sums := exec.CommandContext(t.Context(), "sha256sum", "--check", "--strict", "SHA256SUMS")
	sums.Dir = machine
	if out, err := sums.CombinedOutput(); err != nil || strings.Count(string(out), ": OK") != 2 {
		t.Errorf("sha256sum: %v\n%s", err, out)
	}
	allowed := filepath.Join(t.TempDir(), "allowed")
	p.write(allowed, "ann "+readAll(t, p.signKey()+".pub"))
	verify := func(listing []byte) error {
		cmd := exec.CommandContext(t.Context(), "ssh-keygen", "-Y", "verify", "-f", allowed, "-I", "ann", "-n", "morgana", "-s", signature)
		cmd.Stdin = bytes.NewReader(listing)
		out, err := cmd.CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	}
	if err := verify(listing); err != nil {
		t.Errorf("the signature: %v", err)
	}
	if verify(slices.Concat(listing, listing)) == nil {
		t.Error("the signature holds for anything")
	}

	// The digest is that of all files, the added ones as well.
	var files []step.File
	for _, name := range []string{"kernel", "options.json", "SHA256SUMS", "SHA256SUMS.sig"} {
		sum := sha256.Sum256([]byte(readAll(t, filepath.Join(machine, name))))
		files = append(files, step.File{Name: name, Artifact: step.Artifact{SHA256: fmt.Sprintf("%x", sum)}})
	}
	var record struct{ Digest string }
	if err := json.Unmarshal([]byte(readAll(t, filepath.Join(machine, "machine.json"))), &record); err != nil || record.Digest != step.DigestOf(files) {
		t.Errorf("digest %s, want %s (%v)", record.Digest, step.DigestOf(files), err)
	}

	// The same is signed to the same bytes, and the machine kept.
	if again := p.deployed(p.folder, "-t", "signed"); !strings.Contains(again.out, "unchanged, generation 1 is kept") {
		t.Errorf("deployed anew:\n%s", again.out)
	}
	if same, _ := p.only("hello.signed"); same != pid {
		t.Errorf("process %s runs, it was %s", same, pid)
	}

	// A refusal leaves the machine before as it was.
	p.withKey()
	refusedKey.at("morgana.yaml:14: ").matches(t, p.morgana(p.folder, "deploy", "-t", "signed"))
	if same, _ := p.only("hello.signed"); same != pid {
		t.Errorf("process %s runs, it was %s", same, pid)
	}
	p.ends(p.begin(p.folder, "destroy", "hello/signed"), 0)
	p.nothingLeft()
}

// Steps at the top of the file are for all targets; a target's own win, stage
// by stage, and an empty list is one.
func TestAfterStepsOfATargetWin(t *testing.T) {
	t.Parallel()
	p := newPythonLab(t)
	p.withKey()
	const scan, sign = "{activity: scan.Scan, taskQueue: pysteps}", "{activity: sign.Sign, taskQueue: pysteps}"
	const target = "kind: pyqemu, args: stay, expect: hello from a unikernel"
	p.write(filepath.Join(p.folder, "morgana.yaml"), "app: hello\nsource: ../hello\n"+
		"toolchain: {kind: command, build: [[make]], kernel: hello}\n"+
		"after: {package: ["+scan+"]}\n"+
		"targets:\n"+
		"  files: {"+target+"}\n"+
		"  none: {"+target+", after: {package: []}}\n"+
		"  other: {"+target+", after: {package: ["+sign+"]}}\n"+
		"  stage: {"+target+", after: {check: []}}\n"+
		"  ours: {kind: qemu, args: stay, expect: hello from a unikernel, after: {package: ["+sign+"]}}\n")
	for name, line := range map[string]string{"files": "6", "stage": "9"} { // the file's scan refuses, and nothing is left
		refusedKey.at("morgana.yaml:"+line+": ").matches(t, p.morgana(p.folder, "deploy", "-t", name))
		if all := p.folders(); len(all) > 0 {
			t.Errorf("left behind: %q", all)
		}
	}
	for name, signed := range map[string]bool{"none": false, "other": true} {
		p.deployed(p.folder, "-t", name)
		_, machine := p.only("hello." + name)
		if _, err := os.Stat(filepath.Join(machine, "SHA256SUMS.sig")); (err == nil) != signed {
			t.Errorf("target %s: signed %v, want %v", name, err == nil, signed)
		}
		p.ends(p.begin(p.folder, "destroy", "hello/"+name), 0)
	}
	// A target of ours takes what an inserted step adds.
	p.deployed(p.folder, "-t", "ours")
	if found, _ := filepath.Glob(p.state("qemu", "hello.ours.*", "SHA256SUMS.sig")); len(found) != 1 {
		t.Errorf("signatures %q, want one", found)
	}
	p.ends(p.begin(p.folder, "destroy", "hello/ours"), 0)
	p.nothingLeft()
}

// The worker that docs/steps.md shows does what the page says.
func TestTheSmallestStep(t *testing.T) {
	t.Parallel()
	p := newPythonLab(t)
	_, page, _ := strings.Cut(readAll(t, "../docs/steps.md"), "\n```python\n")
	code, _, found := strings.Cut(page, "\n```\n")
	if !found {
		t.Fatal("docs/steps.md shows no Python")
	}
	p.stopPython()
	p.write(filepath.Join(p.folder, "worker.py"), code)
	p.startPython()
	kernel := p.kernel()
	const after = stays + ", after: {package: [{activity: limit.Size, taskQueue: limit}]}"
	small, bytes := p.built(kernel, "small", after)
	p.deployed(small)
	p.one("small")
	p.ends(p.begin(small, "destroy"), 0)
	large, _ := p.built(slices.Concat(kernel, make([]byte, 16<<20)), "large", after)
	refusal{code: 2, hint: "make it 16777216 or smaller",
		line: fmt.Sprintf("morgana.yaml:3: limit the image's size: kernel has %d bytes", len(bytes)+(16<<20))}.matches(t, p.morgana(large, "deploy"))
	p.kill(p.worker)
	p.gone()
}

var refusedKey = refusal{code: 2, hint: "keep it out of the kernel",
	line: `scan the image: kernel has a private key in it: "-----BEGIN RSA PRIVATE KEY-----"`}

// withKey puts a private key into the kernel's source.
func (p *pythonLab) withKey() {
	p.t.Helper()
	p.edit(filepath.Join(filepath.Dir(p.folder), "hello", "hello.c"), "print(mode);",
		`print(mode);print("\n-----BEGIN RSA PRIVATE KEY-----\n");`)
}

// signKey is the file of the key that the Python worker signs with.
func (p *pythonLab) signKey() string {
	for _, v := range p.env {
		if key, ok := strings.CutPrefix(v, "SIGN_KEY="); ok {
			return key
		}
	}
	p.t.Fatal("no SIGN_KEY")
	return ""
}
