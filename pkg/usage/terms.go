package usage

import (
	"errors"
	"fmt"
	"time"
	_ "time/tzdata" // the same time zones on every machine, and in an image without any

	"databus/schemas"
	"databus/schemas/event"
)

// Limits on what a contract may hold.
const (
	MaxPacks      = 256
	MaxThresholds = 64
	MaxQuantity   = 1_000_000_000_000 // units of one event or limit
)

// Terms is a valid contract, ready to be asked. A nil *Terms is an account without contract.
type Terms struct {
	Contract event.Contract
	zone     *time.Location
	anchor   time.Time
}

// NewTerms checks a contract.
func NewTerms(c event.Contract) (*Terms, error) {
	zone, err := time.LoadLocation(c.TimeZone)
	if err != nil || c.TimeZone == "Local" {
		return nil, errors.New("the time zone is no IANA time zone name")
	}
	switch {
	case !schemas.ValidAccount(c.Account):
		return nil, errors.New("the account id is not valid")
	case c.Version < 1:
		return nil, errors.New("the version is below 1")
	case c.EndsAt != nil && !c.EndsAt.After(c.StartsAt):
		return nil, errors.New("the contract ends before it starts")
	case len(c.Packs) > MaxPacks:
		return nil, fmt.Errorf("the contract has more than %d limits", MaxPacks)
	}
	type limit struct {
		pack   string
		period event.Period
	}
	seen := map[limit]bool{}
	for i, p := range c.Packs {
		switch {
		case p.Pack != AllPacks && !ValidPack(p.Pack):
			return nil, fmt.Errorf("limit %d: the pack's name is not valid", i)
		case p.Limit < 1 || p.Limit > MaxQuantity:
			return nil, fmt.Errorf("limit %d: the limit is not between 1 and %d", i, int64(MaxQuantity))
		case seen[limit{p.Pack, p.Period}]:
			return nil, fmt.Errorf("limit %d: the pack has a limit for that period already", i)
		case len(p.Thresholds) > MaxThresholds:
			return nil, fmt.Errorf("limit %d: there are more than %d thresholds", i, MaxThresholds)
		}
		seen[limit{p.Pack, p.Period}] = true
		for _, t := range p.Thresholds {
			if t.Kind == event.ThresholdKindPercent && (t.Value < 1 || t.Value > 1000) {
				return nil, fmt.Errorf("limit %d: a threshold is not between 1 and 1000 percent", i)
			}
			if t.Kind == event.ThresholdKindAbsolute && (t.Value < 1 || t.Value > MaxQuantity) {
				return nil, fmt.Errorf("limit %d: a threshold is not between 1 and %d units", i, int64(MaxQuantity))
			}
		}
	}
	return &Terms{Contract: c, zone: zone, anchor: c.StartsAt.In(zone)}, nil
}

// Version of the contract; 0 without one.
func (t *Terms) Version() int64 {
	if t == nil {
		return 0
	}
	return t.Contract.Version
}

// Period is the period of a kind that holds a moment. Contract periods exist while the contract runs only.
func (t *Terms) Period(kind event.Period, at time.Time) (Period, bool) {
	switch kind {
	case event.PeriodTotal:
		return Total(), true
	case event.PeriodCalendarMonth:
		if t == nil {
			return CalendarMonth(at, time.UTC), true
		}
		return CalendarMonth(at, t.zone), true
	}
	if t == nil || t.Contract.EndsAt != nil && !at.Before(*t.Contract.EndsAt) {
		return Period{}, false
	}
	switch kind {
	case event.PeriodContractMonth:
		return sinceAnchor(contractMonth, t.anchor, at, 1)
	case event.PeriodContractYear:
		return sinceAnchor(contractYear, t.anchor, at, 12)
	}
	return Period{}, false
}

// Counted calls each with every pack and period to which an event of a pack at a moment counts: total and calendar
// month always, contract periods where the contract has a limit on them; each for the pack and for all packs.
func (t *Terms) Counted(pack string, at time.Time, each func(pack string, p Period)) {
	for _, kind := range []event.Period{event.PeriodTotal, event.PeriodCalendarMonth} {
		p, _ := t.Period(kind, at)
		each(pack, p)
		each(AllPacks, p)
	}
	if t == nil {
		return
	}
	for i := range t.Contract.Packs {
		l := &t.Contract.Packs[i]
		if l.Pack != pack && l.Pack != AllPacks || l.Period == event.PeriodTotal || l.Period == event.PeriodCalendarMonth {
			continue
		}
		if p, ok := t.Period(l.Period, at); ok {
			each(l.Pack, p)
		}
	}
}

// Limit is the contract's limit on a pack for a period that began at start, or nil: also where the period is not one of
// this contract's, because its bounds are another contract's.
func (t *Terms) Limit(pack, periodID string, start time.Time) *event.ContractPack {
	kind, ok := Kind(periodID)
	if t == nil || !ok {
		return nil
	}
	base, _ := Bounds(periodID)
	if p, ok := t.Period(kind, start); !ok || p.ID != base || !p.Start.Equal(start) {
		return nil
	}
	for i := range t.Contract.Packs {
		if l := &t.Contract.Packs[i]; l.Pack == pack && l.Period == kind {
			return l
		}
	}
	return nil
}

// ValidPack reports whether a pack's name has the form that keys rely on, which is that of an account id.
func ValidPack(pack string) bool { return schemas.ValidAccount(pack) }

// Limits of an event.
const (
	MaxEventID  = 128 // bytes
	MaxAmount   = 1_000_000_000_000_000
	FutureSlack = 24 * time.Hour
)

// maxSum bounds sums over events, so that two of them, or one and a limit, can be added up without overflow. Two million
// events of the largest quantity stay below it.
const maxSum = 1 << 61

// SumFits reports whether a sum over events may be kept. What would make it larger is refused, since a sum that has
// overflown is a wrong one.
func SumFits(sum int64) bool { return sum >= -maxSum && sum <= maxSum }

// SumRoom is how much a sum may become larger, or a negative one smaller, and still fit.
func SumRoom(sum int64) int64 { return maxSum - max(sum, -sum) }

var earliest = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

// CheckEvent says what is wrong with an event that was appended at a moment.
func CheckEvent(e *event.UsageEvent, appended time.Time) error {
	switch {
	case e.EventID == "":
		return errors.New("the event id is empty")
	case len(e.EventID) > MaxEventID:
		return fmt.Errorf("the event id is longer than %d bytes", MaxEventID)
	case !schemas.ValidAccount(e.Account):
		return errors.New("the account id is not valid")
	case !ValidPack(e.Pack):
		return errors.New("the pack's name is not valid")
	case e.Provider != nil && !ValidPack(*e.Provider):
		return errors.New("the provider's name is not valid")
	case e.Quantity == 0:
		return errors.New("the quantity is zero")
	case e.Quantity > MaxQuantity || e.Quantity < -MaxQuantity:
		return fmt.Errorf("the quantity is beyond %d", int64(MaxQuantity))
	case e.AmountMicros > MaxAmount || e.AmountMicros < -MaxAmount:
		return fmt.Errorf("the amount is beyond %d", int64(MaxAmount))
	case e.OccurredAt.Before(earliest):
		return errors.New("the event happened before the year 2000")
	case e.OccurredAt.After(appended.Add(FutureSlack)):
		return errors.New("the event happened more than a day after it was appended")
	}
	return nil
}
