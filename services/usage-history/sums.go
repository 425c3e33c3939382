package usagehistory

import (
	"slices"
	"strings"

	"databus/pkg/usage"
	"databus/schemas/event"
)

// sums are what a baseline says, built up as the aggregator builds its counts.
type sums struct {
	matched, unmatched, amount int64
	providers                  []event.ProviderBaseline // in order of names
}

// As the aggregator bounds the providers of a count.
const (
	maxProviders   = 32
	otherProviders = "*"
)

// add counts an event, or takes it back with sign -1. False: a sum has no room for it.
func (s *sums) add(e *event.UsageEvent, sign int64) bool {
	plus := func(matched, unmatched, amount *int64) bool {
		if e.Status == 200 {
			*matched += sign * e.Quantity
		} else {
			*unmatched += sign * e.Quantity
		}
		*amount += sign * e.AmountMicros
		return usage.SumFits(*matched) && usage.SumFits(*unmatched) && usage.SumFits(*amount)
	}
	ok := plus(&s.matched, &s.unmatched, &s.amount)
	if e.Provider != nil {
		p := s.provider(*e.Provider)
		ok = plus(&p.Matched, &p.Unmatched, &p.AmountMicros) && ok
	}
	return ok
}

// provider returns the part of a provider, or the part of all others once there are too many.
func (s *sums) provider(name string) *event.ProviderBaseline {
	find := func(name string) (int, bool) {
		return slices.BinarySearchFunc(s.providers, name, func(p event.ProviderBaseline, name string) int { return strings.Compare(p.Provider, name) })
	}
	i, ok := find(name)
	if !ok && len(s.providers) >= maxProviders {
		name = otherProviders
		i, ok = find(name)
	}
	if !ok {
		s.providers = slices.Insert(s.providers, i, event.ProviderBaseline{Provider: strings.Clone(name)})
	}
	return &s.providers[i]
}

// baseline is the answer with these sums.
func (s *sums) baseline(q *event.BaselineRequest) *event.Baseline {
	return &event.Baseline{RequestID: q.RequestID, Account: q.Account, Pack: q.Pack, Period: q.Period, SeamPartition: q.SeamPartition, SeamOffset: q.SeamOffset,
		Matched: s.matched, Unmatched: s.unmatched, AmountMicros: s.amount, Providers: s.providers}
}
