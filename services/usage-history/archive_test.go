package usagehistory

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"databus/pkg/usage"
	"databus/schemas/event"
)

type appended struct {
	at time.Time
	e  event.UsageEvent
}

// someEvents are events of two accounts, many of them repeats, at append times that turn back a little now and then.
func someEvents(rng *rand.Rand, n int, window time.Duration) []appended {
	at := time.Date(2026, 11, 14, 0, 0, 0, 0, time.UTC)
	var all []appended
	for i := range n {
		at = at.Add(time.Duration(rng.Int64N(int64(window) / 5)))
		if rng.IntN(10) == 0 {
			at = at.Add(-time.Duration(rng.IntN(50)) * time.Millisecond)
		}
		e := event.UsageEvent{EventID: fmt.Sprint("id-", i), Account: fmt.Sprint("account-", rng.IntN(2)), Pack: fmt.Sprint("pack-", rng.IntN(2)),
			OccurredAt: at.Add(-time.Duration(rng.IntN(40)) * time.Hour), Quantity: 1 + rng.Int64N(5), Status: 200 + 204*rng.Int32N(2), AmountMicros: rng.Int64N(100)}
		if rng.IntN(3) == 0 {
			p := fmt.Sprint("provider-", rng.IntN(5))
			e.Provider = &p
		}
		if i > 0 && rng.IntN(2) == 0 {
			e.EventID = all[max(0, i-1-rng.IntN(12))].e.EventID
		}
		if rng.IntN(30) == 0 {
			e.Quantity = 0 // refused
		}
		all = append(all, appended{at.Truncate(time.Millisecond), e})
	}
	return all
}

// counted sums up what counts to a request among the events from an offset on, for somebody who reads from another offset on.
func counted(all []appended, q *event.BaselineRequest, readFrom, countFrom int64) (s sums, n int) {
	last := map[string]time.Time{}
	for i, a := range all {
		if int64(i) < readFrom || usage.CheckEvent(&a.e, a.at) != nil {
			continue
		}
		key := a.e.Account + "/" + a.e.EventID
		before, ok := last[key]
		if !ok || a.at.After(before) {
			last[key] = a.at
		}
		if ok && a.at.Sub(before) < time.Duration(q.WindowMicros)*time.Microsecond {
			continue
		}
		if int64(i) >= countFrom && a.e.Account == q.Account && (q.Pack == "*" || q.Pack == a.e.Pack) &&
			!a.e.OccurredAt.Before(q.PeriodStart) && (q.PeriodEnd == nil || a.e.OccurredAt.Before(*q.PeriodEnd)) {
			s.add(&a.e, 1)
			n++
		}
	}
	return s, n
}

func (s *sums) text() string {
	out := fmt.Sprint(s.matched, s.unmatched, s.amount)
	for _, p := range s.providers {
		if p.Matched != 0 || p.Unmatched != 0 || p.AmountMicros != 0 {
			out += fmt.Sprint(" ", p)
		}
	}
	return out
}

// What the worker answers and what the stream counts is together what somebody counts who has read everything.
func TestAnswerAndStreamAreTheWhole(t *testing.T) {
	takenBack, repeats := int64(0), int64(0)
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, 32))
		window := time.Duration(1+rng.IntN(3600)) * time.Second
		all := someEvents(rng, 200, window)
		known := rng.Int64N(150)
		if seed%5 == 0 {
			known = 0
		}
		p := &pass{rules: rules{known: known, window: window.Microseconds()}, accounts: map[string]*account{}, ids: newIDs(window.Milliseconds(), 1000)}
		out := make([]outcome, 12)
		for i := range out {
			q := &event.BaselineRequest{Account: fmt.Sprint("account-", i%2), Pack: []string{"*", "pack-0", "pack-1"}[i%3], KnownFrom: known,
				SeamOffset: known + rng.Int64N(200-known), WindowMicros: window.Microseconds(), PeriodStart: time.Unix(0, 0).UTC()}
			if i%4 > 0 {
				q.PeriodStart = all[rng.IntN(len(all))].at
				end := q.PeriodStart.Add(time.Duration(1+rng.IntN(60)) * time.Hour)
				q.PeriodEnd = &end
			}
			p.ask(q, &out[i])
		}
		for i, a := range all {
			if int64(i) >= p.seam && !a.at.Before(p.settled.Add(time.Second)) {
				break
			}
			if err := p.event(int64(i), a.at, &a.e, a.e.Account); err != nil {
				t.Fatal(err)
			}
		}
		for _, acct := range p.accounts {
			for _, r := range acct.requests {
				stream, _ := counted(all, r.q, known, r.q.SeamOffset)
				whole, _ := counted(all, r.q, 0, 0)
				have := r.baseline(r.q)
				for _, n := range have.Providers {
					m := stream.provider(n.Provider)
					m.Matched, m.Unmatched, m.AmountMicros = m.Matched+n.Matched, m.Unmatched+n.Unmatched, m.AmountMicros+n.AmountMicros
				}
				stream.matched, stream.unmatched, stream.amount = stream.matched+have.Matched, stream.unmatched+have.Unmatched, stream.amount+have.AmountMicros
				if got, want := stream.text(), whole.text(); got != want {
					t.Fatalf("seed %d, known from %d, seam %d: %s, want %s", seed, known, r.q.SeamOffset, got, want)
				}
				takenBack, repeats = takenBack+r.takenBack, repeats+r.repeats
			}
		}
	}
	if takenBack == 0 || repeats == 0 {
		t.Errorf("%d were taken back, %d were repeats: the test shows nothing", takenBack, repeats)
	}
}

func TestIDsAreBounded(t *testing.T) {
	s := newIDs(1000, 100)
	at := int64(1_000_000)
	for i := range 10_000 {
		at += 50
		if _, _, err := s.check(idOf("a", fmt.Sprint(i)), at, true); err != nil {
			// 61.25 seconds of slack hold more than a hundred.
			if !errors.Is(err, errTooMany) || i < 99 {
				t.Fatal(i, err)
			}
			return
		}
	}
	t.Error("ids are not bounded")
}

func TestRequestsThatAreRefused(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	all := someEvents(rng, 50, time.Hour)
	q := &event.BaselineRequest{Account: "account-0", Pack: "*", SeamOffset: 50, WindowMicros: time.Hour.Microseconds(), PeriodStart: time.Unix(0, 0).UTC()}
	out := make([]outcome, 1)
	p := &pass{rules: rulesOf(q), accounts: map[string]*account{}, ids: newIDs(time.Hour.Milliseconds(), 1000)}
	p.ask(q, &out[0])
	r := p.accounts["account-0"].requests[0]
	r.matched, r.unmatched = 1<<61, 1<<61
	for i, a := range all {
		if p.accounts[a.e.Account] == nil {
			continue
		}
		if err := p.event(int64(i), a.at, &a.e, a.e.Account); err != nil {
			t.Fatal(err)
		}
	}
	if !r.full {
		t.Error("a sum without room goes unnoticed")
	}
}
