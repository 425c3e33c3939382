package limiter

import (
	"cmp"
	"encoding/binary"
	"errors"
	"slices"

	"databus/schemas/event"
)

// threshold is one level of a limit.
type threshold struct {
	percent bool
	value   int64 // percent or units
}

// units is the count from which on the threshold is crossed: for percent, the limit's share rounded up.
func (t threshold) units(limit int64) int64 {
	if !t.percent {
		return t.value
	}
	// Limits are up to 1e12 and percent up to 1000: no overflow.
	return (limit*t.value + 99) / 100
}

func (t threshold) measure() event.ThresholdMeasure {
	if t.percent {
		return event.ThresholdMeasurePercent
	}
	return event.ThresholdMeasureAbsolute
}

// levels are the thresholds of a limit, each once, in order of units; 100 percent is always one.
func levels(l *event.ContractPack) []threshold {
	all := []threshold{{percent: true, value: 100}}
	for _, t := range l.Thresholds {
		if n := (threshold{percent: t.Kind == event.ThresholdKindPercent, value: t.Value}); !slices.Contains(all, n) {
			all = append(all, n)
		}
	}
	slices.SortStableFunc(all, func(a, b threshold) int { return cmp.Compare(a.units(l.Limit), b.units(l.Limit)) })
	return all
}

// A crossed row remembers what was announced: its version, the limit, then kind and value of each threshold. The version
// also says whether the period is over, so that the thresholds were announced as reset behind their crossing.
const (
	crossedRunning = 1
	crossedOver    = 2
)

// announced is what has been said about the thresholds of one limit in one period.
type announced struct {
	limit   int64
	crossed []threshold
	over    bool
}

func (a announced) encode() []byte {
	version := byte(crossedRunning)
	if a.over {
		version = crossedOver
	}
	b := binary.AppendVarint([]byte{version}, a.limit)
	for _, t := range a.crossed {
		kind := byte(0)
		if t.percent {
			kind = 1
		}
		b = binary.AppendVarint(append(b, kind), t.value)
	}
	return b
}

var errCrossedRow = errors.New("reading crossed thresholds: the row has an unknown version or is cut off; run the newer program or restore the state")

func decodeCrossed(b []byte) (a announced, err error) {
	if len(b) == 0 || b[0] != crossedRunning && b[0] != crossedOver {
		return a, errCrossedRow
	}
	a.over = b[0] == crossedOver
	limit, n := binary.Varint(b[1:])
	if n <= 0 {
		return a, errCrossedRow
	}
	a.limit = limit
	for b = b[1+n:]; len(b) > 0; {
		v, n := binary.Varint(b[1:])
		if n <= 0 {
			return a, errCrossedRow
		}
		a.crossed = append(a.crossed, threshold{percent: b[0] == 1, value: v})
		b = b[1+n:]
	}
	return a, nil
}
