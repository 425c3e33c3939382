package stream

import (
	"errors"
	"fmt"
	"maps"

	"github.com/twmb/franz-go/pkg/kgo"

	"databus/pkg/state"
	"databus/schemas/event"
)

func (r *Runtime) newTask(partition int32) *task {
	t := &task{r: r, partition: partition, queue: make([][]*kgo.Record, len(r.shape.inputs)), committed: map[string]int64{}, gates: map[string]int64{}}
	if r.db != nil {
		t.cache = newCache(r.o.Stores, r.o.Uncached, func() (*state.Reader, error) { return r.db.NewReader(partition) })
	}
	t.reset()
	return t
}

// reset forgets everything since the last committed transaction.
func (t *task) reset() {
	t.handlers = t.r.o.Handlers(t.partition)
	t.next = maps.Clone(t.committed)
	if t.cache != nil {
		t.cache.clear()
	}
	t.tx = Tx{ctx: t.r.ctx, task: t, cache: t.cache}
	t.touched, t.dead, t.marker, t.processed = false, 0, nil, 0
	t.current.Store(nil)
	for i := range t.queue {
		t.queue[i] = nil
	}
}

func (t *task) waiting() bool {
	for _, q := range t.queue {
		if len(q) > 0 {
			return true
		}
	}
	return false
}

func (t *task) moved() bool { return !maps.Equal(t.next, t.committed) }

// process runs the handlers over the queue, tables first.
func (t *task) process() error {
	for i, topic := range t.r.shape.inputs {
		handle := t.handlers.Inputs[topic]
		if handle == nil {
			return fmt.Errorf("stream %s: there is no handler for %s", t.r.o.Group, topic)
		}
		for _, rec := range t.queue[i] {
			if !rec.Attrs.IsControl() {
				if t.r.late.Load() {
					return errLate
				}
				t.current.Store(rec)
				if err := t.one(rec, handle); err != nil {
					return err
				}
				t.processed++
			}
			t.next[topic] = rec.Offset + 1
		}
		t.queue[i] = nil
	}
	t.current.Store(nil)
	return nil
}

func (t *task) one(rec *kgo.Record, handle func(*Tx, *kgo.Record) error) error {
	emitted := len(t.tx.out)
	if t.cache != nil {
		t.cache.begin()
	}
	t.touched = true
	err := handle(&t.tx, rec)
	if err == nil {
		return nil
	}
	// A record has all of its effects or none: a dead letter must not leave half a count behind.
	t.tx.out = t.tx.out[:emitted]
	if t.cache != nil {
		t.cache.rollback()
	}
	place := fmt.Sprintf("%s, partition %d, offset %d", rec.Topic, rec.Partition, rec.Offset)
	switch {
	case isPoison(err):
		if !t.r.shape.dead[rec.Topic] {
			return fmt.Errorf("stream %s: processing %s: %w (the catalogue gives the topic no dead-letter topic)", t.r.o.Group, place, err)
		}
		t.tx.out = append(t.tx.out, t.r.deadLetter(rec, err))
		t.dead++
		return nil
	case isRetryable(err):
		return &retry{partition: t.partition, place: place, err: err}
	}
	return fmt.Errorf("stream %s: processing %s: %w", t.r.o.Group, place, err)
}

// finish closes the partition's part of the transaction: the service's last words, the rows, and the marker.
func (t *task) finish() error {
	if t.touched && t.handlers.Finish != nil {
		if t.cache != nil {
			t.cache.begin()
		}
		if err := t.handlers.Finish(&t.tx); err != nil {
			place := fmt.Sprintf("partition %d", t.partition)
			if isRetryable(err) {
				return &retry{partition: t.partition, place: place, err: err}
			}
			return fmt.Errorf("stream %s: finishing %s: %w", t.r.o.Group, place, err)
		}
	}
	if t.cache == nil {
		return nil
	}
	e := event.ChangelogEntry{Kind: event.ChangelogKindRow, Instance: t.r.o.Instance}
	for i, store := range t.r.o.Stores {
		e.Store = store
		for _, row := range t.cache.dirty[i] {
			key := t.tx.room.take(append(append(append(t.tx.room.free(), store...), '/'), row.key...))
			e.Key, e.Value = key[len(store)+1:], nil
			if row.value != nil {
				e.Value = &row.value
			}
			if err := t.entry(key, &e); err != nil {
				return err
			}
		}
	}
	// The marker is the last record of the transaction in this partition: who has read it has read all rows before it.
	e = event.ChangelogEntry{Kind: event.ChangelogKindMarker, Instance: t.r.o.Instance}
	for _, topic := range t.r.shape.inputs {
		if offset, ok := t.next[topic]; ok {
			e.Inputs = append(e.Inputs, event.InputPosition{Topic: topic, Partition: t.partition, Offset: offset})
		}
	}
	if err := t.entry([]byte(markerKey), &e); err != nil {
		return err
	}
	t.marker = t.tx.out[len(t.tx.out)-1]
	return nil
}

// markerKey is one per partition, so that compaction keeps the newest marker. No row has it: their keys hold a "/".
const markerKey = "marker"

func (t *task) entry(key []byte, e *event.ChangelogEntry) error {
	value, err := t.r.entries.Append(t.r.ctx, t.tx.room.free(), e)
	if err != nil {
		if isRetryable(err) {
			return &retry{partition: t.partition, place: "changelog", err: err}
		}
		return fmt.Errorf("stream %s: encoding a changelog entry of partition %d: %w", t.r.o.Group, t.partition, err)
	}
	rec := t.tx.room.record()
	*rec = kgo.Record{Topic: t.r.shape.changelog, Partition: t.partition, Key: key, Value: t.tx.room.take(value)}
	t.tx.out = append(t.tx.out, rec)
	return nil
}

// write puts the partition's part of a committed transaction into the batch for Pebble.
func (t *task) write(b *state.Batch) error {
	t.changelog = t.marker.Offset + 1
	return errors.Join(t.cache.write(b, t.partition), b.SetPosition(t.partition, t.at(t.changelog, t.next)))
}
