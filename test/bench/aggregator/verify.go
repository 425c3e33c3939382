package aggregator

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"databus/schemas"
	"databus/schemas/codec"
	"databus/schemas/event"
)

// verify reads a whole output under read committed: every row's last value must be its true sum, and no value of a row may
// fall below the one before (all quantities are positive), which a repeated or lost batch would show.
func (b *bench) verify(ctx context.Context, topic string, dedup bool) (outputs int, err error) {
	ends, err := b.ends(ctx, topic)
	if err != nil {
		return 0, err
	}
	left := map[int32]int64{}
	for p, end := range ends {
		if end > 0 {
			left[p] = end
		}
	}
	c, err := b.newClient(kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.KeepControlRecords())
	if err != nil {
		return 0, err
	}
	defer c.Close()
	serde := codec.For[event.UsageCount](b.codec, schemas.UsageCounts)
	got := map[string]row{}
	var wrong []error
	progress := time.Now()
	for len(left) > 0 {
		pctx, cancel := context.WithTimeout(ctx, time.Second)
		fetches := c.PollFetches(pctx)
		cancel()
		for _, e := range fetches.Errors() {
			if !errors.Is(e.Err, context.DeadlineExceeded) {
				return outputs, fmt.Errorf("reading %s: %w", topic, e.Err)
			}
		}
		if fetches.NumRecords() > 0 {
			progress = time.Now()
		} else if time.Since(progress) > 30*time.Second {
			return outputs, fmt.Errorf("reading %s: its end is not readable: a transaction is open", topic)
		}
		fetches.EachRecord(func(rec *kgo.Record) {
			if rec.Offset+1 >= left[rec.Partition] {
				delete(left, rec.Partition)
			}
			if rec.Attrs.IsControl() {
				return
			}
			outputs++
			var u event.UsageCount
			if err := serde.Decode(ctx, rec.Value, &u); err != nil {
				wrong = append(wrong, err)
				return
			}
			key := schemas.JoinKey(u.Account, u.Pack, u.Period)
			s, was := row{sums: sums{u.Matched, u.Unmatched, u.AmountMicros}}, got[key]
			for _, p := range u.Providers {
				if owed := (sums{p.Matched, p.Unmatched, p.AmountMicros}); p.Provider == providers[packs[0]] {
					s.alpha = owed
				} else if p.Provider == providers[packs[1]] {
					s.beta = owed
				} else {
					wrong = append(wrong, fmt.Errorf("%s: owed to %s", key, p.Provider))
				}
			}
			switch {
			case key != string(rec.Key):
				wrong = append(wrong, fmt.Errorf("the key is %s and the value of %s", rec.Key, key))
			case s.matched < was.matched || s.unmatched < was.unmatched || s.amount < was.amount || s == was:
				wrong = append(wrong, fmt.Errorf("%s: %v is followed by %v", key, was, s))
			case schemas.Partition(schemas.UsageCounts, rec.Key, int32(len(ends))) != rec.Partition:
				wrong = append(wrong, fmt.Errorf("%s: in partition %d", key, rec.Partition))
			}
			got[key] = s
		})
		if len(wrong) > 20 {
			break
		}
	}
	want := b.in.truth(dedup)
	for key, s := range want {
		if got[key] != s && len(wrong) < 20 {
			wrong = append(wrong, fmt.Errorf("%s: %v, want %v", key, got[key], s))
		}
	}
	if len(got) != len(want) {
		wrong = append(wrong, fmt.Errorf("%d rows, want %d", len(got), len(want)))
	}
	if len(wrong) > 0 {
		return outputs, fmt.Errorf("%w: %s: %w", errNotExact, topic, errors.Join(wrong...))
	}
	return outputs, nil
}

var errNotExact = errors.New("the output is not exact")
