package archiver_test

import (
	"strings"
	"testing"

	"databus/pkg/archive"
	"databus/pkg/blob"
	"databus/pkg/service"
	"databus/schemas"
)

// The first object freezes what all of a topic's have in common; settings that do not fit stop the topic and change nothing.
func TestLayoutIsFrozen(t *testing.T) {
	parallel(t)
	w := newWorld(t)
	w.produce(w.usageRecords(50), 0)
	r := w.start("a", nil)
	w.archived(schemas.UsageEvents)
	r.stop(t)
	key := archive.LayoutName(w.cfg.Prefix, schemas.UsageEvents)
	was, _, err := blob.ReadAll(t.Context(), w.bucket, key, 1000)
	if err != nil || !strings.Contains(string(was), `"key_filter": false`) {
		t.Fatalf("%s, %v", was, err)
	}
	before := w.verify(schemas.UsageEvents, nil)

	w.cfg.KeyFilters = []string{schemas.UsageEvents}
	w.produce(w.usageRecords(50), 0)
	health := service.NewHealth()
	r = w.start("a", nil, withHealth(health))
	stuck(t, health, "key_filter is false, not true; set archiver.key_filters and archiver.sort_by as they were")
	r.stop(t)
	if now, _, err := blob.ReadAll(t.Context(), w.bucket, key, 1000); err != nil || string(now) != string(was) {
		t.Errorf("the layout became %s, %v", now, err)
	}
	if after := w.list(schemas.UsageEvents); len(after.sums) != len(before.sums) {
		t.Errorf("%d objects, %d before", len(after.sums), len(before.sums))
	}

	w.cfg.KeyFilters = nil
	w.start("a", nil)
	w.archived(schemas.UsageEvents)
	w.verify(schemas.UsageEvents, nil)
}
