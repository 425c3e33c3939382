package verify

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"databus/schemas"
	"databus/schemas/codec"
	"databus/schemas/event"
)

// askedBaseline is a request for history.
type askedBaseline struct {
	event.BaselineRequest
	cause    cause
	answered int
}

// belongs says whether an event belongs to a pack and a period.
func (e *usageEvent) belongs(pack string, start, end int64) bool {
	at := e.occurred.UnixMicro()
	return (pack == "*" || pack == e.pack) && at >= start && (end == 0 || at < end)
}

// begin gives a new count what happened before. Contract periods hold nothing from behind the end of the contract.
func (c *count) begin(before []*usageEvent, p span, force *contract) {
	end := p.end
	if force != nil && force.EndsAt != nil && len(p.id) > 8 && p.id[:8] == "contract" {
		end = min(end, force.EndsAt.UnixMicro())
	}
	for _, e := range before {
		if e.belongs(c.pack, p.start, end) {
			c.add(e)
		}
	}
}

// baselines checks what was asked and answered: each count asks once; every answer is what was counted below the seam, less what
// the stream counted behind it and must not have; a count is provisional until one answer, and never again.
func (v *verifier) baselines(ctx context.Context) error {
	if !v.o.History {
		return nil
	}
	requests := codec.For[event.BaselineRequest](v.codec, schemas.UsageBaselineRequests)
	asked := map[string]*askedBaseline{}
	err := v.read(ctx, schemas.UsageBaselineRequests, func(rec *kgo.Record) error {
		q := &askedBaseline{cause: place(rec)}
		if err := requests.Decode(ctx, rec.Value, &q.BaselineRequest); err != nil {
			return err
		}
		if asked[q.RequestID] != nil {
			v.double("request %s in %s: it was asked for in %s", q.RequestID, q.cause, asked[q.RequestID].cause)
		}
		asked[q.RequestID] = q
		v.report.Asked++
		return nil
	})
	if err != nil {
		return err
	}
	answers := codec.For[event.Baseline](v.codec, schemas.UsageBaselines)
	err = v.read(ctx, schemas.UsageBaselines, func(rec *kgo.Record) error {
		var b event.Baseline
		if err := answers.Decode(ctx, rec.Value, &b); err != nil {
			return err
		}
		v.report.Answers++
		q := asked[b.RequestID]
		if q == nil || v.accounts[b.Account] == nil {
			v.double("answer %s in %s: nobody asked", b.RequestID, place(rec))
			return nil
		}
		q.answered++
		want := v.accounts[b.Account].baseline(q, v.o.DedupWindow)
		have := &count{sums: sums{b.Matched, b.Unmatched, b.AmountMicros}, providers: map[string]sums{}}
		for _, p := range b.Providers {
			have.providers[p.Provider] = sums{p.Matched, p.Unmatched, p.AmountMicros}
		}
		if have.sums != want.sums || have.byProvider() != want.byProvider() || b.Estimated || b.SeamOffset != q.SeamOffset || b.SeamPartition != q.SeamPartition {
			v.missing("answer %s in %s: %v %s below %d, want %v %s below %d", b.RequestID, place(rec), have.sums, have.byProvider(), b.SeamOffset, want.sums, want.byProvider(), q.SeamOffset)
		}
		v.report.TakenBack += int(b.TakenBack)
		return nil
	})
	if err != nil {
		return err
	}
	for _, id := range slices.Sorted(maps.Keys(asked)) {
		if asked[id].answered == 0 {
			v.missing("answer to %s of %s", id, asked[id].cause)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(v.accounts)) {
		final := map[string]bool{}
		last := map[string]bool{}
		for _, p := range v.accounts[name].published {
			if final[p.key()] && p.provisional {
				v.double("count %s in %s is provisional again", p.key(), p.cause)
			}
			final[p.key()], last[p.key()] = !p.provisional, p.provisional
		}
		for key, provisional := range last {
			if provisional {
				v.missing("history of count %s", key)
			}
		}
	}
	return nil
}

// baseline is what must be the answer to a request.
func (a *account) baseline(q *askedBaseline, window time.Duration) *count {
	end := int64(0)
	if q.PeriodEnd != nil {
		end = q.PeriodEnd.UnixMicro()
	}
	var below, behind []*usageEvent
	all, read := map[string]time.Time{}, map[string]time.Time{} // of everything, and of what the stream has read
	for i := range a.events {
		e := &a.events[i]
		repeats := func(last map[string]time.Time) bool {
			seen, ok := last[e.id]
			if !ok || e.appended.After(seen) {
				last[e.id] = e.appended
			}
			return ok && e.appended.Sub(seen) < window
		}
		repeated, noticed := repeats(all), false
		if !e.unread {
			noticed = repeats(read)
		}
		switch {
		case !e.belongs(q.Pack, q.PeriodStart.UnixMicro(), end):
		case e.offset < q.SeamOffset && !repeated:
			below = append(below, e)
		case e.offset >= q.SeamOffset && repeated && !noticed:
			behind = append(behind, e)
		}
	}
	c := &count{providers: map[string]sums{}}
	for _, e := range below {
		c.add(e)
	}
	for _, e := range behind {
		back := *e
		back.quantity, back.amount = -e.quantity, -e.amount
		c.add(&back)
	}
	return c
}
