package ec2

import (
	"cmp"
	"context"
	"os/exec"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/morgana-deploy/morgana/step"
)

// helper completes the options of the helper, and refuses one that the worker could not
// reach, or that EC2 would not run.
func (k *checker) helper(ctx context.Context) error {
	if k.Backing != backingVolume {
		return nil
	}
	for _, tool := range []string{"ssh", "ssh-keygen"} {
		if _, err := exec.LookPath(tool); err != nil {
			return noSSH
		}
	}
	k.Helper.Type, k.Helper.User = cmp.Or(k.Helper.Type, "t3.micro"), cmp.Or(k.Helper.User, "ec2-user")
	nets, err := k.helperNets(ctx, k.Options)
	if err != nil {
		return err
	}
	if err := k.offered(ctx, k.Helper.Type, "helper.type", nets); err != nil {
		return err
	}
	return k.tryHelper(ctx, nets[0])
}

// tryHelper makes dry runs of what a dance makes. Quotas and capacity are not seen.
func (k *checker) tryHelper(ctx context.Context, n subnet) error {
	d := &dance{registering: &registering{cloud: k.cloud, options: k.Options, img: step.Image{Spec: step.Spec{Tags: k.tags}}, ami: ami{Size: 1, Encrypted: k.Encrypted}},
		keys: &helperKeys{login: sampleKey}}
	var err error
	if d.folder, err = k.tags.Folder(); err != nil {
		return err
	}
	run, err := d.helperInput(n.id, 0)
	if err != nil {
		return err
	}
	volume, err := d.volumeInput(n.zone, 0)
	if err != nil {
		return err
	}
	pair, group := d.pairInput(), d.groupInput(d.groupName(), n.vpc)
	run.DryRun, pair.DryRun, group.DryRun, volume.DryRun = aws.Bool(true), aws.Bool(true), aws.Bool(true), aws.Bool(true)
	// The tokens stay unused, and there are no keys yet.
	run.ClientToken, volume.ClientToken, run.KeyName, run.UserData = nil, nil, nil, nil
	for _, try := range []struct {
		what string
		call func() error
	}{
		{"run the helper", func() error { _, err := k.ec2.RunInstances(ctx, run); return err }},
		{"import a key pair", func() error { _, err := k.ec2.ImportKeyPair(ctx, pair); return err }},
		{"make a security group", func() error { _, err := k.ec2.CreateSecurityGroup(ctx, group); return err }},
		{"make a volume", func() error { _, err := k.ec2.CreateVolume(ctx, volume); return err }},
	} {
		err := try.call()
		if c := code(err); c == "DryRunOperation" || strings.HasSuffix(c, ".Duplicate") || slices.Contains(elsewhere, c) {
			continue
		}
		if err = ofHelper(failed("try to "+try.what, err)); step.KindOf(err).Final() {
			return err
		}
	}
	return nil
}

// sampleKey is a public key whose private key nobody has, for a dry run.
const sampleKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f"
