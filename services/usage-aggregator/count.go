package usageaggregator

import (
	"math"
	"slices"
	"strings"
	"time"
	"unique"

	"databus/pkg/usage"
	"databus/schemas"
	"databus/schemas/event"
)

// count is a row of the counts store in memory: two cache lines, of which most events need the first alone. Its stored form is
// the UsageCount.
type count struct {
	matched, unmatched, amount int64
	updated                    int64 // append time of the newest event that was counted, microseconds since 1970
	providers                  []event.ProviderCount

	provisional, estimated bool // as in the UsageCount
	touched                bool // changed by the open transaction
	fresh                  bool // there is no row yet, and no event counts
	incomplete             bool // events of its period came before its first one

	account      *account
	pack, period string
	start, end   int64 // of the period, microseconds since 1970; see noEnd
	version      int64 // of the contract that named the period
}

// noEnd is the end of a period that has none.
const noEnd = math.MaxInt64

// maxProviders bounds the providers of a row. What further ones are owed is added up under otherProviders, which is no
// provider's name.
const (
	maxProviders   = 32
	otherProviders = "*"
)

func countKey(account, pack, period string) string { return schemas.JoinKey(account, pack, period) }

func (c *count) key() string { return countKey(c.account.name, c.pack, c.period) }

// of sets what the terms say of the period.
func (c *count) of(p usage.Period, version int64) {
	c.version, c.start, c.end = version, p.Start.UnixMicro(), noEnd
	if !p.End.IsZero() {
		c.end = p.End.UnixMicro()
	}
}

// moments are the bounds of the count's period; the end is nil where it has none.
func (c *count) moments() (start time.Time, end *time.Time) {
	if c.end != noEnd {
		t := time.UnixMicro(c.end).UTC()
		end = &t
	}
	return time.UnixMicro(c.start).UTC(), end
}

// load takes what is stored, beside the account, the pack and the period.
func (c *count) load(u *event.UsageCount) {
	c.matched, c.unmatched, c.amount, c.updated, c.providers = u.Matched, u.Unmatched, u.AmountMicros, u.UpdatedAt.UnixMicro(), u.Providers
	for i := range c.providers {
		c.providers[i].Provider = shared(c.providers[i].Provider)
	}
	c.provisional, c.estimated = u.Provisional, u.Estimated
	c.version, c.start, c.end = u.ContractVersion, u.PeriodStart.UnixMicro(), noEnd
	if u.PeriodEnd != nil {
		c.end = u.PeriodEnd.UnixMicro()
	}
}

// stored sets u to the count's stored form, which shares the providers with it.
func (c *count) stored(u *event.UsageCount) {
	*u = event.UsageCount{Account: c.account.name, Pack: c.pack, Period: c.period, ContractVersion: c.version,
		Matched: c.matched, Unmatched: c.unmatched, AmountMicros: c.amount, Provisional: c.provisional, Estimated: c.estimated,
		UpdatedAt: time.UnixMicro(c.updated).UTC(), Providers: c.providers}
	u.PeriodStart, u.PeriodEnd = c.moments()
}

// fits says whether no sum of the count gets too large by an event.
func (c *count) fits(e *event.UsageEvent) bool {
	fit := func(matched, unmatched, amount int64) bool {
		if e.Status == 200 {
			matched += e.Quantity
		} else {
			unmatched += e.Quantity
		}
		return usage.SumFits(matched) && usage.SumFits(unmatched) && usage.SumFits(amount+e.AmountMicros)
	}
	if e.Provider != nil {
		for i := range c.providers {
			// The part that takes all further providers is looked at for each of them.
			if p := &c.providers[i]; (p.Provider == *e.Provider || p.Provider == otherProviders) && !fit(p.Matched, p.Unmatched, p.AmountMicros) {
				return false
			}
		}
	}
	return fit(c.matched, c.unmatched, c.amount)
}

// add counts one event; appended is in microseconds since 1970.
func (c *count) add(e *event.UsageEvent, appended int64) {
	if e.Status == 200 {
		c.matched += e.Quantity
	} else {
		c.unmatched += e.Quantity
	}
	c.amount += e.AmountMicros
	c.updated = max(c.updated, appended)
	if e.Provider != nil {
		p := c.provider(*e.Provider)
		if e.Status == 200 {
			p.Matched += e.Quantity
		} else {
			p.Unmatched += e.Quantity
		}
		p.AmountMicros += e.AmountMicros
	}
}

// shared is a provider's name in memory that all counts share. There are few names and many counts, each of which is compared with an
// event's: names of their own would be looked for all over the memory.
func shared(name string) string { return unique.Make(name).Value() }

// provider returns the part of a provider, or the part of all others once there are too many. A provider that has a part
// keeps it. They are in order of names.
func (c *count) provider(name string) *event.ProviderCount {
	// Few providers: comparing for equality first is several times as fast as a binary search by order.
	for i := range c.providers {
		if c.providers[i].Provider == name {
			return &c.providers[i]
		}
	}
	find := func(name string) (int, bool) {
		return slices.BinarySearchFunc(c.providers, name, func(p event.ProviderCount, name string) int { return strings.Compare(p.Provider, name) })
	}
	i, ok := find(name)
	if !ok && len(c.providers) >= maxProviders {
		name = otherProviders
		i, ok = find(name)
	}
	if !ok { // there is no room for further ones: many counts are in memory, and most get no other provider soon
		c.providers = slices.Concat(c.providers[:i], []event.ProviderCount{{Provider: shared(name)}}, c.providers[i:])
	}
	return &c.providers[i]
}
