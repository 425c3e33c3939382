package history

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"databus/pkg/blob"
	"databus/schemas/codec"
	"databus/schemas/event"
)

// Log is a topic from its first archived record to its end: its archive, and Kafka from where that ends. It may be used by
// any number of goroutines.
type Log struct {
	Topic    string
	Manifest *Manifest
	Bucket   blob.Bucket
	// Kafka says where the brokers are; no option of a group or consumer.
	Kafka []kgo.Opt
	Admin *kadm.Client
	Codec *codec.Codec
	// Patience is how long Kafka may give nothing where it has records; default one minute.
	Patience time.Duration
}

// Extent is what can be read of a partition: [Start, End), up to the last stable offset. The archive begins at Start, or
// Kafka, where it reaches further back.
type Extent struct{ Start, End int64 }

// Extent asks the manifest, as of now, and the brokers.
func (l *Log) Extent(ctx context.Context, partition int32) (Extent, error) {
	if err := l.Manifest.CaughtUp(ctx); err != nil {
		return Extent{}, fmt.Errorf("reading the manifest: %w", err)
	}
	starts, err := l.Admin.ListStartOffsets(ctx, l.Topic)
	if err = errors.Join(err, starts.Error()); err != nil {
		return Extent{}, fmt.Errorf("asking for start offsets: %w", err)
	}
	ends, err := l.Admin.ListCommittedOffsets(ctx, l.Topic)
	if err = errors.Join(err, ends.Error()); err != nil {
		return Extent{}, fmt.Errorf("asking for the last stable offsets: %w", err)
	}
	start, ok := starts.Lookup(l.Topic, partition)
	end, ok2 := ends.Lookup(l.Topic, partition)
	if !ok || !ok2 {
		return Extent{}, fmt.Errorf("topic %s has no partition %d", l.Topic, partition)
	}
	x := Extent{start.Offset, end.Offset}
	for _, f := range l.Manifest.of(partition) {
		x.Start = min(x.Start, f.First)
	}
	return x, nil
}

// Since is the first offset from which on every record is found that was appended at or after a time, or Start where
// that cannot be told: whole files of the archive that are older are left out.
func (l *Log) Since(partition int32, start int64, at time.Time) int64 {
	for _, f := range l.Manifest.of(partition) {
		if f.First > start || f.Next <= start {
			continue // a gap: those who read will find it
		}
		if f.MaxTimestamp == nil || !f.MaxTimestamp.Before(at) {
			break
		}
		start = f.Next
	}
	return start
}

// Files are the archive's files that hold offsets of [from, until), in order.
func (l *Log) Files(partition int32, from, until int64) []event.ArchiveFile {
	return slices.DeleteFunc(l.Manifest.of(partition), func(f event.ArchiveFile) bool { return f.Next <= from || f.First >= until })
}

// of returns the files of a partition, in order.
func (m *Manifest) of(partition int32) []event.ArchiveFile {
	return slices.DeleteFunc(m.Files(), func(f event.ArchiveFile) bool { return f.Partition != partition })
}

// run returns the unbroken row of files that begins with the one that holds offset from; it is empty where none does.
func (m *Manifest) run(partition int32, from int64) (Chain, error) {
	c := Chain{Topic: m.topic, Partition: partition, From: from, Next: from}
	for _, f := range m.of(partition) {
		if f.Next <= from || f.First > c.Next {
			continue
		}
		if f.First < c.Next && len(c.Files) > 0 {
			return Chain{}, fmt.Errorf("archive of %s, partition %d: objects %s and %s overlap", m.topic, partition, c.Files[len(c.Files)-1].Object, f.Object)
		}
		c.Files, c.Next = append(c.Files, f), f.Next
	}
	return c, nil
}

// ReadLog calls fn for every committed record of a partition with an offset in [from, until), in order: what the archive
// has from there, and the rest from Kafka. Values of keys that are not wanted are nil; nil wants all. Records that cannot be
// decoded are left out, as their dead letters are by everybody else. until must not be above the last stable offset. A *Gap: what
// Kafka has no longer is in no file. T is the topic's event. An error of fn ends it and is returned as it is.
func ReadLog[T any](ctx context.Context, l *Log, partition int32, from, until int64, wanted func(key []byte) bool, fn func(Record[T]) error) error {
	for from < until {
		c, err := l.Manifest.run(partition, from)
		if err != nil {
			return err
		}
		if c.Next > from {
			if c.Next > until {
				if c, err = c.Until(until); err != nil {
					return err
				}
			}
			if _, err := readWanted(ctx, l.Bucket, c, wanted, fn); err != nil {
				return err
			}
			from = c.Next
			continue
		}
		next, err := readTail(ctx, l, partition, from, until, wanted, fn)
		if errors.Is(err, kerr.OffsetOutOfRange) {
			// Retention was faster: meanwhile the archive must have it.
			if err := l.Manifest.CaughtUp(ctx); err != nil {
				return fmt.Errorf("reading the manifest: %w", err)
			}
			if c, err := l.Manifest.run(partition, next); err != nil || c.Next == next {
				return errors.Join(err, l.gap(ctx, partition, next))
			}
		} else if err != nil {
			return err
		}
		from = next
	}
	return nil
}

// gap names what neither the archive nor Kafka has, from an offset on.
func (l *Log) gap(ctx context.Context, partition int32, from int64) error {
	g := &Gap{Topic: l.Topic, Partition: partition, From: from, To: from + 1}
	starts, err := l.Admin.ListStartOffsets(ctx, l.Topic)
	if err != nil {
		return fmt.Errorf("asking for start offsets: %w", err)
	}
	if start, ok := starts.Lookup(l.Topic, partition); ok {
		g.To = max(g.To, start.Offset)
	}
	for _, f := range l.Manifest.of(partition) {
		if f.First > from {
			g.To = min(g.To, f.First)
		}
	}
	return g
}

// readTail reads a partition from Kafka and returns up to where it came.
func readTail[T any](ctx context.Context, l *Log, partition int32, from, until int64, wanted func(key []byte) bool, fn func(Record[T]) error) (int64, error) {
	client, err := kgo.NewClient(append(slices.Clone(l.Kafka),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{l.Topic: {partition: kgo.NewOffset().At(from)}}),
		// Without the control records the position would stop short of an end behind a commit marker.
		kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.KeepControlRecords(), kgo.ConsumeResetOffset(kgo.NoResetOffset()),
		kgo.FetchMaxBytes(8<<20), kgo.FetchMaxPartitionBytes(8<<20))...)
	if err != nil {
		return from, fmt.Errorf("configuring the Kafka client: %w", err)
	}
	defer client.Close()
	serde := codec.For[T](l.Codec, l.Topic)
	patience := l.Patience
	if patience == 0 {
		patience = time.Minute
	}
	for moved := time.Now(); from < until; {
		poll, cancel := context.WithTimeout(ctx, time.Second)
		fetches := client.PollFetches(poll)
		cancel()
		if ctx.Err() != nil {
			return from, ctx.Err()
		}
		for _, e := range fetches.Errors() {
			if !errors.Is(e.Err, context.DeadlineExceeded) {
				return from, fmt.Errorf("reading %s, partition %d, offset %d: %w", l.Topic, partition, from, e.Err)
			}
		}
		records := fetches.Records()
		if len(records) > 0 {
			moved = time.Now()
		} else if time.Since(moved) > patience {
			return from, fmt.Errorf("reading %s, partition %d: nothing came for %s at offset %d of %d", l.Topic, partition, patience, from, until)
		}
		for _, rec := range records {
			if rec.Offset >= until {
				return until, nil
			}
			if !rec.Attrs.IsControl() {
				if err := give(ctx, serde, rec, wanted, fn); err != nil {
					return from, err
				}
			}
			from = rec.Offset + 1
		}
	}
	return from, nil
}

// give decodes a record, if it is wanted, and hands it on.
func give[T any](ctx context.Context, serde *codec.Serde[T], rec *kgo.Record, wanted func(key []byte) bool, fn func(Record[T]) error) error {
	out := Record[T]{Offset: rec.Offset, Time: rec.Timestamp.UTC(), Key: rec.Key}
	if rec.Value != nil && (wanted == nil || wanted(rec.Key)) {
		out.Value = new(T)
		if err := serde.Decode(ctx, rec.Value, out.Value); codec.IsPoison(err) {
			return nil
		} else if err != nil {
			return fmt.Errorf("reading %s, partition %d, offset %d: %w", rec.Topic, rec.Partition, rec.Offset, err)
		}
	}
	return fn(out)
}
