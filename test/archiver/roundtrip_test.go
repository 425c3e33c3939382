//go:build servers

package archiver

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"databus/pkg/archive"
	"databus/pkg/archive/archivetest"
	"databus/pkg/blob"
	"databus/pkg/embedded"
	"databus/pkg/history"
	"databus/pkg/topics"
	"databus/schemas"
	"databus/schemas/codec"
	"databus/services/archiver"
	"databus/test/archiver/verify"
	"databus/test/javatool"
	"databus/test/pytool"
)

const corpus = 60 // generated schemas

// TestRoundTrip: topics of 60 generated schemas, which no catalogue knows, are found by a pattern, archived and restored into
// other topics. Those hold the same keys, values, headers and timestamps in the same order; and what DuckDB, pyarrow and
// parquet-java read is what was sent, value by value.
func TestRoundTrip(t *testing.T) {
	stack := embedded.ForTest(t)
	opts := []kgo.Opt{kgo.SeedBrokers(stack.Broker.Seeds()...), kgo.MetadataMinAge(50 * time.Millisecond), kgo.FetchMaxWait(100 * time.Millisecond)}
	client, err := kgo.NewClient(append(opts, kgo.RecordPartitioner(kgo.ManualPartitioner()))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	admin := kadm.NewClient(client)
	if _, err := topics.Apply(t.Context(), admin, []schemas.Topic{schemas.MustLookup(schemas.ArchiveFiles)}, topics.Options{}); err != nil {
		t.Fatal(err)
	}
	registry := codec.NewRegistry(stack.Registry.URL())
	sent := map[string][]*kgo.Record{}
	text, sortBy := map[string]string{}, []string(nil)
	for n := range corpus {
		name := fmt.Sprintf("corpus.%02d", n)
		keep, forever := "CreateTime", "-1"
		for _, x := range []string{name, name + ".dlq"} {
			if _, err := admin.CreateTopic(t.Context(), 2, -1, map[string]*string{"message.timestamp.type": &keep, "retention.ms": &forever}, x); err != nil {
				t.Fatal(err)
			}
		}
		rng := rand.New(rand.NewPCG(uint64(n), 3))
		schema, write := (&archivetest.Generator{Rand: rng}).Schema()
		id, err := registry.Register(t.Context(), name+"-value", schema)
		if err != nil {
			t.Fatal(err)
		}
		text[name], sent[name] = schema, generated(rng, name, id, write)
		if n%2 == 0 { // half of the topics are sorted, by any column
			compiled, err := archive.Compile(schema)
			if err != nil {
				t.Fatal(err)
			}
			columns := compiled.SortColumns()
			sortBy = append(sortBy, name+"="+columns[len(columns)-1-n/2%len(columns)])
		}
		if err := client.ProduceSync(t.Context(), sent[name]...).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := admin.CreateTopic(t.Context(), 1, -1, nil, "corpus.without-dead-letters"); err != nil {
		t.Fatal(err)
	}

	dir := t.TempDir()
	bucket, err := blob.OpenFileSystem(filepath.Join(dir, "bucket"))
	if err != nil {
		t.Fatal(err)
	}
	cfg := archiver.Default()
	cfg.Topics, cfg.Patterns, cfg.KeyFilters = nil, []string{"corpus.*"}, []string{"corpus.07"}
	cfg.Prefix, cfg.MaxRecords, cfg.Idle, cfg.SortBy = prefix, 90, 200*time.Millisecond, sortBy
	a, err := archiver.Open(cfg, archiver.Parts{
		Client: opts, TransactionalID: "archiver", TransactionTimeout: 5 * time.Second, Bucket: bucket, Codec: codec.New(registry, codec.Options{RegisterSchemas: true}),
		SpoolDir: t.TempDir(), Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	for name := range sent {
		for end := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
			behind, err := verify.Behind(t.Context(), verify.Options{Kafka: opts, Topic: name, Group: archiver.Name})
			if err == nil && behind == 0 {
				break
			}
			if time.Now().After(end) {
				t.Fatalf("%s: %d partitions are behind, %v", name, behind, err)
			}
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if l, err := history.List(t.Context(), bucket, prefix, "corpus.without-dead-letters"); err != nil || len(l.Objects) > 0 {
		t.Errorf("a topic that cannot have dead letters was archived: %d objects, %v", len(l.Objects), err)
	}

	for name, records := range sent {
		restored := history.Restorer{
			Bucket: bucket, Prefix: prefix, Topic: name, To: "restored." + name, Kafka: opts, Registry: registry, Workers: 2,
			State: filepath.Join(t.TempDir(), "state"), Offsets: filepath.Join(t.TempDir(), "offsets"),
		}
		if sum, err := restored.Run(t.Context()); err != nil || sum.Rows != int64(len(records)) || sum.DeadLetters != 0 {
			t.Fatalf("restoring %s: %+v, %v", name, sum, err)
		}
		same(t, opts, name, "restored."+name, len(records))
		if err := expectation(filepath.Join(dir, "values", name), filepath.Join(dir, "bucket", prefix, name), text[name], records); err != nil {
			t.Fatal(err)
		}
	}

	if err := javatool.ReadParquet(t.Context(), filepath.Join(dir, "values")); err != nil {
		t.Fatal(err)
	}
	out, err := pytool.Run(t.Context(), nil, "archive_values.py", filepath.Join(dir, "values"))
	if err != nil {
		t.Fatal(err)
	}
	var sum struct {
		Schemas, Rows, Values int
		Sorted                map[string]int // row groups, by the type of their column
		Differences           []string
	}
	if err := json.Unmarshal(out, &sum); err != nil {
		t.Fatal(err)
	}
	if sum.Schemas != corpus || sum.Values < 10_000 || len(sum.Differences) > 0 {
		t.Errorf("%d schemas, %d values, differences %q", sum.Schemas, sum.Values, sum.Differences)
	}
	groups := 0
	for _, n := range sum.Sorted {
		groups += n
	}
	if groups < 100 || len(sum.Sorted) < 5 {
		t.Errorf("sorted row groups, by the type of their column: %v", sum.Sorted)
	}
	t.Logf("%d schemas, %d rows, %d values compared for each reader; %d row groups are sorted: %v", sum.Schemas, sum.Rows, sum.Values, groups, sum.Sorted)
}

// generated are records of one schema: with and without keys, headers and values, at any time since 1970.
func generated(rng *rand.Rand, topic string, id int, write archivetest.WriteValue) (records []*kgo.Record) {
	for range 120 + rng.IntN(200) {
		r := &kgo.Record{Topic: topic, Partition: int32(rng.IntN(2)), Timestamp: time.UnixMilli(rng.Int64N(1_767_000_000_000))}
		switch rng.IntN(4) {
		case 0:
		case 1:
			r.Key = []byte{}
		default:
			r.Key = archivetest.String(rng)
		}
		for range rng.IntN(3) {
			h := kgo.RecordHeader{Key: string(archivetest.String(rng))}
			if rng.IntN(3) > 0 {
				h.Value = append([]byte{}, archivetest.String(rng)...)
			}
			r.Headers = append(r.Headers, h)
		}
		if rng.IntN(12) > 0 {
			r.Value = write(rng, binary.BigEndian.AppendUint32([]byte{0}, uint32(id)))
		}
		records = append(records, r)
	}
	return records
}

// same compares two topics, record by record.
func same(t *testing.T, opts []kgo.Opt, one, other string, n int) {
	t.Helper()
	left, err := verify.Read(t.Context(), opts, one)
	right, err2 := verify.Read(t.Context(), opts, other)
	if err := errors.Join(err, err2); err != nil {
		t.Fatal(err)
	}
	compared := 0
	for p := range left {
		if len(left[p]) != len(right[p]) {
			t.Fatalf("%s/%d has %d records, %s/%d has %d", one, p, len(left[p]), other, p, len(right[p]))
		}
		for i, x := range left[p] {
			y := right[p][i]
			equal := bytes.Equal(x.Key, y.Key) && (x.Key == nil) == (y.Key == nil) && x.Timestamp.Equal(y.Timestamp) && len(x.Headers) == len(y.Headers) &&
				(x.Value == nil) == (y.Value == nil) && (x.Value == nil || bytes.Equal(x.Value[5:], y.Value[5:]))
			for h := range x.Headers {
				equal = equal && x.Headers[h].Key == y.Headers[h].Key && bytes.Equal(x.Headers[h].Value, y.Headers[h].Value) &&
					(x.Headers[h].Value == nil) == (y.Headers[h].Value == nil)
			}
			if !equal {
				t.Fatalf("%s/%d@%d: %+v, restored %+v", one, p, x.Offset, x, y)
			}
			compared++
		}
	}
	if compared != n {
		t.Fatalf("%s: %d of %d records were compared", one, compared, n)
	}
}

// expectation writes what the readers are to find, beside the objects.
func expectation(dir, objects, schema string, records []*kgo.Record) error {
	if err := os.CopyFS(filepath.Join(dir, "objects"), os.DirFS(objects)); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "schema.json"), []byte(schema), 0o644); err != nil {
		return err
	}
	file, err := os.Create(filepath.Join(dir, "records.ndjson"))
	if err != nil {
		return err
	}
	defer file.Close()
	out := bufio.NewWriter(file)
	encode := json.NewEncoder(out)
	raw := func(b []byte) any {
		if b == nil {
			return nil
		}
		return base64.StdEncoding.EncodeToString(b)
	}
	for _, r := range records {
		headers := []any{}
		for _, h := range r.Headers {
			headers = append(headers, []any{h.Key, raw(h.Value)})
		}
		line := map[string]any{"p": r.Partition, "o": r.Offset, "t": r.Timestamp.UnixMilli(), "k": raw(r.Key), "h": headers, "v": nil}
		if r.Value != nil {
			line["v"] = raw(r.Value[5:])
		}
		if err := encode.Encode(line); err != nil {
			return err
		}
	}
	return out.Flush()
}
