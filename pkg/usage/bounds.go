package usage

import (
	"math"
	"slices"
	"time"

	"databus/schemas/event"
)

// A BoundSet says under which of an account's sets of bounds the periods of one kind are counted now.
type BoundSet struct {
	// Number is what WithBounds puts behind the ids of the periods.
	Number int64 `json:"number"`
	// Since is the append time, in microseconds since 1970, up to which events may not have been counted under these bounds:
	// that of the newest event before them. BeforeAll where there was none.
	Since int64 `json:"since"`
}

// BeforeAll is the Since of bounds under which every event has been counted.
const BeforeAll = math.MinInt64

// Complete says whether every event of a period has been counted under the bounds. An event may happen up to FutureSlack
// after it was appended, so a period's first ones may be older than the period.
func (b BoundSet) Complete(p Period) bool {
	return b.Since < p.Start.Add(-FutureSlack).UnixMicro()
}

// A ContractRule is what the contract periods of one limit are counted by.
type ContractRule struct {
	BoundSet
	Pack   string       `json:"pack"`
	Period event.Period `json:"period"`
	Zone   string       `json:"zone"`
	Starts int64        `json:"starts"` // microseconds since 1970
	Ends   int64        `json:"ends"`   // the same; 0 while open
	// Missed: an event came that would have counted, had the contract not ended before.
	Missed bool `json:"missed,omitempty"`
}

// AccountBounds remembers, for one account, under which bounds events are counted. Where a contract changes them, periods
// of the same name would otherwise mix two definitions, so they start anew under the next number:
//
//   - calendar months, when the time zone changes;
//   - contract months and years of a limit, when the time zone or the contract's start changes, when the limit is new,
//     and when the contract's end moves although events were not counted because of it;
//   - the total never.
//
// A contract that ends later or earlier cuts no period, so usage goes on in the same one. Without an event before the
// change there is nothing to mix, and the number stays.
type AccountBounds struct {
	Last     int64          `json:"last"` // highest number given
	Zone     string         `json:"zone"` // of calendar months
	Calendar BoundSet       `json:"calendar"`
	Rules    []ContractRule `json:"rules,omitempty"`
	Total    BoundSet       `json:"total"`
}

// NewAccountBounds are the bounds of an account without contract, whose events have been counted since a moment (see
// BoundSet.Since).
func NewAccountBounds(since int64) AccountBounds {
	first := BoundSet{Number: 1, Since: since}
	return AccountBounds{Last: 1, Zone: "UTC", Calendar: first, Total: first}
}

// Change puts new terms into force; nil where the contract ends without another. newest is the append time of the
// account's newest event that was counted, in microseconds since 1970, and counted says whether there was any.
func (a *AccountBounds) Change(t *Terms, counted bool, newest int64) {
	next := BoundSet{Number: a.Last, Since: a.Total.Since}
	if counted {
		next = BoundSet{Number: a.Last + 1, Since: max(newest, a.Total.Since)}
	}
	zone := "UTC"
	if t != nil {
		zone = t.Contract.TimeZone
	}
	changed := false
	if zone != a.Zone {
		a.Zone, a.Calendar, changed = zone, next, true
	}
	old := a.Rules
	a.Rules = nil
	if t != nil {
		starts, ends := t.Contract.StartsAt.UnixMicro(), int64(0)
		if t.Contract.EndsAt != nil {
			ends = t.Contract.EndsAt.UnixMicro()
		}
		for _, l := range t.Contract.Packs {
			if l.Period != event.PeriodContractMonth && l.Period != event.PeriodContractYear {
				continue
			}
			rule := ContractRule{BoundSet: next, Pack: l.Pack, Period: l.Period, Zone: zone, Starts: starts, Ends: ends}
			same := false
			for _, o := range old {
				if o.Pack == l.Pack && o.Period == l.Period && o.Zone == zone && o.Starts == starts && (!o.Missed || o.Ends == ends) {
					rule.BoundSet, rule.Missed, same = o.BoundSet, o.Missed, true
				}
			}
			changed = changed || !same
			a.Rules = append(a.Rules, rule)
		}
	}
	if changed {
		a.Last = next.Number
	}
}

// From returns the bounds of an account whose partition's events have been counted since a moment.
func (a AccountBounds) From(since int64) AccountBounds {
	a.Total.Since, a.Calendar.Since = max(a.Total.Since, since), max(a.Calendar.Since, since)
	a.Rules = slices.Clone(a.Rules)
	for i := range a.Rules {
		a.Rules[i].Since = max(a.Rules[i].Since, since)
	}
	return a
}

// Of returns the set of bounds of a pack's periods of a kind. There must be a rule for contract periods: those that
// Terms.Counted names have one.
func (a *AccountBounds) Of(pack string, kind event.Period) BoundSet {
	switch kind {
	case event.PeriodTotal:
		return a.Total
	case event.PeriodCalendarMonth:
		return a.Calendar
	}
	for i := range a.Rules {
		if r := &a.Rules[i]; r.Pack == pack && r.Period == kind {
			return r.BoundSet
		}
	}
	return a.Calendar
}

// Miss notes an event that happened at or after the end of the contract, and says whether that was news.
func (a *AccountBounds) Miss(pack string, at time.Time) (news bool) {
	micros := at.UnixMicro()
	for i := range a.Rules {
		r := &a.Rules[i]
		if (r.Pack == pack || r.Pack == AllPacks) && r.Ends != 0 && micros >= r.Ends && !r.Missed {
			r.Missed, news = true, true
		}
	}
	return news
}
