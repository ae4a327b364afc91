package ec2lab

import (
	"encoding/base64"
)

// action is an operation of a Query service.
type action struct {
	required []string // parameters
	// late says that do checks the permission and ends a dry run.
	late bool
	// do does it. The lab is locked.
	do func(r *request) (any, error)
}

// actions are the operations of the Query services.
var actions = map[string]action{
	"ec2:AssociateAddress":              {do: associateAddress, late: true},
	"ec2:AttachVolume":                  {do: attachVolume, late: true, required: []string{"Device", "InstanceId", "VolumeId"}},
	"ec2:AuthorizeSecurityGroupIngress": {do: authorizeIngress, late: true, required: []string{"IpPermissions"}},
	"ec2:CancelImportTask":              {do: cancelImport, late: true, required: []string{"ImportTaskId"}},
	"ec2:CreateSecurityGroup":           create(createGroup, "GroupName", "GroupDescription"),
	"ec2:CreateSnapshot":                create(createSnapshot, "VolumeId"),
	"ec2:CreateTags":                    {do: createTags, late: true, required: []string{"ResourceId", "Tag"}},
	"ec2:CreateVolume":                  create(createVolume, "AvailabilityZone"),
	"ec2:DeleteKeyPair":                 {do: deleteKeyPair, late: true},
	"ec2:DeleteNetworkInterface": remove(func(r *request, n *netInterface) error {
		if n.Instance == "" {
			return nil
		}
		return refuse("InvalidParameterValue", "Network interface '%s' is currently in use.", n.ID)
	}),
	"ec2:DeleteSecurityGroup": remove(func(r *request, g *securityGroup) error { return g.inUse(r) }),
	"ec2:DeleteSnapshot": remove(func(r *request, s *snapshot) error { // its file stays for its children
		if m := r.lab.userOf(s); m != nil {
			return refuse("InvalidSnapshot.InUse", "The snapshot %s is currently in use by %s", s.ID, m.ID)
		}
		return nil
	}),
	"ec2:DeleteTags": {do: deleteTags, required: []string{"ResourceId"}},
	"ec2:DeleteVolume": remove(func(r *request, v *volume) error {
		if len(v.Attachments) == 0 {
			return nil
		}
		return refuse("VolumeInUse", "Volume %s is currently attached to %s", v.ID, v.Attachments[0].Instance)
	}),
	"ec2:DeregisterImage":               {do: deregisterImage, late: true, required: []string{"ImageId"}},
	"ec2:DescribeAddresses":             describe[*address](nil),
	"ec2:DescribeAvailabilityZones":     describe[*zone](nil),
	"ec2:DescribeImages":                describe(listsImage),
	"ec2:DescribeImportSnapshotTasks":   describe[*importTask](nil),
	"ec2:DescribeInstanceTypeOfferings": {do: describeOfferings},
	"ec2:DescribeInstanceTypes":         describe[*instanceType](nil),
	"ec2:DescribeInstances":             {do: describeInstances},
	"ec2:DescribeKeyPairs":              describe[*keyPair](nil),
	"ec2:DescribeNetworkInterfaces":     describe[*netInterface](nil),
	"ec2:DescribePlacementGroups":       describe[*placementGroup](nil),
	"ec2:DescribeRegions":               {do: describeRegions},
	"ec2:DescribeSecurityGroups":        describe[*securityGroup](nil),
	"ec2:DescribeSnapshots":             describe(func(r *request, s *snapshot) bool { return r.ownedBy(s.Owner, "") }),
	"ec2:DescribeSubnets":               describe[*subnet](nil),
	"ec2:DescribeVolumes":               describe[*volume](nil),
	"ec2:DescribeVpcs":                  describe[*vpc](nil),
	"ec2:DetachVolume":                  {do: detachVolume, late: true, required: []string{"VolumeId"}},
	"ec2:DisassociateAddress":           {do: disassociateAddress, late: true, required: []string{"AssociationId"}},
	"ec2:GetConsoleOutput":              {do: consoleOutput, required: []string{"InstanceId"}},
	"ec2:GetEbsEncryptionByDefault":     {do: encryptionByDefault},
	"ec2:ImportKeyPair":                 create(importKeyPair, "KeyName", "PublicKeyMaterial"),
	"ec2:ImportSnapshot":                create(importSnapshot),
	"ec2:RegisterImage":                 create(registerImage, "Name"),
	"ec2:RevokeSecurityGroupIngress":    {do: revokeIngress, late: true, required: []string{"IpPermissions"}},
	"ec2:RunInstances":                  {do: runInstances, late: true, required: []string{"ImageId", "MinCount", "MaxCount"}},
	"ec2:TerminateInstances":            {do: terminateInstances, late: true, required: []string{"InstanceId"}},

	"ssm:GetParameter":  {do: getParameter, required: []string{"Name"}},
	"ssm:GetParameters": {do: getParameters, required: []string{"Names.1"}},

	"sts:GetCallerIdentity":          {do: callerIdentity, late: true},
	"sts:DecodeAuthorizationMessage": {do: decodeMessage, required: []string{"EncodedMessage"}},

	"elasticloadbalancing:DeregisterTargets":    {do: setTargets(false), late: true, required: []string{"TargetGroupArn", "Targets.member"}},
	"elasticloadbalancing:DescribeTargetGroups": {do: describeTargetGroups},
	"elasticloadbalancing:DescribeTargetHealth": {do: describeTargetHealth, late: true, required: []string{"TargetGroupArn"}},
	"elasticloadbalancing:RegisterTargets":      {do: setTargets(true), late: true, required: []string{"TargetGroupArn", "Targets.member"}},
}

// What a resource may have for the action that makes it.
type (
	beginner interface{ begin(r *request) error } // does what a dry run does not
	ripener  interface{ ripen(l *Lab) }           // is called a moment later, with the lab locked
	answerer interface{ answer() any }            // has the answer if that is not the resource
)

// create returns the action that makes a resource: that which read finds in the request. A
// client token that has made a resource makes no other, also if that is deleted.
func create[T resource](read func(r *request) (T, error), required ...string) action {
	var zero T
	k := zero.kind()
	return action{late: true, required: required, do: func(r *request) (any, error) {
		if err := r.allow(k.arn("*"), r.tagging()...); err != nil {
			return nil, err
		}
		tags, err := r.tags(k.word)
		if err != nil {
			return nil, err
		}
		token, asked := r.get("ClientToken"), sameRequest(r.v)
		for _, o := range r.lab.resources {
			t, ok := o.(T)
			switch {
			case !ok || token == "" || o.root().token != token:
			case o.root().asked != asked:
				return nil, refuse("IdempotentParameterMismatch", "")
			default:
				r.seeAll()
				return t, nil
			}
		}
		t, err := read(r)
		if err == nil {
			err = r.dry()
		}
		if err != nil {
			return nil, err
		}
		b := t.root()
		b.Tags, b.token, b.asked = tags[k.word], token, asked
		if of, ok := any(t).(beginner); ok {
			if err := of.begin(r); err != nil {
				return nil, err
			}
		}
		r.lab.add(t)
		if of, ok := any(t).(ripener); ok {
			r.lab.after(r.stuck, func() { of.ripen(r.lab) })
		}
		if of, ok := any(t).(answerer); ok {
			return of.answer(), nil
		}
		return t, nil
	}}
}

// remove returns the action that deletes a resource, unless it is in use: a dry run does
// not see that.
func remove[T resource](used func(r *request, t T) error) action {
	var zero T
	k := zero.kind()
	return action{late: true, do: func(r *request) (any, error) {
		if !r.has(k.param) && (k.also == "" || !r.has(k.also)) {
			return nil, refuse("MissingParameter", "The request must contain the parameter %s", k.param)
		}
		if err := r.allow(k.arn(r.or(k.param, "*"))); err != nil {
			return nil, err
		}
		t, err := named[T](r)
		if err == nil {
			err = r.dry()
		}
		if err == nil {
			err = used(r, t)
		}
		if err != nil {
			return nil, err
		}
		t.root().gone = true
		return done, nil
	}}
}

// callerIdentity needs no permission.
func callerIdentity(*request) (any, error) {
	return struct{ Arn, UserId, Account string }{user, "AIDALABLABLABLABLABLA", account}, nil
}

func decodeMessage(r *request) (any, error) {
	text, err := base64.RawURLEncoding.DecodeString(r.get("EncodedMessage"))
	if err != nil {
		return nil, refuse("InvalidAuthorizationMessageException", "Message is not valid")
	}
	return struct{ DecodedMessage string }{string(text)}, nil
}

func describeRegions(*request) (any, error) {
	type one struct {
		Name     string `xml:"regionName"`
		Endpoint string `xml:"regionEndpoint"`
		OptIn    string `xml:"optInStatus"`
	}
	return struct{ Set list }{listed("regionInfo", []one{{region, "ec2." + region + ".amazonaws.com", "opt-in-not-required"}})}, nil
}

func encryptionByDefault(r *request) (any, error) {
	return struct {
		On bool `xml:"ebsEncryptionByDefault"`
	}{r.lab.encrypt}, nil
}
