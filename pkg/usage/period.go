package usage

import (
	"strings"
	"time"

	"databus/schemas/event"
)

// AllPacks is the pack that counts all packs of an account together.
const AllPacks = "*"

// A Period is one counting period of an account.
type Period struct {
	// ID is 'total', 'month:2026-11', 'contract-month:2026-11-15' or 'contract-year:2026-03-01', the local date of its start.
	ID string
	// Start is inclusive, End exclusive. The end of 'total' is the zero time.
	Start, End time.Time
}

const (
	totalID       = "total"
	month         = "month:"
	contractMonth = "contract-month:"
	contractYear  = "contract-year:"
)

// Kind is the kind of a period by its id; false for an id of no known kind.
func Kind(id string) (event.Period, bool) {
	switch {
	case id == totalID:
		return event.PeriodTotal, true
	case strings.HasPrefix(id, month):
		return event.PeriodCalendarMonth, true
	case strings.HasPrefix(id, contractMonth):
		return event.PeriodContractMonth, true
	case strings.HasPrefix(id, contractYear):
		return event.PeriodContractYear, true
	}
	return "", false
}

// Total is the period that never ends.
func Total() Period { return Period{ID: totalID, Start: time.Unix(0, 0).UTC()} }

// CalendarMonth is the month of a moment in a time zone.
func CalendarMonth(at time.Time, zone *time.Location) Period {
	y, m, _ := at.In(zone).Date()
	start := time.Date(y, m, 1, 0, 0, 0, 0, zone)
	return Period{ID: month + start.Format("2006-01"), Start: start.UTC(), End: time.Date(y, m+1, 1, 0, 0, 0, 0, zone).UTC()}
}

// anniversary is n months after the anchor, at the anchor's local time of day; a day that the month does not have is the
// month's last one (31 January, 28 February, 31 March).
func anniversary(anchor time.Time, n int) time.Time {
	y, m, d := anchor.Date()
	last := time.Date(y, m+time.Month(n)+1, 0, 0, 0, 0, 0, anchor.Location()).Day()
	return time.Date(y, m+time.Month(n), min(d, last), anchor.Hour(), anchor.Minute(), anchor.Second(), anchor.Nanosecond(), anchor.Location())
}

// sinceAnchor is the period of step months that holds at, counted from the anchor, whose location is the account's time
// zone. There is none before the anchor.
func sinceAnchor(prefix string, anchor, at time.Time, step int) (Period, bool) {
	if at.Before(anchor) {
		return Period{}, false
	}
	local := at.In(anchor.Location())
	n := (12*(local.Year()-anchor.Year()) + int(local.Month()) - int(anchor.Month())) / step
	for anniversary(anchor, n*step).After(at) { // the day or the time of day is not reached yet
		n--
	}
	for !anniversary(anchor, (n+1)*step).After(at) {
		n++
	}
	start := anniversary(anchor, n*step)
	return Period{ID: prefix + start.Format("2006-01-02"), Start: start.UTC(), End: anniversary(anchor, (n+1)*step).UTC()}, true
}
