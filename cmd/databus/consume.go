package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

type consumeCmd struct {
	Topic           string `arg:"" predictor:"topic" help:"Topic to read."`
	From            string `default:"beginning" placeholder:"WHERE" help:"Where to begin: beginning, end, an offset, or a time such as 2026-01-31T12:00:00Z (default: beginning)."`
	To              string `default:"end" placeholder:"WHERE" help:"Where to stop, exclusive: end (as it is at the start), an offset or a time (default: end)."`
	Partition       int32  `short:"p" default:"-1" placeholder:"N" help:"Read this partition only."`
	Follow          bool   `short:"f" help:"Go on with what comes later, until interrupted."`
	Max             int    `short:"n" placeholder:"N" help:"Stop after N records."`
	Format          string `enum:"json,text" default:"json" help:"json: one object per line; text: partition@offset, time, key and value."`
	ReadUncommitted bool   `help:"Also show records of transactions that are open or were aborted."`
	Strict          bool   `help:"Fail at the end if any value could not be decoded."`
}

func (consumeCmd) Help() string {
	return `Prints each record as one JSON object: partition, offset, timestamp, key, headers, schema_id and value. Values are
shown in the version of the schema that wrote them; a tombstone has the value null. A value that cannot be decoded is
printed as base64 bytes with the reason in error. Dead-letter topics are decoded like their source where that is possible.

Reading neither joins a consumer group nor commits anything. Without --follow it stops where the topic ended when it
started. Within a partition, records come in order; partitions come as they arrive.

Examples:

    databus consume usage.events

    databus consume usage.limits --follow --max 1 --format text

    databus consume usage.events --from 2026-01-31T12:00:00Z --partition 0

    databus consume usage.events.dlq --strict
`
}

// A span is a range of offsets of one partition: [next, end).
type span struct{ next, end int64 }

// patience is how long nothing may come before the reason is looked for.
const patience = 3 * time.Second

// Run prints the records of the asked range.
func (c consumeCmd) Run(ctx context.Context, g *Globals) error {
	if c.Follow && c.To != "end" {
		return errors.New("--follow reads without end, --to names one: leave one of them out")
	}
	isolation := kgo.ReadCommitted()
	if c.ReadUncommitted {
		isolation = kgo.ReadUncommitted()
	}
	cl, err := g.kafka(ctx,
		kgo.FetchIsolationLevel(isolation),
		kgo.KeepControlRecords(), // the end may lie behind a transaction's marker: stop by position
		kgo.ConsumeResetOffset(kgo.NoResetOffset()),
	)
	if err != nil {
		return err
	}
	defer cl.Close()
	spans, err := c.spans(ctx, kadm.NewClient(cl), g)
	if err != nil {
		return err
	}
	cdc, err := g.codec()
	if err != nil {
		return err
	}
	r := &reader{cmd: c, client: cl, globals: g, spans: spans, out: bufio.NewWriter(g.Out), printer: newPrinter(c.Topic, cdc)}
	err = r.run(ctx)
	if flushed := r.out.Flush(); err == nil && flushed != nil {
		err = fmt.Errorf("printing: %w", flushed)
	}
	if err == nil && c.Strict && r.printer.undecodable > 0 {
		err = fmt.Errorf("%d values of %s could not be decoded; their reasons are in the field error", r.printer.undecodable, c.Topic)
	}
	return err
}

// A reader reads its spans to their ends and prints the records.
type reader struct {
	cmd     consumeCmd
	client  *kgo.Client
	globals *Globals
	spans   map[int32]*span // what is left to read
	out     *bufio.Writer
	printer *printer
	printed int
}

func (r *reader) run(ctx context.Context) error {
	topic := r.cmd.Topic
	begin := map[int32]kgo.Offset{}
	for p, s := range r.spans {
		if r.cmd.Follow || s.next < s.end {
			begin[p] = kgo.NewOffset().At(s.next)
		} else {
			delete(r.spans, p)
		}
	}
	r.client.AddConsumePartitions(map[string]map[int32]kgo.Offset{topic: begin})
	idle := time.Now()
	for len(r.spans) > 0 {
		poll, cancel := context.WithTimeout(ctx, patience)
		fetches := r.client.PollFetches(poll)
		waited := poll.Err() != nil
		cancel()
		if ctx.Err() != nil {
			if r.cmd.Follow {
				return nil // interrupting is how following ends
			}
			return ctx.Err()
		}
		var err error
		fetches.EachError(func(_ string, p int32, e error) {
			if !errors.Is(e, context.DeadlineExceeded) && err == nil {
				err = fmt.Errorf("reading %s/%d: %w", topic, p, e)
			}
		})
		if err != nil {
			return err
		}
		for it := fetches.RecordIter(); !it.Done(); {
			idle = time.Now()
			if done, err := r.record(ctx, it.Next()); done || err != nil {
				return err
			}
		}
		if err := r.out.Flush(); err != nil {
			return fmt.Errorf("printing: %w", err)
		}
		if waited && !r.cmd.Follow {
			if err := r.stalled(ctx, time.Since(idle)); err != nil {
				return err
			}
		}
	}
	return nil
}

// record prints a record if it lies in its span, and reports whether enough have been printed.
func (r *reader) record(ctx context.Context, rec *kgo.Record) (bool, error) {
	s, ok := r.spans[rec.Partition]
	if !ok {
		return false, nil
	}
	inside := r.cmd.Follow || rec.Offset < s.end
	if inside && !rec.Attrs.IsControl() {
		if err := r.printer.print(ctx, r.out, rec, r.cmd.Format); err != nil {
			return false, r.globals.registryHint(err)
		}
		r.printed++
	}
	s.next = rec.Offset + 1
	if !r.cmd.Follow && s.next >= s.end {
		delete(r.spans, rec.Partition)
		r.client.PauseFetchPartitions(map[string][]int32{rec.Topic: {rec.Partition}})
	}
	return r.cmd.Max > 0 && r.printed >= r.cmd.Max, nil
}

// stalled says what the reader waits for: a transaction that is open hides what follows it, until it ends. Otherwise
// something is wrong, and it is better to say so than to print less without a word.
func (r *reader) stalled(ctx context.Context, idle time.Duration) error {
	stable, err := kadm.NewClient(r.client).ListCommittedOffsets(ctx, r.cmd.Topic)
	if err != nil {
		return fmt.Errorf("asking for the last stable offsets of %s: %w", r.cmd.Topic, err)
	}
	for p, s := range r.spans {
		o, ok := stable.Lookup(r.cmd.Topic, p)
		switch {
		case ok && o.Err == nil && o.Offset < s.end && !r.cmd.ReadUncommitted:
			fmt.Fprintf(r.globals.Err, "databus: partition %d: an open transaction hides offsets %d to %d until it ends; --read-uncommitted shows them\n", p, max(o.Offset, s.next), s.end-1)
		case idle > 5*patience:
			return fmt.Errorf("nothing came from %s/%d for %s, at offset %d of %d: compaction may have removed the rest, or the broker hangs; read to a lower --to",
				r.cmd.Topic, p, idle.Round(time.Second), s.next, s.end)
		}
	}
	return nil
}
