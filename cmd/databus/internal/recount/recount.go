// Package recount counts the usage of one account again, from the events themselves, and remembers which offsets made
// up the count.
//
// Promise: the rules are the usage-aggregator's: an event is dropped if its id occurred within a window of
// append time before it, periods are in the account's time zone and begin anew where a contract changes their bounds, what breaks a rule
// counts nothing. It shares databus/pkg/usage with the aggregator, and neither its state nor its loop. Nobody knows any
// more in which order the aggregator met contracts and events, so there are two counts: with each contract when it was
// appended, and with all of them before the first event, which is how an aggregator meets them that starts later.
//
// Concurrency: a Recount is used by one goroutine.
//
// Failure: it does not fail. Events that break a rule are listed with the rule.
package recount

import (
	"time"

	"databus/pkg/usage"
	"databus/schemas/event"
)

// MaxListed bounds each list of a result; what does not fit is still counted.
const MaxListed = 10_000

// Sum is a count.
type Sum struct {
	Events       int64 `json:"events"`
	Matched      int64 `json:"matched"`
	Unmatched    int64 `json:"unmatched"`
	AmountMicros int64 `json:"amount_micros"`
}

func (s *Sum) add(e *event.UsageEvent) {
	s.Events++
	if e.Status == 200 {
		s.Matched += e.Quantity
	} else {
		s.Unmatched += e.Quantity
	}
	s.AmountMicros += e.AmountMicros
}

// Same says that two sums count the same, whatever the number of events.
func (s Sum) Same(o Sum) bool {
	return s.Matched == o.Matched && s.Unmatched == o.Unmatched && s.AmountMicros == o.AmountMicros
}

// Minus is the difference.
func (s Sum) Minus(o Sum) Sum {
	return Sum{s.Events - o.Events, s.Matched - o.Matched, s.Unmatched - o.Unmatched, s.AmountMicros - o.AmountMicros}
}

// A Range is a run of events that count: of the account's events from First to Last, both inclusive, each one does.
type Range struct {
	Partition int32 `json:"partition"`
	First     int64 `json:"first"`
	Last      int64 `json:"last"`
	Sum
}

// A Duplicate was dropped; FirstOffset holds the event that was counted instead.
type Duplicate struct {
	Partition   int32 `json:"partition"`
	Offset      int64 `json:"offset"`
	FirstOffset int64 `json:"first_offset"`
}

// A Late event was appended when its period had ended, and counts to it all the same.
type Late struct {
	Partition  int32     `json:"partition"`
	Offset     int64     `json:"offset"`
	OccurredAt time.Time `json:"occurred_at"`
	AppendedAt time.Time `json:"appended_at"`
}

// A Correction is an event with a negative quantity.
type Correction struct {
	Partition int32 `json:"partition"`
	Offset    int64 `json:"offset"`
	Quantity  int64 `json:"quantity"`
}

// A DeadLetter is an event of the account that breaks a rule. Which period it would have belonged to is not known.
type DeadLetter struct {
	Partition int32  `json:"partition"`
	Offset    int64  `json:"offset"`
	Reason    string `json:"reason"`
}

// A list keeps the first MaxListed things and counts all of them.
type list[T any] struct {
	Total int64 `json:"total"`
	First []T   `json:"first"`
}

func newList[T any]() list[T] { return list[T]{First: []T{}} } // an empty list is no null in JSON

func (l *list[T]) add(v T) {
	l.Total++
	if len(l.First) < MaxListed {
		l.First = append(l.First, v)
	}
}

// A Tally is a count and what it is made of.
type Tally struct {
	Sum         Sum              `json:"sum"`
	Ranges      list[Range]      `json:"ranges"`
	Duplicates  list[Duplicate]  `json:"duplicates"`
	Late        list[Late]       `json:"late"`
	Corrections list[Correction] `json:"corrections"`
	// Start and End of the period; zero until an event counts. The end of 'total' is the zero time.
	Start time.Time `json:"-"`
	End   time.Time `json:"-"`

	open *Range // the run that may go on
}

func newTally() *Tally {
	return &Tally{Ranges: newList[Range](), Duplicates: newList[Duplicate](), Late: newList[Late](), Corrections: newList[Correction]()}
}

func (t *Tally) count(at place, e *event.UsageEvent, p usage.Period) {
	t.Start, t.End = p.Start, p.End
	t.Sum.add(e)
	if t.open == nil {
		t.open = &Range{Partition: at.partition, First: at.offset}
	}
	t.open.Last = at.offset
	t.open.add(e)
	if !p.End.IsZero() && !at.appended.Before(p.End) {
		t.Late.add(Late{at.partition, at.offset, e.OccurredAt.UTC(), at.appended.UTC()})
	}
	if e.Quantity < 0 {
		t.Corrections.add(Correction{at.partition, at.offset, e.Quantity})
	}
}

// interrupt ends the run: an event of the account does not count.
func (t *Tally) interrupt() {
	if t.open != nil {
		t.Ranges.add(*t.open)
		t.open = nil
	}
}
