package blob

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/feature/s3/transfermanager"
	tmtypes "github.com/aws/aws-sdk-go-v2/feature/s3/transfermanager/types"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
)

// Limits and defaults of an upload in parts. Whatever the object's size, an upload holds at most s3Parallel+3 parts in
// memory, and the beginning from which its size was told: those that are sent, the one that is read, and the first one's buffer
// while it grows.
const (
	s3MinPart     = 5 << 20
	s3DefaultPart = 8 << 20
	s3MaxHeld     = 1 << 30
	s3Parallel    = 2
	// s3AbortTimeout bounds the clean-up after an upload that failed, also when its context has ended.
	s3AbortTimeout = 10 * time.Second
)

// putInParts publishes a large body: its parts are invisible until they are put together in one step, which is
// conditional like a Put in one request. If that step fails, or this process dies, parts stay behind that no listing
// shows: a lifecycle rule of the bucket (AbortIncompleteMultipartUpload) removes what a dead process left.
func (b *S3) putInParts(ctx context.Context, key string, body *measured, opts PutOptions) (Info, error) {
	api := &uploadAPI{Client: b.client, body: body}
	manager := transfermanager.New(api, func(o *transfermanager.Options) {
		o.PartSizeBytes = b.opts.PartSize
		o.MultipartUploadThreshold = 1 // the choice is made: what is below is read into memory
		o.Concurrency = s3Parallel
		o.FailTimeout = s3AbortTimeout
	})
	in := &transfermanager.UploadObjectInput{
		Bucket: &b.opts.Bucket, Key: aws.String(b.prefix + key), Body: body,
		// Of the whole object, so that its readers can verify it.
		ChecksumAlgorithm: tmtypes.ChecksumAlgorithmCrc32, ChecksumType: tmtypes.ChecksumTypeFullObject,
		ServerSideEncryption: tmtypes.ServerSideEncryption(b.opts.Encryption), SSEKMSKeyID: optional(b.opts.KMSKey),
	}
	if opts.CreateOnly {
		in.IfNoneMatch = aws.String("*")
	}
	out, err := manager.UploadObject(ctx, in)
	if err == nil {
		err = api.failed
	}
	if err == nil {
		return Info{Key: key, Size: body.size, ETag: unquote(out.ETag), ModTime: time.Now()}, nil
	}
	if opts.CreateOnly {
		switch status(api.failed) {
		case http.StatusPreconditionFailed:
			return Info{}, ErrExists
		case http.StatusNotFound:
			// The upload is gone: an earlier attempt at its last step may have put it together unheard.
			if _, head := b.Head(ctx, key); head == nil {
				return Info{}, ErrExists
			}
		}
	}
	return Info{}, err
}

// uploadAPI is what one upload does with S3. The manager would hide the reason of a failed upload behind that of a failed
// clean-up, and print the failure of the last step: both are kept from it.
type uploadAPI struct {
	*s3.Client
	body   *measured
	failed error // of the last step; set before the manager returns
}

func (u *uploadAPI) CompleteMultipartUpload(ctx context.Context, in *s3.CompleteMultipartUploadInput, opts ...func(*s3.Options)) (*s3.CompleteMultipartUploadOutput, error) {
	in.MpuObjectSize = &u.body.size // it has been read to its end
	out, err := u.Client.CompleteMultipartUpload(ctx, in, opts...)
	if err == nil {
		return out, nil
	}
	u.failed = err
	fresh, cancel := context.WithTimeout(context.WithoutCancel(ctx), s3AbortTimeout)
	defer cancel()
	_, _ = u.AbortMultipartUpload(fresh, &s3.AbortMultipartUploadInput{Bucket: in.Bucket, Key: in.Key, UploadId: in.UploadId}, opts...)
	return &s3.CompleteMultipartUploadOutput{}, nil
}

// AbortMultipartUpload removes the parts as far as it can; what stays is what a dead process leaves as well.
func (u *uploadAPI) AbortMultipartUpload(ctx context.Context, in *s3.AbortMultipartUploadInput, opts ...func(*s3.Options)) (*s3.AbortMultipartUploadOutput, error) {
	_, _ = u.Client.AbortMultipartUpload(ctx, in, opts...)
	return &s3.AbortMultipartUploadOutput{}, nil
}

// checkUploads completes and checks the options that uploads depend on.
func (o *S3Options) checkUploads() error {
	if o.PartSize == 0 {
		o.PartSize = s3DefaultPart
	}
	if o.PartsFrom == 0 {
		o.PartsFrom = o.PartSize
	}
	if o.AnswerTimeout == 0 {
		o.AnswerTimeout = s3AnswerTimeout
	}
	switch {
	case o.PartSize < s3MinPart || o.PartSize > s3MaxHeld:
		return fmt.Errorf("parts of %d bytes: S3 takes 5 MiB and more, and memory holds no more than 1 GiB", o.PartSize)
	case o.PartsFrom < 1 || o.PartsFrom > s3MaxHeld:
		return fmt.Errorf("uploads in parts from %d bytes on: use 1 byte to 1 GiB, which memory has to hold", o.PartsFrom)
	case o.AnswerTimeout < 0:
		return errors.New("the answer timeout is negative")
	case o.Encryption != "" && o.Encryption != string(types.ServerSideEncryptionAes256) && o.Encryption != string(types.ServerSideEncryptionAwsKms):
		return fmt.Errorf("encryption %q is unknown; use AES256 (S3's own keys) or aws:kms", o.Encryption)
	case o.KMSKey != "" && o.Encryption != string(types.ServerSideEncryptionAwsKms):
		return errors.New("a KMS key is given, but the encryption is not aws:kms")
	}
	return nil
}

func optional(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}
