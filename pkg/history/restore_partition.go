package history

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"databus/pkg/archive"
)

// restoring is one partition under way.
type restoring struct {
	*restore
	id      int32
	at      restorePartAt
	found   int64 // records that the new topic has behind at.NewNext and that are to be compared
	earlier *kgo.Client
	buffer  []*kgo.Record
	failure

	pending sync.WaitGroup
	acked   int64 // end of what the broker has answered for; touched by promises only, which come one at a time
}

// failure is the first error of a promise.
type failure struct {
	once sync.Once
	err  error
	done chan struct{}
}

func (f *failure) fail(err error) {
	f.once.Do(func() { f.err = err; close(f.done) })
}

// partition restores the objects that follow the last restored one.
func (t *restore) partition(ctx context.Context, objects []Object) error {
	id := objects[0].Partition
	t.journal.mu.Lock()
	at, ok := t.journal.state.Partitions[id]
	t.journal.mu.Unlock()
	if !ok {
		return fmt.Errorf("the state of the restore does not know the partition; remove %s and restore to an empty topic", t.State)
	}
	p := &restoring{restore: t, id: id, at: *at, found: t.ends[id] - at.NewNext, failure: failure{done: make(chan struct{})}}
	if p.found < 0 {
		return fmt.Errorf("%s/%d ends at offset %d, and %d were restored: it is not the topic of the last run; remove %s to begin again",
			t.To, id, t.ends[id], at.NewNext, t.State)
	}
	p.acked = t.ends[id]
	defer func() {
		if p.earlier != nil {
			p.earlier.Close()
		}
	}()
	last, resumed := archive.ParseName(p.at.Object)
	for _, o := range objects {
		if resumed && o.First <= last.First {
			continue
		}
		if err := p.object(ctx, o); err != nil {
			return err
		}
	}
	if p.found > 0 {
		return fmt.Errorf("%s has %d records more than the archive: %s", t.To, p.found, foreign)
	}
	t.mu.Lock()
	t.sum.Partitions++
	t.mu.Unlock()
	return nil
}

// object sends an object's rows, waits for the answers and notes the mapping.
func (p *restoring) object(ctx context.Context, o Object) (err error) {
	r, err := archive.Open(ctx, p.Bucket, o.Key)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	f := r.Footer()
	if p.at.Next >= 0 && f.First != p.at.Next {
		return follows(&archive.Footer{Topic: f.Topic, Partition: f.Partition, First: p.at.Next - 1, Next: p.at.Next}, &f)
	}
	id := 0
	if f.SchemaID != 0 { // without one there are only tombstones
		if id, err = p.restore.id(ctx, f.Schema); err != nil {
			return fmt.Errorf("registering schema %d of object %s: %w", f.SchemaID, o.Key, err)
		}
	}
	var moved []Moved
	next, found := p.at.NewNext, int64(0)
	for {
		rec, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("archive object %s: %w", o.Key, err)
		}
		out := p.record(&rec, id)
		if p.found > 0 {
			if err := p.same(ctx, out, next); err != nil {
				return err
			}
			p.found--
			found++
		} else if err := p.send(ctx, out); err != nil {
			return err
		}
		if n := len(moved); n > 0 && moved[n-1].To == rec.Offset {
			moved[n-1].To, moved[n-1].NewTo = rec.Offset+1, next+1
		} else {
			moved = append(moved, Moved{Topic: p.Topic, Partition: p.id, From: rec.Offset, To: rec.Offset + 1, NewTopic: p.To, NewFrom: next, NewTo: next + 1, Object: o.Key})
		}
		next++
	}
	if err := p.wait(ctx); err != nil {
		return err
	}
	p.at = restorePartAt{Object: o.Key, Next: f.Next, NewNext: next}
	if err := p.journal.done(p.id, p.at, moved); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sum.Files++
	p.sum.Rows += f.Rows
	p.sum.Found += found
	p.sum.DeadLetters += f.DeadLetters
	return nil
}

// record turns a row back into a record, its value into the registry's wire format.
func (p *restoring) record(rec *archive.Record, schema int) *kgo.Record {
	out := &kgo.Record{Topic: p.To, Partition: p.id, Key: rec.Key, Timestamp: time.UnixMilli(rec.Timestamp)}
	for _, h := range rec.Headers {
		out.Headers = append(out.Headers, kgo.RecordHeader{Key: h.Key, Value: h.Value})
	}
	if rec.Value != nil {
		out.Value = make([]byte, 0, 5+len(rec.Value))
		out.Value = append(binary.BigEndian.AppendUint32(append(out.Value, 0), uint32(schema)), rec.Value...)
	}
	return out
}

func (p *restoring) send(ctx context.Context, rec *kgo.Record) error {
	select {
	case <-p.done:
		return p.err
	case <-ctx.Done():
		return ctx.Err()
	default:
	}
	p.pending.Add(1)
	p.client.Produce(ctx, rec, func(rec *kgo.Record, err error) {
		defer p.pending.Done()
		switch {
		case err != nil:
			p.fail(fmt.Errorf("producing to %s/%d: %w", p.To, p.id, err))
		case rec.Offset != p.acked:
			p.fail(fmt.Errorf("%s/%d: a record got offset %d, the one before ends at %d: %s", p.To, p.id, rec.Offset, p.acked, foreign))
		default:
			p.acked++
		}
	})
	return nil
}

// wait waits until the brokers have answered for all that was sent.
func (p *restoring) wait(ctx context.Context) error {
	answered := make(chan struct{})
	go func() {
		p.pending.Wait()
		close(answered)
	}()
	select {
	case <-answered:
	case <-p.done:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case <-p.done:
		return p.err
	default:
		return nil
	}
}

// same compares a row with the record that an earlier run sent for it.
func (p *restoring) same(ctx context.Context, want *kgo.Record, offset int64) error {
	if p.earlier == nil {
		var err error
		p.earlier, err = kgo.NewClient(append(append([]kgo.Opt{}, p.Kafka...),
			kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{p.To: {p.id: kgo.NewOffset().At(offset)}}), kgo.ConsumeResetOffset(kgo.NoResetOffset()))...)
		if err != nil {
			return fmt.Errorf("configuring the Kafka client: %w", err)
		}
	}
	for len(p.buffer) == 0 {
		fetches := p.earlier.PollFetches(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if errs := fetches.Errors(); len(errs) > 0 {
			return fmt.Errorf("reading what an earlier run sent to %s: %w", p.To, errs[0].Err)
		}
		p.buffer = fetches.Records()
	}
	got := p.buffer[0]
	p.buffer = p.buffer[1:]
	equal := got.Offset == offset && sameBytes(got.Key, want.Key) && sameBytes(got.Value, want.Value) && len(got.Headers) == len(want.Headers) &&
		(p.appendTime || got.Timestamp.Equal(want.Timestamp))
	for i := 0; equal && i < len(want.Headers); i++ {
		equal = got.Headers[i].Key == want.Headers[i].Key && sameBytes(got.Headers[i].Value, want.Headers[i].Value)
	}
	if !equal {
		return fmt.Errorf("%s/%d: the record at offset %d is not the one that an earlier run sent there: %s", p.To, p.id, offset, foreign)
	}
	return nil
}

// sameBytes tells nil from empty: a tombstone is no empty value.
func sameBytes(a, b []byte) bool { return (a == nil) == (b == nil) && bytes.Equal(a, b) }
