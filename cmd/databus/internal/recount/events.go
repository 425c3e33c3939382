package recount

import (
	"maps"
	"slices"
	"time"

	"databus/pkg/usage"
	"databus/schemas/event"
)

// A Contract is an event of usage.contracts.
type Contract struct {
	At    time.Time    // when it was appended
	Terms *usage.Terms // nil where the contract ended
}

// Options say what to count.
type Options struct {
	Account, Pack, Period string
	// Window of append time in which an id counts once; 0 turns that off.
	Window time.Duration
	// KeepEnded is how long ago an event may have happened when it is appended; 0 is for ever.
	KeepEnded time.Duration
	// Home is the account's partition.
	Home int32
	// Contracts of the account in the order of their topic.
	Contracts []Contract
}

// place is where an event is.
type place struct {
	partition int32
	offset    int64
	appended  time.Time
}

// first is the newest event with an id that was counted.
type first struct{ at, offset int64 }

type expiry struct {
	id string
	at int64
}

// A world is what an account's events in one partition are counted by, as the aggregator keeps it.
type world struct {
	contracts []Contract // those to come
	terms     *usage.Terms
	bounds    usage.AccountBounds
	counted   bool
	newest    int64 // append time of the newest event that was counted, microseconds
}

func (w *world) advance(until func(Contract) bool) {
	for len(w.contracts) > 0 && until(w.contracts[0]) {
		w.terms = w.contracts[0].Terms
		w.bounds.Change(w.terms, w.counted, w.newest)
		w.contracts = w.contracts[1:]
	}
}

// A Recount takes the events of usage.events, each partition in order, and keeps the tallies.
type Recount struct {
	o         Options
	contracts []Contract // those that the aggregator accepts
	seen      map[int32]map[string]first
	ages      map[int32][]expiry // in order of append time, so that memory is bounded by the window
	appended  map[int32]*world
	newest    map[int32]*world

	// Appended counts each event under the contract that was in force when it was appended, Newest under the newest one.
	Appended, Newest *Tally
	// DeadLetters are the account's events that break a rule.
	DeadLetters list[DeadLetter]
	// Events are all events of the account, whatever they count to.
	Events int64
}

// New returns a recount without events.
func New(o Options) *Recount {
	r := &Recount{o: o, seen: map[int32]map[string]first{}, ages: map[int32][]expiry{}, appended: map[int32]*world{}, newest: map[int32]*world{},
		Appended: newTally(), Newest: newTally(), DeadLetters: newList[DeadLetter]()}
	var known *usage.Terms
	for _, c := range o.Contracts {
		if c.Terms == nil && known == nil || c.Terms != nil && c.Terms.Version() <= known.Version() {
			continue // as the aggregator does with repeated and older versions
		}
		known = c.Terms
		r.contracts = append(r.contracts, c)
	}
	return r
}

// Versions are the contract versions that were accepted, in order; 0 stands for the end of a contract.
func (r *Recount) Versions() []int64 {
	all := []int64{}
	for _, c := range r.contracts {
		all = append(all, c.Terms.Version())
	}
	return all
}

// Window is the window of append time in which an id counts once.
func (r *Recount) Window() time.Duration { return r.o.Window }

// in returns the world of a partition. Contracts are in the account's own partition: elsewhere nobody knows them.
func (r *Recount) in(worlds map[int32]*world, partition int32) *world {
	w := worlds[partition]
	if w == nil {
		w = &world{bounds: usage.NewAccountBounds(usage.BeforeAll)}
		if partition == r.o.Home {
			w.contracts = r.contracts
		}
		worlds[partition] = w
	}
	return w
}

// Refuse takes a record under the account's key that holds no event.
func (r *Recount) Refuse(partition int32, offset int64, reason string) {
	r.Events++
	r.DeadLetters.add(DeadLetter{partition, offset, reason})
	r.Appended.interrupt(partition)
	r.Newest.interrupt(partition)
}

// Event takes an event under the account's key.
func (r *Recount) Event(partition int32, offset int64, appended time.Time, e *event.UsageEvent) {
	at := place{partition, offset, appended}
	if err := usage.CheckEvent(e, appended); err != nil {
		r.Refuse(partition, offset, "event: "+err.Error())
		return
	}
	if e.Account != r.o.Account {
		r.Refuse(partition, offset, "event: the record's key is not the account")
		return
	}
	if r.o.KeepEnded > 0 && e.OccurredAt.Before(appended.Add(-r.o.KeepEnded)) {
		r.Refuse(partition, offset, "event: it happened longer ago than counts are kept (keep_ended)")
		return
	}
	r.Events++
	firstOffset, repeated := r.repeated(at, e.EventID)
	w := r.in(r.appended, partition)
	w.advance(func(c Contract) bool { return !c.At.After(appended) })
	r.into(r.Appended, w, at, e, repeated, firstOffset)
	w = r.in(r.newest, partition)
	w.advance(func(Contract) bool { return true })
	r.into(r.Newest, w, at, e, repeated, firstOffset)
}

// into adds an event to a tally.
func (r *Recount) into(t *Tally, w *world, at place, e *event.UsageEvent, repeated bool, firstOffset int64) {
	counts := false
	var period usage.Period
	w.terms.Counted(e.Pack, e.OccurredAt, func(pack string, p usage.Period) {
		if pack == r.o.Pack && usage.WithBounds(p.ID, w.bounds.Of(pack, p.Kind).Number) == r.o.Period {
			counts, period = true, p
		}
	})
	if !repeated {
		w.counted, w.newest = true, max(w.newest, at.appended.UnixMicro())
		w.bounds.Miss(e.Pack, e.OccurredAt)
	}
	switch {
	case counts && repeated:
		t.Duplicates.add(Duplicate{at.partition, at.offset, firstOffset})
		t.interrupt(at.partition)
	case counts:
		t.count(at, e, period)
	default:
		t.interrupt(at.partition)
	}
}

// repeated says whether the id was counted within the window, and remembers it if not. A repeat does not extend the
// window. Partitions are apart: the aggregator's rows are.
func (r *Recount) repeated(at place, id string) (int64, bool) {
	window := r.o.Window.Milliseconds()
	if window == 0 {
		return 0, false
	}
	seen := r.seen[at.partition]
	if seen == nil {
		seen = map[string]first{}
		r.seen[at.partition] = seen
	}
	now := max(at.appended.UnixMilli(), 0)
	ages := r.ages[at.partition]
	for len(ages) > 0 && now-ages[0].at >= window {
		if old, ok := seen[ages[0].id]; ok && old.at == ages[0].at {
			delete(seen, ages[0].id)
		}
		ages = ages[1:]
	}
	if known, ok := seen[id]; ok && now-known.at < window {
		r.ages[at.partition] = ages
		return known.offset, true
	}
	seen[id] = first{now, at.offset}
	r.ages[at.partition] = append(ages, expiry{id, now})
	return 0, false
}

// Finish closes the runs that are open. No event may follow.
func (r *Recount) Finish() {
	for _, t := range []*Tally{r.Appended, r.Newest} {
		for _, p := range slices.Sorted(maps.Keys(t.open)) {
			t.interrupt(p)
		}
	}
}
