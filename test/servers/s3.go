package servers

import (
	"context"
	"fmt"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"databus/test/servers/fetch"
)

// S3Config says how to reach an S3 server. Buckets are addressed by path (http://host/bucket/key).
type S3Config struct {
	Endpoint  string // URL without a path
	Region    string
	AccessKey string
	SecretKey string
}

// Client returns a client for the server.
func (c S3Config) Client() *s3.Client {
	return s3.New(s3.Options{
		BaseEndpoint: aws.String(c.Endpoint),
		Region:       c.Region,
		Credentials:  credentials.NewStaticCredentialsProvider(c.AccessKey, c.SecretKey, ""),
		UsePathStyle: true,
		// New, unlike LoadDefaultConfig, sends no checksums unless told.
		RequestChecksumCalculation: aws.RequestChecksumCalculationWhenSupported,
		ResponseChecksumValidation: aws.ResponseChecksumValidationWhenSupported,
	})
}

// BucketURL is the address of a bucket, or of a prefix in one ("bucket/prefix"), as pkg/blob opens it; the keys are not in it.
func (c S3Config) BucketURL(bucket string) string {
	return fmt.Sprintf("s3://%s?path_style=true&region=%s&endpoint=%s", bucket, c.Region, url.QueryEscape(c.Endpoint))
}

// S3Server is a versitygw process.
type S3Server struct {
	*Process
	S3Config
}

// StartS3 starts versitygw over a directory of its own. It has no buckets yet.
func StartS3(ctx context.Context, o Options) (*S3Server, error) {
	cache, err := fetch.Open()
	if err != nil {
		return nil, err
	}
	module := strings.TrimSpace(string(pin("versitygw/module")))
	dist, err := cache.Once(ctx, "versitygw", module, func(ctx context.Context, tmp string) error {
		return cache.GoInstall(ctx, tmp, module)
	})
	if err != nil {
		return nil, err
	}
	p := &Process{Name: "s3", path: filepath.Join(dist, "versitygw")}
	if _, err := p.prepare(cache, o, 1); err != nil {
		return nil, err
	}
	buckets := filepath.Join(p.Dir, "buckets")
	if err := os.MkdirAll(buckets, 0o755); err != nil {
		p.Close()
		return nil, fmt.Errorf("creating the directory of the buckets: %w", err)
	}
	server := &S3Server{Process: p, S3Config: S3Config{
		Endpoint: "http://" + p.Addr, Region: "us-east-1", AccessKey: "databus-test", SecretKey: "databus-test-secret",
	}}
	for _, v := range os.Environ() { // the user's own settings of the gateway must not reach this one
		if !strings.HasPrefix(v, "VGW_") && !strings.HasPrefix(v, "ROOT_") {
			p.env = append(p.env, v)
		}
	}
	p.env = append(p.env, "ROOT_ACCESS_KEY="+server.AccessKey, "ROOT_SECRET_KEY="+server.SecretKey)
	flags := map[string]string{"port": p.Addr, "region": server.Region, "quiet": "true"}
	maps.Copy(flags, o.Config)
	for _, k := range slices.Sorted(maps.Keys(flags)) {
		p.args = append(p.args, "--"+k+"="+flags[k])
	}
	p.args = append(p.args, "posix", buckets) // absolute: the gateway changes its directory
	p.ready = func(ctx context.Context) error { return s3Ready(ctx, server.S3Config) }
	if err := p.start(ctx); err != nil {
		return nil, err
	}
	return server, nil
}

// s3Ready lists the buckets with a signed request, so wrong keys show here.
func s3Ready(ctx context.Context, c S3Config) error {
	_, err := c.Client().ListBuckets(ctx, &s3.ListBucketsInput{}, func(o *s3.Options) { o.RetryMaxAttempts = 1 })
	if err != nil {
		return fmt.Errorf("listing the buckets of %s: %w", c.Endpoint, err)
	}
	return nil
}
