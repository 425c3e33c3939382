package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"

	"databus/cmd/databus/internal/setup"
	"databus/pkg/blob"
	"databus/pkg/identity"
	"databus/pkg/seal"
)

type initCmd struct {
	BucketURL   string `env:"DATABUS_BUCKET__URL" required:"" placeholder:"URL" help:"Bucket, such as s3://bucket/prefix?endpoint=http://127.0.0.1:7070&path_style=true."`
	IdentityURL string `env:"DATABUS_IDENTITY__URL" required:"" placeholder:"URL" help:"Identity store, such as cassandra://127.0.0.1:9042?replication=1."`
	KeysFile    string `env:"DATABUS_KEYS__FILE" placeholder:"FILE" help:"Also make this file of secrets, unless it exists."`
	KMSURI      string `name:"kms-uri" env:"DATABUS_KEYS__KMS_URI" placeholder:"URI" help:"Wrap the secrets of a new file by this key of AWS KMS, aws-kms://arn:...; default: they are plain."`
	KMSEndpoint string `name:"kms-endpoint" env:"DATABUS_KEYS__KMS_ENDPOINT" placeholder:"URL" help:"Base URL of KMS, for a VPC endpoint."`
	Replication int16  `placeholder:"N" help:"Replication factor of new topics; default: the cluster's."`
}

func (initCmd) Help() string {
	return `Prepares servers for Databus: creates the catalogue's topics, registers the schemas, publishes the first graph version and
makes the first database version. A bucket of S3 gets the lifecycle rule that removes parts of uploads that died, beside its other
rules; where that fails, a warning says so. What is there already stays as it is, so it can be run again at any time. "databus dev"
does all of this by itself.

Example:

    databus init --bucket-url file:///tmp/databus-bucket --identity-url mem://
`
}

func (c initCmd) generate(ctx context.Context) (err error) {
	if c.KMSURI == "" {
		_, err = seal.Generate(c.KeysFile)
		return err
	}
	if _, err = os.Lstat(c.KeysFile); err == nil {
		return fs.ErrExist // KMS need not be asked
	}
	_, err = seal.GenerateWrapped(ctx, c.KeysFile, seal.AWSKMS{URI: c.KMSURI, Endpoint: c.KMSEndpoint})
	return err
}

// Run prints what it did, a line each.
func (c initCmd) Run(ctx context.Context, g *Globals) error {
	if c.KeysFile != "" {
		switch err := c.generate(ctx); {
		case err == nil:
			fmt.Fprintf(g.Out, "%s: made; keep it safe, without it no record can be read\n", c.KeysFile)
		case !errors.Is(err, fs.ErrExist):
			return err
		}
	}
	at, err := g.reach(ctx)
	if err != nil {
		return err
	}
	bucket, err := blob.Open(ctx, c.BucketURL)
	if err != nil {
		return err
	}
	stores, err := identity.OpenStores(ctx, c.IdentityURL)
	if err != nil {
		return err
	}
	defer stores.Close() //nolint:errcheck // everything is durable by then
	done, err := setup.Run(ctx, setup.Target{Kafka: at.kafka, Registry: at.registry, Bucket: bucket, Stores: stores, Replication: c.Replication,
		Log: slog.New(slog.NewTextHandler(g.Err, nil))})
	for _, line := range done {
		fmt.Fprintln(g.Out, line)
	}
	if s3, ok := bucket.(*blob.S3); ok {
		dropDeadParts(ctx, g, s3)
	}
	return g.registryHint(err)
}

// dropDeadParts sets the bucket's rule, or says what is to be done by hand: Databus works without it.
func dropDeadParts(ctx context.Context, g *Globals, bucket *blob.S3) {
	switch set, err := bucket.DropDeadParts(ctx); {
	case err != nil:
		fmt.Fprintf(g.Err, "databus: warning: %s has no rule that removes the parts of uploads that died: %v; they stay and are paid for: "+
			"let the server remove incomplete uploads after two days, for example by a lifecycle rule AbortIncompleteMultipartUpload\n", bucket, err)
	case set:
		fmt.Fprintf(g.Out, "%s: parts of uploads that died are removed after two days\n", bucket)
	}
}
