package bench

import (
	"context"
	"encoding/json"
	"strings"
	"time"

	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"

	"github.com/morgana-deploy/morgana/step"
	"github.com/morgana-deploy/morgana/watch"
	"github.com/morgana-deploy/morgana/workflows"
)

// The kind "noop" is a toolchain and a target whose steps do nothing. Like a real kind
// it has two queues, one of them a host's.
const (
	kind   = "noop"
	onHost = kind + "@" + host
)

// noop returns values as large as those of real steps.
type noop struct{}

var (
	_ step.Target    = noop{}
	_ step.Toolchain = noop{}

	someDigest   = strings.Repeat("0123456789abcdef", 4)
	someArtifact = step.Artifact{URI: "file:///var/lib/morgana/store/sha256/01/" + someDigest, SHA256: someDigest, Size: 93184}
)

func (noop) Check(_ context.Context, spec step.Spec) (step.Spec, error) {
	spec.Host, spec.Alone = host, true
	return spec, nil
}

// Configure makes no tree, as in toolchain prebuilt: the bare workflow has no Clean.
func (noop) Configure(_ context.Context, spec step.Spec) (step.Source, error) {
	return step.Source{Spec: spec, Host: host, Log: &someArtifact}, nil
}

func (noop) Build(_ context.Context, src step.Source) (step.Kernel, error) {
	return step.Kernel{Spec: src.Spec, File: someArtifact, ABIs: []string{"pvh", "multiboot2"}, Log: &someArtifact}, nil
}

func (noop) Package(_ context.Context, k step.Kernel) (step.Image, error) {
	files := []step.File{{Name: "kernel", Artifact: k.File}, {Name: "machine.json", Artifact: someArtifact}}
	return step.Image{Spec: k.Spec, Digest: step.DigestOf(files), Format: "kernel", Files: files}, nil
}

func (noop) Register(_ context.Context, img step.Image) (step.Registration, error) {
	return step.Registration{Spec: img.Spec, Digest: img.Digest, ID: "/var/lib/morgana/qemu/hello.dev.01234567-1"}, nil
}

func (noop) Boot(_ context.Context, r step.Registration) (step.Machine, error) {
	return step.Machine{Registration: r, ID: "4c3d6d52-9cc5-8fe2-8b82-a69c4c0afad8", Ready: `console matched "hello"`}, nil
}

func (noop) Console(context.Context, step.ConsoleFrom) (step.ConsoleText, error) {
	return step.ConsoleText{Ended: true}, nil
}

func (noop) Destroy(context.Context, step.Removal) (step.Destroyed, error) {
	return step.Destroyed{}, nil
}

func (noop) Clean(context.Context, step.Spec) (step.Destroyed, error) { return step.Destroyed{}, nil }

func (n noop) register(w worker.ActivityRegistry) {
	for name, f := range map[string]any{
		"Check": n.Check, "Configure": n.Configure, "Build": n.Build, "Package": n.Package, "Register": n.Register,
		"Boot": n.Boot, "Console": n.Console, "Destroy": n.Destroy, "Clean": n.Clean, "Observe": n.Observe, "ObserveAll": watch.All(n.Observe), "Watch": n.Watch,
	} {
		w.RegisterActivityWithOptions(f, activity.RegisterOptions{Name: kind + "." + name})
	}
}

// order returns the request of "morgana deploy" for app.
func order(app string) workflows.DeployRequest {
	return workflows.DeployRequest{
		Spec: step.Spec{
			Tags: step.Tags{App: app, Target: "dev"},
			Kind: kind, Options: json.RawMessage(`{"memory":64,"args":"stay","expect":"hello from a unikernel"}`),
			Toolchain: step.Recipe{Kind: kind, Options: json.RawMessage(`{"build":[["make"]],"kernel":"hello"}`)},
			Origin:    step.Origin{Folder: "/home/ann/hello", Host: "laptop", Archive: &someArtifact},
		},
		Route: step.NewRoute(kind, kind),
	}
}

// bare calls the six activities of a deploy one after the other, with the same values on
// the same queues, and does nothing else.
func bare(ctx workflow.Context, in workflows.Request) (out workflows.Outcome, err error) {
	call := func(queue, name string, in, out any) {
		if err == nil {
			ctx := workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
				TaskQueue: queue, StartToCloseTimeout: time.Minute, HeartbeatTimeout: 10 * time.Second})
			err = workflow.ExecuteActivity(ctx, name, in).Get(ctx, out)
		}
	}
	var spec step.Spec
	var source step.Source
	var kernel step.Kernel
	var image step.Image
	var registration step.Registration
	call(kind, "noop.Check", in.Spec, &spec)
	call(kind, "noop.Configure", spec, &source)
	call(onHost, "noop.Build", source, &kernel)
	call(kind, "noop.Package", kernel, &image)
	call(onHost, "noop.Register", image, &registration)
	call(onHost, "noop.Boot", registration, &out.Machine)
	return out, err
}
