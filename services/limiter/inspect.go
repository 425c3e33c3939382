package limiter

import (
	"encoding/json"

	"databus/schemas/codec"
	"databus/schemas/event"
)

// InspectRow returns a stored row in a form that encoding/json prints, and false for a store that is not the service's.
func InspectRow(store string, key, value []byte) (any, bool, error) {
	var b []byte
	var err error
	switch store {
	case storeCounts:
		c, err := decodeCount(key, value)
		if err != nil {
			return nil, true, err
		}
		return map[string]any{"period_start": c.PeriodStart, "period_end": c.PeriodEnd, "contract_version": c.ContractVersion,
			"matched": c.Matched, "unmatched": c.Unmatched, "bounds_ended": c.ended}, true, nil
	case storeContracts:
		b, err = codec.ForEmbedded[event.Contract]("contract").JSON(value)
	case storeCrossed:
		said, err := decodeCrossed(value)
		if err != nil {
			return nil, true, err
		}
		all := []map[string]any{}
		for _, t := range said.crossed {
			all = append(all, map[string]any{"kind": t.measure(), "value": t.value, "units": t.units(said.limit)})
		}
		return map[string]any{"limit": said.limit, "crossed": all, "over": said.over}, true, nil
	default:
		return nil, false, nil
	}
	return json.RawMessage(b), true, err
}
