package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"

	"databus/cmd/databus/internal/setup"
	"databus/pkg/blob"
	"databus/pkg/identity"
	"databus/pkg/seal"
)

type initCmd struct {
	BucketURL   string `env:"DATABUS_BUCKET__URL" required:"" placeholder:"URL" help:"Bucket, such as s3://bucket/prefix?endpoint=http://127.0.0.1:7070&path_style=true."`
	IdentityURL string `env:"DATABUS_IDENTITY__URL" required:"" placeholder:"URL" help:"Identity store, such as cassandra://127.0.0.1:9042?replication=1."`
	KeysFile    string `env:"DATABUS_KEYS__FILE" placeholder:"FILE" help:"Also make this file of secrets, unless it exists."`
	Replication int16  `placeholder:"N" help:"Replication factor of new topics; default: the cluster's."`
}

func (initCmd) Help() string {
	return `Prepares servers for Databus: creates the catalogue's topics, registers the schemas, publishes the first graph version and
makes the first database version. What is there already stays as it is, so it can be run again at any time. "databus dev"
does all of this by itself.

Example:

    databus init --bucket-url file:///tmp/databus-bucket --identity-url mem://
`
}

// Run prints what it did, a line each.
func (c initCmd) Run(ctx context.Context, g *Globals) error {
	if c.KeysFile != "" {
		switch _, err := seal.Generate(c.KeysFile); {
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
	return g.registryHint(err)
}
