package ec2

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/smithy-go"
	"github.com/aws/smithy-go/middleware"
)

// inClear matches the part of a refusal before "Encoded authorization failure message".
var inClear = regexp.MustCompile(`(?i)(?:user: )?(\S+) is not authorized to perform: (\S+)(?: on resource: (\S+))?( (?:because|with an) .*?)?\.?(?: encoded authorization|$)`)

// iamPrefix has the prefix of a service in IAM.
var iamPrefix = map[string]string{"EC2": "ec2", "EBS": "ebs", "STS": "sts", "Elastic Load Balancing v2": "elasticloadbalancing"}

// deniedText returns the text and the hint for a missing permission. The encoded part of
// AWS's message is left out: it is long and nobody can read it.
func deniedText(err error, message string) (text, hint string) {
	var action string
	if m := inClear.FindStringSubmatch(strings.Join(strings.Fields(message), " ")); m != nil {
		action = m[2]
		text = fmt.Sprintf("%s is not allowed %s", m[1], action)
		if m[3] != "" {
			text += " on " + m[3]
		}
		text += m[4]
	} else {
		var call *smithy.OperationError
		if errors.As(err, &call) && iamPrefix[call.ServiceID] != "" {
			action = iamPrefix[call.ServiceID] + ":" + call.OperationName
		}
		text = strings.TrimSuffix("access denied: "+action, ": ")
	}
	return text, strings.TrimSpace("allow "+cmp.Or(action, "it")) + " in the IAM policy of these credentials; docs/iam-policy.json has all that a deploy needs"
}

// encodedPart matches the encoded part of a refusal.
var encodedPart = regexp.MustCompile(`(?i)encoded authorization failure message: ?([A-Za-z0-9_-]+)`)

// decoding makes the calls of a service decode a refusal that names no action in clear. The
// operation's name would mislead: RunInstances also needs ec2:CreateTags and iam:PassRole.
// Without the permission to decode, the refusal stays as it is.
func decoding(decoder *sts.Client) func(*middleware.Stack) error {
	return func(stack *middleware.Stack) error {
		return stack.Initialize.Add(middleware.InitializeMiddlewareFunc("decodeRefusal",
			func(ctx context.Context, in middleware.InitializeInput, next middleware.InitializeHandler) (middleware.InitializeOutput, middleware.Metadata, error) {
				out, metadata, err := next.HandleInitialize(ctx, in)
				var api smithy.APIError
				if errors.As(err, &api) && answerTo(api.ErrorCode()) == denied && !inClear.MatchString(api.ErrorMessage()) {
					err = cmp.Or(decoded(ctx, decoder, api), err)
				}
				return out, metadata, err
			}), middleware.Before)
	}
}

// decoded returns a refusal in clear, nil if it cannot be decoded.
func decoded(ctx context.Context, decoder *sts.Client, api smithy.APIError) error {
	m := encodedPart.FindStringSubmatch(api.ErrorMessage())
	if m == nil {
		return nil
	}
	out, err := decoder.DecodeAuthorizationMessage(ctx, &sts.DecodeAuthorizationMessageInput{EncodedMessage: &m[1]})
	if err != nil {
		return nil //nolint:nilerr // the refusal itself is the error
	}
	var said struct {
		Context struct {
			Principal struct{ ARN string }
			Action    string
			Resource  string
		}
	}
	if err := json.Unmarshal([]byte(*out.DecodedMessage), &said); err != nil || said.Context.Action == "" {
		return nil //nolint:nilerr // the same
	}
	c := said.Context
	return &smithy.GenericAPIError{Code: api.ErrorCode(),
		Message: fmt.Sprintf("User: %s is not authorized to perform: %s on resource: %s", cmp.Or(c.Principal.ARN, "the user"), c.Action, cmp.Or(c.Resource, "*"))}
}
