package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"

	"databus/services/archiver"
)

type archiveBackfillCmd struct {
	archiveFlags
	Topic string `arg:"" predictor:"topic" help:"Archived topic."`
	From  int64  `default:"0" placeholder:"OFFSET" help:"First offset that is wanted, in each partition (default: 0)."`
}

func (archiveBackfillCmd) Help() string {
	return `Archives what the archive lacks below the archiver's committed offsets and Kafka still has: offsets before its beginning, and
objects that the bucket has lost. It may run beside archivers; nothing is replaced, and no offset is moved.

An object that the manifest names is made again for the same offsets, and put only if it comes out with the manifest's
checksum. Others are cut by the archiver's defaults and announced in the manifest.

Examples:

    databus archive backfill usage.events

    databus archive backfill usage.events --from 1000000
`
}

// Run fills the holes and prints the sum.
func (c archiveBackfillCmd) Run(ctx context.Context, g *Globals) error {
	bucket, err := c.open(ctx, g)
	if err != nil {
		return err
	}
	at, err := g.reach(ctx)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "databus-backfill-")
	if err != nil {
		return fmt.Errorf("making a directory for the spool: %w", err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	cfg := archiver.Default()
	cfg.Prefix = c.Prefix
	sum, err := archiver.Backfill{
		Config: cfg, Topic: c.Topic, From: c.From,
		Parts: archiver.Parts{
			Client: at.kafka, TransactionalID: "databus.archive.backfill." + c.Topic, Bucket: bucket,
			Codec: at.codec, SpoolDir: dir, Log: slog.New(slog.DiscardHandler),
		},
	}.Run(ctx)
	if err != nil {
		return fmt.Errorf("%w; what is done is done, and the same command goes on from there", g.registryHint(err))
	}
	if sum.Gone > 0 {
		fmt.Fprintf(g.Err, "databus: %s are neither in the archive nor in the topic any more\n", plural(sum.Gone, "offset"))
	}
	fmt.Fprintf(g.Out, "backfilled: %s made again, %s new, with %s and %s\n",
		plural(int64(sum.Again), "lost object"), plural(int64(sum.New), "object"), plural(sum.Rows, "row"), plural(sum.DeadLetters, "dead letter"))
	if len(sum.Differing) > 0 {
		return fmt.Errorf("%s came out with another checksum than the manifest's, and were not put, the first: %s; "+
			"was it written by another version, or has the registry changed?", plural(int64(len(sum.Differing)), "lost object"), sum.Differing[0])
	}
	return nil
}
