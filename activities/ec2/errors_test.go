package ec2

import (
	"context"
	"crypto/sha1" //nolint:gosec // names a file
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ebs"
	"github.com/aws/aws-sdk-go-v2/service/ec2"

	"github.com/morgana-deploy/morgana/step"
)

// hermetic makes AWS's configuration that of content, and no other.
func hermetic(t *testing.T, content string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "config")
	no(t, os.WriteFile(file, []byte(content), 0o600))
	for _, pair := range os.Environ() {
		if name, _, _ := strings.Cut(pair, "="); strings.HasPrefix(name, "AWS_") {
			t.Setenv(name, "")
		}
	}
	t.Setenv("HOME", t.TempDir()) // where SSO's sessions are
	t.Setenv("AWS_CONFIG_FILE", file)
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", os.DevNull)
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
}

// answering returns the clients of a service that gives every call one answer.
func answering(t *testing.T, status int, header map[string]string, body string) *cloud {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		for name, value := range header {
			w.Header().Set(name, value)
		}
		w.WriteHeader(status)
		_, _ = w.Write([]byte(body))
	}))
	t.Cleanup(server.Close)
	return at(t, server.URL)
}

func at(t *testing.T, url string) *cloud {
	t.Helper()
	hermetic(t, "")
	t.Setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "key")
	s := settings{Options: Options{Region: "eu-west-1", Endpoint: url}}
	c, err := open(t.Context(), s)
	no(t, err)
	return c
}

func query(code, message string) string {
	return `<?xml version="1.0" encoding="UTF-8"?>
<Response><Errors><Error><Code>` + code + `</Code><Message>` + message + `</Message></Error></Errors><RequestID>8f7724cf-496f-496e-8fe3-example</RequestID></Response>`
}

// Codes and texts are AWS's, as public threads and recorded calls have them.
func TestAnswersOfEC2(t *testing.T) {
	for _, test := range []struct {
		status            int
		code, message     string
		kind              step.Kind
		field, text, hint string
		after             time.Duration
	}{
		{401, "AuthFailure", "AWS was not able to validate the provided access credentials", step.Unauthorized, "", "AWS was not able to validate the provided access credentials", "get-caller-identity", 0},
		{400, "RequestExpired", "Request has expired.", step.Unauthorized, "", "request has expired", "aws sso login", 0},
		{400, "ExpiredToken", "The security token included in the request is expired", step.Unauthorized, "", "token included in the request is expired", "AWS_SESSION_TOKEN", 0},
		{403, "UnauthorizedOperation", "You are not authorized to perform this operation. User: arn:aws:iam::111122223333:user/ann is not authorized to perform: ec2:RunInstances on resource: arn:aws:ec2:eu-west-1:111122223333:instance/* because no identity-based policy allows the ec2:RunInstances action. Encoded authorization failure message: 4GIOHlTkIaWHQD0Q0m6XSnuUMCm-abcdef",
			step.Unauthorized, "", "arn:aws:iam::111122223333:user/ann is not allowed ec2:RunInstances on arn:aws:ec2:eu-west-1:111122223333:instance/* because no identity-based policy allows the ec2:RunInstances action", "allow ec2:RunInstances in the IAM policy", 0},
		{403, "UnauthorizedOperation", "You are not authorized to perform this operation. User: arn:aws:sts::111122223333:assumed-role/dev/ann is not authorized to perform: ec2:CreateTags on resource: arn:aws:ec2:eu-west-1::snapshot/* with an explicit deny in a service control policy",
			step.Unauthorized, "", "is not allowed ec2:CreateTags on arn:aws:ec2:eu-west-1::snapshot/* with an explicit deny in a service control policy", "allow ec2:CreateTags", 0},
		{403, "UnauthorizedOperation", "You are not authorized to perform this operation. Encoded authorization failure message: 4GIOHlTkIaWHQD0Q0m6XSnuUMCm-abcdef",
			step.Unauthorized, "", "access denied: ec2:DescribeSubnets", "allow ec2:DescribeSubnets", 0},
		{400, "InvalidParameterCombination", "Virtualization type 'hvm' is required for instances of type 't2.micro'. Ensure that you are using an AMI with virtualization type 'hvm'. For more information, see https://example.org", step.InvalidSpec, "", "virtualization type 'hvm' is required", "correct", 0},
		{400, "InvalidParameterCombination", "Enhanced networking with the Elastic Network Adapter (ENA) is required for the 't3.micro' instance type.", step.InvalidSpec, "", "enhanced networking", "correct", 0},
		{400, "InvalidParameterValue", "The instance type 't2.micro' does not support an AMI with a boot mode of UEFI.", step.InvalidSpec, "", "boot mode of UEFI", "correct", 0},
		{400, "InvalidParameterValue", "Value (none) for parameter iamInstanceProfile.name is invalid. Invalid IAM Instance Profile name", step.InvalidSpec, "instance_profile", "value (none) for parameter", "list-instance-profiles", 0},
		{400, "InvalidParameterValue", "Value (us-east-1z) for parameter availabilityZone is invalid. Subnets can currently only be created in the following availability zones: us-east-1a.", step.InvalidSpec, "placement.zone", "us-east-1z", "describe-availability-zones", 0},
		{400, "InvalidAMIID.NotFound", "The image id '[aki-00000000]' does not exist", step.NotFound, "", "does not exist", "correct", 0},
		{400, "InvalidKernelId.Malformed", "Invalid id: \"aki-x\"", step.InvalidSpec, "kernel_id", "invalid id", "aki-dc9ed9af", 0},
		{400, "VcpuLimitExceeded", "You have requested more vCPU capacity than your current vCPU limit of 1 allows for the instance bucket that the specified instance type belongs to.", step.Unsupported, "instance_type", "current vCPU limit of 1", "Running On-Demand", 0},
		{500, "InsufficientInstanceCapacity", "We currently do not have sufficient t1.micro capacity in the Availability Zone you requested (eu-west-1a).", step.Exhausted, "instance_type", "sufficient t1.micro capacity", "subnets of other zones", time.Minute},
		{400, "Unsupported", "Your requested instance type (t1.micro) is not supported in your requested Availability Zone (eu-west-1c).", step.Unsupported, "", "is not supported in your requested Availability Zone", "subnets of other zones", 0},
		{400, "InvalidAMIName.Duplicate", "AMI name morgana/x is already in use by AMI ami-1", step.Conflict, "", "already in use", "another", 0},
		{400, "IdempotentParameterMismatch", "The client token is already used with different parameters", step.Conflict, "", "client token", "deploy again", 0},
		{400, "IdempotentInstanceTerminated", "The instance is terminated", "", "", "the instance is terminated", "", 0},
		{400, "InvalidSnapshot.InUse", "The snapshot snap-1 is currently in use by ami-1", "", "", "in use", "", 0},
		{400, "InvalidAMIID.Unavailable", "The image ID 'ami-1' is no longer available", "", "", "no longer available", "", 0},
		{400, "VolumeInUse", "vol-1 is already attached to an instance", "", "", "already attached", "", 0},
		{400, "IncorrectState", "The snapshot is not in a state", "", "", "not in a state", "", 0},
		{400, "SnapshotLimitExceeded", "Snapshot limit exceeded", step.Exhausted, "", "snapshot limit", "Snapshots per Region", time.Minute},
		{400, "PendingSnapshotLimitExceeded", "Too many", step.Exhausted, "", "too many", "Pending snapshots", 30 * time.Second},
		{400, "SnapshotCreationPerVolumeRateExceeded", "The maximum per volume CreateSnapshot request rate has been exceeded.", step.Exhausted, "", "rate has been exceeded", "limits", 15 * time.Second},
		{400, "InvalidKeyPair.NotFound", "The key pair 'bob' does not exist", step.NotFound, "key_name", "key pair 'bob' does not exist", "describe-key-pairs", 0},
		{400, "InvalidVolume.ZoneMismatch", "The volume is not in the same zone", step.InvalidSpec, "", "the volume", "correct", 0},
		{503, "RequestLimitExceeded", "Request limit exceeded.", step.Exhausted, "", "request limit exceeded", "limits", 5 * time.Second},
		{500, "InternalError", "An internal error has occurred", "", "", "an internal error has occurred", "", 0},
		{503, "ServiceUnavailable", "", "", "", "ServiceUnavailable (HTTP 503)", "", 0},
		{400, "InvalidFrobnicator.NotFound", "No such", step.NotFound, "", "no such", "correct", 0},
		{400, "InvalidFrobnicator", "Bad", step.InvalidSpec, "", "bad", "correct", 0},
		{400, "FrobnicatorLimitExceeded", "Too many", step.Exhausted, "", "too many", "Service Quotas", time.Minute},
		{400, "NeverSeen", "Something else.", "", "", "something else", "", 0},
	} {
		_, err := answering(t, test.status, nil, query(test.code, test.message)).ec2.DescribeSubnets(t.Context(), &ec2.DescribeSubnetsInput{})
		want := step.Error{Kind: test.kind, Field: test.field, RetryAfter: test.after}
		same(t, test.code, err, want, test.text, test.hint)
		if code(failed("x", err)) != test.code {
			t.Errorf("%s: the code is %q behind failed", test.code, code(failed("x", err)))
		}
	}
}

// same checks the kind, the field and the pause of an error, and texts in it.
func same(t *testing.T, name string, err error, want step.Error, text, hint string) {
	t.Helper()
	err = failed("do it", err)
	var e *step.Error
	if !errors.As(err, &e) || e.Kind != want.Kind || e.Field != want.Field || e.RetryAfter != want.RetryAfter {
		t.Errorf("%s: got %+v, want %+v", name, err, want)
		return
	}
	if e.Op == "" || !strings.Contains(e.Error(), text) || !strings.Contains(e.Hint, hint) {
		t.Errorf("%s: got %q, hint %q; want %q, hint %q", name, e, e.Hint, text, hint)
	}
	for _, noise := range []string{"RequestID", "8f7724cf", "operation error", "api error", "4GIOHl", "Encoded"} {
		if strings.Contains(e.Error()+e.Hint, noise) {
			t.Errorf("%s: %q in %q, hint %q", name, noise, e, e.Hint)
		}
	}
}

func TestAnswersOfEBSDirect(t *testing.T) {
	for _, test := range []struct {
		status     int
		code, body string
		want       step.Error
		text, hint string
	}{
		{403, "InvalidSignatureException", `{"message":"The request signature we calculated does not match the signature you provided."}`, step.Error{}, "signature", ""},
		{409, "ConflictException", `{"Message":"The client token is in use"}`, step.Error{Kind: step.Conflict}, "client token", "deploy again"},
		{400, "ValidationException", `{"Message":"Block is invalid","Reason":"INVALID_BLOCK"}`, step.Error{Kind: step.InvalidSpec}, "block is invalid", ""},
		{400, "RequestThrottledException", `{"Message":"Rate exceeded","Reason":"ACCOUNT_THROTTLED"}`, step.Error{Kind: step.Exhausted, RetryAfter: 5 * time.Second}, "rate exceeded", ""},
		{400, "ConcurrentLimitExceededException", `{"Message":"Too many snapshots are pending"}`, step.Error{Kind: step.Exhausted, RetryAfter: 5 * time.Second}, "too many", ""},
		{402, "ServiceQuotaExceededException", `{"Message":"Quota","Reason":"DEPENDENCY_SERVICE_QUOTA_EXCEEDED"}`, step.Error{Kind: step.Exhausted, RetryAfter: time.Minute}, "quota", "Service Quotas"},
		{404, "ResourceNotFoundException", `{"Message":"The snapshot does not exist","Reason":"SNAPSHOT_NOT_FOUND"}`, step.Error{Kind: step.NotFound}, "does not exist", ""},
		{403, "AccessDeniedException", `{"Message":"User: arn:aws:iam::111122223333:user/ann is not authorized to perform: ebs:StartSnapshot on resource: arn:aws:ec2:eu-west-1::snapshot/*","Reason":"UNAUTHORIZED_ACCOUNT"}`,
			step.Error{Kind: step.Unauthorized}, "user/ann is not allowed ebs:StartSnapshot on arn:aws:ec2:eu-west-1::snapshot/*", "allow ebs:StartSnapshot"},
		{500, "InternalServerException", `{"Message":"Internal"}`, step.Error{}, "internal", ""},
	} {
		header := map[string]string{"X-Amzn-ErrorType": test.code, "Content-Type": "application/json"}
		_, err := answering(t, test.status, header, test.body).ebs.StartSnapshot(t.Context(), &ebs.StartSnapshotInput{VolumeSize: new(int64)})
		same(t, test.code, err, test.want, test.text, test.hint)
	}
}

// A refusal without a text in clear is decoded if the user may.
func TestRefusalIsDecoded(t *testing.T) {
	decoded := ""
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.FormValue("Action") != "DecodeAuthorizationMessage":
			w.WriteHeader(http.StatusForbidden)
			_, _ = io.WriteString(w, query("UnauthorizedOperation", "You are not authorized to perform this operation. Encoded authorization failure message: 4GIOHl-Tk_"))
		case decoded == "" || r.FormValue("EncodedMessage") != "4GIOHl-Tk_":
			w.WriteHeader(http.StatusForbidden)
			_, _ = io.WriteString(w, `<ErrorResponse><Error><Code>AccessDenied</Code><Message>no</Message></Error></ErrorResponse>`)
		default:
			_, _ = io.WriteString(w, `<DecodeAuthorizationMessageResponse><DecodeAuthorizationMessageResult><DecodedMessage>`+decoded+`</DecodedMessage></DecodeAuthorizationMessageResult></DecodeAuthorizationMessageResponse>`)
		}
	}))
	t.Cleanup(server.Close)
	c := at(t, server.URL)
	for text, says := range map[string]string{
		"":        "access denied: ec2:RunInstances",
		"no JSON": "access denied: ec2:RunInstances",
		`{"allowed":false,"explicitDeny":false,"context":{"principal":{"id":"AIDA","arn":"arn:aws:iam::111122223333:user/ann"},"action":"iam:PassRole","resource":"arn:aws:iam::111122223333:role/web"}}`: "arn:aws:iam::111122223333:user/ann is not allowed iam:PassRole on arn:aws:iam::111122223333:role/web",
	} {
		decoded = text
		_, err := c.ec2.RunInstances(t.Context(), &ec2.RunInstancesInput{MinCount: aws.Int32(1), MaxCount: aws.Int32(1)})
		same(t, "decoded "+text, err, step.Error{Kind: step.Unauthorized}, says, "in the IAM policy")
	}
}

// A proxy's page and a service that is not there are retried.
func TestNoAnswer(t *testing.T) {
	_, err := answering(t, 502, map[string]string{"Content-Type": "text/html"}, "<html>Bad gateway</html>").ec2.DescribeSubnets(t.Context(), &ec2.DescribeSubnetsInput{})
	same(t, "proxy", err, step.Error{}, "an answer that is not AWS's (HTTP 502)", "HTTPS_PROXY")
	err = answering(t, 407, map[string]string{"Content-Type": "text/plain"}, "who are you?").own(t.Context())
	same(t, "proxy before STS", err, step.Error{}, "an answer that is not AWS's (HTTP 407)", "HTTPS_PROXY")

	const nobody = "127.0.0.1:1"
	c := at(t, "http://"+nobody)
	_, err = c.ec2.DescribeSubnets(t.Context(), &ec2.DescribeSubnetsInput{})
	same(t, "gone", err, step.Error{}, nobody+": dial tcp", "")

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = c.ec2.DescribeSubnets(ctx, &ec2.DescribeSubnetsInput{})
	same(t, "cancelled", err, step.Error{}, "context canceled", "")
	if !errors.Is(failed("x", err), context.Canceled) {
		t.Errorf("cancelled: %v is not context.Canceled", failed("x", err))
	}
}

func TestWrongClock(t *testing.T) {
	date := map[string]string{"Date": time.Now().Add(-20 * time.Minute).UTC().Format(http.TimeFormat)}
	_, err := answering(t, 400, date, query("RequestExpired", "Request has expired.")).ec2.DescribeSubnets(t.Context(), &ec2.DescribeSubnetsInput{})
	same(t, "ahead", err, step.Error{Kind: step.Unauthorized}, "this host's clock is 20m0s ahead of AWS's", "set the clock")
}

func TestCredentials(t *testing.T) {
	for name, test := range map[string]struct {
		config     string
		env        map[string]string
		s          Options
		want       step.Error
		text, hint string
	}{
		"none":          {want: step.Error{Kind: step.Unauthorized}, text: "no AWS credentials", hint: "morgana dev down"},
		"empty profile": {config: "[profile empty]\nregion = eu-west-1\n", s: Options{Profile: "empty"}, want: step.Error{Kind: step.Unauthorized, Field: "profile"}, text: `profile: "empty" has no credentials`, hint: "aws configure --profile empty"},
		"half":          {env: map[string]string{"AWS_ACCESS_KEY_ID": "AKIAEXAMPLE"}, want: step.Error{Kind: step.Unauthorized}, text: "no AWS credentials"},
		"profile":       {config: "[profile prod]\nregion = eu-west-1\n[sso-session corp]\n", s: Options{Profile: "prd"}, want: step.Error{Kind: step.InvalidSpec, Field: "profile"}, text: `no profile "prd"`, hint: `"prod"`},
		"other profile": {config: "[default]\n[profile prod]\n[sso-session corp]\n", s: Options{Profile: "corp"}, want: step.Error{Kind: step.InvalidSpec, Field: "profile"}, text: `no profile "corp"`, hint: `one of default, prod`},
		"no profiles":   {s: Options{Profile: "prod"}, want: step.Error{Kind: step.InvalidSpec, Field: "profile"}, text: `no profile "prod"`, hint: "aws configure sso"},
		"sso": {config: "[profile prod]\nsso_session = corp\nsso_account_id = 111122223333\nsso_role_name = dev\nregion = eu-west-1\n[sso-session corp]\nsso_start_url = https://corp.example.org\nsso_region = eu-west-1\n",
			s: Options{Profile: "prod"}, want: step.Error{Kind: step.Unauthorized}, text: "the SSO session has expired", hint: "aws sso login --profile prod"},
		"old sso": {config: "[profile prod]\nsso_start_url = https://corp.example.org\nsso_region = eu-west-1\nsso_account_id = 111122223333\nsso_role_name = dev\n",
			env: map[string]string{"AWS_PROFILE": "prod"}, want: step.Error{Kind: step.Unauthorized}, text: "the SSO session has expired", hint: "aws sso login --profile prod"},
		"mfa": {config: "[profile prod]\nrole_arn = arn:aws:iam::111122223333:role/dev\nmfa_serial = arn:aws:iam::111122223333:mfa/ann\nsource_profile = keys\n[profile keys]\naws_access_key_id = AKIAEXAMPLE\naws_secret_access_key = key\n",
			s: Options{Profile: "prod"}, want: step.Error{Kind: step.Unauthorized, Field: "profile"}, text: "MFA", hint: "get-session-token"},
		"process": {config: "[profile prod]\ncredential_process = false\n", s: Options{Profile: "prod"}, want: step.Error{Kind: step.Unauthorized}, text: "exit status 1", hint: "get-caller-identity --profile prod"},
		"no region": {env: map[string]string{"AWS_ACCESS_KEY_ID": "AKIAEXAMPLE", "AWS_SECRET_ACCESS_KEY": "key"}, want: step.Error{Kind: step.InvalidSpec, Field: "region"},
			text: "no region", hint: "AWS_REGION"},
	} {
		t.Run(name, func(t *testing.T) {
			hermetic(t, test.config)
			for name, value := range test.env {
				t.Setenv(name, value)
			}
			_, err := open(t.Context(), settings{Options: test.s})
			var e *step.Error
			if !errors.As(err, &e) || e.Kind != test.want.Kind || e.Field != test.want.Field || !strings.Contains(e.Error(), test.text) || !strings.Contains(e.Hint, test.hint) {
				t.Errorf("got %+v, want %+v with %q, hint %q", err, test.want, test.text, test.hint)
			}
		})
	}
}

// A session that is valid on this host is asked for keys.
func TestSSO(t *testing.T) {
	const start = "https://corp.example.org"
	hermetic(t, "[profile prod]\nsso_start_url = "+start+"\nsso_region = eu-west-1\nsso_account_id = 111122223333\nsso_role_name = dev\nregion = eu-west-1\n")
	cache := filepath.Join(os.Getenv("HOME"), ".aws", "sso", "cache")
	no(t, os.MkdirAll(cache, 0o700))
	name := sha1.Sum([]byte(start)) //nolint:gosec // as AWS's tools name it
	no(t, os.WriteFile(filepath.Join(cache, hex.EncodeToString(name[:])+".json"), []byte(`{"accessToken":"hush","expiresAt":"2999-01-01T00:00:00Z"}`), 0o600))
	status, code := 0, ""
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Amzn-ErrorType", code)
		w.WriteHeader(status)
		_, _ = io.WriteString(w, `{"message":"The answer"}`)
	}))
	t.Cleanup(server.Close)
	t.Setenv("AWS_ENDPOINT_URL_SSO", server.URL)
	for _, test := range []struct {
		status     int
		code       string
		want       step.Error
		text, hint string
	}{
		{401, "UnauthorizedException", step.Error{Kind: step.Unauthorized}, "the SSO session has expired", "aws sso login --profile prod"},
		{403, "ForbiddenException", step.Error{Kind: step.Unauthorized}, "the answer", "sso_role_name"},
		{429, "TooManyRequestsException", step.Error{Kind: step.Exhausted, RetryAfter: 5 * time.Second}, "the answer", ""},
		{400, "ThrottlingException", step.Error{Kind: step.Exhausted, RetryAfter: 5 * time.Second}, "the answer", ""},
		{500, "InternalServerException", step.Error{}, "the answer", ""},
		{503, "NeverSeen", step.Error{}, "the answer", ""},
	} {
		status, code = test.status, test.code
		_, err := open(t.Context(), settings{Options: Options{Profile: "prod"}})
		same(t, test.code, err, test.want, test.text, test.hint)
	}
}

func TestNeeds(t *testing.T) {
	hermetic(t, "")
	keys := func() step.Need { return New(step.Site{}).Needs(t.Context())[0] }
	if n := keys(); n.Found != "" || !strings.Contains(n.Why, "no AWS credentials") || n.Fix != "aws configure sso" {
		t.Errorf("without credentials: %+v", n)
	}
	t.Setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "hushhush")
	if n := keys(); n.Found != "EnvConfigCredentials" || n.Fix != "" || n.Why != "" {
		t.Errorf("with keys: %+v", n)
	}
	hermetic(t, "[profile dev]\n[profile prod]\n")
	if n := keys(); n.Found != "the profiles dev, prod" || n.Fix != "" {
		t.Errorf("with profiles: %+v", n)
	}
}

func TestAnotherAccount(t *testing.T) {
	const who = `<GetCallerIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><GetCallerIdentityResult>
<Arn>arn:aws:iam::111122223333:user/ann</Arn><UserId>AIDA</UserId><Account>111122223333</Account></GetCallerIdentityResult></GetCallerIdentityResponse>`
	c := answering(t, 200, map[string]string{"Content-Type": "text/xml"}, who)
	if err := c.own(t.Context()); err != nil || c.account != "111122223333" {
		t.Errorf("got account %q, %v", c.account, err)
	}
	c.account = "999999999999"
	same(t, "another account", c.own(t.Context()), step.Error{Kind: step.Unauthorized, Field: "account"}, "of account 111122223333, not of 999999999999", "profile of account 999999999999")
}
