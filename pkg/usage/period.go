package usage

import (
	"strconv"
	"strings"
	"time"

	"databus/schemas/event"
)

// AllPacks is the pack that counts all packs of an account together.
const AllPacks = "*"

// A Period is one counting period of an account.
type Period struct {
	// ID is 'total', 'month:2026-11', 'contract-month:2026-11-15' or 'contract-year:2026-03-01', the local date of its start.
	// Under an account's second set of period bounds "@2" stands behind it, and so on (see [WithBounds]).
	ID   string
	Kind event.Period
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

// WithBounds is the id of a period under an account's n-th set of period bounds. Periods of different bounds are different
// ones, even if they begin on the same day: what was counted under the old bounds stays as it is.
func WithBounds(id string, n int64) string {
	if n <= 1 {
		return id
	}
	return id + "@" + strconv.FormatInt(n, 10)
}

// Bounds takes the id of a period apart: the id without the number of the set of bounds, and that number, which is 1 where
// none is named; 0 where what stands behind the "@" is no number from 2 on.
func Bounds(id string) (base string, n int64) {
	base, set, ok := strings.Cut(id, "@")
	if !ok {
		return id, 1
	}
	n, err := strconv.ParseInt(set, 10, 64)
	if err != nil || n < 2 || strconv.FormatInt(n, 10) != set {
		return base, 0
	}
	return base, n
}

// Total is the period that never ends.
func Total() Period {
	return Period{ID: totalID, Kind: event.PeriodTotal, Start: time.Unix(0, 0).UTC()}
}

// CalendarMonth is the month of a moment in a time zone.
func CalendarMonth(at time.Time, zone *time.Location) Period {
	y, m, _ := at.In(zone).Date()
	start := time.Date(y, m, 1, 0, 0, 0, 0, zone)
	return Period{ID: month + start.Format("2006-01"), Kind: event.PeriodCalendarMonth, Start: start.UTC(), End: time.Date(y, m+1, 1, 0, 0, 0, 0, zone).UTC()}
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
	kind := event.PeriodContractMonth
	if step == 12 {
		kind = event.PeriodContractYear
	}
	return Period{ID: prefix + start.Format("2006-01-02"), Kind: kind, Start: start.UTC(), End: anniversary(anchor, (n+1)*step).UTC()}, true
}
