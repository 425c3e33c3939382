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

// storedCount decodes a count without the registry: the bytes of the schema's id are left out, and the schema must be this program's.
func storedCount(row []byte) (*event.UsageCount, error) {
	if len(row) < 5 {
		return nil, errors.New("reading a count: the row is cut off")
	}
	var u event.UsageCount
	return &u, codec.ForEmbedded[event.UsageCount]("usage_count").Decode(row[5:], &u)
}

// InspectRow returns a stored row in a form that encoding/json prints, and false for a store that is not the service's.
func InspectRow(store string, key, value []byte) (any, bool, error) {
	switch store {
	case storeCounts:
		u, err := storedCount(value)
		if err != nil {
			return nil, true, err
		}
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
	case storeAsked:
		b, err := codec.ForEmbedded[event.BaselineRequest]("baseline_request").JSON(value)
		return json.RawMessage(b), true, err
	case storeSeen:
		switch {
		case len(key) > 0 && key[0] == 't':
			n, err := tailIDs(value)
			return map[string]any{"collected_ids": n}, true, err
		case len(key) == pageKeySize && key[0] == 'p':
			bucket := time.UnixMilli(int64(binary.BigEndian.Uint32(key[1:])) * bucketMillis).UTC()
			row := map[string]any{"appended_since": bucket, "part": key[5], "level": key[6], "run": binary.BigEndian.Uint16(key[7:])}
			if page := binary.BigEndian.Uint16(key[9:]); page > 0 {
				row["page"], row["ids"] = page, len(value)/entrySize
			}
			return row, true, nil
		}
		return map[string]any{}, true, nil // the secret
	}
	return nil, false, nil
}
