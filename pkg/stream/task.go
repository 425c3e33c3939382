package stream

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"databus/pkg/state"
	"databus/schemas/event"
)

func (r *Runtime) newTask(partition int32) *task {
	t := &task{r: r, partition: partition, queue: make([][]*kgo.Record, len(r.shape.inputs)), committed: map[string]int64{}, gates: map[string]int64{}, logs: map[string]int64{}, last: map[string]*kgo.Record{}}
	if r.db != nil {
		t.cache = newCache(r.o.Stores, func() (*state.Reader, error) { return r.db.NewReader(partition) })
	}
	t.reset()
	return t
}

// reset forgets everything since the last committed transaction.
func (t *task) reset() {
	if t.touched || t.handlers.Inputs == nil { // else they know of nothing that has not been committed
		t.handlers = t.r.o.Handlers(t.partition)
	}
	t.next = maps.Clone(t.committed)
	if t.cache != nil {
		t.cache.abort()
	}
	t.tx = Tx{ctx: t.r.ctx, task: t, cache: t.cache}
	t.touched, t.dead, t.processed, t.held = false, 0, 0, nil
	clear(t.last)
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
		t.hold(i)
		var last *kgo.Record
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
			last = rec
		}
		if last != nil {
			t.next[topic] = last.Offset + 1 // where a record failed, the transaction is given up
		}
		t.queue[i] = nil
	}
	t.current.Store(nil)
	return nil
}

// hold drops what is queued of an input and of those behind it from a record on that must wait, see Runtime.wait. It is read
// again.
func (t *task) hold(i int) {
	if t.held == nil {
		if t.stop == nil || t.stop.topic != t.r.shape.inputs[i] {
			return
		}
		n := slices.IndexFunc(t.queue[i], func(rec *kgo.Record) bool { return rec.Offset >= t.stop.offset })
		if n < 0 {
			return
		}
		t.held = map[string]int64{}
		for j, topic := range t.r.shape.inputs {
			if len(t.queue[j]) > 0 {
				t.held[topic] = t.queue[j][0].Offset // where nothing has been processed
			}
		}
		t.queue[i] = t.queue[i][:n]
		i++
	}
	for ; i < len(t.queue); i++ {
		t.queue[i] = nil
	}
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
		return &retry{partition: t.partition, place: place, err: err, topic: rec.Topic, offset: rec.Offset}
	}
	return fmt.Errorf("stream %s: processing %s: %w", t.r.o.Group, place, err)
}

// pending is about how many records the transaction will produce.
func (t *task) pending() int {
	n := len(t.tx.out)
	if t.cache != nil {
		for _, rows := range t.cache.dirty {
			n += len(rows)
		}
	}
	if t.touched && t.handlers.Pending != nil {
		n += t.handlers.Pending()
	}
	return n
}

// finish closes the partition's part of the transaction: the service's last words, the rows, and the marker.
func (t *task) finish() error {
	if t.cache != nil {
		t.cache.end()
	}
	if t.touched && t.handlers.Finish != nil {
		if err := t.handlers.Finish(&t.tx); err != nil { // then the transaction is given up: nothing is undone
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
	for i := range t.r.o.Stores {
		store := &t.r.o.Stores[i]
		if store.Derived {
			continue
		}
		e.Store = store.Name
		for _, place := range t.cache.dirty[i] {
			row := t.cache.tables[i].at(place)
			if store.Topic != "" {
				rec := t.tx.room.record()
				*rec = kgo.Record{Topic: store.Topic, Partition: t.partition, Key: row.key(), Value: row.value}
				t.tx.out = append(t.tx.out, rec)
				t.last[store.Topic] = rec
				continue
			}
			key := t.tx.room.take(append(append(append(t.tx.room.free(), e.Store...), '/'), row.key()...))
			e.Key, e.Value = key[len(e.Store)+1:], nil
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
	t.last[t.r.shape.changelog] = t.tx.out[len(t.tx.out)-1]
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

// commit makes the end of the transaction the committed state in memory.
func (t *task) commit() {
	t.committed = maps.Clone(t.next)
	if t.cache != nil {
		t.cache.committed()
		for topic, rec := range t.last {
			t.logs[topic] = rec.Offset + 1
		}
		if !t.unwritten {
			t.unwritten, t.changed = true, time.Now()
		}
	}
	t.tx.out, t.touched, t.dead, t.processed = nil, false, 0, 0
	clear(t.last)
}

// write puts what the partition's committed transactions changed into the batch for Pebble: everything, or derived rows alone. The
// others then stand for what they stood for before.
func (t *task) write(b *state.Batch, derived bool) error {
	pos := t.position()
	if derived {
		pos.Logs, pos.Inputs, pos.At = t.written.Logs, t.written.Inputs, t.written.At
	}
	t.written = pos
	return errors.Join(t.cache.write(b, t.partition, derived), b.SetPosition(t.partition, pos))
}

// position is what the rows stand for once everything committed is written.
func (t *task) position() state.Position {
	p := state.Position{Logs: maps.Clone(t.logs), Inputs: maps.Clone(t.committed), At: time.Now().UTC()}
	if t.r.shape.derived {
		p.Derived = &state.Derived{Next: t.committed[t.r.o.Recall.Topic], Window: t.r.o.Recall.Window}
	}
	return p
}
