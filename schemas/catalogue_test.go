package schemas_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"databus/schemas"
)

func TestCatalogue(t *testing.T) {
	known := map[string]bool{}
	for _, n := range schemas.Schemas() {
		known[n] = true
	}
	used := map[string]bool{"customer_record": true, "record_payload": true} // live inside sealed bytes
	seen := map[string]bool{}
	for _, topic := range schemas.WithDeadLetters() {
		if seen[topic.Name] {
			t.Errorf("%s is twice in the catalogue", topic.Name)
		}
		seen[topic.Name] = true
		if topic.Doc == "" || topic.Key == "" || topic.Partitions < 1 || len(topic.Producers) == 0 || len(topic.Consumers) == 0 {
			t.Errorf("%s: doc, key, partitions, producers and consumers must be set", topic.Name)
		}
		if (topic.Cleanup == schemas.Delete) != (topic.Retention > 0) {
			t.Errorf("%s: cleanup %s with retention %s", topic.Name, topic.Cleanup, topic.Retention)
		}
		if strings.HasSuffix(topic.Name, ".dlq") {
			continue
		}
		if !known[topic.Schema] {
			t.Errorf("%s: schema %q does not exist", topic.Name, topic.Schema)
		}
		used[topic.Schema] = true
	}
	for n := range known {
		if !used[n] {
			t.Errorf("schema %s belongs to no topic", n)
		}
	}
	// Topics that are joined or restored together have equal numbers of partitions.
	for _, group := range [][]string{
		{schemas.UsageEvents, schemas.UsageContracts, schemas.UsageCounts, schemas.UsageLimits, schemas.UsageBaselines, schemas.UsageAggregatorChangelog, schemas.LimiterChangelog},
		{schemas.DatabusRecords, schemas.IngestChangelog},
		{schemas.RebuildRequests, schemas.RebuildResults, schemas.RebuilderTable},
		{schemas.CatchupRequests, schemas.CatchupResults, schemas.CatchupTable},
	} {
		for _, name := range group {
			if a, b := schemas.MustLookup(group[0]).Partitions, schemas.MustLookup(name).Partitions; a != b {
				t.Errorf("%s has %d partitions, %s has %d: they must be equal", group[0], a, name, b)
			}
		}
	}
}

// TestDocs forbids a schema, a record, an enum or a field without a doc string.
func TestDocs(t *testing.T) {
	for _, name := range schemas.Schemas() {
		text, _ := schemas.Avro(name)
		var root any
		if err := json.Unmarshal([]byte(text), &root); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		undocumented(root, name, func(where string) { t.Errorf("%s has no doc", where) })
	}
	// The check itself must be able to fail.
	found := 0
	undocumented(map[string]any{"type": "record", "name": "R", "fields": []any{map[string]any{"name": "f", "type": "int"}}}, "r", func(string) { found++ })
	if found != 2 {
		t.Errorf("the check found %d of 2 missing docs", found)
	}
}

func undocumented(node any, where string, report func(string)) {
	switch n := node.(type) {
	case []any:
		for i, e := range n {
			undocumented(e, fmt.Sprintf("%s[%d]", where, i), report)
		}
	case map[string]any:
		if doc, _ := n["doc"].(string); n["name"] != nil && strings.TrimSpace(doc) == "" {
			report(fmt.Sprintf("%s.%v", where, n["name"]))
		}
		for _, k := range []string{"fields", "items", "values", "type"} {
			undocumented(n[k], fmt.Sprintf("%s.%v", where, n["name"]), report)
		}
	}
}

// TestMurmur2 compares with the values of Kafka's own test (UtilsTest.testMurmur2).
func TestMurmur2(t *testing.T) {
	for in, want := range map[string]int32{
		"21": -973932308, "foobar": -790332482, "a-little-bit-long-string": -985981536, "a-little-bit-longer-string": -1486304829,
		"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971, "abc": 479470107,
	} {
		if got := int32(schemas.Murmur2([]byte(in))); got != want {
			t.Errorf("murmur2(%q) = %d, want %d", in, got, want)
		}
	}
}

func TestPartitionKey(t *testing.T) {
	for _, tc := range []struct{ topic, key, want string }{
		{schemas.UsageEvents, "a1", "a1"},
		{schemas.UsageCounts, "a1/person/total", "a1"},
		{schemas.ArchiveFiles, "usage.events/3/100", "usage.events/3"},
		{schemas.DatabusRecords, "a1/0a0b", "a1/0a0b"},
		{schemas.UsageEvents + ".dlq", "a1", "a1"},
		{"elsewhere", "x/y", "x/y"},
	} {
		if got := string(schemas.PartitionKey(tc.topic, []byte(tc.key))); got != tc.want {
			t.Errorf("partition key of %s in %s is %s, want %s", tc.key, tc.topic, got, tc.want)
		}
	}
	if a, b := schemas.Partition(schemas.UsageCounts, []byte("a1/p/total"), 8), schemas.Partition(schemas.UsageEvents, []byte("a1"), 8); a != b {
		t.Errorf("counts of an account are in partition %d, its events in %d", a, b)
	}
}
