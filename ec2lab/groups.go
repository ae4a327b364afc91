package ec2lab

import (
	"cmp"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// securityGroup is a security group.
type securityGroup struct {
	base
	ID          string `xml:"groupId" filter:"group-id"`
	Name        string `xml:"groupName" filter:"group-name"`
	VPC         string `xml:"vpcId" filter:"vpc-id"`
	Description string `xml:"groupDescription" filter:"description"`
	Owner       string `xml:"ownerId" filter:"owner-id"`
	In          []rule `xml:"ipPermissions>item"`
}

// rule lets traffic of a protocol into a security group.
type rule struct {
	Protocol string  `xml:"ipProtocol" filter:"ip-permission.protocol"` // "-1" is all
	From     string  `xml:"fromPort,omitempty" filter:"ip-permission.from-port"`
	To       string  `xml:"toPort,omitempty" filter:"ip-permission.to-port"`
	Groups   []peer  `xml:"groups>item"`
	Ranges   []peer4 `xml:"ipRanges>item"`
	Ranges6  []peer6 `xml:"ipv6Ranges>item"`
}

type peer struct {
	User  string `xml:"userId,omitempty"`
	Group string `xml:"groupId" filter:"ip-permission.group-id"`
}

type peer4 struct {
	CIDR        string `xml:"cidrIp" filter:"ip-permission.cidr"`
	Description string `xml:"description,omitempty"`
}

type peer6 struct {
	CIDR        string `xml:"cidrIpv6" filter:"ip-permission.ipv6-cidr"`
	Description string `xml:"description,omitempty"`
}

var securityGroups = kind{
	word: "security-group", prefix: "sg-", param: "GroupId", also: "GroupName", set: "securityGroupInfo",
	missing: "InvalidGroup.NotFound", text: "The security group '%s' does not exist", malformed: "InvalidGroupId.Malformed", least: 5, most: 1000,
}

func (g *securityGroup) kind() *kind   { return &securityGroups }
func (g *securityGroup) id() string    { return g.ID }
func (g *securityGroup) label() string { return g.Name }
func (g *securityGroup) line() string {
	if g.asked == "" { // it was there from the start
		return ""
	}
	return "security-group " + g.ID
}

func createGroup(r *request) (*securityGroup, error) {
	g := &securityGroup{ID: newID(securityGroups.prefix), Name: r.get("GroupName"), Description: r.get("GroupDescription"), VPC: r.get("VpcId"), Owner: account}
	if g.VPC == "" {
		v, err := look(r.lab, "", func(v *vpc) bool { return v.Default })
		if err != nil {
			return nil, refuse("VPCIdNotSpecified", "No default VPC for this user")
		}
		g.VPC = v.ID
	} else if _, err := find[*vpc](r.lab, g.VPC); err != nil {
		return nil, err
	}
	for name, value := range map[string]string{"GroupName": g.Name, "GroupDescription": g.Description} {
		if !groupText(value) {
			return nil, refuse("InvalidParameterValue", "Value (%s) for parameter %s is invalid. Character sets beyond ASCII are not supported.", value, name)
		}
	}
	if strings.HasPrefix(g.Name, "sg-") {
		return nil, refuse("InvalidParameterValue", "Value (%s) for parameter GroupName is invalid. Group names may not be in the format sg-*.", g.Name)
	}
	for o := range kept[*securityGroup](r.lab) {
		if o.VPC == g.VPC && o.Name == g.Name {
			return nil, refuse("InvalidGroup.Duplicate", "The security group '%s' already exists for VPC '%s'", g.Name, g.VPC)
		}
	}
	return g, nil
}

// groupText reports whether a security group can have a text as its name or description.
func groupText(text string) bool {
	return text != "" && len(text) <= 255 && !strings.ContainsFunc(text, func(c rune) bool {
		return (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && !strings.ContainsRune(" ._-:/()#,@[]+=&;{}!$*", c)
	})
}

func (g *securityGroup) answer() any {
	return struct {
		ID   string `xml:"groupId"`
		Tags tagSet `xml:"tagSet"`
	}{g.ID, g.Tags}
}

// inUse refuses to delete a group that something refers to.
func (g *securityGroup) inUse(r *request) error {
	if g.Name == "default" {
		return refuse("CannotDelete", `the specified group: "%s" name: "default" cannot be deleted by a user`, g.ID)
	}
	used := func(groups []groupRef) bool {
		return slices.ContainsFunc(groups, func(u groupRef) bool { return u.ID == g.ID })
	}
	for _, o := range r.lab.resources {
		dependent := false
		switch o := o.(type) {
		case *instance:
			dependent = used(o.Groups)
		case *netInterface:
			dependent = used(o.Groups)
		case *securityGroup:
			dependent = o != g && slices.ContainsFunc(o.In, func(in rule) bool {
				return slices.ContainsFunc(in.Groups, func(p peer) bool { return p.Group == g.ID })
			})
		}
		if dependent && !o.root().gone {
			return refuse("DependencyViolation", "resource %s has a dependent object", g.ID)
		}
	}
	return nil
}

func authorizeIngress(r *request) (any, error) {
	if err := r.allow(securityGroups.arn(r.or("GroupId", "*")), r.tagging()...); err != nil {
		return nil, err
	}
	if _, err := r.tags("security-group-rule"); err != nil {
		return nil, err
	}
	g, err := named[*securityGroup](r)
	if err != nil {
		return nil, err
	}
	var in []rule
	for _, p := range r.each("IpPermissions") {
		one, err := readRule(r, p)
		if err != nil {
			return nil, err
		}
		in = append(in, one)
	}
	have := peers(g.In)
	for _, p := range peers(in) {
		if slices.Contains(have, p) {
			return nil, refuse("InvalidPermission.Duplicate", `the specified rule "peer: %s, ALLOW" already exists`, p)
		}
		have = append(have, p)
	}
	if err := r.dry(); err != nil {
		return nil, err
	}
	g.In = append(g.In, in...)
	return done, nil
}

// revokeIngress takes ranges of IPv4 out of the rules. Like EC2 it ignores those that are in
// none.
func revokeIngress(r *request) (any, error) {
	if err := r.allow(securityGroups.arn(r.or("GroupId", "*"))); err != nil {
		return nil, err
	}
	g, err := named[*securityGroup](r)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, p := range r.each("IpPermissions") {
		one, err := readRule(r, p)
		if err != nil {
			return nil, err
		}
		out = append(out, peers([]rule{one})...)
	}
	if err := r.dry(); err != nil {
		return nil, err
	}
	var left []rule
	for _, in := range g.In {
		revoked := func(one rule) bool {
			one.Protocol, one.From, one.To = in.Protocol, in.From, in.To
			return slices.Contains(out, peers([]rule{one})[0])
		}
		in.Groups = slices.DeleteFunc(slices.Clone(in.Groups), func(p peer) bool { return revoked(rule{Groups: []peer{p}}) })
		in.Ranges = slices.DeleteFunc(slices.Clone(in.Ranges), func(p peer4) bool { return revoked(rule{Ranges: []peer4{p}}) })
		in.Ranges6 = slices.DeleteFunc(slices.Clone(in.Ranges6), func(p peer6) bool { return revoked(rule{Ranges6: []peer6{p}}) })
		if len(in.Groups)+len(in.Ranges)+len(in.Ranges6) > 0 {
			left = append(left, in)
		}
	}
	g.In = left
	return done, nil
}

// readRule reads one of the IpPermissions.
func readRule(r *request, p params) (in rule, err error) {
	in = rule{Protocol: p.get("IpProtocol"), From: p.get("FromPort"), To: p.get("ToPort")}
	if name, ok := map[string]string{"6": "tcp", "17": "udp", "1": "icmp"}[in.Protocol]; ok {
		in.Protocol = name
	}
	from, to := p.number("FromPort", -1), p.number("ToPort", -1)
	switch in.Protocol {
	case "-1":
		in.From, in.To = "", ""
	case "tcp", "udp":
		if from < 0 || to > 65535 || from > to {
			return in, refuse("InvalidParameterValue", "Invalid value '%d' for portRange. Must be from 0 to 65535, the first port not above the last.", from)
		}
	case "":
		return in, refuse("MissingParameter", "The request must contain the parameter ipProtocol")
	}
	for _, o := range p.each("Groups") {
		if _, err := find[*securityGroup](r.lab, o.get("GroupId")); err != nil {
			return in, err
		}
		in.Groups = append(in.Groups, peer{cmp.Or(o.get("UserId"), account), o.get("GroupId")})
	}
	for _, o := range p.each("IpRanges") {
		in.Ranges = append(in.Ranges, peer4{o.get("CidrIp"), o.get("Description")})
	}
	for _, o := range p.each("Ipv6Ranges") {
		in.Ranges6 = append(in.Ranges6, peer6{o.get("CidrIpv6"), o.get("Description")})
	}
	for i, o := range in.Ranges {
		prefix, err := netip.ParsePrefix(o.CIDR)
		if err != nil || !prefix.Addr().Is4() {
			return in, refuse("InvalidParameterValue", "CIDR block %s is malformed", o.CIDR)
		}
		in.Ranges[i].CIDR = prefix.Masked().String()
	}
	if len(in.Groups)+len(in.Ranges)+len(in.Ranges6) == 0 {
		return in, refuse("MissingParameter", "The request must contain the parameter ipRanges, ipv6Ranges or groups")
	}
	return in, nil
}

// peers returns who may come in by rules, as EC2 says it.
func peers(rules []rule) (all []string) {
	for _, in := range rules {
		rest := ", " + strings.ToUpper(cmp.Or(map[string]string{"-1": "ALL"}[in.Protocol], in.Protocol))
		if in.From != "" {
			rest += ", from port: " + in.From + ", to port: " + in.To
		}
		for _, p := range in.Groups {
			all = append(all, p.Group+rest)
		}
		for _, p := range in.Ranges {
			all = append(all, p.CIDR+rest)
		}
		for _, p := range in.Ranges6 {
			all = append(all, p.CIDR+rest)
		}
	}
	return all
}

// letsIn reports whether a group lets TCP from an address come to a port.
func (g *securityGroup) letsIn(from netip.Addr, port int) bool {
	return slices.ContainsFunc(g.In, func(in rule) bool {
		first, _ := strconv.Atoi(in.From)
		last, _ := strconv.Atoi(in.To)
		return (in.Protocol == "-1" || in.Protocol == "tcp" && first <= port && port <= last) && slices.ContainsFunc(in.Ranges, func(p peer4) bool {
			prefix, err := netip.ParsePrefix(p.CIDR)
			return err == nil && prefix.Contains(from)
		})
	})
}
