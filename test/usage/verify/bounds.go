package verify

import (
	"time"

	"databus/schemas/event"
)

// bounds are an account's sets of period bounds. Periods of one name but of other bounds are other periods, whose ids end
// in the number of their set: calendar months get a new number with another time zone; the contract periods of a limit
// with another time zone or start of the contract, with a limit that was not there before, and with another end of the
// contract behind which events have come. All that one contract changes gets the same number, one more than the highest
// so far; before the first event everything stays number 1.
type bounds struct {
	highest  int
	zone     string
	calendar int // number of the months
	rules    []rule
}

// rule is what the contract periods of one limit are cut by.
type rule struct {
	pack   string
	kind   event.Period
	zone   string
	starts time.Time
	ends   int64 // microseconds; 0: open
	missed bool  // an event came that happened behind the end
	set    int
}

func newBounds() *bounds { return &bounds{highest: 1, zone: "UTC", calendar: 1} }

func (b *bounds) change(c *contract, counted bool) {
	number := b.highest
	if counted {
		number++
	}
	used := false
	zone := "UTC"
	if c != nil {
		zone = c.TimeZone
	}
	if zone != b.zone {
		b.zone, b.calendar, used = zone, number, true
	}
	before := b.rules
	b.rules = nil
	if c != nil {
		for _, l := range c.Packs {
			if l.Period == event.PeriodTotal || l.Period == event.PeriodCalendarMonth {
				continue
			}
			r := rule{pack: l.Pack, kind: l.Period, zone: zone, starts: c.StartsAt, ends: micros(c.EndsAt)}
			for _, o := range before {
				if o.pack == r.pack && o.kind == r.kind && o.zone == r.zone && o.starts.Equal(r.starts) && (!o.missed || o.ends == r.ends) {
					r.set, r.missed = o.set, o.missed
				}
			}
			if r.set == 0 {
				r.set, used = number, true
			}
			b.rules = append(b.rules, r)
		}
	}
	if used {
		b.highest = number
	}
}
