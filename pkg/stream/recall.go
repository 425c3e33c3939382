package stream

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"databus/pkg/state"
)

// recall makes the derived rows of partitions cover every record of the recalled topic that was appended within the window
// before the first one that is not processed. On the disk that an instance left they cover all but the last moments, and little
// is read; on another one the whole window is.
func (r *Runtime) recall(ctx context.Context, tasks map[int32]*task, logs logs) error {
	topic, window := r.o.Recall.Topic, r.o.Recall.Window
	if !r.shape.derived {
		return nil
	}
	began := time.Now()
	from := map[int32]kgo.Offset{}
	behind := map[int32]*task{}
	anew := map[int32]bool{}
	for p, t := range tasks {
		end, some := t.committed[topic]
		if !some || window == 0 {
			continue // nothing was processed
		}
		start, _, ok := logs.of(topic, p)
		if !ok {
			return &brokerError{fmt.Errorf("asking for offsets of %s, partition %d: no answer", topic, p)}
		}
		at := start
		if d := t.derived; d != nil && d.Window >= window && d.Next >= start && d.Next <= end {
			at = d.Next
		} else {
			anew[p] = true
		}
		if at < end {
			behind[p], from[p] = t, kgo.NoResetOffset().At(at)
		}
	}
	if len(behind) == 0 {
		return nil
	}
	if err := r.dropDerived(anew); err != nil {
		return err
	}
	if err := r.windowStart(ctx, behind, anew, from, logs); err != nil {
		return err
	}
	c, err := r.reader(map[string]map[int32]kgo.Offset{topic: from})
	if err != nil {
		return fmt.Errorf("recalling %s: %w", topic, err)
	}
	defer c.Close()
	records := 0
	progress, patience := time.Now(), 3*r.o.TransactionTimeout
	for len(behind) > 0 {
		fetches, err := read(ctx, c)
		if err != nil {
			return fmt.Errorf("recalling: %w", err)
		}
		if fetches.NumRecords() == 0 {
			if time.Since(progress) > patience {
				return &brokerError{fmt.Errorf("recalling %s: no progress in %v; is a partition without leader?", topic, patience)}
			}
			continue
		}
		progress = time.Now()
		b := r.db.NewBatch()
		var failed error
		fetches.EachPartition(func(fp kgo.FetchTopicPartition) {
			if t := behind[fp.Partition]; t != nil && failed == nil && len(fp.Records) > 0 {
				records += len(fp.Records)
				var next int64
				if next, failed = t.recalled(fp.Records, b); failed == nil && next >= t.committed[topic] {
					delete(behind, fp.Partition)
				}
			}
		})
		if failed == nil {
			failed = b.Commit()
		}
		if err := errors.Join(failed, b.Close()); err != nil {
			return fmt.Errorf("recalling %s: %w", topic, err)
		}
		for _, t := range tasks {
			if err := t.cache.written(r.o.CacheBytes, false); err != nil {
				return err
			}
		}
		r.report(false, fmt.Sprintf("recalling what was processed within %v, %d records so far", window, records))
		if err := r.o.Crash(InsideRecall); err != nil {
			return err
		}
	}
	r.metrics.recallSeconds.Set(time.Since(began).Seconds())
	r.o.Log.Info("derived state made anew", "group", r.o.Group, "partitions", len(from), "records", records, "in", time.Since(began))
	return nil
}

// recalled hands records to the handlers, up to the first one that is not processed, and puts the derived rows into the batch.
func (t *task) recalled(recs []*kgo.Record, b *state.Batch) (next int64, err error) {
	end := t.committed[t.r.o.Recall.Topic]
	var data []*kgo.Record
	for _, rec := range recs {
		next = rec.Offset + 1
		if rec.Offset < end && !rec.Attrs.IsControl() {
			data = append(data, rec)
		}
	}
	next = min(next, end)
	t.cache.end()
	if len(data) > 0 {
		if err := t.handlers.Again(&t.tx, data); err != nil {
			return 0, fmt.Errorf("partition %d, offsets %d to %d: %w", t.partition, data[0].Offset, data[len(data)-1].Offset, err)
		}
	}
	for i, store := range t.r.o.Stores {
		if len(t.cache.dirty[i]) > 0 && !store.Derived || len(t.tx.out) > 0 {
			panic(fmt.Sprintf("stream: %s writes more than derived rows where it is given records again", t.r.o.Group))
		}
	}
	t.cache.committed()
	t.derived = &state.Derived{Next: next, Window: t.r.o.Recall.Window}
	pos := t.position()
	pos.Derived = t.derived
	return next, errors.Join(t.cache.write(b, t.partition, false), b.SetPosition(t.partition, pos))
}

// dropDerived deletes the derived rows of partitions that are made anew: they cover less than the window.
func (r *Runtime) dropDerived(partitions map[int32]bool) error {
	b := r.db.NewBatch()
	err := func() error {
		for p := range partitions {
			for _, store := range r.o.Stores {
				if store.Derived {
					if err := b.DeleteStore(p, store.Name); err != nil {
						return err
					}
				}
			}
		}
		return b.Commit()
	}()
	return errors.Join(err, b.Close())
}

// windowStart moves the start of partitions that are made anew to where their window begins, as the append time of the last record
// that was processed says.
func (r *Runtime) windowStart(ctx context.Context, behind map[int32]*task, anew map[int32]bool, from map[int32]kgo.Offset, logs logs) error {
	topic := r.o.Recall.Topic
	last := map[int32]kgo.Offset{}
	for p, t := range behind {
		if anew[p] {
			start, _, _ := logs.of(topic, p)
			last[p] = kgo.NoResetOffset().At(max(start, t.committed[topic]-1))
		}
	}
	if len(last) == 0 {
		return nil
	}
	c, err := r.reader(map[string]map[int32]kgo.Offset{topic: last})
	if err != nil {
		return fmt.Errorf("recalling %s: %w", topic, err)
	}
	defer c.Close()
	progress := time.Now()
	for len(last) > 0 {
		fetches, err := read(ctx, c)
		if err != nil {
			return fmt.Errorf("recalling: %w", err)
		}
		if time.Since(progress) > 3*r.o.TransactionTimeout {
			return &brokerError{fmt.Errorf("recalling %s: no progress in %v", topic, time.Since(progress).Round(time.Second))}
		}
		var asking error
		fetches.EachPartition(func(fp kgo.FetchTopicPartition) {
			if _, wanted := last[fp.Partition]; !wanted || len(fp.Records) == 0 || asking != nil {
				return
			}
			delete(last, fp.Partition)
			since := fp.Records[0].Timestamp.Add(-r.o.Recall.Window - recallSlack)
			offsets, err := r.admin.ListOffsetsAfterMilli(ctx, since.UnixMilli(), topic)
			if err == nil {
				err = offsets.Error()
			}
			if err != nil {
				asking = &brokerError{fmt.Errorf("asking for offsets of %s: %w", topic, err)}
				return
			}
			if o, ok := offsets.Lookup(topic, fp.Partition); ok && o.Offset >= 0 {
				// What was appended before is older than the window, up to the slack.
				from[fp.Partition] = kgo.NoResetOffset().At(min(o.Offset, behind[fp.Partition].committed[topic]-1))
			}
		})
		if asking != nil {
			return asking
		}
	}
	return nil
}
