package tree

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/morgana-deploy/morgana/need"
	"github.com/morgana-deploy/morgana/step"
	"github.com/morgana-deploy/morgana/tree/treetest"
)

// testKind is the toolchain of these tests: its options are a recipe's.
const testKind = "test"

type options struct {
	Configure [][]string        `json:"configure,omitempty"`
	Build     [][]string        `json:"build"`
	Kernel    string            `json:"kernel"`
	Files     []File            `json:"files,omitempty"`
	Env       map[string]string `json:"env,omitempty"`
	Timeout   time.Duration     `json:"timeout,omitempty"`
	Exclusive string            `json:"exclusive,omitempty"`
}

func (o options) recipe() Recipe {
	commands := func(argvs [][]string) []Command {
		var all []Command
		for _, argv := range argvs {
			all = append(all, Command{Argv: argv, Exclusive: o.Exclusive})
		}
		return all
	}
	r := Recipe{Configure: commands(o.Configure), Build: commands(o.Build),
		Product: Product{Kernel: o.Kernel, Files: o.Files}, Env: o.Env, Timeout: o.Timeout}
	if r.Timeout == 0 {
		r.Timeout = time.Hour
	}
	return r
}

func readOptions(spec step.Spec) (Recipe, error) {
	var o options
	err := step.Decode(spec.Toolchain.Options, &o)
	return o.recipe(), err
}

// kernelC is about the smallest file that is a kernel: an ELF with a PVH note.
const kernelC = `
__attribute__((section(".note.Xen"), used, aligned(4)))
static const struct { unsigned name, size, type; char xen[4]; unsigned long entry; }
note = { 4, 8, 18, "Xen", 0x400000 };
void _start(void) { for (;;) ; }
`

// makefile builds dist/hello from kernelC, after the lines of before.
func makefile(before ...string) string {
	lines := append([]string{"all:"}, before...)
	lines = append(lines, "@mkdir -p dist", "@echo compiling hello",
		"gcc -nostdlib -static -no-pie -ffreestanding -fcf-protection=none -Wl,--build-id=none -o dist/hello main.c")
	return strings.Join(lines, "\n\t") + "\n"
}

var project = map[string]string{"Makefile": makefile(), "main.c": kernelC}

var (
	with      = treetest.With
	wantError = treetest.WantError
	await     = treetest.Await
	pidIn     = treetest.PIDIn
	running   = treetest.Running
)

type bench struct{ *treetest.Bench }

func newBench(t *testing.T) *bench {
	need.Tools(t, "make", "gcc", "sh")
	return &bench{treetest.New(t, testKind)}
}

func (b *bench) toolchain() *Toolchain { return New(b.Site, testKind, readOptions) }

func (b *bench) deploy(ctx context.Context, spec step.Spec) (step.Kernel, error) {
	return b.Deploy(ctx, b.toolchain(), spec)
}

// stored reports whether some log in the store holds text as a line.
func (b *bench) stored(text string) bool {
	files, _ := filepath.Glob(filepath.Join(string(b.Site.Store.(treetest.Store)), "*"))
	for _, f := range files {
		if data, _ := os.ReadFile(f); strings.Contains(string(data), "\n"+text+"\n") {
			return true
		}
	}
	return false
}

func TestMain(m *testing.M) {
	treetest.Main(m, func(site step.Site) step.Toolchain { return New(site, testKind, readOptions) })
}

func makeIt() options {
	return options{Build: [][]string{{"make"}}, Kernel: "dist/hello"}
}

// sh is a recipe of one shell script.
func sh(script string) options {
	return options{Build: [][]string{{"sh", "-c", script}}, Kernel: "dist/hello"}
}
