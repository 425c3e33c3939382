//go:build servers

package javatool

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/hamba/avro/v2"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"databus/test/servers"
)

func TestMain(m *testing.M) { servers.Main(m) }

const schemaText = `{"type": "record", "name": "Event", "namespace": "databus.test", "fields": [
  {"name": "id", "type": "long"},
  {"name": "name", "type": ["null", "string"], "default": null},
  {"name": "sealed", "type": "bytes"},
  {"name": "kind", "type": {"type": "enum", "name": "Kind", "symbols": ["UPSERT", "DELETE"]}},
  {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
  {"name": "tags", "type": {"type": "map", "values": {"type": "array", "items": "double"}}}
]}`

type event struct {
	ID     int64                `avro:"id"`
	Name   *string              `avro:"name"`
	Sealed []byte               `avro:"sealed"`
	Kind   string               `avro:"kind"`
	At     time.Time            `avro:"at"`
	Tags   map[string][]float64 `avro:"tags"`
}

// stack is a topic of its own on the shared servers, with its schema registered.
type stack struct {
	kafka, registry, topic string
	schema                 avro.Schema
	id                     int
	tx                     *kgo.Client
}

func newStack(t *testing.T) stack {
	t.Helper()
	s := stack{kafka: servers.Kafka(t), registry: servers.Registry(t), schema: avro.MustParse(schemaText)}
	s.topic = fmt.Sprintf("javatool-%d", time.Now().UnixNano())
	seeds := kgo.SeedBrokers(strings.Split(s.kafka, ",")...)
	tx, err := kgo.NewClient(seeds, kgo.TransactionalID(s.topic), kgo.MetadataMinAge(200*time.Millisecond), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(tx.Close)
	s.tx = tx
	if _, err := kadm.NewClient(tx).CreateTopic(t.Context(), 2, -1, nil, s.topic); err != nil {
		t.Fatal(err)
	}
	body, err := json.Marshal(map[string]string{"schema": schemaText})
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.Post(s.registry+"/subjects/"+s.topic+"-value/versions", "application/vnd.schemaregistry.v1+json", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	var answer struct{ ID int }
	if err := json.NewDecoder(res.Body).Decode(&answer); err != nil || answer.ID == 0 {
		t.Fatalf("registering the schema: %s, %v", res.Status, err)
	}
	s.id = answer.ID
	return s
}

func (s stack) wire(t *testing.T, id int, v any) []byte {
	t.Helper()
	datum, err := avro.Marshal(s.schema, v)
	if err != nil {
		t.Fatal(err)
	}
	return append(binary.BigEndian.AppendUint32([]byte{0}, uint32(id)), datum...)
}

func (s stack) transaction(t *testing.T, end kgo.TransactionEndTry, records ...*kgo.Record) {
	t.Helper()
	if err := s.tx.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	for _, r := range records {
		r.Topic = s.topic
	}
	if err := s.tx.ProduceSync(t.Context(), records...).FirstErr(); err != nil {
		t.Fatal(err)
	}
	if err := s.tx.EndTransaction(t.Context(), end); err != nil {
		t.Fatal(err)
	}
}

func TestJavaReadsATransactionalTopic(t *testing.T) {
	s := newStack(t)
	name := "Zoë \u2603 \"quoted\""
	e := event{
		ID: 1<<53 + 1, Name: &name, Sealed: []byte{0, 255, 10}, Kind: "DELETE",
		At: time.UnixMilli(1700000000123).UTC(), Tags: map[string][]float64{"t": {1.5, -2}},
	}
	s.transaction(t, kgo.TryCommit,
		&kgo.Record{Partition: 0, Key: []byte("acme/é"), Value: s.wire(t, s.id, e), Headers: []kgo.RecordHeader{{Key: "h", Value: []byte{0, 1}}, {Key: "h", Value: nil}}},
		&kgo.Record{Partition: 1, Key: nil, Value: s.wire(t, s.id, event{ID: 2, Kind: "UPSERT"})})
	s.transaction(t, kgo.TryAbort, &kgo.Record{Partition: 0, Key: []byte("aborted"), Value: s.wire(t, s.id, event{ID: 99, Kind: "UPSERT"})})
	s.transaction(t, kgo.TryCommit, &kgo.Record{Partition: 0, Key: []byte("gone"), Value: nil})

	records, err := ReadTopic(t.Context(), s.kafka, s.registry, s.topic)
	if err != nil {
		t.Fatal(err)
	}
	byPartition := map[int32][]Record{}
	for _, r := range records {
		byPartition[r.Partition] = append(byPartition[r.Partition], r)
	}
	if len(records) != 3 || len(byPartition[0]) != 2 || len(byPartition[1]) != 1 {
		t.Fatalf("read %+v", records)
	}
	first, tombstone, second := byPartition[0][0], byPartition[0][1], byPartition[1][0]
	const want = `{"id":9007199254740993,"name":"Zoë ☃ \"quoted\"","sealed":"AP8K","kind":"DELETE","at":1700000000123,"tags":{"t":[1.5,-2.0]}}`
	if string(first.Value) != want {
		t.Errorf("value is\n%s, want\n%s", first.Value, want)
	}
	if first.Key == nil || *first.Key != "acme/é" || first.Offset != 0 || first.SchemaID != s.id || first.Schema != "databus.test.Event" {
		t.Errorf("first is %+v", first)
	}
	if h := first.Headers; len(h) != 2 || h[0].Name != "h" || !bytes.Equal(h[0].Value, []byte{0, 1}) || h[1].Value != nil {
		t.Errorf("headers are %+v", h)
	}
	// Offsets 1, 2 and 3 of partition 0: commit marker, aborted record, abort marker.
	if tombstone.Offset != 4 || *tombstone.Key != "gone" || string(tombstone.Value) != "null" || tombstone.SchemaID != 0 {
		t.Errorf("tombstone is %+v", tombstone)
	}
	if second.Key != nil || !strings.Contains(string(second.Value), `"id":2,"name":null`) {
		t.Errorf("second is %+v", second)
	}
}

func TestJavaRefusesWhatItCannotRead(t *testing.T) {
	s := newStack(t)
	if _, err := ReadTopic(t.Context(), s.kafka, s.registry, s.topic+"-missing"); err == nil {
		t.Error("a missing topic must be an error")
	}
	if records, err := ReadTopic(t.Context(), s.kafka, s.registry, s.topic); err != nil || len(records) != 0 {
		t.Errorf("an empty topic gave %v, %v", records, err)
	}
	good := s.wire(t, s.id, event{ID: 1, Kind: "UPSERT"})
	for name, bad := range map[string][]byte{
		"unknown schema id": s.wire(t, 987654321, event{ID: 1, Kind: "UPSERT"}),
		"not wire format":   []byte("{}"),
		"truncated":         good[:len(good)-3],
		"trailing bytes":    append(bytes.Clone(good), 0),
	} {
		s := newStack(t)
		s.transaction(t, kgo.TryCommit, &kgo.Record{Partition: 1, Value: good}, &kgo.Record{Partition: 1, Value: bad})
		_, err := ReadTopic(t.Context(), s.kafka, s.registry, s.topic)
		if err == nil || !strings.Contains(err.Error(), "partition 1 offset 1") {
			t.Errorf("%s: got %v", name, err)
		}
	}
}
