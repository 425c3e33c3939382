package archiver_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/avro"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"databus/pkg/archive"
	"databus/pkg/blob"
	"databus/pkg/service"
	"databus/schemas"
	"databus/services/archiver"
)

// stuck waits until readiness names a reason with text in it.
func stuck(t *testing.T, h *service.Health, text string) {
	t.Helper()
	var states []service.State
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		_, states = h.Ready()
		if strings.Contains(fmt.Sprint(states), text) {
			return
		}
	}
	t.Fatalf("no check says %q: %v", text, states)
}

func withHealth(h *service.Health) func(*archiver.Parts) {
	return func(p *archiver.Parts) { p.Health = h }
}

// onePartition keeps only the records of the partition that has most.
func onePartition(records []*kgo.Record) (int32, []*kgo.Record) {
	by := map[int32][]*kgo.Record{}
	best := int32(0)
	for _, r := range records {
		p := schemas.Partition(r.Topic, r.Key, schemas.MustLookup(r.Topic).Partitions)
		by[p] = append(by[p], r)
		if len(by[p]) > len(by[best]) {
			best = p
		}
	}
	return best, by[best]
}

func TestOffsetsOutOfRangeStopThePartitionAndNameTheGap(t *testing.T) {
	parallel(t)
	w := newWorld(t)
	partition, records := onePartition(w.usageRecords(400))
	w.produce(records, 0)
	r := w.start("a", nil)
	w.archived(schemas.UsageEvents)
	r.stop(t)
	w.produce(records, 0)
	committed, err := w.admin.FetchOffsets(t.Context(), archiver.Name)
	if err != nil {
		t.Fatal(err)
	}
	at, _ := committed.Lookup(schemas.UsageEvents, partition)
	var cut kadm.Offsets
	cut.AddOffset(schemas.UsageEvents, partition, at.At+30, -1)
	if _, err := w.admin.DeleteRecords(t.Context(), cut); err != nil {
		t.Fatal(err)
	}
	before := w.list(schemas.UsageEvents)
	h := service.NewHealth()
	w.start("a", nil, withHealth(h))
	stuck(t, h, fmt.Sprintf("so [%d, %d) was deleted before it was archived", at.At, at.At+30))
	// Other partitions go on.
	var others []*kgo.Record
	for _, r := range w.usageRecords(200) {
		if schemas.Partition(r.Topic, r.Key, schemas.MustLookup(r.Topic).Partitions) != partition {
			others = append(others, r)
		}
	}
	w.produce(others, 0)
	for deadline := time.Now().Add(20 * time.Second); w.list(schemas.UsageEvents).total < before.total+int64(len(others)); {
		if time.Now().After(deadline) {
			t.Fatal("the other partitions stand still")
		}
		time.Sleep(30 * time.Millisecond)
	}
	if now := w.list(schemas.UsageEvents); len(now.objects[partition]) != len(before.objects[partition]) {
		t.Error("the stopped partition was archived across the gap")
	}
}

func TestInvalidObjectStopsThePartition(t *testing.T) {
	for _, test := range []struct {
		name, hint string
		damage     func(t *testing.T, w *world, good []byte, f archive.Footer) []byte
	}{
		{"NoParquet", "is not valid", func(*testing.T, *world, []byte, archive.Footer) []byte { return []byte("somebody's notes") }},
		{"Cut", "is not valid", func(_ *testing.T, _ *world, good []byte, _ archive.Footer) []byte { return good[:len(good)-100] }},
		{"OtherPartition", "its footer says", func(t *testing.T, w *world, _ []byte, f archive.Footer) []byte {
			return w.forge(t, archive.Range{Topic: f.Topic, Partition: f.Partition + 1, First: f.First, SchemaID: f.SchemaID}, f.Schema, 0, 5)
		}},
		{"RowsThatTheTopicHasNot", "which the topic has not", func(t *testing.T, w *world, _ []byte, f archive.Footer) []byte {
			// The offset of the control record behind the data is no record's.
			return w.forge(t, archive.Range{Topic: f.Topic, Partition: f.Partition, First: f.First, SchemaID: f.SchemaID}, f.Schema, f.Next, f.Next+2)
		}},
		{"RowsMissing", "dead letters", func(t *testing.T, w *world, _ []byte, f archive.Footer) []byte {
			return w.forge(t, archive.Range{Topic: f.Topic, Partition: f.Partition, First: f.First, SchemaID: f.SchemaID}, f.Schema, f.First, f.First+3)
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			parallel(t)
			w := newWorld(t)
			_, records := onePartition(w.usageRecords(60))
			w.produce(records, 0)
			w.produce(records, 0)
			w.cfg.MaxRecords = len(records)
			w.start("a", crashAt(archiver.Put, 1)).crashed(t)
			var key string
			if err := w.bucket.List(t.Context(), "", func(info blob.Info) error { key = info.Key; return nil }); err != nil {
				t.Fatal(err)
			}
			good, _, err := blob.ReadAll(t.Context(), w.bucket, key, 1<<30)
			if err != nil {
				t.Fatal(err)
			}
			reader, err := archive.NewReader(bytes.NewReader(good), int64(len(good)))
			if err != nil {
				t.Fatal(err)
			}
			bad := test.damage(t, w, good, reader.Footer())
			if _, err := w.bucket.Put(t.Context(), key, bytes.NewReader(bad), blob.PutOptions{}); err != nil {
				t.Fatal(err)
			}
			h := service.NewHealth()
			w.start("b", nil, withHealth(h))
			stuck(t, h, test.hint)
			if data, _, _ := blob.ReadAll(t.Context(), w.bucket, key, 1<<30); !bytes.Equal(data, bad) {
				t.Error("the object was replaced")
			}
			if n := len(w.read(schemas.ArchiveFiles)); n != 0 {
				t.Error("the manifest names an invalid object")
			}
		})
	}
}

// forge writes an object with one row at offset and a range up to next.
func (w *world) forge(t *testing.T, r archive.Range, schema string, offset, next int64) []byte {
	t.Helper()
	compiled, err := archive.Compile(schema)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	writer, err := archive.NewWriter(&out, compiled, r)
	if err != nil {
		t.Fatal(err)
	}
	if err := writer.Append(&archive.Record{Offset: offset}); err != nil {
		t.Fatal(err)
	}
	if _, err := writer.Close(next); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// newer is the usage event's schema with one more field, registered by somebody who is ahead.
func (w *world) newer(field string) (id int, schema *avro.Schema) {
	w.t.Helper()
	text := strings.Replace(schemas.MustLookup(schemas.UsageEvents).AvroSchema(), `"fields": [`,
		`"fields": [{"name": "`+field+`", "type": ["null", "string"], "default": null, "doc": "Test."},`, 1)
	id, err := w.registry.Register(w.t.Context(), schemas.MustLookup(schemas.UsageEvents).Subject(), text)
	if err != nil {
		w.t.Fatal(err)
	}
	return id, avro.MustParse(text)
}

func TestSchemaOnlyMovesForward(t *testing.T) {
	parallel(t)
	w := newWorld(t)
	partition, old := onePartition(w.usageRecords(100))
	oldID := int(binary.BigEndian.Uint32(old[0].Value[1:]))
	newID, newSchema := w.newer("added")
	own := avro.MustParse(schemas.MustLookup(schemas.UsageEvents).AvroSchema())
	// The new field comes first, so a newer value is a branch, a string, and the old value.
	upgrade := func(r *kgo.Record) *kgo.Record {
		n := *r
		n.Value = append(binary.BigEndian.AppendUint32([]byte{0}, uint32(newID)), 2, 2, 'x')
		n.Value = append(n.Value, r.Value[5:]...)
		return &n
	}
	compare := func(t *testing.T, row archive.Record, r *kgo.Record) {
		t.Helper()
		want := r.Value[5:]
		object := newSchema
		switch id := int(binary.BigEndian.Uint32(r.Value[1:])); {
		case id == oldID && bytes.Equal(row.Value, want):
			object = own
		case id == oldID:
			want = append([]byte{0}, want...)
		}
		if !bytes.Equal(row.Value, want) {
			t.Errorf("offset %d: % x, want % x", row.Offset, row.Value, want)
		}
		var v any
		if _, err := object.Decode(row.Value, &v); err != nil {
			t.Error(err)
		}
	}
	w.cfg.MaxRecords = len(old)
	w.produce(old, 0) // an object of the old schema
	r := w.start("a", nil)
	w.archived(schemas.UsageEvents)
	mixed := append([]*kgo.Record{}, old...)
	mixed[len(mixed)/2] = upgrade(mixed[len(mixed)/2])
	w.produce(mixed, 0) // one of both
	w.archived(schemas.UsageEvents)
	r.stop(t)
	w.produce(old, 0) // only old records, after a restart elsewhere: not back to the old schema
	w.start("b", nil)
	w.archived(schemas.UsageEvents)
	s := w.verify(schemas.UsageEvents, compare)
	var ids []int
	for _, f := range s.objects[partition] {
		ids = append(ids, f.SchemaID)
	}
	if want := []int{oldID, newID, newID}; fmt.Sprint(ids) != fmt.Sprint(want) {
		t.Errorf("schemas of the objects: %v, want %v", ids, want)
	}
}

func TestForeignSchemaIsADeadLetterAndUnknownSchemaWaits(t *testing.T) {
	parallel(t)
	w := newWorld(t)
	_, records := onePartition(w.usageRecords(100))
	foreign, err := w.registry.Register(t.Context(), "other-value", `{"type":"record","name":"Other","fields":[{"name":"x","type":"int"}]}`)
	if err != nil {
		t.Fatal(err)
	}
	records[1].Value = append(binary.BigEndian.AppendUint32([]byte{0}, uint32(foreign)), 2)
	w.produce(records, 0)
	h := service.NewHealth()
	r := w.start("a", nil, withHealth(h))
	w.archived(schemas.UsageEvents)
	w.verify(schemas.UsageEvents, nil)
	unknown := *records[0]
	unknown.Value = append(binary.BigEndian.AppendUint32([]byte{0}, 4711), unknown.Value[5:]...)
	w.produce([]*kgo.Record{&unknown}, 0)
	stuck(t, h, "unknown schema")
	r.stop(t)
	w.cfg.UnknownSchemaToDeadLetters = true
	w.start("a", nil)
	w.archived(schemas.UsageEvents)
	w.verify(schemas.UsageEvents, nil)
}

// moody is a bucket whose uploads fail, before or after they took effect.
type moody struct {
	blob.Bucket
	puts  atomic.Int32
	after atomic.Int32 // uploads that took effect and were reported as failed
}

var errMoody = errors.New("the bucket is out of order")

func (m *moody) Put(ctx context.Context, key string, body io.Reader, o blob.PutOptions) (blob.Info, error) {
	switch m.puts.Add(1) % 4 {
	case 1:
		return blob.Info{}, errMoody
	case 2:
		if _, err := m.Bucket.Put(ctx, key, body, o); err == nil {
			m.after.Add(1)
		}
		return blob.Info{}, errMoody
	}
	return m.Bucket.Put(ctx, key, body, o)
}

// A file system says that an object is there before it has read anything of what was to be put. That is encoded all the same: one's
// own object is told by its checksum, another's is adopted.
func TestBucketThatRefusesAtOnce(t *testing.T) {
	for name, records := range map[string]int{"own": 0, "another's": 30} {
		t.Run(name, func(t *testing.T) {
			parallel(t)
			w := newWorld(t)
			var err error
			if w.bucket, err = blob.OpenFileSystem(t.TempDir()); err != nil {
				t.Fatal(err)
			}
			w.produce(w.usageRecords(400), 5)
			w.start("a", crashAt(archiver.Put, 1)).crashed(t)
			if records > 0 {
				w.cfg.MaxRecords = records
			}
			var adopted atomic.Int32
			w.start("b", func(s archiver.Step, _ string, _ int32) error {
				if s == archiver.Adopted {
					adopted.Add(1)
				}
				return nil
			})
			w.archived(schemas.UsageEvents)
			w.verify(schemas.UsageEvents, nil)
			if (adopted.Load() > 0) != (records > 0) {
				t.Errorf("%d objects were adopted", adopted.Load())
			}
		})
	}
}

func TestBucketOutOfOrder(t *testing.T) {
	parallel(t)
	w := newWorld(t)
	w.produce(w.usageRecords(900), 20)
	bucket := &moody{Bucket: w.bucket}
	w.start("a", nil, func(p *archiver.Parts) { p.Bucket = bucket })
	w.archived(schemas.UsageEvents)
	w.verify(schemas.UsageEvents, nil)
	if bucket.after.Load() == 0 {
		t.Error("no upload failed after it took effect")
	}
}

// TestReplayIsByteIdentical archives the same ranges into an empty bucket.
func TestReplayIsByteIdentical(t *testing.T) {
	parallel(t)
	w := newWorld(t)
	w.cfg.Idle = 2 * time.Second // cuts that the clock decides would differ
	records := w.usageRecords(2000)
	for i := 0; i < len(records); i += 31 {
		records[i].Value = records[i].Value[:7]
	}
	w.produce(records, 20)
	r := w.start("a", nil)
	w.archived(schemas.UsageEvents)
	r.stop(t)
	first := w.list(schemas.UsageEvents)
	if _, err := w.admin.DeleteGroups(t.Context(), archiver.Name); err != nil {
		t.Fatal(err)
	}
	w.bucket = w.emptyBucket()
	w.start("b", nil)
	w.archived(schemas.UsageEvents)
	second := w.list(schemas.UsageEvents)
	if len(first.sums) < 20 || len(first.sums) != len(second.sums) {
		t.Fatalf("%d objects, then %d", len(first.sums), len(second.sums))
	}
	for key, sum := range first.sums {
		if second.sums[key] != sum {
			t.Errorf("%s differs", key)
		}
	}
}

// waitForCreateTime produces outside of a partition until the broker keeps the producer's time: a real one takes the
// altered setting over a moment later.
func (w *world) waitForCreateTime(partition int32, at time.Time) {
	w.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		probe := w.usageRecords(1)[0]
		for i := 0; schemas.Partition(probe.Topic, probe.Key, 8) == partition; i++ {
			probe.Key = fmt.Appendf(nil, "probe-%d", i)
		}
		probe.Timestamp = at
		w.produce([]*kgo.Record{probe}, 0)
		for _, records := range w.read(schemas.UsageEvents) {
			for _, r := range records {
				if r.Timestamp.Equal(at) {
					return
				}
			}
		}
	}
	w.t.Fatal("the broker keeps its own times")
}

func TestCutRules(t *testing.T) {
	parallel(t)
	w := newWorld(t)
	w.cfg.MaxRecords, w.cfg.MaxRecordTime, w.cfg.Idle = 1000, 10*time.Minute, time.Second
	w.cfg.MaxBytes = 100_000
	// A topic that keeps the producer's times.
	var alter kadm.AlterConfig
	alter.Op, alter.Name = kadm.SetConfig, "message.timestamp.type"
	value := "CreateTime"
	alter.Value = &value
	if _, err := w.admin.AlterTopicConfigs(t.Context(), []kadm.AlterConfig{alter}, schemas.UsageEvents); err != nil {
		t.Fatal(err)
	}
	start := time.Now().UTC().Truncate(time.Hour).Add(-130 * time.Minute) // x:50, and young enough to be retained
	partition := schemas.Partition(schemas.UsageEvents, []byte("account-1"), 8)
	w.waitForCreateTime(partition, start)
	var records []*kgo.Record
	add := func(after time.Duration, key string) {
		r := w.usageRecords(1)[0]
		r.Key, r.Timestamp = []byte("account-1"), start.Add(after)
		r.Headers = []kgo.RecordHeader{{Key: "pad", Value: []byte(key)}}
		records = append(records, r)
	}
	add(0, "")                                         // 0: first of its object
	add(9*time.Minute, "")                             // 1: within it
	add(-3*time.Hour, "")                              // 2: an earlier time cuts nothing
	add(10*time.Minute, "")                            // 3: a later hour, and 10 minutes
	add(19*time.Minute, "")                            // 4
	add(20*time.Minute, "")                            // 5: 10 minutes
	add(20*time.Minute, string(make([]byte, 100_000))) // 6: full with this one
	add(21*time.Minute, "")                            // 7: so this begins another
	add(71*time.Minute, "")                            // 8: a later hour
	w.produce(records, 0)
	w.start("a", nil)
	w.archived(schemas.UsageEvents)
	s := w.verify(schemas.UsageEvents, nil)
	var firsts []int64
	for _, f := range s.objects[partition] {
		firsts = append(firsts, f.First)
	}
	if want := "[0 3 5 7 8]"; fmt.Sprint(firsts) != want {
		t.Errorf("objects begin at %v, want %s", firsts, want)
	}
	name := archive.ObjectName("archive", schemas.UsageEvents, partition, 0, start.UnixMilli())
	if _, ok := s.sums[name]; !ok {
		t.Errorf("no object %s", name)
	}
}

func TestOneBadSpoolDirectoryFailsAtTheStart(t *testing.T) {
	_, err := archiver.Open(archiver.Default(), archiver.Parts{SpoolDir: "/dev/null/spool"})
	if err == nil || !strings.Contains(err.Error(), "spool") {
		t.Errorf("%v", err)
	}
}

func TestConfig(t *testing.T) {
	if err := archiver.Default().Validate(); err != nil {
		t.Fatal(err)
	}
	bad := archiver.Config{Patterns: []string{"a[", "ok.*"}, Topics: []string{"no/topic", schemas.UsageCounts, schemas.UsageEvents, schemas.UsageEvents}}
	err := bad.Validate()
	for _, want := range []string{"no topic's name", "patterns", "session_timeout", "alarm_at", "usage.counts is compacted", "named twice", "max_records", "workers", "put_timeout", "idle"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("no word of %q in: %v", want, err)
		}
	}
}
