package ec2

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/morgana-deploy/morgana/step"
)

// maxAttempts bounds the client tokens that a call tries in one subnet. EC2 forgets
// terminated instances within about an hour, but remembers their tokens for longer.
const maxAttempts = 50

// lastWords is how long a cancelled call may go on: once to hear of an instance that EC2 is
// making, and once to terminate it.
const lastWords = 2 * time.Second

// elsewhere are the codes for which another subnet may do.
var elsewhere = []string{
	"InsufficientInstanceCapacity", "InsufficientHostCapacity", "InsufficientCapacity", "InsufficientFreeAddressesInSubnet",
	"SpotMaxPriceTooLow", "Unsupported",
}

// trying is the Progress.State of Boot: the subnet that the last RunInstances named. If its
// answer is lost, the next try begins there, where its client token finds the instance.
type trying struct {
	Subnet string `json:"subnet"`
}

// create makes the instance in the first subnet that has capacity. dead are the rollout's
// dead instances.
func (b *boot) create(ctx context.Context, dead []types.Instance) error {
	use, err := useTag(b.r.Spec.Tags)
	if err != nil {
		return err
	}
	return b.c.make(ctx, b.r.ID, *use.Key, making{time.Now(), len(dead), kindInstance}, func() error { return b.createSomewhere(ctx, dead) })
}

func (b *boot) createSomewhere(ctx context.Context, dead []types.Instance) error {
	subnets := b.order(ctx, dead)
	var refusals []string
	var last error
	for _, subnet := range subnets {
		state, err := json.Marshal(trying{subnet})
		if err != nil {
			return err
		}
		step.Report(ctx, step.Progress{Note: "running an instance " + subnet, State: state})
		if last = b.createIn(ctx, subnet, len(dead)); !slices.Contains(elsewhere, code(last)) {
			return last
		}
		refusals = append(refusals, fmt.Sprintf("%s: %v", subnet, errors.Unwrap(last)))
	}
	if len(subnets) > 1 {
		last = step.Amend(last, func(e *step.Error) { e.Err = errors.New(strings.Join(refusals, "; ")) })
	}
	return last
}

// order returns the subnets, "" if none are given, in the order in which they are tried:
// the subnet of the last try first, and those last whose instances EC2 ended for lack of
// capacity.
func (b *boot) order(ctx context.Context, dead []types.Instance) []string {
	subnets := slices.Clone(b.s.Subnets)
	if len(subnets) == 0 {
		return []string{""}
	}
	var was trying
	if p, ok := step.Resume(ctx); ok {
		_ = json.Unmarshal(p.State, &was) // no state: the order of the options
	}
	rank := func(subnet string) int {
		for _, in := range dead {
			if aws.ToString(in.SubnetId) == subnet && reasonCode(in) == "Server.InsufficientInstanceCapacity" {
				return 2
			}
		}
		if subnet == was.Subnet {
			return 0
		}
		return 1
	}
	slices.SortStableFunc(subnets, func(a, b string) int { return cmp.Compare(rank(a), rank(b)) })
	return subnets
}

// createIn makes the instance in a subnet, or finds the one that an earlier call with the
// same client token made. attempt is the number of the rollout's dead instances.
func (b *boot) createIn(ctx context.Context, subnet string, attempt int) error {
	in, err := b.c.runNew(ctx, attempt, func(n int) (*ec2.RunInstancesInput, error) { return b.input(subnet, n) },
		func(err error) bool { return code(err) == "InvalidAMIID.NotFound" }, // EC2 may not know a new AMI yet
		func() (bool, error) {
			return poll(ctx, visible, func() (bool, error) {
				live, _, err := b.list(ctx)
				return len(live) > 0, err
			})
		})
	if in != nil {
		b.in = *in
		b.id, b.known, b.created = aws.ToString(in.InstanceId), time.Now(), true
	}
	return failed("run instance", err)
}

// runNew runs an instance by the first client token from attempt on that is not a terminated
// instance's. It waits as long as EC2 does not know what the call names. If an earlier call with a
// token had other parameters, as those of another version of the worker, adopt is called: it
// reports whether that call's instance is listed. Then runNew returns none.
func (c *cloud) runNew(ctx context.Context, attempt int, input func(attempt int) (*ec2.RunInstancesInput, error), unknown func(error) bool, adopt func() (bool, error)) (*types.Instance, error) {
	for last := attempt + maxAttempts; attempt < last; attempt++ {
		in, err := input(attempt)
		if err != nil {
			return nil, err
		}
		var out *ec2.RunInstancesOutput
		if _, waited := poll(ctx, visible, func() (bool, error) {
			out, err = c.run(ctx, in)
			return !unknown(err), nil
		}); waited != nil {
			return nil, waited
		}
		switch {
		case err == nil && len(out.Instances) == 1:
			return &out.Instances[0], nil
		case code(err) == "IdempotentInstanceTerminated":
			continue
		case code(err) == "IdempotentParameterMismatch":
			if found, err := adopt(); found || err != nil {
				return nil, err
			}
			continue
		case err == nil:
			err = fmt.Errorf("EC2 answered with %d instances", len(out.Instances))
		}
		return nil, err
	}
	return nil, fmt.Errorf("%d instances of this rollout were terminated", maxAttempts)
}

// run calls RunInstances. The call outlives its cancelled ctx for a short time, because EC2
// may have made the instance already.
func (c *cloud) run(ctx context.Context, input *ec2.RunInstancesInput) (*ec2.RunInstancesOutput, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	call, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(lastWords, cancel) })
	defer stop()
	return c.ec2.RunInstances(call, input)
}

// input returns the parameters of RunInstances. The same options, subnet and attempt give
// the same parameters: EC2 compares those of calls with one client token.
func (b *boot) input(subnet string, attempt int) (*ec2.RunInstancesInput, error) {
	tags, err := tagsOf(b.r.Spec.Tags)
	if err != nil {
		return nil, err
	}
	token, err := b.r.Spec.Token(fmt.Sprintf("instance %d %s", attempt, subnet))
	if err != nil {
		return nil, err
	}
	in := &ec2.RunInstancesInput{
		ImageId: aws.String(b.r.ID), InstanceType: types.InstanceType(b.s.InstanceType),
		MinCount: aws.Int32(1), MaxCount: aws.Int32(1), ClientToken: aws.String(token),
		MetadataOptions: &types.InstanceMetadataOptionsRequest{HttpTokens: types.HttpTokensStateRequired},
		// A stopped instance keeps its console; a terminated one only for an hour.
		InstanceInitiatedShutdownBehavior: types.ShutdownBehaviorStop,
		TagSpecifications:                 tagged(tags, types.ResourceTypeInstance, types.ResourceTypeVolume, types.ResourceTypeNetworkInterface),
	}
	if b.s.PublicIP != nil { // only an interface's own parameters have it
		in.NetworkInterfaces = []types.InstanceNetworkInterfaceSpecification{{
			DeviceIndex: aws.Int32(0), DeleteOnTermination: aws.Bool(true),
			AssociatePublicIpAddress: b.s.PublicIP, Groups: b.s.SecurityGroups, SubnetId: given(subnet),
		}}
	} else {
		in.SubnetId, in.SecurityGroupIds = given(subnet), b.s.SecurityGroups
	}
	in.KeyName = given(b.s.KeyName)
	if b.s.InstanceProfile != "" {
		in.IamInstanceProfile = &types.IamInstanceProfileSpecification{Name: aws.String(b.s.InstanceProfile)}
	}
	if b.s.UserData != "" {
		in.UserData = aws.String(base64.StdEncoding.EncodeToString([]byte(b.s.UserData)))
	}
	if p := b.s.Placement; p != (Placement{}) {
		in.Placement = &types.Placement{AvailabilityZone: given(p.Zone), GroupName: given(p.Group), Tenancy: types.Tenancy(p.Tenancy)}
	}
	if b.s.Backing == backingBundle {
		in.InstanceInitiatedShutdownBehavior = "" // it has no volume, and cannot be stopped
	}
	if b.s.Spot {
		// EC2 cannot stop an instance of a one-time request.
		in.InstanceInitiatedShutdownBehavior = types.ShutdownBehaviorTerminate
		in.InstanceMarketOptions = &types.InstanceMarketOptionsRequest{MarketType: types.MarketTypeSpot,
			SpotOptions: &types.SpotMarketOptions{SpotInstanceType: types.SpotInstanceTypeOneTime}}
	}
	return in, nil
}

// given returns a parameter, nil for an empty text.
func given(text string) *string {
	if text == "" {
		return nil
	}
	return &text
}

// abandon terminates the instance of a cancelled call if no list has shown it yet: Destroy
// may come before EC2 lists it.
func (b *boot) abandon(ctx context.Context) {
	if ctx.Err() == nil || !b.created || b.seen {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastWords)
	defer cancel()
	_, _ = poll(ctx, lastWords, func() (bool, error) {
		return b.c.terminate(ctx, b.id) == nil, nil // if it fails, Destroy terminates it
	})
}
