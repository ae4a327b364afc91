package ec2

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/morgana-deploy/morgana/machine"
	"github.com/morgana-deploy/morgana/step"
)

// maxDied is how many of a rollout's instances EC2 itself may end before Boot gives up.
const maxDied = 5

// Boot runs an instance of the AMI, or adopts the rollout's instance, and waits until it is
// ready. Then the Elastic IP and the place in the target group move to it. An instance that
// shut itself down is not started again: it is returned as Ended if it was ready, else the
// error is BootFailed. An instance that somebody stopped or terminated is replaced.
func (t *Target) Boot(ctx context.Context, r step.Registration) (_ step.Machine, err error) {
	defer step.SetOp("boot", &err)
	s, err := read(r.Spec.Options)
	if err != nil {
		return step.Machine{}, err
	}
	c, err := open(ctx, s)
	if err != nil {
		return step.Machine{}, err
	}
	if err := c.own(ctx); err != nil {
		return step.Machine{}, err
	}
	b := &boot{c: c, s: s, r: r, began: time.Now()}
	defer b.abandon(ctx)
	ready, err := poll(ctx, s.timeout, func() (bool, error) {
		step.Report(ctx, step.Progress{Note: b.note()})
		return b.look(ctx)
	})
	if err != nil {
		return step.Machine{}, err
	}
	if !ready {
		_, unmet := b.waits()
		return step.Machine{}, b.failed(ctx, "%s within %s", unmet, s.timeout)
	}
	if err := b.finish(ctx); err != nil {
		if strings.HasPrefix(code(err), "InvalidInstanceID") { // a list has shown it: the next try finds it, or makes another
			err = passing(err)
		}
		return step.Machine{}, err
	}
	m := step.Machine{Registration: r, ID: b.id, Ready: cmp.Or(machine.Met(s.expect, s.Port), "the instance runs"), Adopted: !b.created, Ended: b.ended}
	if m.Ended {
		m.Ready += "; the instance has ended"
	} else {
		m.Addresses = addresses(b.in, s.Port)
	}
	return m, nil
}

// boot is one call of Boot.
type boot struct {
	c     *cloud
	s     settings
	r     step.Registration
	began time.Time

	all     []types.Instance // those of the app and target, as last listed
	id      string           // the rollout's instance, "" if this call has found none yet
	known   time.Time        // when this call found or made it
	in      types.Instance   // the instance as last listed
	seen    bool             // the instance was in a list
	created bool             // this call made the instance
	up      bool             // this call saw it pending or running
	died    int              // how many of the rollout's instances EC2 itself has ended
	printed bool             // its console matched option expect
	ended   bool             // the instance was ready and has ended
	over    time.Time        // when this call first saw that the instance has ended
}

// look lists the instances once, and makes one if there is none. It reports
// whether the instance is ready.
func (b *boot) look(ctx context.Context) (ready bool, err error) {
	live, dead, err := b.list(ctx)
	switch {
	case err != nil:
		return false, err
	case len(live) > 0:
		return b.alive(ctx, live)
	case b.id == "":
		if len(dead) > 0 && isResult(dead[0]) {
			b.adopt(dead[0])
			return b.outcome(ctx)
		}
		return false, b.create(ctx, dead)
	}
	if i := slices.IndexFunc(dead, func(in types.Instance) bool { return aws.ToString(in.InstanceId) == b.id }); i >= 0 {
		b.adopt(dead[i])
		return b.outcome(ctx)
	}
	if time.Since(b.known) > visible {
		return false, fmt.Errorf("EC2 does not list instance %s", b.id)
	}
	return false, nil
}

// list returns the rollout's instances, the live ones with the oldest first and the dead
// ones with the newest first. Dead are those that are terminated or shutting down.
func (b *boot) list(ctx context.Context) (live, dead []types.Instance, err error) {
	of := b.r.Spec.Tags
	if b.all, err = b.c.instances(ctx, step.Tags{App: of.App, Target: of.Target}); err != nil {
		return nil, nil, err
	}
	b.died = 0
	for _, in := range b.all {
		switch have, _ := owner(in.Tags); {
		case have != of:
		case isDead(in):
			dead = append(dead, in)
			if byEC2(in) {
				b.died++
			}
		default:
			live = append(live, in)
		}
	}
	age := func(a, b types.Instance) int {
		return cmp.Or(aws.ToTime(a.LaunchTime).Compare(aws.ToTime(b.LaunchTime)), cmp.Compare(*a.InstanceId, *b.InstanceId))
	}
	slices.SortFunc(live, age)
	slices.SortFunc(dead, func(a, b types.Instance) int { return age(b, a) })
	return live, dead, nil
}

func (b *boot) adopt(in types.Instance) {
	if id := aws.ToString(in.InstanceId); b.id != id {
		b.id, b.known, b.created, b.up, b.printed, b.over = id, time.Now(), false, false, false, time.Time{}
	}
	b.in, b.seen = in, true
}

// alive looks at the oldest live instance. It terminates the others: a try in another
// subnet made them while a list did not yet show the first.
func (b *boot) alive(ctx context.Context, live []types.Instance) (ready bool, err error) {
	for _, extra := range live[1:] {
		if err := b.c.terminate(ctx, aws.ToString(extra.InstanceId)); err != nil && !gone(err) {
			return false, err
		}
	}
	b.adopt(live[0])
	if have := aws.ToString(b.in.ImageId); have != b.r.ID {
		return false, &step.Error{Kind: step.Conflict, Hint: "deploy again", Err: fmt.Errorf("instance %s runs image %s, not %s", b.id, have, b.r.ID)}
	}
	switch b.in.State.Name {
	case types.InstanceStateNamePending:
		b.up = true
	case types.InstanceStateNameRunning:
		b.up = true
		return b.probe(ctx)
	case types.InstanceStateNameStopped:
		if !b.up && !byItself(b.in) {
			return false, b.replace(ctx)
		}
		return b.outcome(ctx)
	}
	return false, nil
}

// replace terminates an instance that somebody stopped. The next look makes another.
func (b *boot) replace(ctx context.Context) error {
	id := b.id
	b.id, b.seen = "", false
	if err := b.c.terminate(ctx, id); err != nil && !gone(err) {
		return err
	}
	return nil
}

// probe reports whether a running instance is ready.
func (b *boot) probe(ctx context.Context) (ready bool, err error) {
	if value(b.in.Tags, tagReady) != "" {
		return true, nil
	}
	if b.s.expect != nil && !b.printed {
		if _, err = b.readConsole(ctx); !b.printed || err != nil {
			return false, err
		}
	}
	return b.s.Port == 0 || b.connects(ctx), ctx.Err()
}

// connects reports whether the port of the instance takes a connection.
func (b *boot) connects(ctx context.Context) bool {
	// With a public address the private one may be another host's in the worker's network.
	ip := cmp.Or(aws.ToString(b.in.PublicIpAddress), aws.ToString(b.in.PrivateIpAddress), aws.ToString(b.in.Ipv6Address))
	return ip != "" && machine.Connects(ctx, ip, b.s.Port) // without an address it would be this host
}

// readConsole sets printed, and reports whether the console is up to date. A kernel that says that
// it failed is an error.
func (b *boot) readConsole(ctx context.Context) (latest bool, err error) {
	text, latest, err := b.c.console(ctx, b.in)
	if gone(err) { // a list has the instance, so GetConsoleOutput will know it soon
		return false, nil
	}
	if status := kernelFailure(text); status != "" {
		return latest, b.failed(ctx, "the kernel ended: %s", status)
	}
	m := machine.NewMatch(b.s.expect)
	m.Add(text)
	b.printed = b.printed || m.Found()
	return latest, err
}

// outcome reports whether an instance that has ended was ready. If it was not, outcome
// returns an error, or false as long as its console may come.
func (b *boot) outcome(ctx context.Context) (ready bool, err error) {
	b.ended = true
	if value(b.in.Tags, tagReady) != "" {
		return true, nil
	}
	if !byItself(b.in) {
		if byEC2(b.in) && b.died < maxDied {
			return false, fmt.Errorf("instance %s %s", b.id, reason(b.in)) // the next try makes another
		}
		return false, b.failed(ctx, "the instance %s", reason(b.in))
	}
	if b.over.IsZero() {
		b.over = time.Now()
	}
	latest, err := b.readConsole(ctx)
	if err != nil || b.s.expect != nil && !b.printed && !latest && time.Since(b.over) < visible { // EC2 shows a console soon after its end
		return false, err
	}
	if b.s.Port == 0 && (b.s.expect == nil || b.printed) {
		return true, nil
	}
	_, unmet := b.waits()
	return false, b.failed(ctx, "the instance %s and %s", reason(b.in), unmet)
}

// finish records on the instance that it was ready, and moves the stable addresses.
func (b *boot) finish(ctx context.Context) error {
	if value(b.in.Tags, tagReady) == "" && !isDead(b.in) {
		if err := b.c.tag(ctx, []types.Tag{tag(tagReady, "yes")}, b.id); err != nil {
			return err
		}
	}
	if b.ended {
		return nil
	}
	var others []string
	for _, in := range b.all {
		if id := aws.ToString(in.InstanceId); id != b.id {
			others = append(others, id)
		}
	}
	if b.s.ElasticIP != "" {
		step.Report(ctx, step.Progress{Note: "moving " + b.s.ElasticIP})
		ip, err := b.c.moveAddress(ctx, b.s.ElasticIP, b.id, others)
		if err != nil {
			return err
		}
		if _, err := poll(ctx, visible, func() (bool, error) {
			live, _, err := b.list(ctx)
			for _, in := range live {
				if aws.ToString(in.InstanceId) == b.id {
					b.in = in
				}
			}
			return aws.ToString(b.in.PublicIpAddress) == ip, err
		}); err != nil {
			return err
		}
	}
	if b.s.TargetGroup != "" {
		step.Report(ctx, step.Progress{Note: "waiting for the target group"})
		health, err := b.c.moveTarget(ctx, b.s.TargetGroup, b.id, others, b.s.timeout)
		if err != nil {
			return err
		}
		if health != "" {
			return b.failed(ctx, "the target group says %s", health)
		}
	}
	return b.got(ctx)
}

// got records on the instance which stable addresses it got: they may move back to it.
func (b *boot) got(ctx context.Context) error {
	var tags []types.Tag
	for key, what := range map[string]string{tagElasticIP: b.s.ElasticIP, tagTargetGroup: b.s.TargetGroup} {
		if what != value(b.in.Tags, key) {
			tags = append(tags, tag(key, what))
		}
	}
	if len(tags) == 0 {
		return nil
	}
	return b.c.tag(ctx, tags, b.id)
}

// failed returns an error of kind BootFailed with the console's last lines as hint.
func (b *boot) failed(ctx context.Context, format string, args ...any) error {
	if b.id == "" {
		return machine.BootFailed("", format, args...)
	}
	hint := "the console is empty: the kernel printed nothing"
	text, latest, err := b.c.console(ctx, b.in)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	m := machine.NewMatch(nil)
	m.Add(text)
	switch tail := m.Tail(); {
	case tail != "":
		hint = "the console's last lines:\n" + tail
	case err != nil:
		hint = "the console cannot be read: " + err.Error()
	case !latest:
		hint = lateConsole(b.in)
	}
	return machine.BootFailed(hint, format, args...)
}

func (b *boot) note() string {
	if b.id == "" {
		return "looking for the instance"
	}
	event := "the instance to run"
	if b.in.State != nil && b.in.State.Name == types.InstanceStateNameRunning {
		event, _ = b.waits()
	}
	return fmt.Sprintf("waiting for %s (%s)", event, time.Since(b.began).Round(time.Second))
}

// waits names the event for which the instance is not ready yet. unmet says that it did not come.
func (b *boot) waits() (event, unmet string) {
	switch {
	case b.in.State == nil || b.in.State.Name == types.InstanceStateNamePending:
	case b.s.expect != nil && !b.printed:
		return fmt.Sprintf("the console of %s to match %q", b.id, b.s.expect), fmt.Sprintf("its console did not match %q", b.s.expect)
	case b.s.Port != 0:
		return fmt.Sprintf("port %d of %s", b.s.Port, b.id), fmt.Sprintf("the worker could not connect to its port %d", b.s.Port)
	}
	return "the instance to run", "the instance did not run"
}
