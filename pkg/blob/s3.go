package blob

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go"
)

// Limits of one request to S3.
const (
	s3Attempts       = 6
	s3MaxBackoff     = 5 * time.Second
	s3ConnectTimeout = 10 * time.Second
	// s3AnswerTimeout counts from the end of the request's body.
	s3AnswerTimeout = 60 * time.Second
)

// S3Options says where a bucket is. Credentials come from the SDK's standard chain.
type S3Options struct {
	Bucket string
	// Prefix is put before every key, with a slash between.
	Prefix string
	// Endpoint is the server's URL; empty is AWS itself.
	Endpoint string
	// Region defaults to the environment's, or to us-east-1 where an Endpoint is given.
	Region string
	// PathStyle puts the bucket into the path instead of the host name, as most servers other than AWS need.
	PathStyle bool
	// PartsFrom is the size in bytes from which on an object is uploaded in parts, and PartSize that of a part, 5 MiB or more;
	// 0 means 8 MiB each. Up to PartsFrom of a body is held in memory, to see which it is.
	PartsFrom, PartSize int64
	// Encryption at rest, by the server: "" leaves it to the bucket's settings, "AES256" is SSE-S3, "aws:kms" SSE-KMS.
	Encryption string
	// KMSKey is the id or ARN of the key for aws:kms; "" is the account's default key.
	KMSKey string
	// AnswerTimeout is the longest wait for an answer from the end of a request's body on, before the request is tried
	// again; 0 means 60 s.
	AnswerTimeout time.Duration
}

// S3 is a bucket on S3 or a server that speaks its protocol and knows conditional writes. Requests carry checksums
// that the server verifies, whole objects are verified while they are read. An upload holds a few parts in memory at most,
// whatever the object's size.
type S3 struct {
	client *s3.Client
	opts   S3Options
	prefix string
}

// OpenS3 opens a bucket, which must exist, and asks the server for it once.
func OpenS3(ctx context.Context, opts S3Options) (*S3, error) {
	if opts.Bucket == "" {
		return nil, fmt.Errorf("opening bucket: its URL names no bucket; it looks like s3://bucket/prefix")
	}
	prefix := ""
	if opts.Prefix = strings.Trim(opts.Prefix, "/"); opts.Prefix != "" {
		if err := CheckKey(opts.Prefix); err != nil {
			return nil, fmt.Errorf("opening bucket: prefix: %w", err)
		}
		prefix = opts.Prefix + "/"
		if len(prefix)+MaxKeyLength > 1024 {
			return nil, fmt.Errorf("opening bucket: a prefix of %d bytes leaves no room for keys", len(prefix))
		}
	}
	if opts.Endpoint != "" {
		u, err := url.Parse(opts.Endpoint)
		if err != nil || u.Host == "" || u.User != nil || (u.Scheme != "http" && u.Scheme != "https") {
			return nil, fmt.Errorf("opening bucket: the endpoint must look like http://host:port, without credentials")
		}
	}
	if err := opts.checkUploads(); err != nil {
		return nil, fmt.Errorf("opening bucket: %w", err)
	}
	load := []func(*config.LoadOptions) error{
		config.WithHTTPClient(awshttp.NewBuildableClient().
			WithTransportOptions(func(t *http.Transport) {
				t.ResponseHeaderTimeout = opts.AnswerTimeout
				t.TLSHandshakeTimeout = s3ConnectTimeout
			})),
		config.WithRetryer(func() aws.Retryer { return newRetryer(nil) }),
	}
	if opts.Region != "" {
		load = append(load, config.WithRegion(opts.Region))
	}
	// LoadDefaultConfig, unlike a bare client, switches the default checksums on.
	cfg, err := config.LoadDefaultConfig(ctx, load...)
	if err != nil {
		return nil, fmt.Errorf("opening bucket: loading the S3 configuration: %w", err)
	}
	if cfg.Region == "" {
		if opts.Endpoint == "" {
			return nil, fmt.Errorf("opening bucket: no region; add ?region=... to its URL or set AWS_REGION")
		}
		cfg.Region = "us-east-1"
	}
	client := s3.NewFromConfig(cfg, func(o *s3.Options) {
		o.UsePathStyle = opts.PathStyle
		// Ranges have no checksum; the SDK would say so on standard error for every one.
		o.DisableLogOutputChecksumValidationSkipped = true
		if opts.Endpoint != "" {
			o.BaseEndpoint = aws.String(opts.Endpoint)
		}
	})
	if _, err := client.HeadBucket(ctx, &s3.HeadBucketInput{Bucket: &opts.Bucket}); err != nil {
		hint := "check the endpoint and the credentials"
		if status(err) == http.StatusNotFound {
			hint = "create the bucket first"
		}
		return nil, fmt.Errorf("opening bucket %q: %w (%s)", opts.Bucket, err, hint)
	}
	return &S3{client, opts, prefix}, nil
}

// newRetryer decides what is tried again, and how often. final, if given, is asked about every failed attempt first: true
// ends the attempts.
func newRetryer(final func(error) bool) aws.Retryer {
	r := retry.NewStandard(func(o *retry.StandardOptions) {
		o.MaxAttempts = s3Attempts
		o.MaxBackoff = s3MaxBackoff
		o.Retryables = append(o.Retryables, retry.RetryableHTTPStatusCode{Codes: map[int]struct{}{http.StatusTooManyRequests: {}}})
		if final != nil {
			o.Retryables = append([]retry.IsErrorRetryable{retry.IsErrorRetryableFunc(func(err error) aws.Ternary {
				if final(err) {
					return aws.FalseTernary
				}
				return aws.UnknownTernary
			})}, o.Retryables...)
		}
	})
	return retry.AddWithErrorCodes(r,
		// S3 answers a conditional write that met another one with 409: ask again who won.
		"ConditionalRequestConflict", "OperationAborted",
		// What was sent is not what arrived.
		"BadDigest", "InvalidDigest", "IncompleteBody", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch")
}

// String names the bucket by its URL.
func (b *S3) String() string { return "s3://" + b.opts.Bucket + "/" + b.prefix }

// Put implements Bucket, in one request or, from PartsFrom bytes on, in parts.
func (b *S3) Put(ctx context.Context, key string, body io.Reader, opts PutOptions) (Info, error) {
	if err := CheckKey(key); err != nil {
		return Info{}, err
	}
	all := measure(ctx, body)
	var start bytes.Buffer
	_, err := start.ReadFrom(io.LimitReader(all, b.opts.PartsFrom))
	var info Info
	switch {
	case err != nil:
	case all.size < b.opts.PartsFrom:
		info, err = b.putAtOnce(ctx, key, start.Bytes(), opts)
	default:
		info, err = b.putInParts(ctx, key, measure(ctx, io.MultiReader(&start, body)), opts)
	}
	if err != nil {
		return Info{}, fmt.Errorf("putting object %q: %w", key, err)
	}
	return info, nil
}

// putAtOnce publishes a small body in one request.
func (b *S3) putAtOnce(ctx context.Context, key string, body []byte, opts PutOptions) (Info, error) {
	size := int64(len(body))
	in := &s3.PutObjectInput{
		Bucket: &b.opts.Bucket, Key: aws.String(b.prefix + key), Body: bytes.NewReader(body), ContentLength: &size,
		ServerSideEncryption: types.ServerSideEncryption(b.opts.Encryption), SSEKMSKeyId: optional(b.opts.KMSKey),
	}
	if opts.CreateOnly {
		in.IfNoneMatch = aws.String("*")
	}
	var taken bool
	out, err := b.client.PutObject(ctx, in, func(o *s3.Options) {
		if !opts.CreateOnly {
			return
		}
		// A server may refuse before it has read the body, and hang up: the refusal is lost then, each time.
		o.Retryer = newRetryer(func(err error) bool {
			if status(err) == 0 && ctx.Err() == nil {
				_, head := b.Head(ctx, key)
				taken = head == nil
			}
			return taken
		})
	})
	if err != nil {
		if opts.CreateOnly && (taken || status(err) == http.StatusPreconditionFailed) {
			err = ErrExists
		}
		return Info{}, err
	}
	return Info{Key: key, Size: size, ETag: unquote(out.ETag), ModTime: time.Now()}, nil
}

// Get implements Bucket.
func (b *S3) Get(ctx context.Context, key string) (io.ReadCloser, Info, error) {
	return b.get(ctx, key, nil)
}

// GetRange implements Bucket.
func (b *S3) GetRange(ctx context.Context, key string, offset, length int64) (io.ReadCloser, Info, error) {
	if offset < 0 || length < -1 || length == 0 {
		return nil, Info{}, fmt.Errorf("reading object %q, %d bytes from %d on: %w", key, length, offset, ErrRange)
	}
	r := fmt.Sprintf("bytes=%d-", offset)
	if length > 0 {
		r += fmt.Sprint(offset + length - 1)
	}
	return b.get(ctx, key, &r)
}

func (b *S3) get(ctx context.Context, key string, byteRange *string) (io.ReadCloser, Info, error) {
	if err := CheckKey(key); err != nil {
		return nil, Info{}, err
	}
	out, err := b.client.GetObject(ctx, &s3.GetObjectInput{
		Bucket: &b.opts.Bucket, Key: aws.String(b.prefix + key), Range: byteRange,
	})
	if err != nil {
		return nil, Info{}, fmt.Errorf("reading object %q: %w", key, known(err))
	}
	info := Info{Key: key, Size: aws.ToInt64(out.ContentLength), ETag: unquote(out.ETag), ModTime: aws.ToTime(out.LastModified)}
	if byteRange != nil {
		if info.Size, err = totalSize(aws.ToString(out.ContentRange)); err != nil {
			out.Body.Close()
			return nil, Info{}, fmt.Errorf("reading object %q: %w", key, err)
		}
	}
	return out.Body, info, nil
}

// Head implements Bucket.
func (b *S3) Head(ctx context.Context, key string) (Info, error) {
	if err := CheckKey(key); err != nil {
		return Info{}, err
	}
	out, err := b.client.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &b.opts.Bucket, Key: aws.String(b.prefix + key)})
	if err != nil {
		return Info{}, fmt.Errorf("reading object %q: %w", key, known(err))
	}
	return Info{Key: key, Size: aws.ToInt64(out.ContentLength), ETag: unquote(out.ETag), ModTime: aws.ToTime(out.LastModified)}, nil
}

// List implements Bucket, a thousand objects a request.
func (b *S3) List(ctx context.Context, prefix string, fn func(Info) error) error {
	pages := s3.NewListObjectsV2Paginator(b.client, &s3.ListObjectsV2Input{
		Bucket: &b.opts.Bucket, Prefix: aws.String(b.prefix + prefix),
	})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return fmt.Errorf("listing objects under %q: %w", prefix, err)
		}
		for _, object := range page.Contents {
			key := strings.TrimPrefix(aws.ToString(object.Key), b.prefix)
			if strings.HasSuffix(key, "/") {
				continue // a directory marker of a file-system console, no object of ours
			}
			err := fn(Info{
				Key: key, Size: aws.ToInt64(object.Size), ETag: unquote(object.ETag),
				ModTime: aws.ToTime(object.LastModified),
			})
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// Delete implements Bucket.
func (b *S3) Delete(ctx context.Context, key string) error {
	if err := CheckKey(key); err != nil {
		return err
	}
	_, err := b.client.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: &b.opts.Bucket, Key: aws.String(b.prefix + key)})
	if err != nil && !errors.Is(known(err), ErrNotFound) {
		return fmt.Errorf("deleting object %q: %w", key, err)
	}
	return nil
}

// known turns what the server says about a missing object or a range into the port's errors. A missing bucket is
// neither: it stays the server's error.
func known(err error) error {
	var api smithy.APIError
	if errors.As(err, &api) {
		switch api.ErrorCode() {
		case "NoSuchKey", "NotFound":
			return ErrNotFound
		case "InvalidRange":
			return ErrRange
		case "NoSuchBucket":
			return err
		}
	}
	switch status(err) {
	case http.StatusNotFound:
		return ErrNotFound
	case http.StatusRequestedRangeNotSatisfiable:
		return ErrRange
	}
	return err
}

func status(err error) int {
	var response *awshttp.ResponseError
	if errors.As(err, &response) {
		return response.HTTPStatusCode()
	}
	return 0
}

func unquote(etag *string) string { return strings.Trim(aws.ToString(etag), `"`) }

func totalSize(contentRange string) (int64, error) {
	var first, last, size int64
	if _, err := fmt.Sscanf(contentRange, "bytes %d-%d/%d", &first, &last, &size); err != nil {
		return 0, fmt.Errorf("the server's Content-Range %q cannot be understood", contentRange)
	}
	return size, nil
}
