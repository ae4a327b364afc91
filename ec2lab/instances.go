package ec2lab

import (
	"encoding/base64"
	"maps"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// instance is an instance.
type instance struct {
	base
	ID         string         `xml:"instanceId" filter:"instance-id"`
	Image      string         `xml:"imageId" filter:"image-id"`
	State      state          `xml:"instanceState"`
	PrivateDNS string         `xml:"privateDnsName"`
	DNS        string         `xml:"dnsName" filter:"dns-name"`
	Reason     string         `xml:"reason"`
	Key        string         `xml:"keyName,omitempty" filter:"key-name"`
	Index      int            `xml:"amiLaunchIndex"`
	Type       string         `xml:"instanceType" filter:"instance-type"`
	Launched   string         `xml:"launchTime" filter:"launch-time"`
	Place      place          `xml:"placement"`
	Kernel     string         `xml:"kernelId,omitempty" filter:"kernel-id"`
	Subnet     string         `xml:"subnetId,omitempty" filter:"subnet-id"`
	VPC        string         `xml:"vpcId,omitempty" filter:"vpc-id"`
	PrivateIP  string         `xml:"privateIpAddress,omitempty" filter:"private-ip-address"`
	IP         string         `xml:"ipAddress,omitempty" filter:"ip-address"`
	Groups     []groupRef     `xml:"groupSet>item"`
	StateWhy   *why           `xml:"stateReason"`
	Arch       string         `xml:"architecture" filter:"architecture"`
	RootType   string         `xml:"rootDeviceType"`
	RootName   string         `xml:"rootDeviceName"`
	Disks      []attachedDisk `xml:"blockDeviceMapping>item"`
	Virt       string         `xml:"virtualizationType" filter:"virtualization-type"`
	Lifecycle  string         `xml:"instanceLifecycle,omitempty" filter:"instance-lifecycle"`
	Token      string         `xml:"clientToken" filter:"client-token"`
	Hypervisor string         `xml:"hypervisor"`
	Interfaces []card         `xml:"networkInterfaceSet>item" filter:"-"`
	Profile    *profile       `xml:"iamInstanceProfile"`
	ENA        bool           `xml:"enaSupport,omitempty"`
	BootMode   string         `xml:"bootMode,omitempty"`
	BootedAs   string         `xml:"currentInstanceBootMode,omitempty"`
	Metadata   metadata       `xml:"metadataOptions"`

	reservation string
	onShutdown  string
	protected   bool
	public      bool // has a public address of its subnet
	born        time.Time
	running     Running
	text        []byte // of the console of a guest that has ended
	linux       *Linux // of an Amazon Linux
	sshd        time.Time
	door        door
}

type state struct {
	Code int    `xml:"code" filter:"instance-state-code"`
	Name string `xml:"name" filter:"instance-state-name"`
}

func stateOf(name string) state {
	return state{map[string]int{"running": 16, "shutting-down": 32, "terminated": 48, "stopping": 64, "stopped": 80}[name], name}
}

type why struct {
	Code    string `xml:"code"`
	Message string `xml:"message"`
}

type place struct {
	Zone    string `xml:"availabilityZone" filter:"availability-zone"`
	Group   string `xml:"groupName" filter:"placement-group-name"`
	Tenancy string `xml:"tenancy" filter:"tenancy"`
}

type groupRef struct {
	ID   string `xml:"groupId" filter:"instance.group-id"`
	Name string `xml:"groupName" filter:"instance.group-name"`
}

type attachedDisk struct {
	Device string `xml:"deviceName" filter:"block-device-mapping.device-name"`
	EBS    struct {
		Volume string `xml:"volumeId" filter:"block-device-mapping.volume-id"`
		Status string `xml:"status" filter:"block-device-mapping.status"`
		Delete bool   `xml:"deleteOnTermination"`
	} `xml:"ebs"`
}

type profile struct {
	ARN string `xml:"arn" filter:"iam-instance-profile.arn"`
	ID  string `xml:"id"`
}

type metadata struct {
	State  string `xml:"state"`
	Tokens string `xml:"httpTokens"`
	HTTP   string `xml:"httpEndpoint"`
}

// instances has the code of a hidden instance too.
var instances = kind{word: "instance", prefix: "i-", param: "InstanceId", missing: "InvalidInstanceID.NotFound", text: "The instance ID '%s' does not exist", malformed: "InvalidInstanceID.Malformed", least: 5, most: 1000}

func (i *instance) kind() *kind { return &instances }
func (i *instance) id() string  { return i.ID }
func (i *instance) line() string {
	if i.State.Name == "terminated" {
		return ""
	}
	return "instance " + i.ID + " " + i.State.Name
}

func (i *instance) setPublic(ip string) {
	i.IP, i.DNS = ip, ""
	if ip != "" {
		i.DNS = "ec2-" + strings.ReplaceAll(ip, ".", "-") + "." + region + ".compute.amazonaws.com"
	}
}

// reservation is what RunInstances answers and DescribeInstances lists.
type reservation struct {
	ID    string      `xml:"reservationId"`
	Owner string      `xml:"ownerId"`
	Items []*instance `xml:"instancesSet>item"`
}

func describeInstances(r *request) (any, error) {
	all, next, err := selected[*instance](r, nil)
	var items []reservation
	for _, i := range all {
		items = append(items, reservation{i.reservation, account, []*instance{i}})
	}
	return page{listed("reservationSet", items), next}, err
}

// settle notices guests that have ended.
func (l *Lab) settle() {
	for i := range kept[*instance](l) {
		if i.State.Name != "running" || i.running == nil || !i.running.Ended() {
			continue
		}
		i.StateWhy = &why{"Client.InstanceInitiatedShutdown", "Client.InstanceInitiatedShutdown: Instance initiated shutdown"}
		if i.onShutdown == "terminate" {
			l.terminate(i, false)
			continue
		}
		i.State = stateOf("stopping")
		l.power(i, false, func() {
			i.State = stateOf("stopped")
			if !l.elastic(i) {
				i.setPublic("")
			}
		})
	}
}

// power ends the guest of an instance, and then changes the lab.
func (l *Lab) power(i *instance, stuck bool, then func()) {
	guest := i.running
	i.running = nil
	l.tend()
	if guest == nil {
		l.after(stuck, then)
		return
	}
	l.work.Go(func() {
		text, _ := guest.Console()
		err := guest.Stop()
		l.set(func() {
			i.text = text
			if err != nil {
				i.StateWhy = &why{"Server.InternalError", err.Error()}
			}
		})
		l.after(stuck, then)
	})
}

// terminate ends an instance and what belongs to it.
func (l *Lab) terminate(i *instance, stuck bool) {
	if i.State.Name == "shutting-down" || i.State.Name == "terminated" {
		return
	}
	i.State = stateOf("shutting-down")
	for a := range kept[*address](l) {
		if a.Instance == i.ID {
			l.release(a)
		}
	}
	l.power(i, stuck, func() {
		i.State = stateOf("terminated")
		i.setPublic("")
		i.PrivateIP, i.PrivateDNS, i.Subnet, i.VPC, i.Interfaces, i.Disks, i.Groups = "", "", "", "", nil, nil, nil
		for v := range kept[*volume](l) {
			if len(v.Attachments) > 0 && v.Attachments[0].Instance == i.ID {
				v.gone, v.State = v.Attachments[0].Delete, "available"
				v.Attachments = nil
			}
		}
		for n := range kept[*netInterface](l) {
			if n.Instance == i.ID {
				n.gone, n.Instance, n.State = n.Delete, "", "available"
			}
		}
	})
}

func terminateInstances(r *request) (any, error) {
	if err := r.allow(instances.arn(r.get("InstanceId.1"))); err != nil {
		return nil, err
	}
	var all []*instance
	for _, id := range r.list("InstanceId") {
		i, err := find[*instance](r.lab, id)
		if err != nil {
			return nil, err
		}
		if i.protected {
			return nil, refuse("OperationNotPermitted", "The instance '%s' may not be terminated. Modify its 'disableApiTermination' instance attribute and try again.", id)
		}
		all = append(all, i)
	}
	if err := r.dry(); err != nil {
		return nil, err
	}
	type change struct {
		ID     string `xml:"instanceId"`
		Now    state  `xml:"currentState"`
		Before state  `xml:"previousState"`
	}
	var changes []change
	for _, i := range all {
		before := i.State
		i.StateWhy = &why{"Client.UserInitiatedShutdown", "Client.UserInitiatedShutdown: User initiated shutdown"}
		r.lab.terminate(i, r.stuck)
		changes = append(changes, change{i.ID, i.State, before})
	}
	return struct{ Set list }{listed("instancesSet", changes)}, nil
}

func consoleOutput(r *request) (any, error) {
	i, err := find[*instance](r.lab, r.get("InstanceId"))
	if err != nil {
		return nil, err
	}
	latest := r.bool("Latest", false)
	t, err := find[*instanceType](r.lab, i.Type)
	if err != nil {
		return nil, err
	}
	if latest && !t.nitro() {
		return nil, refuse("UnsupportedOperation", "This instance type does not support retrieving the latest console logs. Supported instance types include those built on the AWS Nitro System.")
	}
	text := i.text
	switch {
	case !latest && time.Since(i.born) < r.lab.late:
		text = nil
	case i.running != nil:
		if text, err = i.running.Console(); err != nil {
			return nil, err
		}
	case r.lab.options.Hypervisor == nil && i.State.Name != "pending":
		text = []byte(r.lab.console(i.ID))
	}
	text = text[max(0, len(text)-64<<10):]
	return struct {
		ID     string `xml:"instanceId"`
		At     string `xml:"timestamp"`
		Output string `xml:"output,omitempty"`
	}{i.ID, now(), base64.StdEncoding.EncodeToString(text)}, nil
}

// disk returns the path of the root disk of an instance that has a guest.
func (l *Lab) disk(i *instance) string { return filepath.Join(l.dir, i.ID+".raw") }

// start starts the guest of an instance, whose disk write makes.
func (l *Lab) start(i *instance, write func(path string) error, layout string, memory int, stuck bool) {
	if l.options.Hypervisor == nil {
		l.after(stuck, func() { l.started(i, nil, nil) })
		return
	}
	l.work.Go(func() {
		disk := l.disk(i)
		err := write(disk)
		var guest Running
		if err == nil {
			guest, err = l.options.Hypervisor.Start(l.ctx, Guest{
				ID: i.ID, Disk: disk, Virtualization: i.Virt, BootMode: i.BootedAs, Layout: layout, Memory: min(memory, 256), Linux: i.linux,
			})
		}
		l.set(func() { l.started(i, guest, err) })
	})
}

// started gives an instance its guest.
func (l *Lab) started(i *instance, guest Running, err error) {
	if err == nil {
		i.running = guest
	}
	switch {
	case err != nil:
		i.StateWhy = &why{"Server.InternalError", err.Error()}
		l.terminate(i, false)
	case i.State.Name == "pending":
		i.State = stateOf("running")
	default: // it was terminated meanwhile
		l.power(i, false, func() {})
	}
	l.tend()
}

// sameRequest is a request but for what may differ when it is sent again.
func sameRequest(v url.Values) string {
	v = maps.Clone(v)
	v.Del("DryRun")
	return v.Encode()
}

// launched returns the instances that a client token has made.
func (r *request) launched(token string) (all []*instance, err error) {
	for i := range kept[*instance](r.lab) {
		if token == "" || i.Token != token {
			continue
		}
		if i.asked != sameRequest(r.v) {
			return nil, refuse("IdempotentParameterMismatch", "")
		}
		all = append(all, i)
	}
	if slices.ContainsFunc(all, func(i *instance) bool { return i.State.Name == "terminated" || i.State.Name == "shutting-down" }) {
		return nil, refuse("IdempotentInstanceTerminated", "")
	}
	return all, nil
}
