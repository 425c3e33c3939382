package usagehistory

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"databus/pkg/history"
	"databus/pkg/usage"
	"databus/schemas/event"
)

// archive counts the archive's files and Kafka's tail, by offset.
type archive struct {
	events *history.Log
	maxIDs int
	slack  time.Duration
	log    *slog.Logger
}

// rules are what requests must have in common to be counted in one pass.
type rules struct {
	partition int32
	known     int64
	// microseconds
	window, keep int64
}

func rulesOf(q *event.BaselineRequest) rules {
	return rules{q.SeamPartition, q.KnownFrom, q.WindowMicros, q.KeepEndedMicros}
}

// answer counts for all requests with the same rules in one pass over their partition.
func (a *archive) answer(ctx context.Context, asked []*event.BaselineRequest) ([]outcome, error) {
	out := make([]outcome, len(asked))
	groups := map[rules][]int{}
	for i, q := range asked {
		groups[rulesOf(q)] = append(groups[rulesOf(q)], i)
	}
	for _, group := range groups {
		if err := a.pass(ctx, asked, group, out); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// pass counts for the requests of a group. Where their accounts have more ids than may be kept, it goes over half of them first.
func (a *archive) pass(ctx context.Context, asked []*event.BaselineRequest, group []int, out []outcome) error {
	p := &pass{rules: rulesOf(asked[group[0]]), accounts: map[string]*account{}}
	for _, i := range group {
		p.ask(asked[i], &out[i])
	}
	err := a.read(ctx, p)
	if errors.Is(err, errTooMany) && len(p.accounts) > 1 {
		slices.SortStableFunc(group, func(i, j int) int { return compareAccounts(asked[i], asked[j]) })
		half := len(group) / 2
		for half > 0 && asked[group[half]].Account == asked[group[half-1]].Account {
			half--
		}
		if half == 0 { // the first account has most of them
			half = slices.IndexFunc(group, func(i int) bool { return asked[i].Account != asked[group[0]].Account })
		}
		if err := a.pass(ctx, asked, group[:half], out); err != nil {
			return err
		}
		return a.pass(ctx, asked, group[half:], out)
	}
	return err
}

func compareAccounts(a, b *event.BaselineRequest) int {
	switch {
	case a.Account < b.Account:
		return -1
	case a.Account > b.Account:
		return 1
	}
	return 0
}

// errDone ends a pass that needs nothing further.
var errDone = errors.New("done")

func (a *archive) read(ctx context.Context, p *pass) error {
	began, partition := time.Now(), p.rules.partition
	extent, err := a.events.Extent(ctx, partition)
	if err != nil {
		return err
	}
	if p.seam > extent.End {
		return fmt.Errorf("%s, partition %d, ends at offset %d and a seam is at %d: check that requests and events are of one cluster, and that nobody has made the topic anew",
			a.events.Topic, partition, extent.End, p.seam)
	}
	from := a.events.Since(partition, extent.Start, p.since)
	p.ids = newIDs(p.rules.window/1000, a.maxIDs)
	wanted := func(key []byte) bool { return p.accounts[string(key)] != nil }
	var oldest *time.Time
	err = history.ReadLog(ctx, a.events, partition, from, extent.End, wanted, func(rec history.Record[event.UsageEvent]) error {
		if oldest == nil {
			oldest = &rec.Time
		}
		if rec.Offset >= p.seam && !rec.Time.Before(p.settled.Add(a.slack)) {
			return errDone
		}
		if rec.Value == nil {
			return nil
		}
		return p.event(rec.Offset, rec.Time, rec.Value, string(rec.Key))
	})
	if err != nil && !errors.Is(err, errDone) {
		return err
	}
	reaches := func(need time.Time) bool {
		return from == 0 || from > extent.Start || oldest != nil && !oldest.After(need)
	}
	for _, acct := range p.accounts {
		settles := acct.settles.Add(a.slack)
		for _, r := range acct.requests {
			switch {
			case r.full:
				r.out.refused = noRoom
			case err == nil && began.Before(settles): // appended from now on, a repeat may still come that the stream does not see
				r.out.wait = settles
			default:
				b := r.baseline(r.q)
				b.FirstOffset, b.Events, b.Repeats, b.TakenBack = from, r.events, r.repeats, r.takenBack
				if b.Estimated = !reaches(earliest(r.q)); b.Estimated {
					a.log.Warn("history does not reach back to the start of a period; the answer is marked estimated",
						"partition", partition, "first_offset", from, "hint", "if the archive has older files, restore their events in archive.files before history is asked for")
				}
				r.out.answer = b
			}
		}
	}
	return nil
}

// earliest is the append time of the first event that matters to a request: one that counts was appended a day before it
// happened at the earliest, and one that it repeats a window before that.
func earliest(q *event.BaselineRequest) time.Time {
	return q.PeriodStart.Add(-usage.FutureSlack - time.Duration(q.WindowMicros)*time.Microsecond)
}

// A pass goes over the events of a partition once.
type pass struct {
	rules    rules
	accounts map[string]*account
	ids      *ids
	since    time.Time // append time of the first event that matters
	seam     int64     // the highest one
	settled  time.Time // the latest of the accounts
}

// account is one that is asked for.
type account struct {
	requests []*request
	// settles is a window behind the newest event that the stream has not read: later ones repeat none of those.
	settles time.Time
}

// request is one count.
type request struct {
	sums
	q    *event.BaselineRequest
	out  *outcome
	full bool // a sum has no room

	events, repeats, takenBack int64
}

func (p *pass) ask(q *event.BaselineRequest, out *outcome) {
	acct := p.accounts[q.Account]
	if acct == nil {
		acct = &account{}
		p.accounts[q.Account] = acct
	}
	if at := earliest(q); p.since.IsZero() || at.Before(p.since) {
		p.since = at
	}
	acct.requests = append(acct.requests, &request{q: q, out: out})
	p.seam = max(p.seam, q.SeamOffset)
}

// event judges an event of a wanted key.
func (p *pass) event(offset int64, appended time.Time, e *event.UsageEvent, key string) error {
	if usage.CheckEvent(e, appended) != nil || e.Account != key ||
		p.rules.keep > 0 && e.OccurredAt.Before(appended.Add(-time.Duration(p.rules.keep)*time.Microsecond)) {
		return nil // the aggregator refuses it too
	}
	read := offset >= p.rules.known
	repeated, known, err := p.ids.check(idOf(e.Account, e.EventID), appended.UnixMilli(), read)
	if err != nil {
		return err
	}
	acct := p.accounts[key]
	if !read {
		acct.settles = appended.Add(time.Duration(p.rules.window) * time.Microsecond)
		if acct.settles.After(p.settled) {
			p.settled = acct.settles
		}
	}
	for _, r := range acct.requests {
		if r.q.Pack != usage.AllPacks && r.q.Pack != e.Pack || e.OccurredAt.Before(r.q.PeriodStart) || r.q.PeriodEnd != nil && !e.OccurredAt.Before(*r.q.PeriodEnd) {
			continue
		}
		sign := int64(0)
		switch below := offset < r.q.SeamOffset; {
		case below && repeated:
			r.repeats++
		case below:
			r.events++
			sign = 1
		case repeated && !known: // the stream has counted it
			r.takenBack++
			sign = -1
		}
		if sign != 0 && !r.add(e, sign) {
			r.full = true
		}
	}
	return nil
}
