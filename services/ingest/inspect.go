package ingest

import (
	"encoding/hex"
	"time"
)

// InspectRow returns a stored row in a form that encoding/json prints, and false for a store that is not the service's.
func InspectRow(store string, _, value []byte) (any, bool, error) {
	if store != storeHistory {
		return nil, false, nil
	}
	firstSeen, recent, err := parseHistory(value)
	if err != nil {
		return nil, true, err
	}
	requests := []map[string]any{}
	for _, r := range recent {
		requests = append(requests, map[string]any{"request_id_hash": hex.EncodeToString(r.ID[:]), "appended_at": time.UnixMilli(r.At).UTC()})
	}
	return map[string]any{"first_seen": firstSeen.UTC(), "recent_requests": requests}, true, nil
}
