package verify

import (
	"strings"
	"time"

	"databus/schemas/event"
)

// span is a counting period.
type span struct {
	id         string
	start, end int64 // microseconds since 1970; end 0: never
}

func total() span { return span{id: "total"} }

func calendarMonth(at time.Time, zone *time.Location) span {
	local := at.In(zone)
	first := time.Date(local.Year(), local.Month(), 1, 0, 0, 0, 0, zone)
	next := time.Date(local.Year(), local.Month()+1, 1, 0, 0, 0, 0, zone)
	return span{"month:" + first.Format("2006-01"), first.UnixMicro(), next.UnixMicro()}
}

// shifted is the moment n months after the anchor, on the same day or on the last one of a shorter month.
func shifted(anchor time.Time, n int) time.Time {
	first := time.Date(anchor.Year(), anchor.Month(), 1, 0, 0, 0, 0, time.UTC).AddDate(0, n, 0)
	days := first.AddDate(0, 1, -1).Day()
	day := anchor.Day()
	if day > days {
		day = days
	}
	return time.Date(first.Year(), first.Month(), day, anchor.Hour(), anchor.Minute(), anchor.Second(), anchor.Nanosecond(), anchor.Location())
}

// contract is a contract that obeys the rules.
type contract struct {
	event.Contract
	zone *time.Location
}

func (c *contract) version() int64 {
	if c == nil {
		return 0
	}
	return c.Version
}

// period is the contract's period of a kind at a moment, found by walking from the start of the contract.
func (c *contract) period(kind event.Period, at time.Time) (span, bool) {
	switch kind {
	case event.PeriodTotal:
		return total(), true
	case event.PeriodCalendarMonth:
		return calendarMonth(at, c.zone), true
	}
	if at.Before(c.StartsAt) || c.EndsAt != nil && !at.Before(*c.EndsAt) {
		return span{}, false
	}
	step, name := 1, "contract-month:"
	if kind == event.PeriodContractYear {
		step, name = 12, "contract-year:"
	}
	anchor := c.StartsAt.In(c.zone)
	n := 0
	for !shifted(anchor, n+step).After(at) {
		n += step
	}
	start := shifted(anchor, n)
	return span{name + start.Format("2006-01-02"), start.UnixMicro(), shifted(anchor, n+step).UnixMicro()}, true
}

// limit is the contract's limit on a count, if the count's period is one of the contract's.
func (c *contract) limit(n *count) *event.ContractPack {
	if c == nil {
		return nil
	}
	id, _, _ := strings.Cut(n.period.id, "@")
	for i := range c.Packs {
		l := &c.Packs[i]
		if l.Pack != n.pack {
			continue
		}
		if p, ok := c.period(l.Period, time.UnixMicro(n.period.start)); ok && p.id == id && p.start == n.period.start {
			return l
		}
	}
	return nil
}
