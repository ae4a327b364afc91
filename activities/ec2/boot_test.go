package ec2

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/morgana-deploy/morgana/ec2lab"
	"github.com/morgana-deploy/morgana/step"
)

// story boots two generations of an image one after the other, with an Elastic IP and a
// target group, fails the second, and destroys all.
func (b *bench) story() {
	b.Helper()
	b.options(func(o *Options) { o.ElasticIP, o.TargetGroup = b.lab.ElasticIP(), b.lab.TargetGroup() })
	at := func(m step.Machine) {
		b.Helper()
		if b.holder() != m.ID || !slices.Equal(b.lab.Targets(), []string{m.ID}) {
			b.Errorf("the Elastic IP is at %q and the target group has %q, not %s", b.holder(), b.lab.Targets(), m.ID)
		}
	}
	first := b.boot(1)
	at(first)
	b.use(2)
	second := b.boot(2)
	at(second)
	if n := b.instances(); n != 2 || first.ID == second.ID {
		b.Errorf("%d instances of two generations: %s", n, strings.Join(b.lab.Resources(), "\n"))
	}
	b.destroy(2)
	at(first)
	if n := b.instances(); n != 1 {
		b.Errorf("%d instances after the second was destroyed", n)
	}
	b.destroy(0)
	b.left(b.before)
	if again := b.destroy(0); len(again) > 0 {
		b.Errorf("destroyed again: %q", again)
	}
}

// An answer that is lost, before or after the effect, is made good by the next try.
func TestLostAnswers(t *testing.T) {
	environ(t)
	for _, call := range []string{
		"RunInstances", "CreateTags", "AssociateAddress", "RegisterTargets", "DeregisterTargets",
		"TerminateInstances", "DeleteTags", "DeregisterImage", "DeleteSnapshot",
	} {
		for name, lose := range map[string]ec2lab.Lose{"before": ec2lab.Before, "after": ec2lab.After} {
			t.Run(call+" "+name, func(t *testing.T) {
				t.Parallel()
				b := newBench(t)
				b.lab.Fault(ec2lab.Fault{Call: call, Lose: lose})
				b.story()
				if !slices.ContainsFunc(b.called(call), func(c ec2lab.Call) bool { return c.Code == "lost" }) {
					t.Errorf("no answer to %s was lost", call)
				}
			})
		}
	}
}

// EC2 lists what it has made only later.
func TestHidden(t *testing.T) {
	environ(t)
	b := newBench(t)
	b.lab.Hide(700 * time.Millisecond)
	b.lab.Fault(ec2lab.Fault{Call: "RunInstances", Lose: ec2lab.After})
	b.story()
}

// The time in which EC2 has to list an instance begins when the instance is made, however
// long the call had to try before.
func TestHiddenAfterLongTries(t *testing.T) {
	environ(t)
	b := newBench(t)
	s, err := read(b.spec.Options)
	no(t, err)
	b.lab.Hide(time.Hour)
	x := &boot{c: b.c, s: s, r: b.registration(1), began: time.Now().Add(-time.Hour)}
	for range 2 {
		if ready, err := x.look(t.Context()); ready || err != nil || !x.created {
			t.Errorf("looked: %v, %v, created %v", ready, err, x.created)
		}
	}
}

// An instance of a generation is adopted, and an ended one is not started again.
func TestAdopt(t *testing.T) {
	environ(t)
	b := newBench(t)
	first := b.boot(1)
	if first.Adopted || first.Ready != `console matched "hello"` || len(first.Addresses) == 0 || first.Addresses[0].Kind != "ip" {
		t.Errorf("booted %+v", first)
	}
	b.g.set("so much was printed since that EC2 has lost the first line", false)
	again := b.boot(1)
	if !again.Adopted || again.ID != first.ID || again.Ready != first.Ready {
		t.Errorf("booted again: %+v", again)
	}
	b.g.set("hello and good bye", true)
	b.eventually("the instance has stopped", func() bool { return slices.Contains(b.lab.Resources(), "instance "+first.ID+" stopped") })
	if ended := b.boot(1); !ended.Ended || !ended.Adopted || !strings.HasPrefix(ended.Ready, first.Ready) {
		t.Errorf("booted after it ended: %+v", ended)
	}
	h, err := New(b.site).Observe(t.Context(), first)
	if err != nil || h.State != step.Ended || h.How != "shut down by itself" {
		t.Errorf("observed %+v, %v", h, err)
	}
	text, err := New(b.site).Console(t.Context(), step.ConsoleFrom{Machine: first})
	if err != nil || !strings.Contains(text.Text, "good bye") {
		t.Errorf("the console of an ended instance: %+v, %v", text, err)
	}
	text, err = New(b.site).Console(t.Context(), step.ConsoleFrom{Machine: first, Offset: text.Next, WaitSeconds: 5})
	if err != nil || text.Text != "" || !text.Ended {
		t.Errorf("behind its end: %+v, %v", text, err)
	}
	b.destroy(1)
	b.left(b.before)
}

// late returns the error of a boot that ends in time. The time of the first call may have been
// over before its instance ran.
func (b *bench) late(generation int) error {
	b.Helper()
	_ = failure(New(b.site).Boot(b.Context(), b.registration(generation)))
	b.eventually("the instance runs, or has ended", func() bool {
		return strings.Contains(strings.Join(b.lab.Resources(), "\n")+"\n", " running\n") || b.g.Ended()
	})
	return failure(New(b.site).Boot(b.Context(), b.registration(generation)))
}

func TestBootFails(t *testing.T) {
	environ(t)
	for name, test := range map[string]struct {
		options    func(*Options)
		text       string
		ends       bool
		says, hint string
	}{
		"never ready": {func(o *Options) { o.Expect, o.Timeout = "never", "1s" }, "one\ntwo\n", false, `did not match "never" within 1s`, "one\ntwo"},
		"no port":     {func(o *Options) { o.Expect, o.Port, o.Timeout = "", 9, "1s" }, "", false, "could not connect to its port 9", "printed nothing"},
		"late console": {func(o *Options) { o.Expect, o.InstanceType, o.Timeout = "never", "m3.medium", "1s" }, "", false,
			`did not match "never"`, "minutes late"},
		"ends too early": {func(o *Options) { o.Expect = "never" }, "panic: no network\n", true, "shut down by itself", "panic: no network"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			b.options(test.options)
			b.g.set(test.text, test.ends)
			err := b.late(1)
			var e *step.Error
			if !errors.As(err, &e) || e.Kind != step.BootFailed || !strings.Contains(err.Error(), test.says) || !strings.Contains(e.Hint, test.hint) {
				t.Fatalf("%v\n%+v", err, e)
			}
			if n := b.instances(); n != 1 {
				t.Errorf("%d instances are left for Destroy", n)
			}
			b.destroy(1)
			b.left(b.before)
		})
	}
}

// With expect and port both must hold.
func TestExpectAndPort(t *testing.T) {
	environ(t)
	b := newBench(t)
	listener, err := net.Listen("tcp", ":0") //nolint:gosec // the lab's instances have addresses of loopback
	no(t, err)
	defer listener.Close() //nolint:errcheck // nothing was sent
	port := listener.Addr().(*net.TCPAddr).Port
	b.options(func(o *Options) { o.Port, o.Timeout = port, "1s" })
	b.g.set("", false)
	if err := b.late(1); step.KindOf(err) != step.BootFailed || !strings.Contains(err.Error(), "console did not match") {
		t.Errorf("without a console: %v", err)
	}
	b.g.set("hello", false)
	b.options(func(o *Options) { o.Port = port })
	m := b.boot(1)
	if m.Ready != fmt.Sprintf(`console matched "hello"; port %d took a connection`, port) || m.Addresses[0].Kind != "tcp" || m.Addresses[0].Port != port {
		t.Errorf("booted %+v", m)
	}
}

// An instance without an address is not taken for this host.
func TestNoAddress(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	no(t, err)
	defer listener.Close() //nolint:errcheck // nothing was sent
	port := listener.Addr().(*net.TCPAddr).Port
	for ip, want := range map[string]bool{"": false, "127.0.0.1": true} {
		b := &boot{s: settings{Options: Options{Port: port}}, in: types.Instance{PublicIpAddress: &ip}}
		if b.connects(t.Context()) != want {
			t.Errorf("address %q: connects is not %v", ip, want)
		}
	}
}

// An instance that shuts itself down once it was ready is a result.
func TestEndsByItself(t *testing.T) {
	environ(t)
	b := newBench(t)
	b.g.set("hello and good bye", true)
	if m := b.boot(1); !m.Ended || m.Adopted || m.Addresses != nil {
		t.Errorf("booted %+v", m)
	}
}

// cutter cancels a context after a number of answers.
type cutter struct {
	left atomic.Int64
	stop atomic.Pointer[context.CancelFunc]
}

// cut returns a context that ends with the n-th answer from now on.
func (c *cutter) cut(parent context.Context, n int64) context.Context {
	ctx, stop := context.WithCancel(parent)
	c.stop.Store(&stop)
	c.left.Store(n)
	return ctx
}

// before starts a proxy with the cutter before a lab.
func (c *cutter) before(t testing.TB, lab *ec2lab.Lab) *httptest.Server {
	t.Helper()
	target, err := url.Parse(lab.URL())
	no(t, err)
	return httptest.NewServer(&httputil.ReverseProxy{
		Transport: &http.Transport{},
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(target); r.Out.Host = r.In.Host },
		ModifyResponse: func(*http.Response) error {
			if c.left.Add(-1) == 0 {
				(*c.stop.Load())()
			}
			return nil
		},
	})
}

// through puts a proxy with the cutter between an image's register and the lab, until the test
// ends.
func (r *registry) through(c *cutter, img *step.Image) {
	r.Helper()
	proxy := c.before(r, r.lab)
	r.Cleanup(proxy.Close)
	img.Spec.Options = bytes.Replace(img.Spec.Options, []byte(r.lab.URL()), []byte(proxy.URL), 1)
}

// through puts a proxy with the cutter between the target and the lab.
func (b *bench) through(c *cutter) (done func()) {
	b.Helper()
	proxy := c.before(b.T, b.lab)
	b.options(func(o *Options) {
		o.ElasticIP, o.TargetGroup, o.Endpoint = b.lab.ElasticIP(), b.lab.TargetGroup(), proxy.URL
	})
	return proxy.Close
}

// A boot that is cancelled at any call leaves nothing that Destroy does not find.
func TestCancelledBoot(t *testing.T) {
	environ(t)
	for name, hidden := range map[string]time.Duration{"visible": 0, "hidden": 300 * time.Millisecond} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			b.lab.Hide(hidden)
			at := &cutter{}
			defer b.through(at)()
			done := false
			for n := int64(1); !done; n++ {
				ctx := at.cut(t.Context(), n)
				r := b.registration(int(n))
				began := time.Now()
				_, err := New(b.site).Boot(ctx, r)
				if done = err == nil; !done && ctx.Err() == nil {
					t.Fatalf("cancelled after call %d: %v", n, err)
				}
				if took := time.Since(began); ctx.Err() != nil && took > 2*time.Minute {
					t.Errorf("cancelled after call %d: it took %s", n, took)
				}
				if step.KindOf(err).Final() {
					t.Errorf("cancelled after call %d: a final error: %v", n, err)
				}
				b.stop(int(n))
				if now := b.lab.Resources(); !slices.Equal(now, b.made) {
					t.Fatalf("cancelled after call %d left:\n%s", n, strings.Join(now, "\n"))
				}
			}
			if n := len(b.called("RunInstances")); n < 8 {
				t.Errorf("%d boots came to RunInstances", n)
			}
		})
	}
}

// An Elastic IP of another is not taken.
func TestElasticIPOfAnother(t *testing.T) {
	environ(t)
	b := newBench(t)
	out, err := b.c.ec2.RunInstances(t.Context(), &ec2.RunInstancesInput{ImageId: aws.String(b.ami), InstanceType: types.InstanceTypeT3Micro, MinCount: aws.Int32(1), MaxCount: aws.Int32(1)})
	no(t, err)
	other := *out.Instances[0].InstanceId
	b.eventually("the other runs", func() bool { return slices.Contains(b.lab.Resources(), "instance "+other+" running") })
	no(t, failure(b.c.moveAddress(t.Context(), b.lab.ElasticIP(), other, nil)))
	b.options(func(o *Options) { o.ElasticIP = b.lab.ElasticIP() })
	_, err = New(b.site).Boot(t.Context(), b.registration(1))
	if step.KindOf(err) != step.Conflict || b.holder() != other {
		t.Errorf("%v; the Elastic IP is at %s", err, b.holder())
	}
	b.destroy(1)
	if b.holder() != other || b.instances() != 1 {
		t.Errorf("after destroy the Elastic IP is at %q, and there are %d instances", b.holder(), b.instances())
	}
}

// An instance that EC2 ends at its start is replaced.
func TestEC2EndsAnInstance(t *testing.T) {
	environ(t)
	b := newBench(t)
	b.g.fail(errors.New("no capacity"), 1)
	if _, err := New(b.site).Boot(t.Context(), b.registration(1)); err == nil || step.KindOf(err) != "" || !strings.Contains(err.Error(), "no capacity") {
		t.Fatalf("an instance that ended at its start: %v", err)
	}
	if m := b.boot(1); m.Adopted || b.instances() != 1 {
		t.Errorf("booted %+v among %d instances", m, b.instances())
	}
	b.g.fail(errors.New("no capacity"), 100)
	var err error
	for try := 0; step.KindOf(err) == ""; try++ {
		if _, err = New(b.site).Boot(t.Context(), b.registration(2)); try > maxDied {
			t.Fatalf("try %d: %v", try, err)
		}
	}
	if step.KindOf(err) != step.BootFailed {
		t.Errorf("the last try: %v", err)
	}
}

// A spot instance that shuts itself down is terminated, and was a result all the same.
func TestSpotEndsByItself(t *testing.T) {
	environ(t)
	b := newBench(t)
	b.options(func(o *Options) { o.Spot = true })
	first := b.boot(1)
	b.g.set("hello and good bye", true)
	b.eventually("the instance is terminated", func() bool { return b.instances() == 0 })
	if m := b.boot(1); !m.Ended || m.ID != first.ID || len(b.called("RunInstances")) != 1 {
		t.Errorf("booted %+v", m)
	}
	h, err := New(b.site).Observe(t.Context(), first)
	if err != nil || h.State != step.Ended {
		t.Errorf("observed %+v, %v", h, err)
	}
}

// A target group in which the instance does not get healthy keeps the old one.
func TestUnhealthy(t *testing.T) {
	environ(t)
	b := newBench(t)
	change := func(o *Options) { o.TargetGroup, o.ElasticIP = b.lab.TargetGroup(), b.lab.ElasticIP() }
	b.options(change)
	first := b.boot(1)
	b.options(nil)
	b.boot(2) // so that the time below is the target group's alone
	b.options(func(o *Options) { change(o); o.Timeout = "1s" })
	b.lab.Fault(ec2lab.Fault{Call: "RegisterTargets", Stuck: true})
	_, err := New(b.site).Boot(t.Context(), b.registration(2))
	if step.KindOf(err) != step.BootFailed || !strings.Contains(err.Error(), "initial") || !slices.Contains(b.lab.Targets(), first.ID) {
		t.Errorf("%v; the target group has %q", err, b.lab.Targets())
	}
	b.destroy(2)
	if !slices.Equal(b.lab.Targets(), []string{first.ID}) || b.holder() != first.ID {
		t.Errorf("the target group has %q, the Elastic IP is at %q", b.lab.Targets(), b.holder())
	}
}
