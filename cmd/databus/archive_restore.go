package main

import (
	"context"
	"fmt"

	"databus/pkg/history"
)

type archiveRestoreCmd struct {
	archiveFlags
	Topic   string `arg:"" predictor:"topic" help:"Archived topic."`
	To      string `required:"" placeholder:"TOPIC" help:"Topic to restore to, on the cluster of --brokers; made if it does not exist."`
	State   string `placeholder:"FILE" help:"File that remembers how far the restore came (default: TO.restore.json)."`
	Offsets string `placeholder:"FILE" help:"File for the mapping of offsets, a JSON object per line (default: TO.offsets.ndjson)."`
	Append  bool   `help:"Allow a topic that holds records already; nobody may write to it meanwhile."`
	Workers int    `default:"4" placeholder:"N" help:"Partitions that are restored at the same time (default: 4)."`
}

func (archiveRestoreCmd) Help() string {
	return `Replays the archive of a topic into another one, also on another cluster: --brokers and --registry name the new topic's, the
bucket is all that is needed of the old one. Partitions, order, keys, headers, values, tombstones and timestamps stay as
they were; a new topic with LogAppendTime gives its own timestamps, which is said. Dead letters are not in the archive. Values
have the version of the schema that their file has, registered under the subject TO-value.

Offsets change. The mapping has a line per run of offsets that follow each other: offset FROM+i of the archived topic
became NEW_FROM+i. The restore can be interrupted at any moment and run again: it goes on where the new topic ends, after
comparing what a dead run sent with the archive.

Examples:

    databus archive restore usage.events --to usage.events.restored

    databus archive restore usage.events --to usage.events.copy --state copy.json --offsets copy.ndjson
`
}

// Run restores and prints the sum.
func (c archiveRestoreCmd) Run(ctx context.Context, g *Globals) error {
	bucket, err := c.open(ctx, g)
	if err != nil {
		return err
	}
	at, err := g.reach(ctx)
	if err != nil {
		return err
	}
	r := history.Restorer{
		Bucket: bucket, Prefix: c.Prefix, Topic: c.Topic, To: c.To, Kafka: at.kafka, Registry: at.registry, Append: c.Append,
		State: c.State, Offsets: c.Offsets, Workers: c.Workers,
		Note: func(s string) { fmt.Fprintln(g.Err, "databus:", s) },
	}
	if r.State == "" {
		r.State = c.To + ".restore.json"
	}
	if r.Offsets == "" {
		r.Offsets = c.To + ".offsets.ndjson"
	}
	sum, err := r.Run(ctx)
	if err != nil {
		return fmt.Errorf("%w; what was restored is noted in %s, and the same command goes on from there", g.registryHint(err), r.State)
	}
	if sum.DeadLetters > 0 {
		fmt.Fprintf(g.Err, "databus: %s of the restored ranges are not in the archive; `databus consume %s.dlq` shows those that are left\n", plural(sum.DeadLetters, "dead letter"), c.Topic)
	}
	if sum.Found > 0 {
		fmt.Fprintf(g.Err, "databus: %s had been sent by an earlier run\n", plural(sum.Found, "row"))
	}
	fmt.Fprintf(g.Out, "restored: %s of %s, %s, to %s; the mapping of offsets is in %s\n",
		plural(int64(sum.Files), "file"), plural(int64(sum.Partitions), "partition"), plural(sum.Rows, "row"), c.To, r.Offsets)
	return nil
}
