package ec2lab

import "strconv"

// volume is a volume of an instance.
type volume struct {
	base
	ID          string       `xml:"volumeId"`
	Size        int          `xml:"size"`
	Snapshot    string       `xml:"snapshotId"`
	Zone        string       `xml:"availabilityZone"`
	State       string       `xml:"status"`
	Created     string       `xml:"createTime"`
	Attachments []attachment `xml:"attachmentSet>item"`
	Type        string       `xml:"volumeType"`
	Encrypted   bool         `xml:"encrypted"`
}

type attachment struct {
	Volume   string `xml:"volumeId"`
	Instance string `xml:"instanceId"`
	Device   string `xml:"device"`
	State    string `xml:"status"`
	Delete   bool   `xml:"deleteOnTermination"`
}

var volumes = kind{word: "volume", prefix: "vol-", param: "VolumeId", set: "volumeSet", missing: "InvalidVolume.NotFound", text: "The volume '%s' does not exist.", malformed: "InvalidParameterValue", least: 5, most: 1000}

func (v *volume) kind() *kind  { return &volumes }
func (v *volume) id() string   { return v.ID }
func (v *volume) line() string { return "volume " + v.ID + " " + v.State }
func (v *volume) attrs() map[string][]string {
	if v == nil {
		v = &volume{}
	}
	a := map[string][]string{"volume-id": {v.ID}, "status": {v.State}, "snapshot-id": {v.Snapshot}, "size": {strconv.Itoa(v.Size)}, "availability-zone": {v.Zone}, "attachment.instance-id": nil}
	for _, t := range v.Attachments {
		a["attachment.instance-id"] = append(a["attachment.instance-id"], t.Instance)
	}
	return a
}

// netInterface is a network interface of an instance.
type netInterface struct {
	base
	ID       string     `xml:"networkInterfaceId"`
	Subnet   string     `xml:"subnetId"`
	VPC      string     `xml:"vpcId"`
	State    string     `xml:"status"`
	Private  string     `xml:"privateIpAddress"`
	Groups   []groupRef `xml:"groupSet>item"`
	Instance string     `xml:"attachment>instanceId"`
	Index    int        `xml:"attachment>deviceIndex"`
	Delete   bool       `xml:"attachment>deleteOnTermination"`
}

var interfaces = kind{word: "network-interface", prefix: "eni-", param: "NetworkInterfaceId", set: "networkInterfaceSet", missing: "InvalidNetworkInterfaceID.NotFound", text: "The networkInterface ID '%s' does not exist", malformed: "InvalidNetworkInterfaceId.Malformed", least: 5, most: 1000}

func (n *netInterface) kind() *kind  { return &interfaces }
func (n *netInterface) id() string   { return n.ID }
func (n *netInterface) line() string { return "interface " + n.ID + " " + n.State }
func (n *netInterface) attrs() map[string][]string {
	if n == nil {
		n = &netInterface{}
	}
	return map[string][]string{"network-interface-id": {n.ID}, "subnet-id": {n.Subnet}, "vpc-id": {n.VPC}, "status": {n.State}, "attachment.instance-id": {n.Instance}, "private-ip-address": {n.Private}}
}

func deleteVolume(r *request) (any, error) {
	if err := r.allow(arn("volume/" + r.get("VolumeId"))); err != nil {
		return nil, err
	}
	v, err := find[*volume](r.lab, r.get("VolumeId"))
	if err != nil {
		return nil, err
	}
	if err := r.dry(); err != nil {
		return nil, err
	}
	if len(v.Attachments) > 0 {
		return nil, refuse("VolumeInUse", "Volume %s is currently attached to %s", v.ID, v.Attachments[0].Instance)
	}
	v.gone = true
	return done, nil
}

func deleteInterface(r *request) (any, error) {
	if err := r.allow(arn("network-interface/" + r.get("NetworkInterfaceId"))); err != nil {
		return nil, err
	}
	n, err := find[*netInterface](r.lab, r.get("NetworkInterfaceId"))
	if err != nil {
		return nil, err
	}
	if err := r.dry(); err != nil {
		return nil, err
	}
	if n.Instance != "" {
		return nil, refuse("InvalidParameterValue", "Network interface '%s' is currently in use.", n.ID)
	}
	n.gone = true
	return done, nil
}
