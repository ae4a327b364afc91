package ec2lab

import (
	"strconv"
	"strings"
)

// zone is an availability zone.
type zone struct {
	base
	Name   string `xml:"zoneName" filter:"zone-name"`
	State  string `xml:"zoneState" filter:"state"`
	Region string `xml:"regionName" filter:"region-name"`
	ZoneID string `xml:"zoneId" filter:"zone-id"`
	Type   string `xml:"zoneType" filter:"zone-type"`
	OptIn  string `xml:"optInStatus" filter:"opt-in-status"`
}

var zones = kind{word: "zone", param: "ZoneName", set: "availabilityZoneInfo", missing: "InvalidParameterValue", text: "Invalid availability zone: [%s]"}

func (z *zone) kind() *kind { return &zones }
func (z *zone) id() string  { return z.Name }

// vpc is a VPC.
type vpc struct {
	base
	ID      string `xml:"vpcId" filter:"vpc-id"`
	State   string `xml:"state" filter:"state"`
	CIDR    string `xml:"cidrBlock" filter:"cidr"`
	Default bool   `xml:"isDefault" filter:"is-default"`
	Owner   string `xml:"ownerId" filter:"owner-id"`
}

var vpcs = kind{word: "vpc", prefix: "vpc-", param: "VpcId", set: "vpcSet", missing: "InvalidVpcID.NotFound", text: "The vpc ID '%s' does not exist", malformed: "InvalidVpcID.Malformed", least: 5, most: 1000}

func (v *vpc) kind() *kind { return &vpcs }
func (v *vpc) id() string  { return v.ID }

// subnet is a subnet of a VPC.
type subnet struct {
	base
	ID      string `xml:"subnetId" filter:"subnet-id"`
	State   string `xml:"state" filter:"state"`
	VPC     string `xml:"vpcId" filter:"vpc-id"`
	CIDR    string `xml:"cidrBlock" filter:"cidr-block"`
	Free    int    `xml:"availableIpAddressCount"`
	Zone    string `xml:"availabilityZone" filter:"availability-zone"`
	ZoneID  string `xml:"availabilityZoneId" filter:"availability-zone-id"`
	Default bool   `xml:"defaultForAz" filter:"default-for-az"`
	Public  bool   `xml:"mapPublicIpOnLaunch" filter:"map-public-ip-on-launch"`
	Owner   string `xml:"ownerId" filter:"owner-id"`
}

var subnets = kind{word: "subnet", prefix: "subnet-", param: "SubnetId", set: "subnetSet", missing: "InvalidSubnetID.NotFound", text: "The subnet ID '%s' does not exist", malformed: "InvalidSubnetID.Malformed", least: 5, most: 1000}

func (s *subnet) kind() *kind { return &subnets }
func (s *subnet) id() string  { return s.ID }

// address is an Elastic IP.
type address struct {
	base
	ID          string `xml:"allocationId" filter:"allocation-id"`
	IP          string `xml:"publicIp" filter:"public-ip"`
	Domain      string `xml:"domain" filter:"domain"`
	Association string `xml:"associationId,omitempty" filter:"association-id"`
	Instance    string `xml:"instanceId,omitempty" filter:"instance-id"`
	Interface   string `xml:"networkInterfaceId,omitempty" filter:"network-interface-id"`
	Private     string `xml:"privateIpAddress,omitempty" filter:"private-ip-address"`
}

var addresses = kind{word: "elastic-ip", prefix: "eipalloc-", param: "AllocationId", set: "addressesSet", missing: "InvalidAllocationID.NotFound", text: "The allocation ID '%s' does not exist", malformed: "InvalidAllocationID.Malformed"}

func (a *address) kind() *kind  { return &addresses }
func (a *address) id() string   { return a.ID }
func (a *address) line() string { return strings.TrimSpace("address " + a.ID + " " + a.Instance) }

// placementGroup is a placement group.
type placementGroup struct {
	base
	ID       string `xml:"groupId"`
	Name     string `xml:"groupName" filter:"group-name"`
	Strategy string `xml:"strategy" filter:"strategy"`
	State    string `xml:"state" filter:"state"`
}

var placementGroups = kind{word: "placement-group", param: "GroupName", set: "placementGroupSet", missing: "InvalidPlacementGroup.Unknown", text: "The Placement Group '%s' is unknown."}

func (g *placementGroup) kind() *kind { return &placementGroups }
func (g *placementGroup) id() string  { return g.Name }

// furnish puts into the lab what an account has from the start.
func (l *Lab) furnish() {
	l.furnishTypes()
	l.furnishImages()
	v := &vpc{ID: newID("vpc-"), State: "available", CIDR: "172.31.0.0/16", Default: true, Owner: account}
	l.add(v)
	for i, letter := range []string{"a", "b", "c", "a"} {
		n := strconv.Itoa(i + 1)
		if i < 3 {
			l.add(&zone{Name: region + letter, State: "available", Region: region, ZoneID: "euw1-az" + n, Type: "availability-zone", OptIn: "opt-in-not-required"})
		}
		l.add(&subnet{
			ID: newID("subnet-"), State: "available", VPC: v.ID, CIDR: "172.31." + strconv.Itoa(16*i) + ".0/20", Free: 4091,
			Zone: region + letter, ZoneID: "euw1-az" + strconv.Itoa(i%3+1), Default: i < 3, Public: i < 3, Owner: account,
		})
	}
	sg := newID("sg-")
	l.add(&securityGroup{ID: sg, Name: "default", VPC: v.ID, Description: "default VPC security group", Owner: account, In: []rule{{Protocol: "-1", Groups: []peer{{account, sg}}}}})
	l.add(&securityGroup{ID: newID("sg-"), Name: "closed", VPC: v.ID, Description: "lets nothing in", Owner: account})
	l.add(&keyPair{ID: newID("key-"), Name: "ann", Fingerprint: "1f:51:ae:28:bf:89:e9:d8:1f:25:5d:37:2d:7d:b8:ca:9f:f5:f1:6f", Type: "rsa"})
	l.add(&placementGroup{ID: newID("pg-"), Name: "near", Strategy: "spread", State: "available"})
	l.add(&address{ID: newID("eipalloc-"), IP: l.nextAddress(), Domain: "vpc"})
	l.add(&address{ID: newID("eipalloc-"), IP: l.nextAddress(), Domain: "vpc"})
	l.targets.ARN = "arn:aws:elasticloadbalancing:" + region + ":" + account + ":targetgroup/web/73e2d6bc24d8a067"
	l.targets.VPC = v.ID
}

// ids returns the ids of the resources of a type, in the order of creation.
func ids[T resource](l *Lab) (all []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for r := range kept[T](l) {
		all = append(all, r.id())
	}
	return all
}

// Subnets returns the subnets of eu-west-1a, b and c. Instances in them get public
// addresses.
func (l *Lab) Subnets() []string { return ids[*subnet](l)[:3] }

// PrivateSubnet returns a subnet of eu-west-1a whose instances get no public address.
func (l *Lab) PrivateSubnet() string { return ids[*subnet](l)[3] }

// SecurityGroup returns the default security group.
func (l *Lab) SecurityGroup() string { return ids[*securityGroup](l)[0] }

// ClosedGroup returns a security group without rules: it lets nothing in.
func (l *Lab) ClosedGroup() string { return ids[*securityGroup](l)[1] }

// ElasticIP returns the allocation id of an Elastic IP.
func (l *Lab) ElasticIP() string { return ids[*address](l)[0] }

func associateAddress(r *request) (any, error) {
	id := r.get("AllocationId")
	if err := r.allow(addresses.arn(id)); err != nil {
		return nil, err
	}
	a, err := find[*address](r.lab, id)
	if err != nil {
		return nil, err
	}
	if r.has("PublicIp") || r.has("NetworkInterfaceId") || !r.has("InstanceId") {
		return nil, refuse("InvalidParameterCombination", "The lab needs AllocationId and InstanceId")
	}
	i, err := find[*instance](r.lab, r.get("InstanceId"))
	if err != nil {
		return nil, err
	}
	if i.State.Name != "running" && i.State.Name != "stopped" {
		return nil, refuse("InvalidInstanceID", "The %s instance '%s' is not in a valid state for this operation.", i.State.Name, i.ID)
	}
	if again := r.bool("AllowReassociation", true); a.Instance != "" && a.Instance != i.ID && !again {
		return nil, refuse("Resource.AlreadyAssociated", "resource %s is already associated with associate-id %s", id, a.Association)
	}
	if err := r.dry(); err != nil {
		return nil, err
	}
	if a.Instance != i.ID {
		for o := range kept[*address](r.lab) {
			if o.Instance == i.ID {
				r.lab.release(o)
			}
		}
		r.lab.release(a)
		a.Association, a.Instance, a.Interface, a.Private = newID("eipassoc-"), i.ID, i.Interfaces[0].ID, i.PrivateIP
		i.setPublic(a.IP)
	}
	return struct {
		Return      bool   `xml:"return"`
		Association string `xml:"associationId"`
	}{true, a.Association}, nil
}

// elastic reports whether an instance has an Elastic IP.
func (l *Lab) elastic(i *instance) bool {
	for a := range kept[*address](l) {
		if a.Instance == i.ID {
			return true
		}
	}
	return false
}

// release takes an Elastic IP from its instance, which gets another address if its
// subnet gives some.
func (l *Lab) release(a *address) {
	for i := range kept[*instance](l) {
		if i.ID == a.Instance && i.State.Name != "terminated" {
			i.setPublic("")
			if i.public {
				i.setPublic(l.nextAddress())
			}
		}
	}
	a.Association, a.Instance, a.Interface, a.Private = "", "", "", ""
}

func disassociateAddress(r *request) (any, error) {
	id := r.get("AssociationId")
	if err := r.allow(addresses.arn("*")); err != nil {
		return nil, err
	}
	for a := range kept[*address](r.lab) {
		if id != "" && a.Association == id {
			if err := r.dry(); err != nil {
				return nil, err
			}
			r.lab.release(a)
			return done, nil
		}
	}
	return nil, refuse("InvalidAssociationID.NotFound", "The association ID '%s' does not exist", id)
}
