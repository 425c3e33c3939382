package verify

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// sums are what a count says.
type sums struct{ matched, unmatched, amount int64 }

// count is a count as it must be, or as it was published.
type count struct {
	account, pack string
	period        span
	version       int64 // of the contract
	sums
	providers map[string]sums
	updated   int64 // append time of the newest event, microseconds

	history []sums // after each event; of computed ones only
	at      int    // how much of the history published counts have passed
}

func (c *count) key() string { return c.account + "/" + c.pack + "/" + c.period.id }

func (c *count) String() string {
	return fmt.Sprintf("%d matched, %d unmatched, %d micros, providers %s, period %d to %d, contract version %d, updated %d",
		c.matched, c.unmatched, c.amount, c.byProvider(), c.period.start, c.period.end, c.version, c.updated)
}

// byProvider is the count's parts as text.
func (c *count) byProvider() string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(c.providers)) {
		fmt.Fprintf(&b, "%s %v ", name, c.providers[name])
	}
	return b.String()
}

// mostProviders have parts of their own; what comes later is in the part "*".
const mostProviders = 32

// add counts an event.
func (c *count) add(e *usageEvent) {
	plus := func(s sums) sums {
		if e.matched {
			s.matched += e.quantity
		} else {
			s.unmatched += e.quantity
		}
		s.amount += e.amount
		return s
	}
	c.sums = plus(c.sums)
	c.updated = max(c.updated, e.appended.UnixMicro())
	c.history = append(c.history, c.sums)
	if e.provider == "" {
		return
	}
	name := e.provider
	if _, ok := c.providers[name]; !ok && len(c.providers) >= mostProviders {
		name = "*"
	}
	if c.providers == nil {
		c.providers = map[string]sums{}
	}
	c.providers[name] = plus(c.providers[name])
}

// usageEvent is what counting needs of an event.
type usageEvent struct {
	id, pack string
	provider string // "" where none is named
	occurred time.Time
	quantity int64
	amount   int64
	matched  bool
	appended time.Time
	offset   int64
	unread   bool // it had been deleted before the services read it
}

// contractRecord is a valid contract, or the end of one, with its place.
type contractRecord struct {
	contract *contract // nil: a tombstone
	appended time.Time
	cause    cause
}

// cause names a record.
type cause struct {
	topic     string
	partition int32
	offset    int64
}

// account is all there is about one account, in the order of its partition.
type account struct {
	name      string
	partition int32 // of its records in all topics
	events    []usageEvent
	contracts []contractRecord
	published []publishedCount
}

// inForce follows the contracts of an account through time.
type inForce struct {
	now  *contract
	left []contractRecord
}

// until returns the contract that counts for a record appended at a moment, and calls each for every change before it.
func (f *inForce) until(at time.Time, each func(contractRecord)) {
	for len(f.left) > 0 && !f.left[0].appended.After(at) {
		next := f.left[0]
		f.left = f.left[1:]
		if next.contract != nil && next.contract.Version <= f.now.version() {
			continue // not newer than what is known
		}
		f.now = next.contract
		if each != nil {
			each(next)
		}
	}
}

// recount computes the counts of an account, and how many of its events were repeats. With history, a count begins with
// what its period and pack had before. An event that repeats one which had been deleted before the services read it is taken back by
// history; but the stream did count it, and so it began or touched its counts.
func (a *account) recount(window time.Duration, history bool) (counts map[string]*count, repeats int) {
	counts = map[string]*count{}
	all, read := map[string]time.Time{}, map[string]time.Time{} // ids of everything, and of what the stream has read
	force := inForce{left: a.contracts}
	sets := newBounds()
	var before []*usageEvent
	for i := range a.events {
		e := a.events[i]
		force.until(e.appended, func(contractRecord) { sets.change(force.now, len(counts) > 0) })
		occurred := func(last map[string]time.Time) bool {
			seen, ok := last[e.id]
			if !ok || e.appended.After(seen) {
				last[e.id] = e.appended
			}
			return ok && window > 0 && e.appended.Sub(seen) < window
		}
		past := before
		repeated := occurred(all)
		if repeated {
			repeats++
		} else {
			before = append(before, &a.events[i])
		}
		if e.unread || occurred(read) {
			continue
		}

		add := func(pack string, p span, set int) {
			if set > 1 {
				p.id += "@" + strconv.Itoa(set)
			}
			key := a.name + "/" + pack + "/" + p.id
			c := counts[key]
			if c == nil {
				c = &count{account: a.name, pack: pack}
				counts[key] = c
				if history {
					c.begin(past, p, force.now)
				}
			}
			c.period, c.version = p, force.now.version()
			if repeated {
				c.updated = max(c.updated, e.appended.UnixMicro())
			} else {
				c.add(&e)
			}
		}
		zone := time.UTC
		if force.now != nil {
			zone = force.now.zone
		}
		for _, pack := range []string{e.pack, "*"} {
			add(pack, total(), 1)
			add(pack, calendarMonth(e.occurred, zone), sets.calendar)
		}
		for i := range sets.rules {
			r := &sets.rules[i]
			if r.pack != "*" && r.pack != e.pack {
				continue
			}
			if p, ok := force.now.period(r.kind, e.occurred); ok {
				add(r.pack, p, r.set)
			} else if !e.occurred.Before(r.starts) {
				r.missed = true
			}
		}
	}
	return counts, repeats
}

// publishedCount is a record of usage.counts.
type publishedCount struct {
	count
	provisional bool
	appended    time.Time
	cause       cause
}

// follows says whether a published count is the sum over a longer prefix of the events than those published before.
func (c *count) follows(p sums) bool {
	for c.at < len(c.history) {
		c.at++
		if c.history[c.at-1] == p {
			return true
		}
	}
	return false
}
