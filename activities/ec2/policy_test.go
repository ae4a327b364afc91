package ec2

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/morgana-deploy/morgana/ec2lab"
	"github.com/morgana-deploy/morgana/step"
	"github.com/morgana-deploy/morgana/step/steptest"
)

// policy is docs/iam-policy.json, with what a backing needs besides.
type policy struct {
	Statement []struct {
		Sid, Effect string
		Action      []string
		Resource    any // a string or several
		Condition   map[string]map[string]any
	}
}

// readPolicy reads the policies of docs as one, and the actions that they allow.
func readPolicy(t *testing.T, files ...string) (p policy, actions []string) {
	t.Helper()
	for _, name := range files {
		data, err := os.ReadFile("../../docs/" + name)
		no(t, err)
		var one policy
		no(t, json.Unmarshal(data, &one))
		p.Statement = append(p.Statement, one.Statement...)
	}
	for _, s := range p.Statement {
		if s.Effect != "Allow" {
			t.Errorf("%s: effect %s", s.Sid, s.Effect)
		}
		actions = append(actions, s.Action...)
	}
	slices.Sort(actions)
	return p, slices.Compact(actions)
}

// permit leaves the user of a lab what a policy allows.
func (p policy) permit(t *testing.T, lab *ec2lab.Lab) {
	t.Helper()
	data, err := json.Marshal(p)
	if err == nil {
		err = lab.Permit(data)
	}
	no(t, err)
}

// without returns the policy without one of its actions.
func (p policy) without(statement, action int) policy {
	p.Statement = slices.Clone(p.Statement)
	s := &p.Statement[statement]
	s.Action = slices.Delete(slices.Clone(s.Action), action, action+1)
	return p
}

// TestPolicyIsEnoughAndNoMore deploys, redeploys and destroys with the permissions of the
// policy alone, and compares the policy with the calls that came.
func TestPolicyIsEnoughAndNoMore(t *testing.T) {
	p, allowed := readPolicy(t, "iam-policy.json")
	lab := labFor(t)
	p.permit(t, lab)
	lab.SetConsole(func(string) string { return "hello from a unikernel\n" })
	before := lab.Resources()
	site := step.Site{Host: "testhost", State: t.TempDir(), Store: steptest.NewStore(t)}
	file, err := os.Open(hello(t))
	no(t, err)
	defer file.Close() //nolint:errcheck // read only
	kernel, err := site.Store.Put(t.Context(), file)
	no(t, err)
	options := func(args string) json.RawMessage {
		return json.RawMessage(fmt.Sprintf(`{"args":%q,"expect":"hello","key_name":"ann","placement":{"group":"near"},"elastic_ip":%q,"target_group":%q,"timeout":"10m"}`,
			args, lab.ElasticIP(), lab.TargetGroup()))
	}

	// An unchanged image follows a changed one. Each rollout removes the one before.
	target := New(site)
	var m step.Machine
	for i, args := range []string{"a", "b", "b"} {
		old := m.Registration.Spec
		m = deployed(t, target, step.Kernel{File: kernel, ABIs: helloABIs, Spec: step.Spec{Kind: Kind, Options: options(args),
			Tags: step.Tags{App: "hello", Target: "prod", Life: "00c0ffee", Generation: i + 1}}})
		if i > 0 {
			no(t, failure(target.Destroy(t.Context(), step.Removal{Spec: old})))
		}
	}
	spec := m.Registration.Spec
	if text, err := target.Console(t.Context(), step.ConsoleFrom{Machine: m}); err != nil || !strings.Contains(text.Text, "hello") {
		t.Errorf("console: %q, %v", text.Text, err)
	}
	if h, err := target.Observe(t.Context(), m); err != nil || h.State != step.Running {
		t.Errorf("observe: %+v, %v", h, err)
	}
	if all, err := target.List(t.Context(), step.Spec{Kind: Kind, Options: spec.Options}); err != nil || len(all) == 0 {
		t.Errorf("list: %v, %v", all, err)
	}
	no(t, failure(target.Destroy(t.Context(), step.Removal{Spec: spec})))
	if after := lab.Resources(); !slices.Equal(before, after) {
		t.Errorf("left behind: %q, before %q", after, before)
	}

	enoughAndNoMore(t, actionsOf(lab), allowed, allowed)
}

// permissions are those of the calls of S3 that have another name.
var permissions = map[string]string{
	"HeadBucket": "ListBucket", "ListObjectsV2": "ListBucket", "HeadObject": "GetObject", "ListMultipartUploads": "ListBucketMultipartUploads",
	"CreateMultipartUpload": "PutObject", "UploadPart": "PutObject", "CompleteMultipartUpload": "PutObject", "ListParts": "ListMultipartUploadParts",
}

// actionsOf returns the actions that a lab was asked for.
func actionsOf(lab *ec2lab.Lab) (all []string) {
	for _, c := range lab.Calls() {
		all = append(all, c.Service+":"+cmp.Or(permissions[c.Name], c.Name))
	}
	return all
}

// enoughAndNoMore fails unless the actions of a backing's own policy were called, and all
// calls are allowed.
func enoughAndNoMore(t *testing.T, called, allowed, besides []string) {
	t.Helper()
	for _, action := range besides {
		if !slices.Contains(called, action) && rare[action] == "" {
			t.Errorf("the policy allows %s, and nothing calls it", action)
		}
	}
	for _, call := range called {
		if call != "sts:GetCallerIdentity" && !slices.Contains(allowed, call) {
			t.Errorf("%s is called, and the policy does not allow it", call)
		}
	}
}

// TestImportPolicyIsEnoughAndNoMore imports with the permissions of both policies alone.
func TestImportPolicyIsEnoughAndNoMore(t *testing.T) {
	environ(t)
	p, allowed := readPolicy(t, "iam-policy.json", "iam-policy-import.json")
	_, besides := readPolicy(t, "iam-policy-import.json")
	r := newRegistry(t)
	p.permit(t, r.lab)
	r.lab.Fault(ec2lab.Fault{Call: "UploadPart", Lose: ec2lab.Before})
	img := r.importing(r.image(1, few, fewContent, nil))
	r.register(img)
	img.Spec.Generation, img.Spec.App = 1, "other"
	r.lab.Fault(ec2lab.Fault{Call: "ImportSnapshot", Stuck: true})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if _, err := New(r.site).Register(step.WithReporter(ctx, func(p step.Progress) {
		if strings.HasPrefix(p.Note, "import ") { // it runs
			cancel()
		}
	}, nil), img); ctx.Err() == nil {
		t.Fatal(err)
	}
	r.destroy(img.Spec)
	img.Spec.Generation = 2
	r.lab.Fault(ec2lab.Fault{Call: "UploadPart", Lose: ec2lab.Before})
	if _, err := New(r.site).Register(t.Context(), img); err == nil {
		t.Fatal("no part was lost")
	}
	r.destroy(img.Spec)
	enoughAndNoMore(t, actionsOf(r.lab), allowed, besides)
}

// TestBundlePolicyIsEnoughAndNoMore bundles with the permissions of both policies alone.
func TestBundlePolicyIsEnoughAndNoMore(t *testing.T) {
	environ(t)
	p, allowed := readPolicy(t, "iam-policy.json", "iam-policy-bundle.json")
	_, besides := readPolicy(t, "iam-policy-bundle.json")
	b := newBundling(t)
	p.permit(t, b.lab)
	b.register(b.img)
	spec := b.img.Spec
	spec.Origin.ABIs = helloABIs
	no(t, failure(New(b.site).Check(t.Context(), spec)))
	b.destroy(b.img.Spec)
	enoughAndNoMore(t, actionsOf(b.lab), allowed, besides)
}

// TestVolumePolicyIsEnoughAndNoMore dances with the permissions of both policies alone. Without
// any of those of the own policy AWS refuses the dance.
func TestVolumePolicyIsEnoughAndNoMore(t *testing.T) {
	environ(t)
	p, allowed := readPolicy(t, "iam-policy-volume.json", "iam-policy.json")
	own, besides := readPolicy(t, "iam-policy-volume.json")
	t.Run("enough", func(t *testing.T) {
		t.Parallel()
		d := newDancer(t)
		p.permit(t, d.lab)
		no(t, d.everything())
		d.alone()
		d.destroyed(false)
		enoughAndNoMore(t, actionsOf(d.lab), allowed, besides)
	})
	for i, s := range own.Statement {
		for j, action := range s.Action {
			t.Run(s.Sid+" "+action, func(t *testing.T) {
				t.Parallel()
				d := newDancer(t)
				p.without(i, j).permit(t, d.lab)
				refusedWith(t, action, d.everything(), step.Error{Kind: step.Unauthorized}, "is not allowed "+action)
			})
		}
	}
}

// everything makes all calls of a dance, and returns the first error that says that one is
// refused.
func (d *dancer) everything() error {
	spec := d.img.Spec
	spec.Origin.ABIs = helloABIs
	if _, err := New(d.site).Check(d.Context(), spec); err != nil {
		return err
	}
	for _, do := range []func(){
		func() {},
		func() {
			d.img.Spec.Options = bytes.Replace(d.img.Spec.Options, []byte(`"user"`), []byte(`"from":"127.0.0.0/8","user"`), 1)
		},
		d.written,
	} {
		do()
		if _, err := d.try(d.Context()); step.KindOf(err) == step.Unauthorized {
			return err
		} else if err != nil {
			d.closed(err)
		}
	}
	return nil
}

// rare are the actions that only a broken rollout takes, and those that AWS takes in the user's
// name.
var rare = map[string]string{
	"ec2:DeleteNetworkInterface": "of an instance whose termination left it",
	"ec2:DeleteVolume":           "of an instance whose termination left it",
	"s3:GetBucketLocation":       "by ImportSnapshot",
	"ssm:GetParameters":          "by RunInstances",
	"s3:PutObjectAcl":            "with PutObject", "s3:PutBucketOwnershipControls": "with CreateBucket",
}

// deployed takes a kernel through the stages of a target.
func deployed(t *testing.T, target *Target, k step.Kernel) step.Machine {
	t.Helper()
	var err error
	if k.Spec, err = target.Check(t.Context(), k.Spec); err != nil {
		t.Fatal(err)
	}
	img, err := target.Package(t.Context(), k)
	no(t, err)
	reg, err := target.Register(t.Context(), img)
	no(t, err)
	m, err := target.Boot(t.Context(), reg)
	no(t, err)
	return m
}

// What removes or changes something may do so only to resources with our tags. The user
// names the Elastic IP and the target group.
func TestPolicyChangesOurOwnAlone(t *testing.T) {
	p, _ := readPolicy(t, "iam-policy.json", "iam-policy-import.json", "iam-policy-bundle.json", "iam-policy-volume.json")
	for _, s := range p.Statement {
		for _, action := range s.Action {
			_, verb, _ := strings.Cut(action, ":")
			removes := slices.ContainsFunc([]string{"Delete", "Terminate", "DeregisterImage", "GetConsole", "Put", "Complete"}, func(prefix string) bool { return strings.HasPrefix(verb, prefix) })
			if s.Sid == "MakeBucket" { // its objects' ownership is given with its name
				continue
			}
			if object := strings.HasPrefix(action, "s3:"); object && removes && !strings.Contains(fmt.Sprint(s.Resource), "/"+keyPrefix) {
				t.Errorf("%s allows %s of any object", s.Sid, action)
			} else if removes && !object && s.Condition["StringLike"]["aws:ResourceTag/"+tagApp] != "*" {
				t.Errorf("%s allows %s of any resource", s.Sid, action)
			}
			if verb == "CreateTags" && s.Condition["StringLike"]["aws:ResourceTag/"+tagApp] != "*" && s.Condition["StringEquals"]["ec2:CreateAction"] == nil &&
				(s.Resource != "arn:aws:ec2:*::snapshot/*" || s.Condition["StringLike"]["aws:RequestTag/"+tagApp] != "*") {
				t.Errorf("%s allows %s of any resource: then the other conditions are worth nothing", s.Sid, action)
			}
		}
	}
}
