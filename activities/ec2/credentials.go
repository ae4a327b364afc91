package ec2

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"slices"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials/ec2rolecreds"
	"github.com/aws/aws-sdk-go-v2/credentials/logincreds"
	"github.com/aws/aws-sdk-go-v2/credentials/ssocreds"
	"github.com/aws/smithy-go"

	"github.com/morgana-deploy/morgana/step"
)

// explained are credentials whose errors are a [step.Error]. Every call asks them, so a
// session that ends during an upload is reported in the same words.
type explained struct {
	aws.CredentialsProvider
	profile string // "" for the default one
}

func (e explained) Retrieve(ctx context.Context) (aws.Credentials, error) {
	c, err := e.CredentialsProvider.Retrieve(ctx)
	if err != nil && ctx.Err() == nil {
		err = e.explain(err)
	}
	return c, err
}

// restarted is the hint for a variable of the worker.
const restarted = "a running worker keeps its environment: to change it, stop the worker (morgana dev down) and start it again"

func (e explained) explain(err error) error {
	var api smithy.APIError
	var network *url.Error
	unauthorized := func(text, hint string) error {
		return &step.Error{Kind: step.Unauthorized, Hint: hint, Err: said{text, err}}
	}
	of := ""
	if e.profile != "" {
		of = " --profile " + e.profile
	}
	a := answerTo(code(err))
	_, known := answers[code(err)]
	known = known || a == throttled || statusOf(err) >= http.StatusInternalServerError
	is := func(p aws.CredentialsProvider) bool { return aws.IsCredentialsProvider(e.CredentialsProvider, p) }
	session := is((*ssocreds.Provider)(nil)) || is((*logincreds.Provider)(nil))
	switch {
	// The last resort of AWS's chain: nothing else is configured.
	case is((*ec2rolecreds.Provider)(nil)) && e.profile != "":
		return &step.Error{Kind: step.Unauthorized, Field: "profile", Err: said{fmt.Sprintf("%q has no credentials", e.profile), err},
			Hint: "run aws configure" + of + " as the worker's user, or name another profile"}
	case is((*ec2rolecreds.Provider)(nil)):
		return unauthorized("there are no AWS credentials on this host",
			"run aws configure sso or aws configure as the worker's user, then name the profile; or give the worker AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or its EC2 instance a role; "+restarted)
	case errors.As(err, &network):
		return err // nobody was asked
	case errors.As(err, &api) && (!session || known && a != expired):
		return refused(err, api)
	case is((*ssocreds.Provider)(nil)):
		return unauthorized("the SSO session has expired or is not there", "aws sso login"+of+", as the worker's user")
	case is((*logincreds.Provider)(nil)):
		return unauthorized("the login session has expired or is not there", "aws login"+of+", as the worker's user")
	}
	return unauthorized(plainest(err), "see that aws sts get-caller-identity"+of+" works as the worker's user")
}

// unreadable returns the error of a configuration that the SDK did not take.
func unreadable(err error) error {
	if errors.As(err, new(config.AssumeRoleTokenProviderNotSetError)) {
		return &step.Error{Kind: step.Unauthorized, Field: "profile", Err: said{"its role asks for a code of MFA, and the worker cannot", err},
			Hint: "get a session by hand (aws sts get-session-token) and give it to the worker as AWS_SESSION_TOKEN; or use SSO"}
	}
	var none config.SharedConfigProfileNotExistError
	if !errors.As(err, &none) {
		return step.Invalid("profile", "correct ~/.aws/config or the AWS_* variables of the worker", "%w", said{plainest(err), err})
	}
	known := profiles()
	hint := "aws configure sso as the worker's user makes one"
	if len(known) > 0 {
		hint = step.OneOf(none.Profile, known...)
	}
	return step.Invalid("profile", hint, "the worker's ~/.aws/config has no profile %q", none.Profile)
}

var profileLine = regexp.MustCompile(`(?m)^\[(?:profile[ \t]+)?["']?([^\]\s"']+)["']?\]`)

// profiles returns the sorted names of the profiles of AWS's configuration on this host.
func profiles() (names []string) {
	for name, otherwise := range map[string]string{"AWS_CONFIG_FILE": config.DefaultSharedConfigFilename(), "AWS_SHARED_CREDENTIALS_FILE": config.DefaultSharedCredentialsFilename()} {
		text, err := os.ReadFile(cmp.Or(os.Getenv(name), otherwise))
		if err != nil {
			continue
		}
		for _, m := range profileLine.FindAllSubmatch(text, -1) {
			names = append(names, string(m[1]))
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}
