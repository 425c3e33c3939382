package usageaggregator

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"time"

	"databus/pkg/usage"
	"databus/schemas/codec"
	"databus/schemas/event"
)

// InspectRow returns a stored row in a form that encoding/json prints, and false for a store that is not the service's.
func InspectRow(store string, key, value []byte) (any, bool, error) {
	switch store {
	case storeCounts:
		var c count
		if err := c.decode(value); err != nil {
			return nil, true, err
		}
		u := c.event()
		return map[string]any{"period_start": u.PeriodStart, "period_end": u.PeriodEnd, "contract_version": u.ContractVersion,
			"matched": u.Matched, "unmatched": u.Unmatched, "amount_micros": u.AmountMicros, "provisional": u.Provisional,
			"providers": len(u.Providers), "updated_at": u.UpdatedAt}, true, nil
	case storeContracts:
		b, err := codec.ForEmbedded[event.Contract]("contract").JSON(value)
		return json.RawMessage(b), true, err
	case storeBounds:
		if string(key) != firstKey {
			return json.RawMessage(value), true, nil
		}
		at, n := binary.Varint(value)
		if n <= 0 {
			return nil, true, errors.New("reading when counting began: a row is cut off")
		}
		if at == usage.BeforeAll {
			return map[string]any{"counts_since": nil}, true, nil // from the first event of the topic on
		}
		return map[string]any{"counts_since": time.UnixMicro(at).UTC()}, true, nil
	case storeSeen:
		at, n := binary.Varint(value)
		if n <= 0 {
			return nil, true, errors.New("reading the ids seen: a row is cut off")
		}
		return map[string]any{"first_appended_at": time.UnixMilli(at).UTC()}, true, nil
	}
	return nil, false, nil
}
