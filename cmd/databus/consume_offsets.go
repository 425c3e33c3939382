package main

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
)

// spans turns --from, --to and --partition into a range of offsets per partition. The end is the high watermark:
// what open transactions have written counts, so that nothing acknowledged before the start is left out.
func (c consumeCmd) spans(ctx context.Context, adm *kadm.Client, g *Globals) (map[int32]*span, error) {
	details, err := adm.ListTopics(ctx, c.Topic)
	if err != nil {
		return nil, fmt.Errorf("asking the brokers for topic %s: %w", c.Topic, err)
	}
	if d, ok := details[c.Topic]; !ok || d.Err != nil {
		return nil, missingTopic(c.Topic, d.Err)
	}
	first, err := offsets(ctx, adm, c.Topic, "beginning")
	if err != nil {
		return nil, err
	}
	last, err := offsets(ctx, adm, c.Topic, "end")
	if err != nil {
		return nil, err
	}
	from, to := first, last
	if c.From != "beginning" {
		if from, err = offsets(ctx, adm, c.Topic, c.From); err != nil {
			return nil, fmt.Errorf("--from: %w", err)
		}
	}
	if c.To != "end" {
		if to, err = offsets(ctx, adm, c.Topic, c.To); err != nil {
			return nil, fmt.Errorf("--to: %w", err)
		}
	}
	spans := map[int32]*span{}
	for p := range last {
		if c.Partition >= 0 && p != c.Partition {
			continue
		}
		begin, end := from.of(p), min(to.of(p), last[p])
		if begin < first[p] {
			if _, err := strconv.ParseInt(c.From, 10, 64); err == nil && begin > 0 {
				fmt.Fprintf(g.Err, "databus: partition %d begins at offset %d: what came before it was deleted\n", p, first[p])
			}
			begin = first[p]
		}
		if begin > last[p] {
			begin = last[p]
		}
		spans[p] = &span{next: begin, end: end}
	}
	if len(spans) == 0 {
		return nil, fmt.Errorf("topic %s has no partition %d: they are 0 to %d", c.Topic, c.Partition, len(last)-1)
	}
	return spans, nil
}

// everywhere is the pseudo-partition of an offset that holds for all partitions.
const everywhere = -1

type positions map[int32]int64

func (p positions) of(partition int32) int64 {
	if o, ok := p[everywhere]; ok {
		return o
	}
	return p[partition]
}

// offsets resolves a place to an offset per partition. A time is that of the first record at or after it; where there
// is none, it is the end.
func offsets(ctx context.Context, adm *kadm.Client, topic, where string) (positions, error) {
	var listed kadm.ListedOffsets
	var err error
	switch where {
	case "beginning":
		listed, err = adm.ListStartOffsets(ctx, topic)
	case "end":
		listed, err = adm.ListEndOffsets(ctx, topic)
	default:
		if o, perr := strconv.ParseInt(where, 10, 64); perr == nil && o >= 0 {
			return positions{everywhere: o}, nil
		}
		at, perr := time.Parse(time.RFC3339Nano, where)
		if perr != nil {
			return nil, fmt.Errorf("%q is neither beginning, end, an offset nor a time such as 2026-01-31T12:00:00Z", where)
		}
		ms := at.UnixMilli()
		if at.Nanosecond()%int(time.Millisecond) != 0 {
			ms++ // Kafka's timestamps are whole milliseconds: the first one not before
		}
		listed, err = adm.ListOffsetsAfterMilli(ctx, ms, topic)
	}
	if err == nil {
		err = listed.Error()
	}
	if err != nil {
		return nil, fmt.Errorf("asking for the offsets of %s at %s: %w", topic, where, err)
	}
	found := positions{}
	listed.Each(func(o kadm.ListedOffset) { found[o.Partition] = o.Offset })
	return found, nil
}
