package stream

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"databus/pkg/state"
	"databus/schemas/event"
)

// replay is one partition of the changelog that is behind.
type replay struct {
	task   *task
	next   int64            // next offset to read
	high   int64            // where the log ended when the restore began
	inputs map[string]int64 // of the newest marker
	rows   int
}

// restore brings the rows of the partitions to what the group has committed, and checks that they are.
func (r *Runtime) restore(ctx context.Context, tasks map[int32]*task, logs logs) error {
	behind := map[int32]*replay{}
	for p, t := range tasks {
		start, high, ok := logs.of(r.shape.changelog, p)
		if !ok {
			return &brokerError{fmt.Errorf("asking for offsets of %s, partition %d: no answer", r.shape.changelog, p)}
		}
		pos, found, err := r.db.Position(p)
		if err != nil {
			return err
		}
		if found && (pos.Changelog < start || pos.Changelog > high) {
			r.o.Log.Warn("local state is outside of the changelog; restoring from nothing", "partition", p, "at", pos.Changelog, "start", start, "end", high)
			found = false
		}
		if found && maps.Equal(pos.Inputs, t.committed) {
			// The last marker in Pebble is that of the group's last transaction: nothing is missing.
			t.changelog = pos.Changelog
			continue
		}
		if found && time.Since(pos.At) > r.o.TombstoneRetention/2 {
			r.o.Log.Warn("local state is old; restoring from nothing", "partition", p, "age", time.Since(pos.At))
			found = false
		}
		if !found {
			if err := r.db.DropPartition(p); err != nil {
				return err
			}
			pos = state.Position{Changelog: start}
		}
		behind[p] = &replay{task: t, next: pos.Changelog, high: high, inputs: pos.Inputs}
	}
	if len(behind) > 0 {
		r.report(false, fmt.Sprintf("restoring %d partitions", len(behind)))
		if err := r.replayAll(ctx, behind); err != nil {
			return err
		}
	}
	return nil
}

// done: everything up to the end was read, or a marker says that the rows are what the group has committed. (Behind
// compaction the last offsets of a log may hold no records, so that its end is never seen.)
func (p *replay) done() bool {
	return p.next >= p.high || len(p.inputs) > 0 && maps.Equal(p.inputs, p.task.committed)
}

func (r *Runtime) replayAll(ctx context.Context, behind map[int32]*replay) error {
	began := time.Now()
	from := map[int32]kgo.Offset{}
	open := 0
	for p, rp := range behind {
		if !rp.done() {
			from[p] = kgo.NoResetOffset().At(rp.next)
			open++
		}
	}
	if open > 0 {
		c, err := kgo.NewClient(append(append([]kgo.Opt{}, r.o.Kafka...),
			kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{r.shape.changelog: from}),
			kgo.ConsumeResetOffset(kgo.NoResetOffset()),
			// Read committed, up to the high watermark, with control records: see logs. What an open transaction hides
			// is waited for; the commit marker at the end of the log is seen.
			kgo.FetchIsolationLevel(kgo.ReadCommitted()),
			kgo.KeepControlRecords(),
		)...)
		if err != nil {
			return fmt.Errorf("restoring: making a client: %w", err)
		}
		defer c.Close()
		if err := r.follow(ctx, c, behind, open); err != nil {
			return fmt.Errorf("restoring: %w", err)
		}
	}
	rows := 0
	for p, rp := range behind {
		rows += rp.rows
		if !maps.Equal(rp.inputs, rp.task.committed) && len(rp.inputs)+len(rp.task.committed) > 0 {
			return r.mismatch(p, rp)
		}
		rp.task.changelog = rp.next
		b := r.db.NewBatch()
		err := errors.Join(b.SetPosition(p, rp.task.at(rp.next, rp.inputs)), b.Commit())
		if err := errors.Join(err, b.Close()); err != nil {
			return err
		}
	}
	r.metrics.restoredRows.Add(float64(rows))
	r.o.Log.Info("state restored", "group", r.o.Group, "partitions", len(behind), "rows", rows, "in", time.Since(began))
	return nil
}

// follow reads the changelog into Pebble until every partition is done.
func (r *Runtime) follow(ctx context.Context, c *kgo.Client, behind map[int32]*replay, open int) error {
	progress := time.Now()
	patience := 3 * r.o.TransactionTimeout // an open transaction of somebody else may hide the end for one timeout
	for open > 0 {
		pctx, cancel := context.WithTimeout(ctx, time.Second)
		fetches := c.PollRecords(pctx, 10_000)
		cancel()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		for _, e := range fetches.Errors() {
			switch {
			case errors.Is(e.Err, context.DeadlineExceeded):
			case errors.Is(e.Err, kerr.OffsetOutOfRange):
				return &brokerError{fmt.Errorf("the changelog was cut while it was read: %w", e.Err)}
			default:
				return &brokerError{fmt.Errorf("reading %s, partition %d: %w", e.Topic, e.Partition, e.Err)}
			}
		}
		if fetches.NumRecords() == 0 {
			if time.Since(progress) > patience {
				return &brokerError{fmt.Errorf("reading %s: no progress in %v; is a transaction open, or a partition without leader?", r.shape.changelog, patience)}
			}
			continue
		}
		progress = time.Now()
		b := r.db.NewBatch()
		err := r.replayBatch(ctx, b, fetches, behind)
		if err == nil {
			err = b.Commit()
		}
		if err := errors.Join(err, b.Close()); err != nil {
			return err
		}
		if err := r.o.Crash(InsideRestore); err != nil {
			return err
		}
		open = 0
		for _, rp := range behind {
			if !rp.done() {
				open++
			}
		}
	}
	return nil
}

func (r *Runtime) replayBatch(ctx context.Context, b *state.Batch, fetches kgo.Fetches, behind map[int32]*replay) error {
	var failed error
	fetches.EachPartition(func(fp kgo.FetchTopicPartition) {
		rp := behind[fp.Partition]
		if rp == nil || failed != nil || len(fp.Records) == 0 {
			return
		}
		for _, rec := range fp.Records {
			if !rec.Attrs.IsControl() {
				if failed = r.replayOne(ctx, b, rp, rec); failed != nil {
					return
				}
			}
			rp.next = rec.Offset + 1
		}
		// A crash in the middle leaves rows of later transactions beside an older marker. That is not a committed state, and
		// its inputs cannot equal the group's: the next restore goes on from here.
		failed = b.SetPosition(fp.Partition, rp.task.at(rp.next, rp.inputs))
	})
	return failed
}

func (r *Runtime) replayOne(ctx context.Context, b *state.Batch, rp *replay, rec *kgo.Record) error {
	var e event.ChangelogEntry
	for {
		err := r.entries.Decode(ctx, rec.Value, &e)
		if err == nil {
			break
		}
		if !isRetryable(err) {
			return fmt.Errorf("reading %s, partition %d, offset %d: %w; the changelog was written by somebody else", rec.Topic, rec.Partition, rec.Offset, err)
		}
		r.report(false, "restoring: "+err.Error())
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Second):
		}
	}
	if e.Kind == event.ChangelogKindMarker {
		rp.inputs = map[string]int64{}
		for _, in := range e.Inputs {
			rp.inputs[in.Topic] = in.Offset
		}
		return nil
	}
	rp.rows++
	var value []byte
	if e.Value != nil {
		value = append([]byte{}, *e.Value...)
	}
	return b.Set(rec.Partition, e.Store, e.Key, value)
}

// mismatch: state and group offsets stand for different prefixes of the input. Going on would count twice or not at all.
func (r *Runtime) mismatch(partition int32, rp *replay) error {
	var topic string
	var state, group int64 = -1, -1
	for _, in := range r.shape.inputs {
		s, ok1 := rp.inputs[in]
		g, ok2 := rp.task.committed[in]
		if ok1 != ok2 || s != g {
			topic = in
			if ok1 {
				state = s
			}
			if ok2 {
				group = g
			}
			break
		}
	}
	say := func(o int64) string {
		if o < 0 {
			return "none"
		}
		return fmt.Sprint(o)
	}
	return fmt.Errorf("%w: %s, partition %d: the state of group %s stands for offset %s and the group's committed offset is %s: somebody reset the "+
		"offsets, they expired, or data was lost. Set the group's offset back to the state's, or start over: stop all instances, delete the "+
		"group, the records of %s, and the state directories; outputs are then produced again",
		ErrPosition, topic, partition, r.o.Group, say(state), say(group), r.shape.changelog)
}
