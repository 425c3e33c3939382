package usageaggregator

import (
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"time"

	"databus/pkg/usage"
	"databus/schemas"
	"databus/schemas/event"
)

// count is one row of the counts store, and the body of a UsageCount.
type count struct {
	account, pack, period string
	start, end            int64 // microseconds since 1970; end is 0 for 'total'
	version               int64 // of the contract
	matched, unmatched    int64
	amount                int64 // millionths
	updated               int64 // append time of the newest event, microseconds since 1970
	provisional           bool  // until history has been added
	providers             []providerCount

	key     string // of the row; set with the first change
	touched bool   // changed by the open transaction
}

// providerCount is the part of a count whose events name a provider; they are in order of names.
type providerCount struct {
	name                       string
	matched, unmatched, amount int64
}

// maxProviders bounds the providers of a row. What further ones are owed is added up under otherProviders, which is no
// provider's name.
const (
	maxProviders   = 32
	otherProviders = "*"
)

func countKey(account, pack, period string) string { return schemas.JoinKey(account, pack, period) }

// rowVersion is the first byte of a stored count. Version 1 had no providers and was never provisional.
const rowVersion = 2

func (c *count) numbers() [7]*int64 {
	return [...]*int64{&c.start, &c.end, &c.version, &c.matched, &c.unmatched, &c.amount, &c.updated}
}

// encode returns the row: its version, then the numbers as varints in the order of the fields, then 1 where it is
// provisional, and the providers.
func (c *count) encode() []byte {
	b := make([]byte, 0, 48+32*len(c.providers))
	b = append(b, rowVersion)
	for _, n := range c.numbers() {
		b = binary.AppendVarint(b, *n)
	}
	flags := byte(0)
	if c.provisional {
		flags = 1
	}
	b = append(b, flags, byte(len(c.providers)))
	for i := range c.providers {
		p := &c.providers[i]
		b = append(append(b, byte(len(p.name))), p.name...)
		for _, n := range [...]int64{p.matched, p.unmatched, p.amount} {
			b = binary.AppendVarint(b, n)
		}
	}
	return b
}

var errCutOff = errors.New("reading a count: the row is cut off")

func (c *count) decode(b []byte) error {
	if len(b) == 0 || b[0] == 0 || b[0] > rowVersion {
		return errors.New("reading a count: the row has an unknown version; run the newer program or restore the state")
	}
	version := b[0]
	b = b[1:]
	numbers := func(fields ...*int64) bool {
		for _, field := range fields {
			v, n := binary.Varint(b)
			if n <= 0 {
				return false
			}
			*field, b = v, b[n:]
		}
		return true
	}
	all := c.numbers()
	if !numbers(all[:]...) {
		return errCutOff
	}
	c.provisional, c.providers = false, nil
	if version == 1 {
		return nil
	}
	if len(b) < 2 {
		return errCutOff
	}
	c.provisional = b[0] == 1
	n := int(b[1])
	b = b[2:]
	for range n {
		if len(b) == 0 || len(b) < 1+int(b[0]) {
			return errCutOff
		}
		p := providerCount{name: string(b[1 : 1+b[0]])}
		if b = b[1+b[0]:]; !numbers(&p.matched, &p.unmatched, &p.amount) {
			return errCutOff
		}
		c.providers = append(c.providers, p)
	}
	return nil
}

// rowEnd is the end of the period of a stored count, and 0 where it has none.
func rowEnd(b []byte) (int64, error) {
	if len(b) == 0 || b[0] == 0 || b[0] > rowVersion {
		return 0, errors.New("reading a count: the row has an unknown version; run the newer program or restore the state")
	}
	_, n := binary.Varint(b[1:])
	if n <= 0 {
		return 0, errCutOff
	}
	end, m := binary.Varint(b[1+n:])
	if m <= 0 {
		return 0, errCutOff
	}
	return end, nil
}

// add counts one event.
func (c *count) add(e *event.UsageEvent, p usage.Period, version int64, appended time.Time) {
	c.start, c.end = p.Start.UnixMicro(), 0
	if !p.End.IsZero() {
		c.end = p.End.UnixMicro()
	}
	c.version = version
	if e.Status == 200 {
		c.matched += e.Quantity
	} else {
		c.unmatched += e.Quantity
	}
	c.amount += e.AmountMicros
	c.updated = max(c.updated, appended.UnixMicro())
	if e.Provider != nil {
		p := c.provider(*e.Provider)
		if e.Status == 200 {
			p.matched += e.Quantity
		} else {
			p.unmatched += e.Quantity
		}
		p.amount += e.AmountMicros
	}
}

// provider returns the part of a provider, or the part of all others once there are too many. A provider that has a part
// keeps it.
func (c *count) provider(name string) *providerCount {
	// Few providers: comparing for equality first is several times as fast as a binary search by order.
	for i := range c.providers {
		if c.providers[i].name == name {
			return &c.providers[i]
		}
	}
	find := func(name string) (int, bool) {
		return slices.BinarySearchFunc(c.providers, name, func(p providerCount, name string) int { return strings.Compare(p.name, name) })
	}
	i, ok := find(name)
	if !ok && len(c.providers) >= maxProviders {
		name = otherProviders
		i, ok = find(name)
	}
	if !ok {
		c.providers = slices.Insert(c.providers, i, providerCount{name: name})
	}
	return &c.providers[i]
}

func (c *count) event() *event.UsageCount {
	u := new(event.UsageCount)
	c.fill(u)
	return u
}

// fill makes u the event of the count, in the memory that u's fields have.
func (c *count) fill(u *event.UsageCount) {
	*u = event.UsageCount{Account: c.account, Pack: c.pack, Period: c.period, PeriodStart: time.UnixMicro(c.start).UTC(),
		ContractVersion: c.version, Matched: c.matched, Unmatched: c.unmatched, AmountMicros: c.amount, Provisional: c.provisional, UpdatedAt: time.UnixMicro(c.updated).UTC(),
		PeriodEnd: u.PeriodEnd, Providers: u.Providers[:0]}
	for _, p := range c.providers {
		u.Providers = append(u.Providers, event.ProviderCount{Provider: p.name, Matched: p.matched, Unmatched: p.unmatched, AmountMicros: p.amount})
	}
	if c.end == 0 {
		u.PeriodEnd = nil
		return
	}
	if u.PeriodEnd == nil {
		u.PeriodEnd = new(time.Time)
	}
	*u.PeriodEnd = time.UnixMicro(c.end).UTC()
}
