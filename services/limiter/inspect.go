package limiter

import (
	"encoding/json"

	"databus/schemas/codec"
	"databus/schemas/event"
)

// InspectRow returns a stored row in a form that encoding/json prints, and false for a store that is not the service's.
func InspectRow(store string, _, value []byte) (any, bool, error) {
	var b []byte
	var err error
	switch store {
	case storeCounts:
		b, err = codec.ForEmbedded[event.UsageCount]("usage_count").JSON(value)
	case storeContracts:
		b, err = codec.ForEmbedded[event.Contract]("contract").JSON(value)
	case storeCrossed:
		limit, crossed, err := decodeCrossed(value)
		if err != nil {
			return nil, true, err
		}
		all := []map[string]any{}
		for _, t := range crossed {
			all = append(all, map[string]any{"kind": t.measure(), "value": t.value, "units": t.units(limit)})
		}
		return map[string]any{"limit": limit, "crossed": all}, true, nil
	default:
		return nil, false, nil
	}
	return json.RawMessage(b), true, err
}
