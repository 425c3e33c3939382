package usageaggregator

import (
	"slices"
	"strings"
	"time"
	"unique"

	"databus/pkg/usage"
	"databus/schemas"
	"databus/schemas/event"
)

// count is a row of the counts store in memory. Its stored form is the UsageCount.
type count struct {
	event.UsageCount
	touched    bool // changed by the open transaction; near to the sums, which change with it
	fresh      bool // there is no row yet, and no event counts
	incomplete bool // events of its period came before its first one
	key        []byte
}

// maxProviders bounds the providers of a row. What further ones are owed is added up under otherProviders, which is no
// provider's name.
const (
	maxProviders   = 32
	otherProviders = "*"
)

func countKey(account, pack, period string) string { return schemas.JoinKey(account, pack, period) }

// newCount is a period's count before its first event.
func newCount(account, pack string, p usage.Period) *count {
	c := &count{UsageCount: event.UsageCount{Account: account, Pack: pack, Period: p.ID}, key: []byte(countKey(account, pack, p.ID))}
	c.UpdatedAt = time.UnixMicro(0).UTC()
	return c
}

// of sets what the terms say of the period.
func (c *count) of(p usage.Period, version int64) {
	c.ContractVersion, c.PeriodStart, c.PeriodEnd = version, p.Start, nil
	if !p.End.IsZero() {
		end := p.End
		c.PeriodEnd = &end
	}
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
		for i := range c.Providers {
			// The part that takes all further providers is looked at for each of them.
			if p := &c.Providers[i]; (p.Provider == *e.Provider || p.Provider == otherProviders) && !fit(p.Matched, p.Unmatched, p.AmountMicros) {
				return false
			}
		}
	}
	return fit(c.Matched, c.Unmatched, c.AmountMicros)
}

// add counts one event.
func (c *count) add(e *event.UsageEvent, version int64, appended time.Time) {
	c.ContractVersion = version
	if e.Status == 200 {
		c.Matched += e.Quantity
	} else {
		c.Unmatched += e.Quantity
	}
	c.AmountMicros += e.AmountMicros
	if appended.After(c.UpdatedAt) {
		c.UpdatedAt = appended
	}
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
	for i := range c.Providers {
		if c.Providers[i].Provider == name {
			return &c.Providers[i]
		}
	}
	find := func(name string) (int, bool) {
		return slices.BinarySearchFunc(c.Providers, name, func(p event.ProviderCount, name string) int { return strings.Compare(p.Provider, name) })
	}
	i, ok := find(name)
	if !ok && len(c.Providers) >= maxProviders {
		name = otherProviders
		i, ok = find(name)
	}
	if !ok {
		c.Providers = slices.Insert(c.Providers, i, event.ProviderCount{Provider: shared(name)})
	}
	return &c.Providers[i]
}
