package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"databus/schemas"
	"databus/schemas/codec"
)

// stable asks for what can be read of a topic now: from the first offset of each partition to its last stable one, at
// which an open transaction, if there is one, begins.
func stable(ctx context.Context, adm *kadm.Client, topic string) (map[int32]span, error) {
	first, err := adm.ListStartOffsets(ctx, topic)
	if err == nil {
		err = first.Error()
	}
	var last kadm.ListedOffsets
	if err == nil {
		last, err = adm.ListCommittedOffsets(ctx, topic)
	}
	if err == nil {
		err = last.Error()
	}
	if err != nil {
		return nil, missingTopic(topic, err)
	}
	spans := map[int32]span{}
	last.Each(func(o kadm.ListedOffset) {
		begin, _ := first.Lookup(topic, o.Partition)
		spans[o.Partition] = span{next: begin.Offset, end: max(o.Offset, begin.Offset)}
	})
	if len(spans) == 0 {
		return nil, missingTopic(topic, nil)
	}
	return spans, nil
}

// scan calls each with the committed records of the spans, those of a partition in order. It joins no group and commits
// nothing.
func (g *Globals) scan(ctx context.Context, topic string, spans map[int32]span, each func(*kgo.Record) error) error {
	left, begin := map[int32]span{}, map[int32]kgo.Offset{}
	for p, s := range spans {
		if s.next < s.end {
			left[p], begin[p] = s, kgo.NewOffset().At(s.next)
		}
	}
	if len(left) == 0 {
		return nil
	}
	cl, err := g.kafka(ctx,
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.KeepControlRecords(), // the end may lie behind a transaction's marker: stop by position
		kgo.ConsumeResetOffset(kgo.NoResetOffset()),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: begin}),
	)
	if err != nil {
		return err
	}
	defer cl.Close()
	for idle := time.Now(); len(left) > 0; {
		poll, cancel := context.WithTimeout(ctx, patience)
		fetches := cl.PollFetches(poll)
		cancel()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		for _, e := range fetches.Errors() {
			if !errors.Is(e.Err, context.DeadlineExceeded) {
				return fmt.Errorf("reading %s/%d: %w", topic, e.Partition, e.Err)
			}
		}
		for it := fetches.RecordIter(); !it.Done(); {
			rec := it.Next()
			idle = time.Now()
			s, ok := left[rec.Partition]
			if !ok {
				continue
			}
			if rec.Offset < s.end && !rec.Attrs.IsControl() {
				if err := each(rec); err != nil {
					return err
				}
			}
			if s.next = rec.Offset + 1; s.next >= s.end {
				delete(left, rec.Partition)
				cl.PauseFetchPartitions(map[string][]int32{topic: {rec.Partition}})
				continue
			}
			left[rec.Partition] = s
		}
		if time.Since(idle) >= patience && len(left) > 0 {
			if done, err := quiet(ctx, kadm.NewClient(cl), topic, left, time.Since(idle)); done || err != nil {
				return err
			}
		}
	}
	return nil
}

// quiet says why nothing comes: compaction removed the last records before an end, which is the end then, an open
// transaction hides them, or something is wrong.
func quiet(ctx context.Context, adm *kadm.Client, topic string, left map[int32]span, idle time.Duration) (done bool, err error) {
	now, err := stable(ctx, adm, topic)
	if err != nil {
		return false, err
	}
	for p, s := range left {
		if at := now[p].end; at < s.end {
			return false, fmt.Errorf("reading %s/%d: an open transaction hides offsets %d to %d; try again when it has ended", topic, p, max(at, s.next), s.end-1)
		}
	}
	if t, ok := schemas.Lookup(topic); ok && t.Cleanup == schemas.Compact {
		return true, nil
	}
	if idle > 5*patience {
		for p, s := range left {
			return false, fmt.Errorf("reading %s/%d: nothing came for %s, at offset %d of %d", topic, p, idle.Round(time.Second), s.next, s.end)
		}
	}
	return false, nil
}

// A row is the newest event of a key.
type row[T any] struct {
	key   string
	value T
}

// accountRows returns the newest events of an account in a compacted topic, in order of their keys. The account's
// partition alone is read.
func accountRows[T any](ctx context.Context, g *Globals, topic, account string) ([]row[T], error) {
	newest := map[string]T{}
	err := accountEvents(ctx, g, topic, account, func(rec *kgo.Record, v *T) error {
		if v == nil {
			delete(newest, string(rec.Key))
		} else {
			newest[string(rec.Key)] = *v
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	rows := make([]row[T], 0, len(newest))
	for k, v := range newest {
		rows = append(rows, row[T]{k, v})
	}
	slices.SortFunc(rows, func(a, b row[T]) int { return strings.Compare(a.key, b.key) })
	return rows, nil
}

// accountEvents calls each with an account's events in a topic; a tombstone has no value. What cannot be decoded is
// said and left out, as consumers do with it.
func accountEvents[T any](ctx context.Context, g *Globals, topic, account string, each func(*kgo.Record, *T) error) error {
	if !schemas.ValidAccount(account) {
		return fmt.Errorf("%q is no account id: 1 to 64 letters, digits, dots, underscores and dashes", account)
	}
	cl, err := g.kafka(ctx)
	if err != nil {
		return err
	}
	defer cl.Close()
	spans, err := stable(ctx, kadm.NewClient(cl), topic)
	if err != nil {
		return err
	}
	home := schemas.Partition(topic, []byte(account), int32(len(spans)))
	cdc, err := g.codec()
	if err != nil {
		return err
	}
	serde := codec.For[T](cdc, topic)
	return g.scan(ctx, topic, map[int32]span{home: spans[home]}, func(rec *kgo.Record) error {
		if string(schemas.PartitionKey(topic, rec.Key)) != account {
			return nil
		}
		if rec.Value == nil {
			return each(rec, nil)
		}
		var v T
		err := serde.Decode(ctx, rec.Value, &v)
		if codec.IsPoison(err) {
			fmt.Fprintf(g.Err, "databus: %s/%d@%d is left out: %s\n", rec.Topic, rec.Partition, rec.Offset, oneLine(err))
			return nil
		}
		if err != nil {
			return g.registryHint(err)
		}
		return each(rec, &v)
	})
}

// progress is where a group stands in a topic.
type progress struct {
	// committed is the group's offset of each partition that has one.
	committed map[int32]int64
	members   int
}

// groupProgress asks for a group's committed offsets. A group that nobody knows has none.
func groupProgress(ctx context.Context, adm *kadm.Client, group, topic string) (progress, error) {
	at := progress{committed: map[int32]int64{}}
	described, err := adm.DescribeGroups(ctx, group)
	if err != nil {
		return at, fmt.Errorf("asking for group %s: %w", group, err)
	}
	at.members = len(described[group].Members)
	offsets, err := adm.FetchOffsets(ctx, group)
	if err == nil {
		err = offsets.Error()
	}
	if errors.Is(err, kerr.GroupIDNotFound) {
		return at, nil
	}
	if err != nil {
		return at, fmt.Errorf("asking for the offsets of group %s: %w", group, err)
	}
	offsets.Each(func(o kadm.OffsetResponse) {
		if o.Topic == topic && o.At >= 0 {
			at.committed[o.Partition] = o.At
		}
	})
	return at, nil
}
