package seal

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/tink-crypto/tink-go-awskms/v3/integration/awskms"
	"github.com/tink-crypto/tink-go/v2/tink"

	"databus/pkg/seal/kmsuri"
)

// kmsTimeout bounds one wrapping or unwrapping, the SDK's own retries included.
const kmsTimeout = 10 * time.Second

// AWSKMS says which key of AWS KMS is the key-encryption key.
type AWSKMS struct {
	// URI is aws-kms://arn:aws:kms:REGION:ACCOUNT:key/ID. It is the key-encryption key's id in key events, so an alias,
	// which can be pointed at another key, is refused.
	URI string
	// Endpoint replaces the service's address, for a VPC endpoint; empty means AWS's own.
	Endpoint string
}

// Validate checks the form.
func (a AWSKMS) Validate() error {
	_, _, err := kmsuri.Parse(a.URI)
	return err
}

// useAWSKMS makes a key of AWS KMS the key-encryption key that wraps new data keys; nothing is asked of KMS yet.
func (k *Keys) useAWSKMS(ctx context.Context, a AWSKMS) error {
	arn, region, err := kmsuri.Parse(a.URI)
	if err != nil {
		return fmt.Errorf("using AWS KMS: %w", err)
	}
	cfg, err := config.LoadDefaultConfig(ctx, config.WithRegion(region))
	if err != nil {
		return fmt.Errorf("using AWS KMS: %w", err)
	}
	client := kms.NewFromConfig(cfg, func(o *kms.Options) {
		if a.Endpoint != "" {
			o.BaseEndpoint = &a.Endpoint
		}
	})
	remote, err := awskms.NewAEADWithContext(ctx, arn, awskms.WithKMS(client))
	if err != nil {
		return fmt.Errorf("using AWS KMS: %w", err)
	}
	k.keks[a.URI] = &awsKEK{remote}
	k.kekID = a.URI
	return nil
}

// awsKEK is a key-encryption key that never leaves AWS KMS.
type awsKEK struct{ remote tink.AEADWithContext }

func (a *awsKEK) wrap(ctx context.Context, id string, key []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, kmsTimeout)
	defer cancel()
	wrapped, err := a.remote.EncryptWithContext(ctx, key, []byte(id))
	return wrapped, explainKMS(err)
}

func (a *awsKEK) unwrap(ctx context.Context, id string, wrapped []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, kmsTimeout)
	defer cancel()
	key, err := a.remote.DecryptWithContext(ctx, wrapped, []byte(id))
	return key, explainKMS(err)
}

// explainKMS tells apart what can never succeed. Everything else, a missing permission or a disabled key included, may be
// put right: a record must not count as dead because of it.
func explainKMS(err error) error {
	var invalid *types.InvalidCiphertextException
	var incorrect *types.IncorrectKeyException
	switch {
	case err == nil:
		return nil
	case errors.As(err, &invalid):
		return ErrTampered
	case errors.As(err, &incorrect):
		return ErrWrongKEK
	}
	return fmt.Errorf("%w: %w", ErrKEKUnavailable, err)
}
