package usage

import (
	"testing"
	"time"

	"databus/schemas/event"
)

func TestBoundsIDs(t *testing.T) {
	for _, c := range []struct {
		id, base string
		n        int64
	}{{"total", "total", 1}, {"month:2026-11", "month:2026-11", 1}, {"month:2026-11@2", "month:2026-11", 2}, {"month:2026-11@17", "month:2026-11", 17},
		{"month:2026-11@1", "month:2026-11", 0}, {"month:2026-11@", "month:2026-11", 0}, {"month:2026-11@02", "month:2026-11", 0}, {"month:2026-11@-2", "month:2026-11", 0}} {
		base, n := Bounds(c.id)
		if base != c.base || n != c.n {
			t.Errorf("%s: %s, %d", c.id, base, n)
		}
		if n > 0 && WithBounds(base, n) != c.id {
			t.Errorf("%s comes back as %s", c.id, WithBounds(base, n))
		}
	}
}

// One account through changes of its contract: which sets of bounds its periods have behind each.
func TestAccountBounds(t *testing.T) {
	start, end := at(t, "2026-01-15T10:00:00Z"), at(t, "2026-06-15T10:00:00Z")
	limits := func(kinds ...event.Period) (all []event.ContractPack) {
		for _, k := range kinds {
			all = append(all, event.ContractPack{Pack: "p", Period: k, Limit: 5})
		}
		return all
	}
	month, year := event.PeriodContractMonth, event.PeriodContractYear
	b := NewAccountBounds(BeforeAll)
	version := int64(0)
	change := func(zone string, starts time.Time, ends *time.Time, counted bool, kinds ...event.Period) {
		t.Helper()
		version++
		terms, err := NewTerms(event.Contract{Account: "a", Version: version, TimeZone: zone, StartsAt: starts, EndsAt: ends, Packs: limits(kinds...)})
		if err != nil {
			t.Fatal(err)
		}
		b.Change(terms, counted, version*1000)
	}
	expect := func(step string, calendar, m, y int64) {
		t.Helper()
		got := func(k event.Period) int64 {
			for _, r := range b.Rules {
				if r.Period == k {
					return b.Of("p", k).Number
				}
			}
			return 0
		}
		if b.Calendar.Number != calendar || got(month) != m || got(year) != y || b.Of("p", event.PeriodTotal) != (BoundSet{1, BeforeAll}) {
			t.Errorf("%s: %+v", step, b)
		}
	}
	change("Asia/Kolkata", start, nil, false, month)
	expect("the first contract before any event", 1, 1, 0)
	change("Asia/Kolkata", start.AddDate(0, 1, 0), nil, false, month)
	expect("another start before any event", 1, 1, 0)
	change("Asia/Kolkata", start, &end, true, month)
	expect("another start", 1, 2, 0)
	change("Asia/Kolkata", start, &end, true, month, year)
	expect("a further limit", 1, 2, 3)
	if since := b.Of("p", year).Since; since != 4000 {
		t.Errorf("the new limit counts since %d", since)
	}
	later := end.AddDate(1, 0, 0)
	change("Asia/Kolkata", start, &later, true, month, year)
	expect("a later end in time", 1, 2, 3)
	if !b.Miss("p", later) || b.Miss("p", later) || b.Miss("other", later) {
		t.Error("an event behind the end is news once")
	}
	change("Asia/Kolkata", start, nil, true, month, year)
	expect("a later end too late", 1, 4, 4)
	change("UTC", start, nil, true, month, year)
	expect("another zone", 5, 5, 5)
	change("UTC", start, nil, true, year)
	expect("a limit less", 5, 0, 5)
	change("UTC", start, nil, true, month, year)
	expect("the limit again", 5, 6, 5)
	b.Change(nil, true, 9_000_000)
	expect("no contract, the same zone", 5, 0, 0)
	change("Asia/Kolkata", start, nil, true)
	expect("another zone again", 7, 0, 0)

	// Events from a day before the period on may belong to it.
	p := CalendarMonth(end, time.UTC)
	for since, complete := range map[int64]bool{BeforeAll: true, p.Start.Add(-FutureSlack).UnixMicro(): false, p.Start.Add(-FutureSlack).UnixMicro() - 1: true, end.UnixMicro(): false} {
		if got := (BoundSet{1, since}).Complete(p); got != complete {
			t.Errorf("since %d: %v", since, got)
		}
	}
}
