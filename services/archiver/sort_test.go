package archiver_test

import (
	"context"
	"encoding/binary"
	"log/slog"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"

	"databus/pkg/archive"
	"databus/pkg/service"
	"databus/schemas"
	"databus/services/archiver"
)

// A topic that is sorted by a column keeps every promise: owners die around an upload and while they adopt, a lost object is made
// again with the same bytes, and other settings are refused.
func TestSortedTopic(t *testing.T) {
	parallel(t)
	w := newWorld(t)
	w.cfg.SortBy = []string{schemas.UsageEvents + "=account"}
	records := w.usageRecords(800)
	for i := 0; i < len(records); i += 17 {
		records[i].Value = records[i].Value[:8]
	}
	records[100].Value = nil
	w.produce(records, 20)
	w.cfg.MaxRecords = 30
	w.start("a", crashAt(archiver.Put, 1)).crashed(t)
	w.cfg.MaxRecords = 100
	w.start("b", crashAt(archiver.Adopting, 1)).crashed(t)
	w.start("c", crashAt(archiver.Adopted, 1)).crashed(t)
	before := w.list(schemas.UsageEvents)
	r := w.start("d", nil)
	w.archived(schemas.UsageEvents)
	r.stop(t)
	after := w.verify(schemas.UsageEvents, nil)
	for key, sum := range before.sums {
		if after.sums[key] != sum {
			t.Errorf("%s was replaced", key)
		}
	}
	for _, objects := range after.objects {
		for _, f := range objects {
			if f.SortedBy != "account" || f.EncoderVersion != archive.EncoderVersion {
				t.Errorf("footer %+v", f)
			}
		}
	}
	w.lose(after)
	if sum := w.backfill(0); sum.Again != len(after.sums) || len(sum.Differing) > 0 {
		t.Errorf("made again: %+v, want %d", sum, len(after.sums))
	}

	w.cfg.SortBy = nil
	w.produce(w.usageRecords(50), 0)
	health := service.NewHealth()
	w.start("d", nil, withHealth(health))
	stuck(t, health, `sort_by is "account", not ""; set archiver.key_filters and archiver.sort_by as they were`)
}

// A topic that was archived without an order stays as it is, and the message says what to do.
func TestOrderCannotBeChangedLater(t *testing.T) {
	parallel(t)
	w := newWorld(t)
	w.produce(w.usageRecords(50), 0)
	r := w.start("a", nil)
	w.archived(schemas.UsageEvents)
	r.stop(t)
	w.cfg.SortBy = []string{schemas.UsageEvents + "=_key"}
	w.produce(w.usageRecords(50), 0)
	health := service.NewHealth()
	r = w.start("a", nil, withHealth(health))
	stuck(t, health, `sort_by is "", not "_key"`)
	r.stop(t)
	w.cfg.SortBy = nil
	w.start("a", nil)
	w.archived(schemas.UsageEvents)
	w.verify(schemas.UsageEvents, nil)
}

// A topic of a schema that the catalogue does not know: its objects are sorted from the one on whose schema has the column, and until
// then the log says why they are not.
func TestOrderFollowsTheSchema(t *testing.T) {
	parallel(t)
	w := newWorld(t)
	const topic = "audit.sorted"
	for _, name := range []string{topic, topic + ".dlq"} {
		if _, err := w.admin.CreateTopic(t.Context(), 1, -1, nil, name); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { _, _ = w.admin.DeleteTopics(context.Background(), topic, topic+".dlq") }) // real brokers are the next test's
	text := `{"type":"record","name":"Audit","fields":[{"name":"n","type":"double"}]}`
	register := func(text string) int {
		id, err := w.registry.Register(t.Context(), topic+"-value", text)
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	old, values := register(text), []byte{0, 0, 0, 0, 0, 0, 0, 0}
	now := register(strings.Replace(text, `}]}`, `},{"name":"who","type":"string","default":"nobody"}]}`, 1))
	produce := func(id int, who string) {
		value := append(binary.BigEndian.AppendUint32([]byte{0}, uint32(id)), values...)
		if who != "" {
			value = append(append(value, byte(2*len(who))), who...)
		}
		w.produce([]*kgo.Record{{Topic: topic, Value: value}}, 0)
	}
	w.cfg.Topics, w.cfg.Patterns, w.cfg.SortBy = nil, []string{"audit.s*"}, []string{topic + "=who"}
	w.cfg.MaxRecords = 3
	for range 3 {
		produce(old, "")
	}
	var log strings.Builder
	r := w.start("a", nil, func(p *archiver.Parts) { p.Log = slog.New(slog.NewTextHandler(&log, nil)) })
	w.archived(topic)
	produce(now, "zoe")
	produce(old, "")
	produce(now, "adam")
	w.archived(topic)
	r.stop(t) // nothing writes to the log any more
	objects := w.list(topic).objects[0]
	if len(objects) != 2 || objects[0].SortedBy != "" || objects[0].SchemaID != old || objects[1].SortedBy != "who" || objects[1].SchemaID != now {
		t.Errorf("%+v", objects)
	}
	const why = "rows cannot be sorted by this column: who is not there; there are _key and _timestamp"
	if all := log.String(); strings.Count(all, "objects are not sorted") != 1 || !strings.Contains(all, why) {
		t.Errorf("the log says\n%s", all)
	}
}

func TestOrderIsChecked(t *testing.T) {
	for sortBy, want := range map[string]string{
		"usage.events":        `sort_by: "usage.events" is not of the form TOPIC=COLUMN`,
		"usage.events=":       `sort_by: "usage.events=" is not of the form TOPIC=COLUMN`,
		"other.events=x":      "sort_by: topic other.events is not archived: name it in topics, or leave it out",
		"usage.events=acount": "sort_by: topic usage.events: rows cannot be sorted by this column: acount is not there; there are _key, _timestamp, ",
	} {
		cfg := archiver.Default()
		cfg.SortBy = []string{sortBy}
		if err := cfg.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", sortBy, err)
		}
	}
	cfg := archiver.Default()
	cfg.Patterns, cfg.SortBy = []string{"audit.*"}, []string{"usage.events=account", "databus.records=_key", "audit.x=anything"}
	if err := cfg.Validate(); err != nil {
		t.Error(err)
	}
	cfg.SortBy = append(cfg.SortBy, "usage.events=pack")
	if err := cfg.Validate(); err == nil || !strings.Contains(err.Error(), "usage.events is named twice") {
		t.Error(err)
	}
}
