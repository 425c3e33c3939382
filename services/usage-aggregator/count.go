package usageaggregator

import (
	"encoding/binary"
	"errors"
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
}

func countKey(account, pack, period string) string { return schemas.JoinKey(account, pack, period) }

// rowVersion is the first byte of a stored count.
const rowVersion = 1

// encode returns the row: its version, then the numbers as varints, in the order of the fields.
func (c *count) encode() []byte {
	b := make([]byte, 0, 48)
	b = append(b, rowVersion)
	for _, n := range [...]int64{c.start, c.end, c.version, c.matched, c.unmatched, c.amount, c.updated} {
		b = binary.AppendVarint(b, n)
	}
	return b
}

func (c *count) decode(b []byte) error {
	if len(b) == 0 || b[0] != rowVersion {
		return errors.New("reading a count: the row has an unknown version; run the newer program or restore the state")
	}
	b = b[1:]
	for _, field := range [...]*int64{&c.start, &c.end, &c.version, &c.matched, &c.unmatched, &c.amount, &c.updated} {
		v, n := binary.Varint(b)
		if n <= 0 {
			return errors.New("reading a count: the row is cut off")
		}
		*field, b = v, b[n:]
	}
	return nil
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
}

func (c *count) event() *event.UsageCount {
	u := &event.UsageCount{Account: c.account, Pack: c.pack, Period: c.period, PeriodStart: time.UnixMicro(c.start).UTC(),
		ContractVersion: c.version, Matched: c.matched, Unmatched: c.unmatched, AmountMicros: c.amount, UpdatedAt: time.UnixMicro(c.updated).UTC()}
	if c.end != 0 {
		end := time.UnixMicro(c.end).UTC()
		u.PeriodEnd = &end
	}
	return u
}
