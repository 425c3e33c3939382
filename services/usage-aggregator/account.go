package usageaggregator

import (
	"time"

	"databus/pkg/usage"
	"databus/schemas/event"
)

const (
	maxAccounts = 10_000 // that a partition keeps
	fewRows     = 512    // of one account: they are looked through one by one where a slot is made
	fewSlots    = 128    // of one account: they are looked through for each event

	rowBytes, shareBytes, slotBytes, placeBytes = 80, 32, 72, 4 // of memory
)

// account is what an event of an account is counted by. What most events need is at its beginning.
type account struct {
	name string
	// slots save most events the making of periods and keys, and add events up: see slot.
	slots []slot
	// room is a lower bound: every sum of the rows and of their shares may grow by as much, in either direction, beside what slots will
	// add: so an event need not look at them.
	room int64
	home bool // the partition is the account's

	terms  *usage.Terms // nil without a contract
	bounds usage.AccountBounds
	// rows are the account's counts that were read or changed lately, with what has been settled: only this partition changes them.
	// All those that the open transaction has changed are among them.
	rows    []count
	shares  []share // of the rows' providers; a row and a share name the next one by its place here, from 1 on
	counted []int32 // places of the rows that the slots' events count to, see slot

	measured int // the transaction in which room was measured last, see partition.fits
	weighed  int // bytes that the partition takes it for
}

// bytes is about what an account takes in memory.
func (a *account) bytes() int {
	const itself = 400
	return itself + cap(a.rows)*rowBytes + cap(a.shares)*shareBytes + cap(a.slots)*slotBytes + cap(a.counted)*placeBytes
}

// slot says what the events of a pack and a provider count to that happened in a span of time, microseconds since 1970. It adds them
// up until they are settled: a transaction has many of the same slot, and each counts to several rows.
type slot struct {
	from, until int64 // until is not in it
	sums
	updated        int64 // append time of the newest event that is not settled, microseconds since 1970
	pack, provider name
	first, n       int32 // its rows: account.counted from first on
	open           bool  // there are events that are not settled
	used           bool  // see start
}

// place is where a count or a slot is.
type place struct {
	account *account
	at      int32
}

func (p place) count() *count { return &p.account.rows[p.at] }
func (p place) slot() *slot   { return &p.account.slots[p.at] }

// row returns the place of a count among the account's rows.
func (a *account) row(pack, period name) (int32, bool) {
	for i := range a.rows {
		if c := &a.rows[i]; c.period == period && c.pack == pack {
			return int32(i), true
		}
	}
	return 0, false
}

// slot returns the place of what an event counts to, and false where that is not known yet.
func (a *account) slot(names *names, e *event.UsageEvent) (int32, bool) {
	at, provider := e.OccurredAt.UnixMicro(), ""
	if e.Provider != nil {
		provider = *e.Provider
	}
	for i := range a.slots {
		if s := &a.slots[i]; s.from <= at && at < s.until && names.of(s.pack) == e.Pack && names.of(s.provider) == provider {
			return int32(i), true
		}
	}
	return 0, false
}

// rowsOf are the places of the rows that a slot's events count to.
func (a *account) rowsOf(s *slot) []int32 { return a.counted[s.first : s.first+s.n] }

// keepSlot puts a slot among the account's.
func (a *account) keepSlot(s slot, rows []int32) int32 {
	s.first, s.n = int32(len(a.counted)), int32(len(rows))
	a.counted = append(a.counted, rows...)
	a.slots = append(a.slots, s)
	return int32(len(a.slots) - 1)
}

// keep puts a count among the account's rows.
func (a *account) keep(c count) (row int32) {
	a.rows = append(a.rows, c)
	a.room = min(a.room, a.roomOf(&c))
	return int32(len(a.rows) - 1)
}

// dropSlots lets go of the slots, which must be settled.
func (a *account) dropSlots() { a.slots, a.counted = nil, nil }

// dropRows lets go of everything that can be read again. No row may be changed and not written.
func (a *account) dropRows() {
	a.rows, a.shares, a.room = nil, nil, usage.SumRoom(0)
	a.dropSlots()
}

// load makes a row of a stored count.
func (a *account) load(names *names, u *event.UsageCount) (row int32) {
	c := count{sums: sums{u.Matched, u.Unmatched, u.AmountMicros}, updated: u.UpdatedAt.UnixMicro(),
		start: u.PeriodStart.UnixMicro(), end: noEnd, version: u.ContractVersion,
		pack: names.number(u.Pack), period: names.number(u.Period), provisional: u.Provisional, estimated: u.Estimated}
	if u.PeriodEnd != nil {
		c.end = u.PeriodEnd.UnixMicro()
	}
	for i := len(u.Providers) - 1; i >= 0; i-- { // in order of names
		n := &u.Providers[i]
		a.shares = append(a.shares, share{sums: sums{n.Matched, n.Unmatched, n.AmountMicros}, provider: names.number(n.Provider), next: c.shares})
		c.shares = int32(len(a.shares))
	}
	return a.keep(c)
}

// store sets u to the stored form of a row. It uses u's providers again.
func (a *account) store(names *names, c *count, u *event.UsageCount) {
	*u = event.UsageCount{Account: a.name, Pack: names.of(c.pack), Period: names.of(c.period), ContractVersion: c.version,
		Matched: c.matched, Unmatched: c.unmatched, AmountMicros: c.amount, Provisional: c.provisional, Estimated: c.estimated,
		UpdatedAt: time.UnixMicro(c.updated).UTC(), Providers: u.Providers[:0]}
	u.PeriodStart, u.PeriodEnd = c.moments()
	for i := c.shares; i != 0; i = a.shares[i-1].next {
		s := &a.shares[i-1]
		u.Providers = append(u.Providers, event.ProviderCount{Provider: names.of(s.provider), Matched: s.matched, Unmatched: s.unmatched, AmountMicros: s.amount})
	}
}

// share returns that of a provider, or that of all others once there are too many. A provider that has one keeps it.
func (a *account) share(names *names, c *count, provider name) *share {
	n := 0
	for i := c.shares; i != 0; i = a.shares[i-1].next {
		if a.shares[i-1].provider == provider {
			return &a.shares[i-1]
		}
		n++
	}
	if others := names.number(otherProviders); n >= maxProviders && provider != others {
		return a.share(names, c, others)
	}
	a.shares = append(a.shares, share{provider: provider})
	before := &c.shares
	for *before != 0 && names.of(a.shares[*before-1].provider) < names.of(provider) {
		before = &a.shares[*before-1].next
	}
	s := &a.shares[len(a.shares)-1]
	s.next, *before = *before, int32(len(a.shares))
	return s
}

// sharesTake says whether no sum of the share that a provider has, or would have, gets too large by further ones.
func (a *account) sharesTake(names *names, c *count, provider string, more *sums) bool {
	for i := c.shares; i != 0; i = a.shares[i-1].next {
		// The share that takes all further providers is looked at for each of them.
		s := &a.shares[i-1]
		if of := names.of(s.provider); (of == provider || of == otherProviders) && !s.takes(more) {
			return false
		}
	}
	return true
}

// roomOf is how much every sum of a row and of its shares may grow, in either direction.
func (a *account) roomOf(c *count) int64 {
	room := usage.SumRoom(c.size())
	for i := c.shares; i != 0; i = a.shares[i-1].next {
		room = min(room, usage.SumRoom(a.shares[i-1].size()))
	}
	return room
}

// measure sets room anew. Every slot must be settled.
func (a *account) measure() {
	a.room = usage.SumRoom(0)
	for i := range a.rows {
		a.room = min(a.room, a.roomOf(&a.rows[i]))
	}
}
