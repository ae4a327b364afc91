package ec2

import (
	"cmp"
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/morgana-deploy/morgana/step"
)

const (
	sshPort = 22
	// amazonLinux names the AMI of the newest Amazon Linux 2023, which EC2 looks up in
	// Systems Manager.
	amazonLinux = "resolve:ssm:/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-x86_64"
	// checkIP is AWS's service that answers with the address of the caller.
	checkIP = "https://checkip.amazonaws.com"
)

// helperNets returns the subnets for the helper in which the worker could reach it.
func (c *cloud) helperNets(ctx context.Context, o Options) ([]subnet, error) {
	ids := o.Subnets
	if o.Helper.Subnet != "" {
		ids = []string{o.Helper.Subnet}
	}
	all, err := c.subnets(ctx, ids, "")
	if err != nil {
		return nil, ofHelper(err)
	}
	nets := slices.DeleteFunc(slices.Clone(all), func(n subnet) bool { return o.Helper.PublicIP == nil && !n.public && !o.Helper.private(n.cidr) })
	if len(nets) == 0 {
		return nil, noAddress("a helper in " + all[0].id)
	}
	return nets, nil
}

// keyPair sees that EC2 has the public key of the login. The key pair's name has the id of
// the keys.
func (d *dance) keyPair(ctx context.Context) error {
	all, err := d.cloud.keyPairs(ctx, filter("key-name", d.pairName()))
	if err != nil {
		return err
	}
	if len(all) == 0 {
		step.Report(ctx, step.Progress{Note: "importing the key of the login"})
		return d.make(ctx, kindKeyPair, func() error {
			_, err := d.cloud.ec2.ImportKeyPair(ctx, d.pairInput())
			if err != nil && code(err) != "InvalidKeyPair.Duplicate" { // an earlier try has imported it
				return failed("import the key of the login", err)
			}
			return nil
		})
	}
	return nil
}

func (d *dance) pairName() string { return "morgana/" + d.folder + "/" + d.keys.id }

func (d *dance) pairInput() *ec2.ImportKeyPairInput {
	return &ec2.ImportKeyPairInput{KeyName: aws.String(d.pairName()), PublicKeyMaterial: []byte(d.keys.login),
		TagSpecifications: tagged(d.plain(), types.ResourceTypeKeyPair)}
}

// helper returns a helper that runs: the rollout's, or a new one. It ends those that have
// the keys of another worker. The zone of a volume that is there comes first.
func (d *dance) helper(ctx context.Context, nets []subnet, zone string) (types.Instance, error) {
	all, err := d.cloud.helpers(ctx, d.img.Spec.Tags)
	if err != nil {
		return types.Instance{}, err
	}
	slices.SortFunc(all, func(a, b types.Instance) int {
		return cmp.Or(aws.ToTime(a.LaunchTime).Compare(aws.ToTime(b.LaunchTime)), cmp.Compare(*a.InstanceId, *b.InstanceId))
	})
	var have types.Instance
	dead, died := 0, 0
	for _, in := range all {
		name := in.State.Name
		switch {
		case isDead(in):
			if dead++; byItself(in) || byEC2(in) {
				died++
			}
		case have.InstanceId == nil && value(in.Tags, tagHelper) == d.keys.id && (name == types.InstanceStateNamePending || name == types.InstanceStateNameRunning):
			have = in
		default:
			if err := d.cloud.terminate(ctx, *in.InstanceId); err != nil && !gone(err) {
				return have, err
			}
		}
	}
	if have.InstanceId == nil && died >= maxDied {
		return have, &step.Error{Kind: step.Conflict, Err: fmt.Errorf("%d helpers ended before their work was done", died), Hint: "another helper: {type: ...} or {image: ...}; or backing: direct"}
	}
	if have.InstanceId == nil {
		slices.SortStableFunc(nets, func(a, b subnet) int {
			switch {
			case a.zone == zone && b.zone != zone:
				return -1
			case b.zone == zone && a.zone != zone:
				return 1
			}
			return 0
		})
		if have, err = d.launch(ctx, nets, dead); err != nil {
			return have, err
		}
	}
	return d.running(ctx, *have.InstanceId)
}

// launch makes a helper in the first subnet that has capacity. attempt is the number of the
// rollout's dead helpers.
func (d *dance) launch(ctx context.Context, nets []subnet, attempt int) (in types.Instance, err error) {
	err = d.make(ctx, kindHelper, func() error {
		for _, net := range nets {
			step.Report(ctx, step.Progress{Note: "running a helper in " + net.zone})
			var made *types.Instance
			made, err = d.cloud.runNew(ctx, attempt, func(n int) (*ec2.RunInstancesInput, error) { return d.helperInput(net.id, n) },
				unknownPart, func() (bool, error) { return false, nil })
			if made != nil {
				in = *made
			}
			if err = notRun(err); !slices.Contains(elsewhere, code(err)) {
				break
			}
		}
		return err
	})
	return in, err
}

// unknownPart reports whether EC2 does not know the key pair or the group that the dance has made.
func unknownPart(err error) bool {
	c := code(err)
	return gone(err) && !strings.HasPrefix(c, "InvalidAMIID") && !strings.HasPrefix(c, "InvalidSubnetID")
}

// notRun returns the error of RunInstances. If somebody has deleted what the dance made, the
// next try makes it again, and no option is to blame.
func notRun(err error) error {
	if err = failed("run the helper", err); unknownPart(err) {
		return passing(err)
	}
	return ofHelper(err)
}

// helperInput returns the parameters of RunInstances, the same for the same attempt: EC2
// compares them.
func (d *dance) helperInput(subnet string, attempt int) (*ec2.RunInstancesInput, error) {
	token, err := d.img.Spec.Token(fmt.Sprintf("helper %d %s %s", attempt, subnet, d.keys.id))
	nic := types.InstanceNetworkInterfaceSpecification{DeviceIndex: aws.Int32(0), DeleteOnTermination: aws.Bool(true),
		AssociatePublicIpAddress: d.options.Helper.PublicIP, SubnetId: &subnet}
	if d.group != "" {
		nic.Groups = []string{d.group}
	}
	return &ec2.RunInstancesInput{
		ImageId: aws.String(cmp.Or(d.options.Helper.Image, amazonLinux)), InstanceType: types.InstanceType(d.options.Helper.Type),
		MinCount: aws.Int32(1), MaxCount: aws.Int32(1), ClientToken: &token, KeyName: aws.String(d.pairName()),
		UserData:                          aws.String(base64.StdEncoding.EncodeToString([]byte(d.keys.userData()))),
		InstanceInitiatedShutdownBehavior: types.ShutdownBehaviorTerminate,
		MetadataOptions:                   &types.InstanceMetadataOptionsRequest{HttpTokens: types.HttpTokensStateRequired},
		NetworkInterfaces:                 []types.InstanceNetworkInterfaceSpecification{nic},
		TagSpecifications: tagged(d.plain(tag(tagHelper, d.keys.id)),
			types.ResourceTypeInstance, types.ResourceTypeVolume, types.ResourceTypeNetworkInterface),
	}, err
}

// helperFields are the helper's options for what EC2 says of an instance.
var helperFields = map[string]string{"instance_type": "helper.type", "subnets": "helper.subnet", "placement.zone": "helper.subnet", "spot": "helper.type"}

// helperZones is [zones] for the helper.
const helperZones = "another helper: {type: ...}, or helper: {subnet: ...} in another zone"

// ofHelper returns an error about an instance as one about the helper.
func ofHelper(err error) error {
	return step.Amend(err, func(e *step.Error) {
		e.Field = cmp.Or(helperFields[e.Field], e.Field)
		if e.Hint == zones {
			e.Hint = helperZones
		}
		switch is := code(err); {
		case strings.HasPrefix(is, "InvalidAMIID"):
			e.Field, e.Hint = "helper.image", "name an AMI that aws ec2 describe-images lists in the region, or leave it out"
		case is == "Unsupported":
			e.Field = "helper.type"
		case is == "InvalidVolume.ZoneMismatch":
			e.Kind, e.Hint = step.Conflict, "a volume is for instances of its own zone: destroy this rollout and deploy again"
		}
	})
}

// running waits until a helper runs.
func (d *dance) running(ctx context.Context, id string) (in types.Instance, err error) {
	err = d.await(ctx, "started the helper "+id, func() (bool, error) {
		step.Report(ctx, step.Progress{Note: "waiting for the helper " + id + " to run"})
		in, err = d.listedHelper(ctx, id)
		return in.State != nil && in.State.Name == types.InstanceStateNameRunning && in.Placement != nil, err
	})
	if err == nil && aws.ToString(in.PublicIpAddress) == "" && !d.options.Helper.private(aws.ToString(in.PrivateIpAddress)+"/16") {
		err = noAddress("the helper " + id)
	}
	return in, err
}

// listedHelper returns a helper as EC2 lists it, one without a state if EC2 does not list it.
// One that has ended is an error: the next try makes another.
func (d *dance) listedHelper(ctx context.Context, id string) (types.Instance, error) {
	all, err := d.cloud.helpers(ctx, d.img.Spec.Tags)
	for _, in := range all {
		if *in.InstanceId == id && isDead(in) {
			return in, fmt.Errorf("the helper %s %s", id, reason(in))
		}
		if *in.InstanceId == id {
			return in, nil
		}
	}
	return types.Instance{}, err
}

// noAddress is the error for a helper that the worker cannot reach.
func noAddress(what string) error {
	return step.Invalid("helper.public_ip", "helper: {public_ip: true}; or {public_ip: false} if the worker reaches private addresses by a VPN; or a helper.subnet that gives public addresses",
		"%s has no public address, so the worker cannot reach it", what)
}

// private reports whether the worker reaches the private addresses of a prefix.
func (h Helper) private(prefix string) bool {
	if h.PublicIP != nil {
		return !*h.PublicIP
	}
	own, err := net.InterfaceAddrs()
	return err == nil && near(prefix, own)
}

// helperAddress is the address of a helper for the worker.
func helperAddress(in types.Instance) string {
	return cmp.Or(aws.ToString(in.PublicIpAddress), aws.ToString(in.PrivateIpAddress))
}

// workerAddress returns the prefix from which this host reaches a helper.
func (d *dance) workerAddress(ctx context.Context, helper types.Instance) (string, error) {
	from := d.options.Helper.From
	if from == "" {
		var err error
		if from, err = addressTowards(ctx, helperAddress(helper), checkIP); err != nil {
			return "", err
		}
	}
	p, err := prefixOf(from)
	return p.String(), err
}

// addressTowards returns the address by which a host sees this one. NAT may be between this host
// and one in the internet, so the service tells it.
func addressTowards(ctx context.Context, host, service string) (string, error) {
	if internal(host) {
		return localAddress(ctx, host)
	}
	return addressSeen(ctx, service)
}

// internal reports whether an address is not one of the internet.
func internal(address string) bool {
	a, err := netip.ParseAddr(address)
	shared := netip.MustParsePrefix("100.64.0.0/10") // of carriers' NAT
	return err == nil && (a.IsPrivate() || a.IsLoopback() || a.IsLinkLocalUnicast() || shared.Contains(a))
}

// localAddress returns the address of this host from which packets to a host go. It sends
// none.
func localAddress(ctx context.Context, host string) (string, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "udp4", net.JoinHostPort(host, fmt.Sprint(sshPort)))
	if err != nil {
		return "", fmt.Errorf("find this host's address towards %s: %w", host, err)
	}
	defer conn.Close() //nolint:errcheck // nothing was sent
	return conn.LocalAddr().(*net.UDPAddr).IP.String(), nil
}

// addressSeen asks a service by which address it sees this host. It uses no proxy, because
// ssh uses none.
func addressSeen(ctx context.Context, service string) (string, error) {
	const hint = "name it: helper: {from: 203.0.113.7}"
	var d net.Dialer
	client := http.Client{Timeout: callTimeout, Transport: &http.Transport{DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, to string) (net.Conn, error) { return d.DialContext(ctx, "tcp4", to) }}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, service, http.NoBody)
	if err != nil {
		return "", err
	}
	out, err := client.Do(request)
	if err != nil {
		return "", &step.Error{Op: "find the address of this host", Hint: hint, Err: said{plainest(err), err}}
	}
	defer out.Body.Close() //nolint:errcheck // only read
	text, err := io.ReadAll(io.LimitReader(out.Body, 100))
	if err != nil {
		return "", err
	}
	from := strings.TrimSpace(string(text))
	if _, err := netip.ParseAddr(from); err != nil || out.StatusCode != http.StatusOK {
		return "", &step.Error{Kind: step.NotFound, Op: "find the address of this host", Field: "helper.from", Hint: hint, Err: fmt.Errorf("%s does not answer with an address (HTTP %d)", service, out.StatusCode)}
	}
	return from, nil
}

// prefixOf parses an IPv4 address or prefix.
func prefixOf(text string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(text); err == nil {
		text = netip.PrefixFrom(a, a.BitLen()).String()
	}
	p, err := netip.ParsePrefix(text)
	switch {
	case err != nil || !p.Addr().Is4():
		return p, fmt.Errorf("%q is no IPv4 address or prefix", text)
	case p.Bits() < 8:
		return p, fmt.Errorf("%q is nearly everybody", text)
	case p != p.Masked():
		return p, fmt.Errorf("%q has bits behind the prefix: %s", text, p.Masked())
	}
	return p, nil
}
