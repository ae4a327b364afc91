package ec2

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/morgana-deploy/morgana/step"
)

// failed returns the error of a call to AWS, nil for none. Its kind is decided by AWS's code. An
// error without an answer of AWS has no kind, so the step is retried.
func failed(op string, err error) error {
	var told *step.Error
	var api smithy.APIError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &told): // of the credentials
	case errors.As(err, &api) && api.ErrorCode() != "" && api.ErrorCode() != noCode:
		err = refused(err, api)
	default:
		err = unanswered(err)
	}
	return step.During(op, err)
}

// unseen is [failed] for a call that names a resource which EC2 has just listed or made. If
// another server of EC2 does not know it yet, the step is retried.
func unseen(op string, err error) error {
	if err = failed(op, err); gone(err) {
		return passing(err)
	}
	return err
}

// passing returns an error of [failed] without its kind: the step is retried.
func passing(err error) error {
	var e *step.Error
	if !errors.As(err, &e) {
		return err
	}
	return &step.Error{Op: e.Op, Err: e.Err}
}

// noCode is the SDK's word for a code or a message that an answer lacks.
const noCode = "UnknownError"

// code returns AWS's code of an error, "" if AWS did not answer.
func code(err error) string {
	var api smithy.APIError
	if errors.As(err, &api) {
		return api.ErrorCode()
	}
	return ""
}

// said is an error of the SDK with a shorter text. The SDK's text has the request's id,
// which differs from one try to the next.
type said struct {
	text string
	err  error
}

func (s said) Error() string { return s.text }
func (s said) Unwrap() error { return s.err }

// answer is the meaning of a code of AWS.
type answer struct {
	kind        step.Kind // "": the step is retried
	field, hint string
	after       time.Duration // RetryAfter of kind Exhausted
}

const (
	renew = "renew the session token where the worker finds it: AWS_SESSION_TOKEN, ~/.aws/credentials, or by aws sso login"
	keys  = "see that aws sts get-caller-identity works on the worker's host with this profile and region; a region that the account has not enabled says the same"
	quota = "ask for a higher quota in AWS's console (Service Quotas), or remove something"
	named = "correct the option that this names"
	zones = "name subnets of other zones, or another instance_type"
)

var (
	throttled = answer{kind: step.Exhausted, hint: "AWS limits the requests of an account in a region; nothing needs to be done", after: 5 * time.Second}
	badKeys   = answer{kind: step.Unauthorized, hint: keys}
	expired   = answer{kind: step.Unauthorized, hint: renew}
	denied    = answer{kind: step.Unauthorized}
	transient = answer{}
	overQuota = answer{kind: step.Exhausted, hint: quota, after: time.Minute}
	lacking   = answer{kind: step.Exhausted, field: "instance_type", hint: zones, after: time.Minute}
)

// answers lists the codes of EC2, EBS direct, STS and Elastic Load Balancing. [answerTo]
// has rules for all others.
var answers = map[string]answer{
	// Credentials.
	"AuthFailure": badKeys, "InvalidClientTokenId": badKeys, "UnrecognizedClientException": badKeys, "SignatureDoesNotMatch": badKeys,
	"MissingAuthenticationToken": badKeys, "IncompleteSignature": badKeys,
	"ExpiredToken": expired, "ExpiredTokenException": expired, "RequestExpired": expired,
	// EBS direct answers so to a block with a wrong checksum, too.
	"InvalidSignatureException": transient,
	"OptInRequired":             {kind: step.Unauthorized, hint: "sign up for EC2 in AWS's console, and enable the region for the account"},
	"RegionDisabledException":   {kind: step.Unauthorized, field: "region", hint: "enable the region for the account in AWS's console (Account), or name another"},
	"PendingVerification":       {kind: step.Unauthorized, hint: "AWS verifies the account, which takes minutes to hours; deploy again then"},
	"Blocked":                   {kind: step.Unauthorized, hint: "AWS has blocked the account: ask AWS Support"},
	"ForbiddenException":        {kind: step.Unauthorized, hint: "sso_account_id and sso_role_name of the profile must name a role that SSO gives you"},
	"UnauthorizedOperation":     denied, "AccessDenied": denied, "AccessDeniedException": denied, "Forbidden": denied, "InvalidAccessKeyId": badKeys,

	// S3. A part that is not there was that of another try.
	"BucketAlreadyExists":           {kind: step.Conflict, field: "bucket", hint: "another account has a bucket of that name: choose another name"},
	"AccessControlListNotSupported": {kind: step.Unsupported, field: "bucket", hint: enableACLs},
	"InvalidManifest": {kind: step.InvalidSpec, field: "bucket",
		hint: "HTTP 301: the bucket is in another region; HTTP 403: its objects lack their ACL; else the service opens bundles by another certificate: see cloud_cert"},
	"InvalidPart": transient,

	// Throttles and quotas.
	"RequestLimitExceeded": throttled, "TooManyRequestsException": throttled, "SlowDown": throttled, "ConcurrentLimitExceededException": throttled,
	"SnapshotCreationPerVolumeRateExceeded": {kind: step.Exhausted, hint: throttled.hint, after: 15 * time.Second},
	// The quota of instances does not grow by waiting, unlike a zone's capacity.
	"VcpuLimitExceeded": {kind: step.Unsupported, field: "instance_type",
		hint: "the quota is \"Running On-Demand instances\" of that family: ask for more in AWS's console (Service Quotas), stop an instance (a redeploy needs both machines for a while), or name a smaller type"},
	"InstanceLimitExceeded":         {kind: step.Unsupported, field: "instance_type", hint: quota},
	"MaxSpotInstanceCountExceeded":  {kind: step.Unsupported, field: "spot", hint: quota + "; or spot: false"},
	"SnapshotLimitExceeded":         {kind: step.Exhausted, hint: "the quota is \"Snapshots per Region\": ask for more in AWS's console (Service Quotas), or delete snapshots", after: time.Minute},
	"PendingSnapshotLimitExceeded":  {kind: step.Exhausted, hint: "the quota is \"Pending snapshots\": it waits until others are completed", after: 30 * time.Second},
	"ServiceQuotaExceededException": overQuota,

	// Capacity.
	"InsufficientInstanceCapacity": lacking, "InsufficientHostCapacity": lacking, "InsufficientCapacity": lacking, "InsufficientReservedInstanceCapacity": lacking,
	"SpotMaxPriceTooLow":                {kind: step.Exhausted, field: "spot", hint: "spot: false, or " + zones, after: time.Minute},
	"InsufficientFreeAddressesInSubnet": {kind: step.Exhausted, field: "subnets", hint: "name a larger subnet, or free addresses in it", after: time.Minute},
	"Unsupported":                       {kind: step.Unsupported, hint: zones},
	"UnsupportedOperation":              {kind: step.Unsupported, hint: "another instance_type, or another region"},

	// Options.
	"InvalidParameterCombination": {kind: step.InvalidSpec, hint: named}, "InvalidParameterValue": {kind: step.InvalidSpec, hint: named},
	"InvalidKernelId.Malformed":     {kind: step.InvalidSpec, field: "kernel_id", hint: "an AKI of the region, as aki-dc9ed9af; or leave it out"},
	"InvalidKeyPair.NotFound":       {kind: step.NotFound, field: "key_name", hint: "name a key pair that aws ec2 describe-key-pairs lists in the region"},
	"InvalidSubnetID.NotFound":      {kind: step.NotFound, field: "subnets", hint: "name subnets that aws ec2 describe-subnets lists in the region"},
	"InvalidGroup.NotFound":         {kind: step.NotFound, field: "security_groups", hint: "name groups that aws ec2 describe-security-groups lists in the subnets' VPC"},
	"InvalidAllocationID.NotFound":  {kind: step.NotFound, field: "elastic_ip", hint: "name one that aws ec2 describe-addresses lists in the region"},
	"InvalidInstanceType":           {kind: step.InvalidSpec, field: "instance_type", hint: "a type of the region, as aws ec2 describe-instance-type-offerings lists them"},
	"InvalidPlacementGroup.Unknown": {kind: step.NotFound, field: "placement.group", hint: "name one that aws ec2 describe-placement-groups lists in the region"},
	"TargetGroupNotFound":           {kind: step.NotFound, field: "target_group", hint: "name one that aws elbv2 describe-target-groups lists in the region"},
	"InvalidTarget":                 {kind: step.InvalidSpec, field: "target_group", hint: "a target group of type instance, in the subnets' VPC"},
	"VPCIdNotSpecified":             {kind: step.InvalidSpec, field: "subnets", hint: "name a subnet: the account has no default VPC in the region"},
	"MissingInput":                  {kind: step.InvalidSpec, field: "subnets", hint: "name a subnet: the account has no default subnet there"},

	// Resources that exist.
	"OperationNotPermitted":       {kind: step.Conflict, hint: "turn off the instance's termination protection"},
	"InvalidAMIName.Duplicate":    {kind: step.Conflict, hint: "another AMI of the account has the name; deregister it, or deploy under another app name"},
	"IdempotentParameterMismatch": {kind: step.Conflict, hint: "the options changed while the call was retried; deploy again"},
	"ConflictException":           {kind: step.Conflict, hint: "the options changed while the call was retried; deploy again"},
	// A list may show it later.
	"InvalidSnapshot.InUse": transient, "InvalidAMIID.Unavailable": transient, "VolumeInUse": transient, "InvalidIPAddress.InUse": transient,
}

// wrongParameter matches EC2's text about a parameter, and parameters has those that are
// an option.
var (
	wrongParameter = regexp.MustCompile(`for parameter (\w+)(?:\.\w+)* is invalid`)
	parameters     = map[string]answer{
		"iamInstanceProfile": {field: "instance_profile", hint: "name one that aws iam list-instance-profiles lists"},
		"availabilityZone":   {field: "placement.zone", hint: "name one that aws ec2 describe-availability-zones lists in the region"},
	}
)

// answerTo returns the meaning of a code. AWS has hundreds, and their forms tell enough.
func answerTo(code string) answer {
	if a, ok := answers[code]; ok {
		return a
	}
	switch {
	case strings.HasSuffix(code, "NotFound"), strings.HasSuffix(code, "NotFoundException"):
		return answer{kind: step.NotFound, hint: named}
	case strings.HasSuffix(code, "LimitExceeded"), strings.HasSuffix(code, "QuotaExceeded"):
		return overQuota
	case strings.Contains(code, "Throttl"):
		return throttled
	case strings.HasSuffix(code, "InUse"), strings.HasSuffix(code, "Duplicate"):
		return answer{kind: step.Conflict}
	case strings.HasPrefix(code, "Invalid"), strings.HasPrefix(code, "Missing"), strings.HasSuffix(code, "Malformed"), code == "ValidationException", code == "ValidationError":
		return answer{kind: step.InvalidSpec, hint: named}
	}
	return transient // as AWS's own errors, and those that a list will clear
}

// refused returns the error of an answer of AWS.
func refused(err error, api smithy.APIError) *step.Error {
	code := api.ErrorCode()
	a := answerTo(code)
	e := &step.Error{Kind: a.kind, Field: a.field, Hint: a.hint, RetryAfter: a.after}
	text := plain(api.ErrorMessage())
	if skew := clockSkew(err); skew != 0 && (a == badKeys || a == expired || code == "InvalidSignatureException") {
		e.Kind, e.Hint = step.Unauthorized, "set the clock of this host, as by timedatectl set-ntp true"
		text = fmt.Sprintf("AWS refuses the signature because this host's clock is %s", skewText(skew))
	}
	if m := wrongParameter.FindStringSubmatch(text); m != nil && e.Kind == step.InvalidSpec {
		if o, ok := parameters[m[1]]; ok {
			e.Field, e.Hint = o.field, o.hint
		}
	}
	if strings.HasPrefix(text, "credential should be scoped to a valid region") {
		e.Field, e.Hint = "region", "name the region of the service"
	}
	if a == denied {
		text, e.Hint = deniedText(err, api.ErrorMessage())
	}
	if api.ErrorMessage() == noCode || text == "" {
		text = fmt.Sprintf("%s (HTTP %d)", code, statusOf(err))
	}
	e.Err = said{text: text, err: err}
	return e
}

// plain returns a message of AWS as the text of an error.
func plain(message string) string {
	message = strings.TrimSuffix(strings.Join(strings.Fields(message), " "), ".")
	first, n := utf8.DecodeRuneInString(message)
	if second, _ := utf8.DecodeRuneInString(message[n:]); unicode.IsLower(second) || second == ' ' {
		message = string(unicode.ToLower(first)) + message[n:]
	}
	return message
}

// clockSkew returns how far this host's clock is ahead of AWS's, 0 if less than AWS
// tolerates or if the answer has no date.
func clockSkew(err error) time.Duration {
	var r *smithyhttp.ResponseError
	if !errors.As(err, &r) || r.Response == nil {
		return 0
	}
	date, wrong := http.ParseTime(r.Response.Header.Get("Date"))
	if skew := time.Since(date); wrong == nil && skew.Abs() > 4*time.Minute {
		return skew
	}
	return 0
}

func skewText(skew time.Duration) string {
	way := "ahead of"
	if skew < 0 {
		way = "behind"
	}
	return fmt.Sprintf("%s %s AWS's", skew.Abs().Round(time.Minute), way)
}

// unanswered returns the error of a call that AWS did not answer.
func unanswered(err error) *step.Error {
	e := &step.Error{Err: said{plainest(err), err}}
	if status := statusOf(err); status != 0 {
		e.Err = said{fmt.Sprintf("an answer that is not AWS's (HTTP %d)", status), err}
		e.Hint = "a proxy may have answered: see HTTPS_PROXY, AWS_ENDPOINT_URL and the option endpoint"
	}
	return e
}

// plainest returns the text of an error without the SDK's words around it.
func plainest(err error) string {
	var at *url.Error
	if errors.As(err, &at) {
		host := at.URL
		if u, bad := url.Parse(at.URL); bad == nil {
			host = u.Host
		}
		return fmt.Sprintf("%s: %v", host, at.Err)
	}
	var call *smithy.OperationError
	if errors.As(err, &call) {
		err = call.Err
	}
	return err.Error()
}

// statusOf returns the HTTP status of the answer behind an error, 0 if there is none.
func statusOf(err error) int {
	var r *smithyhttp.ResponseError
	if errors.As(err, &r) && r.Response != nil {
		return r.HTTPStatusCode()
	}
	return 0
}
