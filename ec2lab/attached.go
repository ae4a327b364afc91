package ec2lab

// volume is a volume, of an instance or its own.
type volume struct {
	base
	ID          string       `xml:"volumeId" filter:"volume-id"`
	Size        int          `xml:"size" filter:"size"`
	Snapshot    string       `xml:"snapshotId" filter:"snapshot-id"`
	Zone        string       `xml:"availabilityZone" filter:"availability-zone"`
	State       string       `xml:"status" filter:"status"`
	Created     string       `xml:"createTime" filter:"create-time"`
	Attachments []attachment `xml:"attachmentSet>item"`
	Type        string       `xml:"volumeType" filter:"volume-type"`
	Encrypted   bool         `xml:"encrypted" filter:"encrypted"`

	file string // has its bytes
}

type attachment struct {
	Volume   string `xml:"volumeId"`
	Instance string `xml:"instanceId" filter:"attachment.instance-id"`
	Device   string `xml:"device" filter:"attachment.device"`
	State    string `xml:"status" filter:"attachment.status"`
	At       string `xml:"attachTime" filter:"attachment.attach-time"`
	Delete   bool   `xml:"deleteOnTermination" filter:"attachment.delete-on-termination"`
}

var volumes = kind{word: "volume", prefix: "vol-", param: "VolumeId", set: "volumeSet", missing: "InvalidVolume.NotFound", text: "The volume '%s' does not exist.", malformed: "InvalidParameterValue", least: 5, most: 1000}

func (v *volume) kind() *kind  { return &volumes }
func (v *volume) id() string   { return v.ID }
func (v *volume) line() string { return "volume " + v.ID + " " + v.State }

// netInterface is a network interface of an instance.
type netInterface struct {
	base
	card
	Instance string `xml:"attachment>instanceId" filter:"attachment.instance-id"`
}

// card is what an instance shows of its network interface.
type card struct {
	ID      string     `xml:"networkInterfaceId" filter:"network-interface-id"`
	Subnet  string     `xml:"subnetId" filter:"subnet-id"`
	VPC     string     `xml:"vpcId" filter:"vpc-id"`
	State   string     `xml:"status" filter:"status"`
	Private string     `xml:"privateIpAddress" filter:"private-ip-address"`
	Groups  []groupRef `xml:"groupSet>item" filter:"-"`
	Index   int        `xml:"attachment>deviceIndex"`
	Delete  bool       `xml:"attachment>deleteOnTermination"`
}

var interfaces = kind{word: "network-interface", prefix: "eni-", param: "NetworkInterfaceId", set: "networkInterfaceSet", missing: "InvalidNetworkInterfaceID.NotFound", text: "The networkInterface ID '%s' does not exist", malformed: "InvalidNetworkInterfaceId.Malformed", least: 5, most: 1000}

func (n *netInterface) kind() *kind  { return &interfaces }
func (n *netInterface) id() string   { return n.ID }
func (n *netInterface) line() string { return "interface " + n.ID + " " + n.State }
