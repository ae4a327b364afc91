package ec2

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/ebs"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	elb "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/smithy-go/middleware"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/morgana-deploy/morgana/step"
)

// cloud is one account's EC2 in one region. Its clients try a call once: Temporal
// retries the step. Only the upload of blocks retries calls itself.
type cloud struct {
	region string
	// account is the number of the account: that of the options, or what own has found.
	account string
	profile string // that of the options
	ec2     *ec2.Client
	ebs     *ebs.Client
	elb     *elb.Client
	sts     *sts.Client
	s3      *s3.Client
	// backing is that of the options. bucket is that of backings import and bundle, else
	// empty.
	backing, bucket string
}

// callTimeout is the limit of one call, and partTimeout that of one to S3: a line of
// 1 Mbit/s sends 4 parts of 8 MiB in it.
const (
	callTimeout = 20 * time.Second
	partTimeout = 5 * time.Minute
)

// configure reads AWS's configuration on this host and retrieves the credentials.
func configure(ctx context.Context, s settings) (aws.Config, error) {
	// A plain http.Client fails if AWS_CA_BUNDLE is set.
	client := awshttp.NewBuildableClient().WithTimeout(callTimeout).WithTransportOptions(func(t *http.Transport) {
		t.MaxIdleConnsPerHost = maxConnections // for uploads; the default is 10
	})
	cfg, err := config.LoadDefaultConfig(ctx,
		config.WithSharedConfigProfile(s.Profile), config.WithRegion(s.Region), config.WithHTTPClient(client),
		config.WithRetryer(func() aws.Retryer { return aws.NopRetryer{} }),
		config.WithAPIOptions([]func(*middleware.Stack) error{func(s *middleware.Stack) error { return s.Finalize.Add(plainBody, middleware.After) }}))
	if err != nil {
		return cfg, step.During(readConfiguration, unreadable(err))
	}
	if keys := legacyKeys(s); keys != nil {
		cfg.Credentials = keys
	}
	cfg.Credentials = explained{cfg.Credentials, cmp.Or(s.Profile, os.Getenv("AWS_PROFILE"))}
	if _, err := cfg.Credentials.Retrieve(ctx); err != nil {
		return cfg, failed("get AWS credentials", err)
	}
	return cfg, nil
}

const readConfiguration = "read the AWS configuration"

// open makes the clients. It sees that there are credentials, and does not ask EC2.
func open(ctx context.Context, s settings) (*cloud, error) {
	cfg, err := configure(ctx, s)
	if err != nil {
		return nil, err
	}
	if cfg.Region == "" {
		return nil, step.During(readConfiguration, step.Invalid("region", `region: eu-west-1, or a region in the profile or in AWS_REGION of the worker`, "no region is given"))
	}
	if s.Endpoint != "" {
		cfg.BaseEndpoint = aws.String(s.Endpoint)
	}
	c := &cloud{region: cfg.Region, account: cmp.Or(s.Account, legacyAccount(s)), profile: s.Profile, backing: s.Backing, sts: sts.NewFromConfig(cfg)}
	cfg.APIOptions = append(cfg.APIOptions, decoding(c.sts))
	c.ec2, c.ebs, c.elb = ec2.NewFromConfig(cfg), ebs.NewFromConfig(cfg), elb.NewFromConfig(cfg)
	if s.Backing == backingImport || s.Backing == backingBundle {
		c.bucket = s.Bucket
	}
	if client, ok := cfg.HTTPClient.(*awshttp.BuildableClient); ok {
		cfg.HTTPClient = client.WithTimeout(partTimeout)
	}
	c.s3 = s3.NewFromConfig(cfg, func(o *s3.Options) {
		o.UsePathStyle = o.BaseEndpoint != nil // few other services have a host for each bucket
	})
	return c, nil
}

// reach opens the account and region of a spec, even of a spec that Check refuses: an
// earlier generation may have been there. The cloud is nil if the options cannot be parsed.
func reach(ctx context.Context, spec step.Spec) (*cloud, settings, error) {
	var s settings
	if err := json.Unmarshal(spec.Options, &s.Options); err != nil && len(spec.Options) > 0 {
		return nil, s, nil
	}
	c, err := open(ctx, s)
	if err == nil {
		err = c.own(ctx)
	}
	return c, s, err
}

// plainBody hides method WriteTo of a request's body. smithy-go's WriteTo returns io.EOF if
// the body was closed, for which net/http closes the connection while the answer is read. It
// happens if the answer comes within microseconds, as from a service on this host.
var plainBody = middleware.FinalizeMiddlewareFunc("PlainBody", func(ctx context.Context, in middleware.FinalizeInput, next middleware.FinalizeHandler) (
	middleware.FinalizeOutput, middleware.Metadata, error) {
	if r, ok := in.Request.(*smithyhttp.Request); ok {
		if body, ok := r.GetStream().(io.ReadSeeker); ok {
			plain, err := r.SetStream(struct{ io.ReadSeeker }{body})
			if err != nil {
				return middleware.FinalizeOutput{}, middleware.Metadata{}, err
			}
			in.Request = plain
		}
	}
	return next.HandleFinalize(ctx, in)
})

// own sees that the credentials are those of c.account, and sets it if it is empty. Without
// it another account's profile would find nothing to destroy.
func (c *cloud) own(ctx context.Context) error {
	who, err := c.sts.GetCallerIdentity(ctx, &sts.GetCallerIdentityInput{})
	if err != nil {
		err = failed("ask AWS whose the credentials are", err)
		var e *step.Error
		if errors.As(err, &e) && e.Kind == step.Unauthorized && e.Field == "" && c.profile != "" {
			e.Field = "profile"
		}
		return err
	}
	have := aws.ToString(who.Account)
	if c.account != "" && have != c.account {
		return &step.Error{Kind: step.Unauthorized, Field: "account", Err: fmt.Errorf("the credentials are of account %s, not of %s", have, c.account),
			Hint: "name a profile of account " + c.account + ", or leave account out in morgana.yaml for a new deployment"}
	}
	c.account = have
	return nil
}

// tag gives resources tags. EC2 may not know them yet: then the step is retried.
func (c *cloud) tag(ctx context.Context, tags []types.Tag, ids ...string) error {
	_, err := c.ec2.CreateTags(ctx, &ec2.CreateTagsInput{Resources: ids, Tags: tags})
	return unseen("tag "+strings.Join(ids, " and "), err)
}

// known calls do until EC2 knows the resources that it names, which were made a moment ago.
func known(ctx context.Context, do func() error) error {
	var err error
	if _, waited := poll(ctx, visible, func() (bool, error) {
		err = do()
		return !gone(err), nil
	}); waited != nil {
		return waited
	}
	return err
}

// visible is how long a resource that was just made may be invisible to the calls that
// describe it. AWS advises to wait at most two minutes.
const visible = 2 * time.Minute

// poll calls ask until it is done or fails, or limit has passed: then it asks once more and
// returns false. The pauses grow from 0.2 s to 5 s.
func poll(ctx context.Context, limit time.Duration, ask func() (done bool, err error)) (bool, error) {
	end := time.Now().Add(limit)
	for pause := 200 * time.Millisecond; ; pause = min(pause*3/2, 5*time.Second) {
		if done, err := ask(); done || err != nil {
			return done, err
		}
		left := time.Until(end)
		if left <= 0 {
			return false, nil
		}
		if err := step.Pause(ctx, min(pause, left)); err != nil {
			return false, err
		}
	}
}
