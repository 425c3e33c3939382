package limiter

import (
	"encoding/binary"
	"errors"
	"strings"
	"time"

	"databus/schemas/event"
)

// A stored count's version comes first: then come start, end (0 for none), contract version, matched and
// unmatched as varints. Times are microseconds since 1970. Account, pack and period are the key. The version also says
// whether a contract has ended the bounds that the count was made under.
const (
	countRunning = 1
	countEnded   = 2
)

// A known count is what was stored of one.
type known struct {
	event.UsageCount
	ended bool // no contract brings its bounds back: they would be others of the same name
}

func (c *known) encode() []byte {
	end := int64(0)
	if c.PeriodEnd != nil {
		end = c.PeriodEnd.UnixMicro()
	}
	version := byte(countRunning)
	if c.ended {
		version = countEnded
	}
	b := append(make([]byte, 0, 32), version)
	for _, n := range [...]int64{c.PeriodStart.UnixMicro(), end, c.ContractVersion, c.Matched, c.Unmatched} {
		b = binary.AppendVarint(b, n)
	}
	return b
}

var errCountRow = errors.New("reading a stored count: the row has an unknown version or is cut off; run the newer program or restore the state")

func decodeCount(key, b []byte) (*known, error) {
	parts := strings.SplitN(string(key), "/", 3)
	if len(parts) != 3 || len(b) == 0 || b[0] != countRunning && b[0] != countEnded {
		return nil, errCountRow
	}
	ended := b[0] == countEnded
	b = b[1:]
	var n [5]int64
	for i := range n {
		v, size := binary.Varint(b)
		if size <= 0 {
			return nil, errCountRow
		}
		n[i], b = v, b[size:]
	}
	c := &known{ended: ended, UsageCount: event.UsageCount{Account: parts[0], Pack: parts[1], Period: parts[2], PeriodStart: time.UnixMicro(n[0]).UTC(),
		ContractVersion: n[2], Matched: n[3], Unmatched: n[4]}}
	if n[1] != 0 {
		end := time.UnixMicro(n[1]).UTC()
		c.PeriodEnd = &end
	}
	return c, nil
}
