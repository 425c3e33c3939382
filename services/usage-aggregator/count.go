package usageaggregator

import (
	"math"
	"strings"
	"time"

	"databus/pkg/usage"
	"databus/schemas"
	"databus/schemas/event"
)

// count is a row of the counts store in memory. Its stored form is the UsageCount. It holds no pointers: there are many, and the
// garbage collector need not look at them.
type count struct {
	sums
	updated    int64 // append time of the newest event that was counted, microseconds since 1970
	start, end int64 // of the period, microseconds since 1970; see noEnd
	version    int64 // of the contract that named the period

	pack, period name
	shares       int32 // the first of its providers', see account.shares

	provisional, estimated bool // as in the UsageCount
	touched                bool // changed by the open transaction
	fresh                  bool // there is no row yet, and no event counts
	incomplete             bool // events of its period came before its first one
}

// share is what a count has of one provider.
type share struct {
	sums
	provider name
	next     int32 // of the count, in order of names; see account.shares
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

// of sets what the terms say of the period.
func (c *count) of(p usage.Period) {
	c.start, c.end = p.Start.UnixMicro(), noEnd
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

// sums are what events add up to.
type sums struct {
	matched, unmatched int64 // units
	amount             int64 // owed to providers, millionths
}

func sumsOf(e *event.UsageEvent) sums {
	if e.Status == 200 {
		return sums{matched: e.Quantity, amount: e.AmountMicros}
	}
	return sums{unmatched: e.Quantity, amount: e.AmountMicros}
}

func (s *sums) add(more *sums) {
	s.matched += more.matched
	s.unmatched += more.unmatched
	s.amount += more.amount
}

// takes says whether no sum gets too large by further ones.
func (s *sums) takes(more *sums) bool {
	fits := func(sum, more int64) bool { return usage.SumFits(more) && usage.SumFits(sum+more) }
	return fits(s.matched, more.matched) && fits(s.unmatched, more.unmatched) && fits(s.amount, more.amount)
}

// size is the largest of the sums, without signs.
func (s *sums) size() int64 {
	return max(s.matched, -s.matched, s.unmatched, -s.unmatched, s.amount, -s.amount)
}

// name is the number of a pack, a period or a provider, see names.
type name uint32

// names are strings by number, those that the counts of a partition share.
type names struct {
	strings []string
	numbers map[string]name
	bytes   int // about what they take
}

// noName is the number of "".
const noName name = 0

func newNames() names { return names{strings: []string{""}, numbers: map[string]name{"": noName}} }

// number returns the number of a string, which may be part of something larger that must not be kept.
func (n *names) number(s string) name {
	i, ok := n.numbers[s]
	if !ok {
		s = strings.Clone(s)
		i = name(len(n.strings))
		n.strings, n.numbers[s] = append(n.strings, s), i
		n.bytes += len(s) + 64
	}
	return i
}

func (n *names) of(i name) string { return n.strings[i] }
