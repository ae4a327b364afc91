package ec2lab

import (
	"cmp"
	"fmt"
	"net/http"
	"slices"
	"time"
)

// Fault makes calls go wrong.
type Fault struct {
	// Call is the name of the calls, as "RunInstances"; "" is each call.
	Call string
	// Skip is how many of these calls go right before.
	Skip int
	// Times is how many then go wrong; 0 is one, a negative number is all.
	Times int
	// Delay is a pause before the call.
	Delay time.Duration
	// Lose closes the connection instead of an answer.
	Lose Lose
	// Code is the code of the error that is the answer. Without Status and Message
	// they are AWS's. Reason is that of a ValidationException.
	Code, Message, Reason string
	Status                int
	// Stuck leaves what the call makes in the state that it has at first, such as
	// pending.
	Stuck bool
}

// Lose says when a connection is closed.
type Lose int

// A call is lost before or after its effect.
const (
	Nothing Lose = iota
	Before
	After
)

// Fault adds a fault. If several are for one call, the first has effect; delays add up.
func (l *Lab) Fault(f Fault) {
	if f.Times == 0 {
		f.Times = 1
	}
	l.set(func() { l.faults = append(l.faults, &f) })
}

// Heal removes the faults.
func (l *Lab) Heal() { l.set(func() { l.faults = nil }) }

// fault returns the fault of a call.
func (l *Lab) fault(name string) (found Fault) {
	hit := false
	for _, f := range l.faults {
		switch {
		case f.Call != "" && f.Call != name:
		case f.Skip > 0:
			f.Skip--
		case f.Times != 0 && *f == Fault{Call: f.Call, Times: f.Times, Delay: f.Delay}:
			f.Times--
			found.Delay += f.Delay
		case f.Times != 0 && !hit:
			f.Times--
			delay := found.Delay
			found, hit = *f, true
			found.Delay += delay
		}
	}
	return found
}

// refusal is an error that is an answer.
type refusal struct {
	code, message, reason string
	status                int
}

func (r *refusal) Error() string { return r.code + ": " + r.message }

// refuse returns a refusal with AWS's status for the code. Without a format the message is
// AWS's too.
func refuse(code, format string, a ...any) *refusal {
	r := &refusal{code: code, message: fmt.Sprintf(format, a...), status: known[code].status}
	if r.status == 0 {
		r.status = http.StatusBadRequest
	}
	if r.message == "" {
		r.message = known[code].message
	}
	return r
}

// invalid returns the ValidationException of EBS.
func invalid(reason, format string, a ...any) *refusal {
	r := refuse("ValidationException", format, a...)
	r.reason = reason
	return r
}

// known has what AWS says with a code, if it always says the same, and the codes whose
// status is not 400.
var known = map[string]struct {
	status  int
	message string
}{
	"AccessControlListNotSupported":    {400, "The bucket does not allow ACLs"},
	"AccessDenied":                     {403, ""},
	"AccessDeniedException":            {403, ""},
	"AuthFailure":                      {401, "AWS was not able to validate the provided access credentials"},
	"BadDigest":                        {400, ""},
	"BucketAlreadyExists":              {409, "The requested bucket name is not available. The bucket namespace is shared by all users of the system. Please select a different name and try again."},
	"BucketAlreadyOwnedByYou":          {409, "Your previous request to create the named bucket succeeded and you already own it."},
	"BucketNotEmpty":                   {409, "The bucket you tried to delete is not empty"},
	"ConcurrentLimitExceededException": {400, "You have reached the limit for concurrent API requests."},
	"ConflictException":                {409, "The request uses the same client token as a previous, but non-identical request."},
	"DryRunOperation":                  {412, "Request would have succeeded, but DryRun flag is set."},
	"EntityTooLarge":                   {400, "Your proposed upload exceeds the maximum allowed size"},
	"EntityTooSmall":                   {400, "Your proposed upload is smaller than the minimum allowed size"},
	"ExpiredToken":                     {403, "The security token included in the request is expired"},
	"ExpiredTokenException":            {403, "The security token included in the request is expired"},
	"IdempotentInstanceTerminated":     {400, "The client token you have provided has already been used by an instance that has been terminated."},
	"IdempotentParameterMismatch":      {400, "Arguments on this idempotent request are inconsistent with arguments used in previous request(s)."},
	"IncompleteBody":                   {400, "The request body terminated unexpectedly"},
	"InsufficientInstanceCapacity":     {500, "We currently do not have sufficient capacity in the Availability Zone you requested. Our system will be working on provisioning additional capacity. You can currently get capacity by not specifying an Availability Zone in your request."},
	"InternalError":                    {500, "An internal error has occurred"},
	"InternalServerException":          {500, "An internal error has occurred."},
	"InvalidAccessKeyId":               {403, "The AWS Access Key Id you provided does not exist in our records."},
	"InvalidBucketName":                {400, "The specified bucket is not valid."},
	"InvalidClientTokenId":             {403, "The security token included in the request is invalid."},
	"InvalidDigest":                    {400, "The Content-MD5 you specified was invalid."},
	"InvalidPart":                      {400, "One or more of the specified parts could not be found. The part may not have been uploaded, or the specified entity tag may not match the part's entity tag."},
	"InvalidPartOrder":                 {400, "The list of parts was not in ascending order. Parts must be ordered by part number."},
	"InvalidRange":                     {416, ""},
	"InvalidSignatureException":        {403, "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access Key and signing method. Consult the service documentation for details."},
	"MalformedXML":                     {400, "The XML you provided was not well-formed or did not validate against our published schema"},
	"NoSuchBucket":                     {404, "The specified bucket does not exist"},
	"NoSuchKey":                        {404, "The specified key does not exist."},
	"NoSuchUpload":                     {404, "The specified upload does not exist. The upload ID may be invalid, or the upload may have been aborted or completed."},
	"NotImplemented":                   {501, ""},
	"OwnershipControlsNotFoundError":   {404, "The bucket ownership controls were not found"},
	"PendingSnapshotLimitExceeded":     {400, "You have exceeded the number of concurrent pending snapshots allowed."},
	"PermanentRedirect":                {301, "The bucket you are attempting to access must be addressed using the specified endpoint. Please send all future requests to this endpoint."},
	"PreconditionFailed":               {412, "At least one of the pre-conditions you specified did not hold"},
	"RequestExpired":                   {400, "Request has expired."},
	"RequestLimitExceeded":             {503, "Request limit exceeded."},
	"RequestThrottledException":        {400, "The number of API requests has exceeded the maximum allowed API request throttling limit."},
	"ResourceNotFoundException":        {404, ""},
	"ServiceQuotaExceededException":    {402, "Your current service quotas do not allow you to perform this action."},
	"ServiceUnavailable":               {503, "The request has failed due to a temporary failure of the server."},
	"SignatureDoesNotMatch":            {403, "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access Key and signing method. Consult the service documentation for details."},
	"SlowDown":                         {503, "Please reduce your request rate."},
	"SnapshotLimitExceeded":            {400, "You have reached the limit of snapshots for this account."},
	"UnauthorizedOperation":            {403, ""},
	"Unavailable":                      {503, "The service is unavailable. Please try again shortly."},
	"UnrecognizedClientException":      {403, "The security token included in the request is invalid."},
	"VcpuLimitExceeded":                {400, "You have requested more vCPU capacity than your current vCPU limit of 0 allows for the instance bucket that the specified instance type belongs to. Please visit http://aws.amazon.com/contact-us/ec2-request to request an adjustment to this limit."},
	"XAmzContentSHA256Mismatch":        {400, "The provided 'x-amz-content-sha256' header does not match what was computed."},
}

// word returns the name of an action as an IAM policy has it.
func word(service, name string) string { return service + ":" + name }

// allow refuses the action if the user lacks the permission for it or for what belongs
// to it, such as tags.
func (r *request) allow(resource string, also ...string) error {
	for _, a := range append([]string{word(r.service, cmp.Or(r.action, r.name))}, also...) {
		resources := r.touched(a, resource)
		at := slices.IndexFunc(resources, func(arn string) bool { return r.lab.denied(r, a, arn) })
		if at < 0 {
			continue
		}
		resource = resources[at]
		text := fmt.Sprintf("User: %s is not authorized to perform: %s on resource: %s because no identity-based policy allows the %s action", user, a, resource, a)
		switch r.service {
		case "ec2":
			return refuse("UnauthorizedOperation", "You are not authorized to perform this operation. %s. Encoded authorization failure message: %s", text, encoded(a, resource))
		case "ebs":
			return &refusal{"AccessDeniedException", text, "UNAUTHORIZED_ACCOUNT", 403}
		case "ssm":
			return &refusal{"AccessDeniedException", text, "", 400}
		}
		return refuse("AccessDenied", "%s", text)
	}
	return nil
}
