package xenserver

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/morgana-deploy/morgana/step"
	"github.com/morgana-deploy/morgana/xapilab"
)

// TestDestroyFindsOurs destroys what a rollout made among 50 VMs of other users, whose fields
// are empty in all ways, and some of which look like ours.
func TestDestroyFindsOurs(t *testing.T) {
	t.Parallel()
	b := newBench(t, xapilab.Config{})
	img := b.image("ours", usual)
	ours := func(t step.Tags) map[string]string { return (&settings{}).otherConfig(t, img.Digest) }
	foreign := img.Spec.Tags
	foreign.App = "theirs"
	half := ours(img.Spec.Tags)
	delete(half, keyLife)
	alike := []map[string]any{
		{"name_label": nameOf(img.Spec.Tags)},
		{"tags": []string{tagged}},
		{"other_config": map[string]string{keyApp: "ours", keyTarget: "lab"}},
		{"other_config": half},
		{"other_config": ours(foreign)},
		{"other_config": ours(img.Spec.Tags), "is_a_template": true},
		{"other_config": ours(img.Spec.Tags), "is_a_snapshot": true},
		{"other_config": ours(img.Spec.Tags), "is_control_domain": true, "power_state": "Running"},
		{"other_config": map[string]string{"": "", "<&>": "]]>", keyGeneration: ""}},
		{"name_label": "", "name_description": "", "other_config": map[string]string{}, "tags": []string{}},
		{"name_label": " \n<value></value>", "tags": []string{"", " "}},
	}
	var refs []string
	for i := range 50 {
		refs = append(refs, b.lab.AddVM(alike[i%len(alike)]), b.lab.AddVDI(map[string]any{"name_label": "", "tags": []string{""}}))
	}
	refs = append(refs, b.lab.AddVDI(map[string]any{"other_config": ours(img.Spec.Tags), "is_a_snapshot": true}),
		b.lab.AddVDI(map[string]any{"other_config": ours(foreign)}))
	b.before = b.lab.Resources()
	var made []string
	for generation := range 3 {
		img.Spec.Generation = 1 + generation
		m := b.boot(b.register(img))
		made = append(made, "VM "+m.ID, "VDI "+m.Registration.ID)
	}
	spec := img.Spec
	spec.Generation, spec.Life = 0, ""
	var listed []string
	all, err := b.target().List(t.Context(), spec)
	for _, r := range all {
		listed = append(listed, r.Kind+" "+r.ID)
	}
	slices.Sort(made)
	slices.Sort(listed)
	if err != nil || !slices.Equal(listed, made) {
		t.Errorf("listed %q\nmade   %q: %v", listed, made, err)
	}
	done, err := b.target().Destroy(t.Context(), step.Removal{Spec: spec})
	if want := slices.Compact(made); err != nil || !slices.Equal(slices.Sorted(slices.Values(done.Removed)), want) {
		t.Errorf("destroyed %q, want %q: %v", done.Removed, want, err)
	}
	b.asBefore()
	for _, r := range refs {
		if b.lab.Get(r, "uuid") == nil {
			t.Errorf("%s was destroyed", r)
		}
	}
}

// TestDestroyBlocked tells the admin's reason, and removes the rest.
func TestDestroyBlocked(t *testing.T) {
	t.Parallel()
	b := newBench(t, xapilab.Config{})
	img := b.image("blocked", usual)
	first := b.boot(b.register(img))
	second := img
	second.Spec.Generation = 2
	b.boot(b.register(second))
	vm := b.lab.Ref("VM", "morgana-blocked-lab-1")
	for _, operation := range []string{"hard_shutdown", "destroy"} {
		b.lab.Set(vm, "blocked_operations", map[string]string{operation: "ask Ann before you touch it"})
		spec := img.Spec
		spec.Generation = 0
		_, err := b.target().Destroy(t.Context(), step.Removal{Spec: spec})
		var e *step.Error
		if !errors.As(err, &e) || e.Kind != step.Conflict || !strings.Contains(err.Error()+e.Hint, "ask Ann before you touch it") || !slices.Contains(e.Left, "VM "+first.ID) {
			t.Errorf("%s blocked: %#v", operation, err)
		}
		if b.lab.Ref("VM", "morgana-blocked-lab-2") != "" {
			t.Error("the other VM is left")
		}
	}
	b.lab.Set(vm, "blocked_operations", map[string]string{})
	b.destroy(img.Spec)
}

// TestDestroyWaits waits until a VM and a VDI are not in use any more, and not for the VDI of a VM that
// stays.
func TestDestroyWaits(t *testing.T) {
	t.Parallel()
	b := newBench(t, xapilab.Config{})
	img := b.image("waits", usual)
	b.boot(b.register(img))
	vm := b.lab.Ref("VM", "morgana-waits-lab-1")
	p, _, err := b.target().reach(t.Context(), img.Spec)
	if err == nil {
		err = p.stop(t.Context(), ref(vm), "")
	}
	if err != nil {
		t.Fatal(err)
	}
	b.lab.Set(vm, "current_operations", map[string]string{"OpaqueRef:1": "export"}) // as of a backup
	b.lab.Fault(xapilab.Fault{Call: "VDI.destroy", Times: 3, Error: []string{"VDI_IN_USE", "OpaqueRef:1", "destroy"}})
	var notes []string
	ctx := step.WithReporter(t.Context(), func(p step.Progress) {
		if notes = append(notes, p.Note); p.Note == "VM morgana-waits-lab-1 is busy with another operation" {
			b.lab.Set(vm, "current_operations", map[string]string{})
		}
	}, nil)
	_, err = b.target().Destroy(ctx, step.Removal{Spec: img.Spec})
	for _, want := range []string{"VM morgana-waits-lab-1 is busy with another operation", "VDI morgana-waits-lab-1 is busy with another operation"} {
		if err != nil || !slices.Contains(notes, want) {
			t.Errorf("no note %q in %q: %v", want, notes, err)
		}
	}
	b.asBefore()
	if n, m := b.count("VM.hard_shutdown"), b.count("VDI.destroy"); n != 2 || m != 4 {
		t.Errorf("VM.hard_shutdown was called %d times and VDI.destroy %d times", n, m)
	}
	img.Spec.Life = "0a1b2c3e"
	b.boot(b.register(img))
	vm = b.lab.Ref("VM", "morgana-waits-lab-1")
	b.lab.Set(vm, "blocked_operations", map[string]string{"hard_shutdown": "no"})
	began := time.Now()
	if _, err := b.target().Destroy(t.Context(), step.Removal{Spec: img.Spec}); step.KindOf(err) != step.Conflict || time.Since(began) > time.Minute {
		t.Errorf("%v after %s", err, time.Since(began))
	}
	b.lab.Set(vm, "blocked_operations", map[string]string{})
	b.lab.Set(vm, "current_operations", map[string]string{"OpaqueRef:1": "pool_migrate"}) // VM.hard_shutdown ends it
	b.destroy(img.Spec)
}

// TestDestroyDuringBoot destroys a rollout before and after its Boot makes the VM. No VM is left.
func TestDestroyDuringBoot(t *testing.T) {
	t.Parallel()
	b := newBench(t, xapilab.Config{})
	for _, call := range []string{"VM.create", "VM.get_record"} {
		img := b.image("late", usual)
		r := b.register(img)
		x := newBetween(t, b.lab)
		once := sync.OnceFunc(func() { b.destroy(img.Spec) })
		x.before = func(method string) {
			if method == call {
				once()
			}
		}
		if m, err := b.target().Boot(t.Context(), x.through(r)); step.KindOf(err) != step.NotFound {
			t.Errorf("destroyed before %s: %+v, %v", call, m, err)
		}
		b.asBefore()
	}
}

// TestCopies leaves copies of a rollout's VM and VDI alone: they have its other_config.
func TestCopies(t *testing.T) {
	t.Parallel()
	b := newBench(t, xapilab.Config{})
	img := b.image("copied", usual)
	m := b.boot(b.register(img))
	vm, vdi := b.lab.Ref("VM", nameOf(img.Spec.Tags)), b.lab.Ref("VDI", nameOf(img.Spec.Tags))
	for i := range 4 { // one of them may have the least reference or UUID
		b.lab.AddVM(map[string]any{"name_label": fmt.Sprint("copy ", i), "other_config": b.lab.Get(vm, "other_config")})
		b.lab.AddVDI(map[string]any{"name_label": fmt.Sprint("copy ", i), "other_config": b.lab.Get(vdi, "other_config"), "virtual_size": b.lab.Get(vdi, "virtual_size")})
	}
	if again := b.boot(b.register(img)); again.ID != m.ID || again.Registration.ID != m.Registration.ID {
		t.Errorf("a copy was adopted: %+v after %+v", again, m)
	}
	b.destroy(img.Spec)
	for i := range 4 {
		for _, class := range []string{"VM", "VDI"} {
			if name := fmt.Sprint("copy ", i); b.lab.Ref(class, name) == "" {
				t.Errorf("the %s %s was destroyed", class, name)
			}
		}
	}
}

// TestDestroyReportsAllTries tells in the end what a failed try before has removed, too.
func TestDestroyReportsAllTries(t *testing.T) {
	t.Parallel()
	b := newBench(t, xapilab.Config{})
	m := b.booted("tries", usual)
	b.lab.Fault(xapilab.Fault{Call: "VDI.destroy", Error: []string{"INTERNAL_ERROR", "no"}})
	var last step.Progress
	for _, fails := range []bool{true, false} {
		ctx := step.WithReporter(t.Context(), func(p step.Progress) {
			if p.State != nil { // as the worker keeps it
				last = p
			}
		}, &last)
		done, err := b.target().Destroy(ctx, step.Removal{Spec: m.Registration.Spec})
		want := []string{"VM " + m.ID, "VDI " + m.Registration.ID}
		if failed := err != nil; failed != fails || !fails && !slices.Equal(done.Removed, want) {
			t.Errorf("removed %q, want %q: %v", done.Removed, want, err)
		}
	}
}

// TestDestroyMoved destroys a VDI that a user has moved to another SR: it has another UUID.
func TestDestroyMoved(t *testing.T) {
	t.Parallel()
	b := newBench(t, xapilab.Config{})
	m := b.booted("moved", usual)
	vdi := b.lab.Ref("VDI", nameOf(m.Registration.Spec.Tags))
	config := maps.Clone(b.lab.Get(vdi, "other_config").(map[string]string))
	config[keyUUID] = "b9bd2a6d-0000-0000-0000-000000000000"
	b.lab.Set(vdi, "other_config", config)
	b.destroy(m.Registration.Spec)
}

// TestDestroyAfterSession destroys a rollout as a vm-admin whose earlier session has ended: xapi
// does not let this role destroy the tasks of that session.
func TestDestroyAfterSession(t *testing.T) {
	t.Parallel()
	b := newBench(t, xapilab.Config{})
	b.lab.Role("vm-admin")
	img := b.image("ended", usual)
	b.lab.Fault(xapilab.Fault{Call: "task.set_status", Lose: xapilab.Before})
	b.lab.Fault(xapilab.Fault{Call: "PUT /import_raw_vdi", Status: 500})
	if r, err := b.target().Register(t.Context(), img); err == nil {
		t.Fatalf("registered %+v", r)
	}
	b.lab.Fault(xapilab.Fault{Call: "task.destroy", Skip: 1, Times: 2, Lose: xapilab.Before}) // the first is that of the import
	b.boot(b.register(img))
	b.lab.Expire()
	if _, err := b.target().Destroy(t.Context(), step.Removal{Spec: img.Spec}); err != nil {
		t.Error(err)
	}
	b.before = []string{"task Async.VM.start", "task " + importName + must(img.Spec.Folder())}
	b.asBefore()
	if n := b.count("session.login_with_password"); n > 5 {
		t.Errorf("%d logins", n)
	}
}
