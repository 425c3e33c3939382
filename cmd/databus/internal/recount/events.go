package recount

import (
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
	// Window of append time: an event is a repeat if its id occurred so shortly before; 0 turns that off.
	Window time.Duration
	// KeepEnded is how long ago an event may have happened when it is appended; 0 is for ever.
	KeepEnded time.Duration
	// Home is the account's partition. Events elsewhere are dead letters.
	Home int32
	// Contracts of the account in the order of their topic.
	Contracts []Contract
	// Trimmed says that older events or contracts may have been deleted. How many sets of bounds the account had before
	// is then not known, so that the period may be any of those with its name: see Readings.
	Trimmed bool
}

// place is where an event is.
type place struct {
	partition int32
	offset    int64
	appended  time.Time
}

// last is the newest event with an id.
type last struct{ at, offset int64 }

type expiry struct {
	id string
	at int64
}

// A world is what an account's events are counted by, as the aggregator keeps it.
type world struct {
	contracts []Contract // those to come
	terms     *usage.Terms
	bounds    usage.AccountBounds
	counted   bool
	newest    int64               // append time of the newest event that was counted, microseconds
	began     map[int64]time.Time // by number of a set of bounds: when the contract was appended that began it
}

func (w *world) advance(until func(Contract) bool) {
	for len(w.contracts) > 0 && until(w.contracts[0]) {
		last := w.bounds.Last
		w.terms = w.contracts[0].Terms
		w.bounds.Change(w.terms, w.counted, w.newest)
		if w.bounds.Last != last {
			w.began[w.bounds.Last] = w.contracts[0].At
		}
		w.contracts = w.contracts[1:]
	}
}

// A Reading is a count of the period, one of those that the aggregator may have come to.
type Reading struct {
	*Tally
	// Under says from when on each contract was in force: "appended", from its append time on, or "newest", all of them
	// from before the first event on.
	Under string
	// Set is the number of the account's set of bounds under which the events were counted, and Began when the contract
	// was appended that began it; the zero time for the first one, and under "newest".
	Set   int64
	Began time.Time
}

// A Recount takes the events of usage.events, each partition in order, and keeps the tallies.
type Recount struct {
	o         Options
	contracts []Contract // those that the aggregator accepts
	seen      map[string]last
	ages      []expiry // in order of append time, so that memory is bounded by the window
	appended  *world
	newest    *world
	base      string // the period without the number of its set of bounds
	set       int64
	readings  []*Reading

	// Appended counts each event under the contract that was in force when it was appended, Newest under the newest one.
	Appended, Newest *Tally
	// DeadLetters are the account's events that break a rule.
	DeadLetters list[DeadLetter]
	// Events are all events of the account, whatever they count to.
	Events int64
}

// New returns a recount without events.
func New(o Options) *Recount {
	r := &Recount{o: o, seen: map[string]last{}, DeadLetters: newList[DeadLetter]()}
	r.base, r.set = usage.Bounds(o.Period)
	r.Appended, r.Newest = r.reading("appended", r.set).Tally, r.reading("newest", r.set).Tally
	var known *usage.Terms
	for _, c := range o.Contracts {
		if c.Terms == nil && known == nil || c.Terms != nil && c.Terms.Version() <= known.Version() {
			continue // as the aggregator does with repeated and older versions
		}
		known = c.Terms
		r.contracts = append(r.contracts, c)
	}
	r.appended, r.newest = r.world(), r.world()
	return r
}

func (r *Recount) world() *world {
	return &world{contracts: r.contracts, bounds: usage.NewAccountBounds(usage.BeforeAll), began: map[int64]time.Time{}}
}

// Versions are the contract versions that were accepted, in order; 0 stands for the end of a contract.
func (r *Recount) Versions() []int64 {
	all := []int64{}
	for _, c := range r.contracts {
		all = append(all, c.Terms.Version())
	}
	return all
}

// Readings are the counts that are possible: first those under the period's own set of bounds, Appended and Newest; where
// history is trimmed then those under each other set that events count under.
func (r *Recount) Readings() []*Reading { return r.readings }

// reading returns the reading under a set of bounds.
func (r *Recount) reading(under string, set int64) *Reading {
	for _, have := range r.readings {
		if have.Under == under && have.Set == set {
			return have
		}
	}
	n := &Reading{Tally: newTally(), Under: under, Set: set}
	r.readings = append(r.readings, n)
	return n
}

// interrupt ends the runs in the readings of a kind, but for one.
func (r *Recount) interrupt(under string, but *Reading) {
	for _, x := range r.readings {
		if x.Under == under && x != but {
			x.interrupt()
		}
	}
}

// Window is the window of append time in which an id counts once.
func (r *Recount) Window() time.Duration { return r.o.Window }

// Refuse takes a record under the account's key that holds no event.
func (r *Recount) Refuse(partition int32, offset int64, reason string) {
	r.Events++
	r.DeadLetters.add(DeadLetter{partition, offset, reason})
	if partition == r.o.Home {
		r.interrupt("appended", nil)
		r.interrupt("newest", nil)
	}
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
	if partition != r.o.Home {
		r.Refuse(partition, offset, "event: another partition is its account's: the producer does not partition as the catalogue says (murmur2 of the key)")
		return
	}
	r.Events++
	firstOffset, repeated := r.repeated(at, e.EventID)
	r.appended.advance(func(c Contract) bool { return !c.At.After(appended) })
	r.into("appended", r.appended, at, e, repeated, firstOffset)
	r.newest.advance(func(Contract) bool { return true })
	r.into("newest", r.newest, at, e, repeated, firstOffset)
}

// into adds an event to the reading that it counts to.
func (r *Recount) into(under string, w *world, at place, e *event.UsageEvent, repeated bool, firstOffset int64) {
	var to *Reading
	var period usage.Period
	w.terms.Counted(e.Pack, e.OccurredAt, func(pack string, p usage.Period) {
		set := w.bounds.Of(pack, p.Kind).Number
		if pack == r.o.Pack && p.ID == r.base && (set == r.set || r.o.Trimmed) {
			to, period = r.reading(under, set), p
			if to.Began = w.began[set]; under == "newest" {
				to.Began = time.Time{}
			}
		}
	})
	if !repeated {
		w.counted, w.newest = true, max(w.newest, at.appended.UnixMicro())
		w.bounds.Miss(e.Pack, e.OccurredAt)
	}
	switch {
	case to == nil:
	case repeated:
		to.Duplicates.add(Duplicate{at.partition, at.offset, firstOffset})
		to = nil // its run ends too
	default:
		to.count(at, e, period)
	}
	r.interrupt(under, to)
}

// repeated says whether the id occurred within the window before, and at which offset it did so last.
func (r *Recount) repeated(at place, id string) (int64, bool) {
	window := r.o.Window.Milliseconds()
	if window == 0 {
		return 0, false
	}
	now := max(at.appended.UnixMilli(), 0)
	for len(r.ages) > 0 && now-r.ages[0].at >= window {
		if old, ok := r.seen[r.ages[0].id]; ok && old.at == r.ages[0].at {
			delete(r.seen, r.ages[0].id)
		}
		r.ages = r.ages[1:]
	}
	known, ok := r.seen[id]
	if !ok || now > known.at {
		r.seen[id] = last{now, at.offset}
		r.ages = append(r.ages, expiry{id, now})
	}
	return known.offset, ok && now-known.at < window
}

// Finish closes the runs that are open. No event may follow.
func (r *Recount) Finish() {
	for _, t := range r.readings {
		t.interrupt()
	}
}
