package catchup

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"databus/pkg/history"
	"databus/pkg/identity"
	"databus/schemas"
	"databus/schemas/codec"
	"databus/schemas/event"
)

// apply is a task of stage 0: one partition from its position to the trigger.
func (c *Catchup) apply(ctx context.Context, task *event.CatchupTask, result *event.CatchupResult) error {
	v, err := c.version(ctx, task.DatabaseVersion)
	if err != nil {
		return err
	}
	if err := c.nobodyApplies(ctx, v.ApplierGroup); err != nil {
		return err
	}
	if err := c.Keyring.Ready(ctx); err != nil {
		return fmt.Errorf("reading the data keys: %w", err)
	}
	g, err := c.Graphs.Graph(ctx, v.GraphVersion)
	if err != nil {
		return err
	}
	store, err := c.Stores.Keyspace(v.Keyspace)
	if err != nil {
		return err
	}
	committed, err := c.committed(ctx, v.ApplierGroup)
	if err != nil {
		return err
	}
	f := &feeder{
		c: c, version: v, task: task, result: result, next: task.From,
		applier: &identity.Applier{Rows: c.Rows, Graph: g}, store: store, committed: time.Now(),
	}
	if at, ok := committed[task.Partition]; ok && at.offset > f.next {
		f.next = at.offset
		resume(at.metadata, result)
	}
	if err := f.feed(ctx); err != nil {
		f.keep(ctx)
		return fmt.Errorf("catching up partition %d at offset %d: %w", task.Partition, f.next, err)
	}
	c.log.Info("partition caught up", "job", task.JobID, "partition", task.Partition, "from", result.From, "to", result.To,
		"applied", result.Applied, "superseded", result.Superseded, "repeats", result.Repeats, "dead", result.Dead, "shredded", result.Shredded)
	return nil
}

// feeder applies one partition.
type feeder struct {
	c       *Catchup
	version event.DatabaseVersion
	task    *event.CatchupTask
	result  *event.CatchupResult
	applier *identity.Applier
	store   identity.Store

	next      int64 // everything below is applied
	batch     []identity.Input
	committed time.Time
}

func (f *feeder) feed(ctx context.Context) error {
	if f.next < f.task.To {
		starts, err := f.c.Admin.ListStartOffsets(ctx, schemas.DatabusRecords)
		if err == nil {
			err = starts.Error()
		}
		if err != nil {
			return fmt.Errorf("asking where %s begins: %w", schemas.DatabusRecords, err)
		}
		start, ok := starts.Lookup(schemas.DatabusRecords, f.task.Partition)
		if !ok {
			return fmt.Errorf("%s has no partition %d", schemas.DatabusRecords, f.task.Partition)
		}
		if start.Offset > f.next {
			if err := f.fromArchive(ctx, start.Offset); err != nil {
				return err
			}
		}
		if err := f.fromLog(ctx); err != nil {
			return err
		}
	}
	return f.commit(ctx)
}

// fromArchive applies what the log does not have any more: from next to its start.
func (f *feeder) fromArchive(ctx context.Context, start int64) error {
	if err := f.c.Manifest.CaughtUp(ctx); err != nil {
		return err
	}
	until := min(start, f.task.To)
	chain, err := f.c.Manifest.Chain(f.task.Partition, f.next)
	if err == nil && chain.Next < until {
		err = &history.Gap{Topic: schemas.DatabusRecords, Partition: f.task.Partition, From: chain.Next, To: until}
	}
	if err == nil {
		chain, err = chain.Until(until)
	}
	if err != nil {
		return fmt.Errorf("retention has dropped what is below offset %d, and the archive lacks it: %w", start, err)
	}
	f.c.log.Info("reading what retention has dropped from the archive", "partition", f.task.Partition, "from", f.next, "to", until)
	sum, err := history.Read(ctx, f.c.Bucket, chain, func(rec history.Record[event.DatabusRecord]) error {
		return f.add(ctx, rec.Offset, rec.Time, rec.Value)
	})
	if err == nil {
		err = f.flush(ctx, until)
	}
	f.result.Dead += sum.DeadLetters
	return err
}

// fromLog applies from next to the trigger. Control records are kept, since a position before the trigger can be followed by
// nothing else, and a transaction that is open before it is waited for.
func (f *feeder) fromLog(ctx context.Context) error {
	if f.next >= f.task.To {
		return nil
	}
	client, err := kgo.NewClient(f.c.kafka(
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{schemas.DatabusRecords: {f.task.Partition: kgo.NewOffset().At(f.next)}}),
		kgo.ConsumeResetOffset(kgo.NoResetOffset()), // what retention drops meanwhile is an error, and the next run reads the archive
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.KeepControlRecords(),
	)...)
	if err != nil {
		return fmt.Errorf("opening Kafka client: %w", err)
	}
	defer client.Close()
	for f.next < f.task.To {
		fetches := client.PollRecords(ctx, f.c.cfg.BatchRecords)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := fetches.Err(); err != nil {
			return fmt.Errorf("reading %s: %w", schemas.DatabusRecords, err)
		}
		next := f.next
		for _, rec := range fetches.Records() {
			if rec.Offset >= f.task.To {
				next = f.task.To
				break
			}
			next = rec.Offset + 1
			if rec.Attrs.IsControl() {
				continue
			}
			value, err := f.decode(ctx, rec)
			if err != nil {
				return err
			}
			if err := f.add(ctx, rec.Offset, rec.Timestamp, value); err != nil {
				return err
			}
		}
		if err := f.flush(ctx, next); err != nil {
			return err
		}
	}
	return nil
}

// decode returns nil for what can never be decoded. What the registry does not know, or cannot say now, is waited for.
func (f *feeder) decode(ctx context.Context, rec *kgo.Record) (*event.DatabusRecord, error) {
	if rec.Value == nil {
		return nil, nil
	}
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, 5*time.Second) {
		value := new(event.DatabusRecord)
		err := f.c.serdes.record.Decode(ctx, rec.Value, value)
		switch {
		case err == nil:
			return value, nil
		case codec.IsPoison(err):
			f.c.log.Warn("record cannot be decoded", "partition", rec.Partition, "offset", rec.Offset, "error", err)
			return nil, nil
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		}
		f.c.log.Error("waiting to decode a record", "partition", rec.Partition, "offset", rec.Offset, "retry_in", pause.String(), "error", err)
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(pause):
		}
	}
}

// add takes the next version into the batch; nil for one that has no value.
func (f *feeder) add(ctx context.Context, offset int64, at time.Time, value *event.DatabusRecord) error {
	if value == nil {
		f.result.Dead++
		return nil
	}
	f.batch = append(f.batch, identity.Input{Record: value, Epoch: f.version.Epoch, Offset: offset, AppendTime: at})
	if len(f.batch) < f.c.cfg.BatchRecords {
		return nil
	}
	return f.flush(ctx, offset+1)
}

// flush applies the batch, which ends before offset next, and commits when it is time.
func (f *feeder) flush(ctx context.Context, next int64) error {
	results, err := f.applier.Apply(ctx, f.store, f.batch)
	if err != nil {
		return err
	}
	for i, r := range results {
		switch r.Outcome {
		case identity.Applied:
			f.result.Applied++
		case identity.Superseded:
			f.result.Superseded++
		case identity.Repeat:
			f.result.Repeats++
		case identity.Shredded:
			f.result.Shredded++
		case identity.Dead:
			f.result.Dead++
			f.c.log.Warn("record is dead", "partition", f.task.Partition, "offset", f.batch[i].Offset, "error", r.Err)
		}
	}
	f.c.records.Add(float64(len(f.batch)))
	clear(f.batch)
	f.batch, f.next = f.batch[:0], next
	if time.Since(f.committed) < f.c.cfg.Commit {
		return nil
	}
	return f.commit(ctx)
}

// keep commits what is applied of a task that ends early, so that the next run need not read it again. The reason may be
// that the process ends.
func (f *feeder) keep(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	f.batch = nil
	if err := f.commit(ctx); err != nil {
		f.c.log.Warn("keeping the position of a task that failed", "partition", f.task.Partition, "error", err)
	}
}

// commit says that everything below next is applied.
func (f *feeder) commit(ctx context.Context) error {
	if len(f.batch) > 0 {
		return errors.New("a commit before the batch is applied")
	}
	f.committed = time.Now()
	return f.c.commit(ctx, f.version.ApplierGroup, f.task.Partition, position{f.next, counts(f.result)})
}
