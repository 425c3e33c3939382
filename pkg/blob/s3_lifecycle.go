package blob

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go"
)

const (
	lifecycleRule = "databus-parts-of-dead-uploads"
	lifecycleDays = 2 // no upload that is alive takes longer than minutes
)

// DropDeadParts makes the server remove what uploads left that nobody completes: a lifecycle rule
// AbortIncompleteMultipartUpload for the bucket's prefix, unless an enabled rule covers it already. The rules that are there stay as
// they are; set is true when one was added. errors.ErrUnsupported: the server knows no such rules. Rules are replaced as a
// whole by this protocol, so nobody else may change them at the same time.
func (b *S3) DropDeadParts(ctx context.Context) (set bool, err error) {
	is, err := b.lifecycle(ctx)
	if err != nil || b.dropsDeadParts(is.Rules) {
		return false, err
	}
	rules := append(is.Rules, types.LifecycleRule{
		ID: aws.String(lifecycleRule), Status: types.ExpirationStatusEnabled, Filter: &types.LifecycleRuleFilter{Prefix: &b.prefix},
		AbortIncompleteMultipartUpload: &types.AbortIncompleteMultipartUpload{DaysAfterInitiation: aws.Int32(lifecycleDays)},
	})
	_, err = b.client.PutBucketLifecycleConfiguration(ctx, &s3.PutBucketLifecycleConfigurationInput{
		Bucket: &b.opts.Bucket, LifecycleConfiguration: &types.BucketLifecycleConfiguration{Rules: rules},
		TransitionDefaultMinimumObjectSize: is.TransitionDefaultMinimumObjectSize,
	})
	if err != nil {
		return false, fmt.Errorf("setting the lifecycle rules of bucket %q: %w", b.opts.Bucket, unsupported(err))
	}
	if is, err = b.lifecycle(ctx); err != nil {
		return false, err
	}
	if !b.dropsDeadParts(is.Rules) {
		return false, fmt.Errorf("setting the lifecycle rules of bucket %q: the server took the rule and has forgotten it: %w", b.opts.Bucket, errors.ErrUnsupported)
	}
	return true, nil
}

// lifecycle asks for the bucket's rules; having none is no error.
func (b *S3) lifecycle(ctx context.Context) (*s3.GetBucketLifecycleConfigurationOutput, error) {
	is, err := b.client.GetBucketLifecycleConfiguration(ctx, &s3.GetBucketLifecycleConfigurationInput{Bucket: &b.opts.Bucket})
	var api smithy.APIError
	switch {
	case errors.As(err, &api) && api.ErrorCode() == "NoSuchLifecycleConfiguration":
		return &s3.GetBucketLifecycleConfigurationOutput{}, nil
	case err != nil:
		return nil, fmt.Errorf("asking for the lifecycle rules of bucket %q: %w", b.opts.Bucket, unsupported(err))
	}
	return is, nil
}

// dropsDeadParts tells whether one of the rules does what is wanted for all of the bucket's own prefix.
func (b *S3) dropsDeadParts(rules []types.LifecycleRule) bool {
	for _, r := range rules {
		//lint:ignore SA1019 rules of the older form are in buckets still
		prefix := aws.ToString(r.Prefix)
		if r.Filter != nil {
			if r.Filter.And != nil || r.Filter.Tag != nil || r.Filter.ObjectSizeGreaterThan != nil || r.Filter.ObjectSizeLessThan != nil {
				continue // it covers some objects only
			}
			prefix = aws.ToString(r.Filter.Prefix)
		}
		if r.Status == types.ExpirationStatusEnabled && r.AbortIncompleteMultipartUpload != nil && strings.HasPrefix(b.prefix, prefix) {
			return true
		}
	}
	return false
}

// unsupported says of a server's refusal that it knows no lifecycle rules.
func unsupported(err error) error {
	var api smithy.APIError
	if status(err) == http.StatusNotImplemented || status(err) == http.StatusMethodNotAllowed || errors.As(err, &api) && api.ErrorCode() == "NotImplemented" {
		return fmt.Errorf("%w: %w", errors.ErrUnsupported, err)
	}
	return err
}
