package stream

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"databus/pkg/state"
	"databus/schemas/event"
)

// replay is one partition whose rows are behind.
type replay struct {
	task   *task
	logs   map[string]*span // the changelog and the topics that hold rows
	inputs map[string]int64 // of the newest marker
	rows   int
}

// span is what of a log is to be read.
type span struct {
	next int64 // next offset to read
	high int64 // where the log ended when the restore began
}

// restore brings the rows of the partitions to what the group has committed, and checks that they are.
func (r *Runtime) restore(ctx context.Context, tasks map[int32]*task, logs logs) error {
	behind := map[int32]*replay{}
	for p, t := range tasks {
		rp := &replay{task: t, logs: map[string]*span{}}
		pos, found, err := r.db.Position(p)
		if err != nil {
			return err
		}
		for _, topic := range r.shape.rowTopics() {
			start, high, ok := logs.of(topic, p)
			if !ok {
				return &brokerError{fmt.Errorf("asking for offsets of %s, partition %d: no answer", topic, p)}
			}
			at, known := pos.Logs[topic]
			if found && (!known && topic == r.shape.changelog || known && (at < start || at > high)) {
				r.o.Log.Warn("local state is outside of its changelog; restoring from nothing", "topic", topic, "partition", p, "at", at, "start", start, "end", high)
				found = false
			}
			if !known {
				at = start // nothing was written to it yet
			}
			rp.logs[topic] = &span{at, high}
		}
		if found && !pos.Partial && maps.Equal(pos.Inputs, t.committed) {
			// The last marker in Pebble is that of the group's last transaction: nothing is missing.
			t.logs, t.derived = pos.Logs, pos.Derived
			continue
		}
		if found && time.Since(pos.At) > r.o.TombstoneRetention/2 {
			r.o.Log.Warn("local state is old; restoring from nothing", "partition", p, "age", time.Since(pos.At))
			found = false
		}
		if found {
			rp.inputs, t.derived = pos.Inputs, pos.Derived
		} else {
			if err := r.db.DropPartition(p); err != nil {
				return err
			}
			for topic, s := range rp.logs {
				s.next, _, _ = logs.of(topic, p)
			}
		}
		behind[p] = rp
	}
	if len(behind) > 0 {
		r.report(false, fmt.Sprintf("restoring %d partitions", len(behind)))
		if err := r.replayAll(ctx, behind); err != nil {
			return err
		}
	}
	return nil
}

// done: everything up to the end was read. Of the changelog it is enough if a marker says that the rows are what the group has
// committed: behind compaction the last offsets of a log may hold no records, so that its end is never seen. A topic that holds
// rows ends with the commit marker of the last transaction, which compaction leaves in the segment that is written to.
func (p *replay) done() bool {
	for topic, s := range p.logs {
		if s.next < s.high && !(topic == p.task.r.shape.changelog && len(p.inputs) > 0 && maps.Equal(p.inputs, p.task.committed)) {
			return false
		}
	}
	return true
}

// position of rows in the middle of a restore.
func (p *replay) position(partial bool) state.Position {
	pos := state.Position{Logs: map[string]int64{}, Inputs: maps.Clone(p.inputs), Partial: partial, Derived: p.task.derived, At: time.Now().UTC()}
	for topic, s := range p.logs {
		pos.Logs[topic] = s.next
	}
	return pos
}

func (r *Runtime) replayAll(ctx context.Context, behind map[int32]*replay) error {
	began := time.Now()
	from := map[string]map[int32]kgo.Offset{}
	open := 0
	for p, rp := range behind {
		if rp.done() {
			continue
		}
		open++
		for topic, s := range rp.logs {
			if s.next < s.high {
				if from[topic] == nil {
					from[topic] = map[int32]kgo.Offset{}
				}
				from[topic][p] = kgo.NoResetOffset().At(s.next)
			}
		}
	}
	if open > 0 {
		c, err := r.reader(from)
		if err != nil {
			return fmt.Errorf("restoring: %w", err)
		}
		defer c.Close()
		if err := r.follow(ctx, c, behind, open); err != nil {
			return fmt.Errorf("restoring: %w", err)
		}
	}
	rows := 0
	b := r.db.NewBatch()
	err := func() error {
		for p, rp := range behind {
			rows += rp.rows
			if !maps.Equal(rp.inputs, rp.task.committed) && len(rp.inputs)+len(rp.task.committed) > 0 {
				return r.mismatch(p, rp)
			}
			if len(rp.inputs) == 0 && rp.rows > 0 {
				return fmt.Errorf("%w: partition %d: there are rows in %s and no marker in %s says what they stand for: the records of one were deleted "+
					"and those of the other were not. To start over, delete both", ErrPosition, p, strings.Join(r.shape.rowTopics()[1:], ", "), r.shape.changelog)
			}
			pos := rp.position(false)
			rp.task.logs = pos.Logs
			if err := b.SetPosition(p, pos); err != nil {
				return err
			}
		}
		return b.Commit()
	}()
	if err := errors.Join(err, b.Close()); err != nil {
		return err
	}
	r.metrics.restoredRows.Add(float64(rows))
	r.o.Log.Info("state restored", "group", r.o.Group, "partitions", len(behind), "rows", rows, "in", time.Since(began))
	return nil
}

// reader is a client that reads logs as a restore must: read committed, up to the high watermark, with control records (see
// logs). What an open transaction hides is waited for; the commit marker at the end of a log is seen.
func (r *Runtime) reader(from map[string]map[int32]kgo.Offset) (*kgo.Client, error) {
	c, err := kgo.NewClient(append(append([]kgo.Opt{}, r.o.Kafka...),
		kgo.ConsumePartitions(from),
		kgo.ConsumeResetOffset(kgo.NoResetOffset()),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.KeepControlRecords(),
	)...)
	if err != nil {
		return nil, fmt.Errorf("making a client: %w", err)
	}
	return c, nil
}

// read returns the next records, none after a second without any.
func read(ctx context.Context, c *kgo.Client) (kgo.Fetches, error) {
	pctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	fetches := c.PollRecords(pctx, 10_000)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	for _, e := range fetches.Errors() {
		switch {
		case errors.Is(e.Err, context.DeadlineExceeded):
		case errors.Is(e.Err, kerr.OffsetOutOfRange):
			return nil, &brokerError{fmt.Errorf("%s, partition %d, was cut while it was read: %w", e.Topic, e.Partition, e.Err)}
		default:
			return nil, &brokerError{fmt.Errorf("reading %s, partition %d: %w", e.Topic, e.Partition, e.Err)}
		}
	}
	return fetches, nil
}

// follow reads the changelog into Pebble until every partition is done.
func (r *Runtime) follow(ctx context.Context, c *kgo.Client, behind map[int32]*replay, open int) error {
	progress := time.Now()
	patience := 3 * r.o.TransactionTimeout // an open transaction of somebody else may hide the end for one timeout
	for open > 0 {
		fetches, err := read(ctx, c)
		if err != nil {
			return err
		}
		if fetches.NumRecords() == 0 {
			if time.Since(progress) > patience {
				return &brokerError{fmt.Errorf("reading %s: no progress in %v; is a transaction open, or a partition without leader?", strings.Join(r.shape.rowTopics(), ", "), patience)}
			}
			continue
		}
		progress = time.Now()
		b := r.db.NewBatch()
		err = r.replayBatch(ctx, b, fetches, behind)
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
		log := rp.logs[fp.Topic]
		for _, rec := range fp.Records {
			if !rec.Attrs.IsControl() {
				if failed = r.replayOne(ctx, b, rp, rec); failed != nil {
					return
				}
			}
			log.next = rec.Offset + 1
		}
		// A crash in the middle leaves rows of later transactions beside an older marker. That is no committed state, and the
		// position says so: the next restore goes on from here.
		failed = b.SetPosition(fp.Partition, rp.position(true))
	})
	return failed
}

func (r *Runtime) replayOne(ctx context.Context, b *state.Batch, rp *replay, rec *kgo.Record) error {
	if store := r.shape.kept[rec.Topic]; store != 0 {
		rp.rows++
		return b.Set(rec.Partition, r.o.Stores[store-1].Name, rec.Key, rec.Value)
	}
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
	if i, ok := r.shape.stores[e.Store]; !ok || r.o.Stores[i].Topic != "" || r.o.Stores[i].Derived {
		return nil // of another version of the service
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
		ErrPosition, topic, partition, r.o.Group, say(state), say(group), strings.Join(r.shape.rowTopics(), ", "))
}
