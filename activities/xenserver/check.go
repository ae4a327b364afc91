package xenserver

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/morgana-deploy/morgana/image"
	"github.com/morgana-deploy/morgana/image/disk"
	"github.com/morgana-deploy/morgana/machine"
	"github.com/morgana-deploy/morgana/step"
)

// Check asks the pool, creates nothing, and refuses:
//   - wrong options, and an SR, a network or a host that does not exist or whose name several
//     have (InvalidSpec)
//   - a host that does not answer, or not as a XenAPI (NotFound)
//   - a certificate that is not trusted, a wrong password, a role that may not deploy
//     (Unauthorized)
//   - a kernel that no VM of the pool boots, and a type of VM that the pool does not run
//     (Unsupported)
//   - an SR or hosts with too little space or memory (Conflict)
func (t *Target) Check(ctx context.Context, spec step.Spec) (_ step.Spec, err error) {
	defer step.SetOp("check xenserver target", &err)
	if _, err := spec.Folder(); err != nil {
		return spec, err
	}
	s, err := complete(spec.Options)
	if err != nil {
		return spec, err
	}
	if _, err := image.Supports(Kind, spec.Origin.ABIs); err != nil {
		return spec, err
	}
	if _, err := s.login(); err != nil { // it completes host
		return spec, err
	}
	step.Report(ctx, step.Progress{Note: "asking " + s.Host})
	p, err := t.insist(ctx, s)
	if err != nil {
		return spec, err
	}
	c := &checker{pool: p, settings: &s, spec: spec}
	if c.hosts, err = all[hostRecord](ctx, p, "host"); err != nil {
		return spec, err
	}
	for _, ask := range []func(context.Context) error{c.role, c.types, c.place, c.alone, c.processors, c.memory} {
		if err := ask(ctx); err != nil {
			return spec, err
		}
	}
	c.spec.Options, err = json.Marshal(s.Options)
	return c.spec, err
}

// checker asks the pool about the options of a rollout.
type checker struct {
	*pool
	*settings
	spec  step.Spec
	hosts map[ref]hostRecord
	runs  bool // a VM of the deployment runs: an unchanged rollout needs no other
}

// insist connects to a pool until it answers, or 5 s have passed. Then the error of a host that
// does not answer is final: the user is waiting, and no work is lost yet.
func (t *Target) insist(ctx context.Context, s settings) (*pool, error) {
	for began := time.Now(); ; {
		p, err := t.connect(ctx, s)
		if err == nil || step.KindOf(err) != "" || ctx.Err() != nil {
			return p, err
		}
		if time.Since(began) > 5*time.Second {
			own := step.Error{Err: err}
			if e := (*step.Error)(nil); errors.As(err, &e) {
				own = *e
			}
			own.Kind, own.Field = step.NotFound, "host"
			return p, &own
		}
		if err := step.Pause(ctx, time.Second); err != nil {
			return p, err
		}
	}
}

// permissions are some of those that a rollout needs beside reading. The others belong to the
// same roles.
var permissions = []string{"vdi.create", "http/put_import_raw_vdi", "vm.create", "vbd.create", "vif.create", "vm.start", "vm.destroy", "vdi.destroy"}

// role refuses a user without the permissions of a rollout.
func (c *checker) role(ctx context.Context) error {
	for again := false; ; again = true {
		v, err := c.enter(ctx)
		if err != nil {
			return err
		}
		session, err := one[sessionRecord](ctx, c.pool, "session", ref(v.session))
		if is(err, "HANDLE_INVALID") && !again { // v had ended, and the call logged in anew
			continue
		}
		need := session.lacks()
		if err != nil || need == "" {
			return err
		}
		if again {
			return &step.Error{Kind: step.Unauthorized, Field: "profile", Err: fmt.Errorf("the role of user %s lacks the permission %s", c.access.user, need),
				Hint: "give the user the role vm-admin, by xe subject-role-add; or name a profile of another user"}
		}
		c.forget(ctx, v) // it has the role that the user had at the login
	}
}

// lacks returns a permission that the session needs and has not, "" if there is none. A local
// superuser has all.
func (s *sessionRecord) lacks() string {
	if s.IsLocalSuperuser || len(s.Permissions) == 0 {
		return ""
	}
	for _, need := range permissions {
		if !slices.ContainsFunc(s.Permissions, func(has string) bool { return strings.EqualFold(has, need) }) {
			return need
		}
	}
	return ""
}

// types chooses the type of the VM, or completes the types that auto chooses from.
func (c *checker) types(ctx context.Context) error {
	runs, why := slices.Clone(allTypes), map[string]string{}
	for _, h := range c.hosts {
		maps.Copy(why, h.refuses(c.expect != nil))
	}
	runs = slices.DeleteFunc(runs, func(t string) bool { return why[t] != "" })
	hint := "type: " + strings.Join(runs, " or ")
	if c.expect != nil {
		hint = "expectPort with address instead of expect"
		if slices.Contains(runs, typePV) {
			hint = "type: pv; or " + hint
		}
	}
	if why[c.Type] != "" {
		return unsupported("type", hint, "%s", why[c.Type])
	}
	for i, t := range c.Types {
		if why[t] != "" {
			return unsupported(fmt.Sprintf("types[%d]", i), hint, "%s", why[t])
		}
	}
	if c.Type == auto && len(c.Types) == 0 {
		c.Types = runs
	}
	if len(c.spec.Origin.ABIs) > 0 {
		vm, _, err := c.choose(c.spec.Origin.ABIs)
		if err != nil && c.Type == auto && why[vm] != "" {
			return unsupported("type", hint, "the kernel boots in a %s VM, and %s", vm, why[vm])
		}
		if err != nil {
			return err
		}
		c.Type, c.Types = vm, nil
	}
	if c.Type == typeHVM || slices.Equal(c.Types, []string{typeHVM}) {
		return cmp.Or(c.readVM(), image.WithoutVia(disk.Missing(ctx, disk.BIOS)))
	}
	if c.Type != auto {
		return c.checkRamdisk()
	}
	return nil
}

// place finds the SR, the networks and the host of the options.
func (c *checker) place(ctx context.Context) error {
	if _, err := c.storage(ctx, *c.settings, max(c.size, 1)); err != nil {
		return err
	}
	if _, err := c.nics(ctx, *c.settings); err != nil {
		return err
	}
	if c.Affinity != "" {
		if _, err := c.named(ctx, "host", "affinity", c.Affinity); err != nil {
			return err
		}
	}
	return nil
}

// processors refuses a VM for which no host has the processors.
func (c *checker) processors(context.Context) error {
	var most int64
	for _, h := range c.hosts {
		most = max(most, integer(h.CPUInfo["cpu_count"]))
	}
	if most > 0 && int64(c.VCPUs) > most {
		return unsupported("vcpus", fmt.Sprintf("at most %d", most), "no host of the pool has %d processors", c.VCPUs)
	}
	return nil
}

// memory refuses a VM for which no host has the memory. Boot asks again.
func (c *checker) memory(ctx context.Context) error {
	if c.runs {
		return nil
	}
	var reasons []string
	for r, h := range c.hosts {
		if !h.Enabled {
			reasons = append(reasons, h.Name+" is disabled")
			continue
		}
		var free string
		if err := c.call(ctx, &free, "host.compute_free_memory", r); err != nil {
			return err
		}
		if integer(free)>>20 >= int64(c.Memory) {
			return nil
		}
		reasons = append(reasons, fmt.Sprintf("%s has %d MiB free", h.Name, integer(free)>>20))
	}
	slices.Sort(reasons)
	return &step.Error{Kind: step.Conflict, Field: "memory", Hint: "less memory, or shut down a VM",
		Err: fmt.Errorf("no host has %d MiB for the VM: %s", c.Memory, strings.Join(reasons, ", "))}
}

// alone sets Alone in the spec, and finds whether a VM of the deployment runs.
func (c *checker) alone(ctx context.Context) error {
	of := machine.OtherLives(c.spec.Tags)
	vms, err := c.vms(ctx, machine.Wanted(step.Tags{App: c.spec.App, Target: c.spec.Target}))
	if err != nil {
		return err
	}
	vdis, err := c.vdis(ctx, of)
	c.spec.Alone = len(vdis) == 0
	for _, vm := range vms {
		c.spec.Alone = c.spec.Alone && !of(rolloutOf(vm))
		c.runs = c.runs || vm.PowerState == running
	}
	return err
}

type sessionRecord struct {
	IsLocalSuperuser bool     `xmlrpc:"is_local_superuser"`
	Permissions      []string `xmlrpc:"rbac_permissions"`
}
