//go:build servers

package archiver

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"databus/pkg/archive"
	"databus/pkg/blob"
	"databus/pkg/embedded"
	"databus/pkg/history"
	"databus/pkg/service"
	"databus/pkg/topics"
	"databus/schemas"
	"databus/schemas/codec"
	"databus/schemas/event"
	"databus/services/archiver"
	"databus/test/pytool"
)

// DuckDB runs the printed statements and finds every row of what the archiver wrote.
func TestDuckDBReadsByTheDDL(t *testing.T) {
	const records = 500
	stack := embedded.ForTest(t)
	opts := []kgo.Opt{kgo.SeedBrokers(stack.Broker.Seeds()...), kgo.MetadataMinAge(50 * time.Millisecond), kgo.RecordPartitioner(service.Partitioner())}
	cl, err := kgo.NewClient(opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	if _, err := topics.Apply(t.Context(), kadm.NewClient(cl), schemas.WithDeadLetters(), topics.Options{}); err != nil {
		t.Fatal(err)
	}
	cdc := codec.New(codec.NewRegistry(stack.Registry.URL()), codec.Options{RegisterSchemas: true})
	serde := codec.For[event.UsageEvent](cdc, schemas.UsageEvents)
	var out []*kgo.Record
	sum, tombstones := int64(0), 0
	for i := range int64(records) {
		account := fmt.Sprint("account-", i%7)
		rec := &kgo.Record{Topic: schemas.UsageEvents, Key: []byte(account), Headers: []kgo.RecordHeader{{Key: "n", Value: []byte{1}}}}
		if i%10 == 9 {
			tombstones++
		} else {
			sum += i
			rec.Value, err = serde.Encode(t.Context(), &event.UsageEvent{EventID: fmt.Sprint(i), Account: account, Pack: "person", OccurredAt: time.UnixMicro(i), Quantity: i, Status: 200})
			if err != nil {
				t.Fatal(err)
			}
		}
		out = append(out, rec)
	}
	if err := cl.ProduceSync(t.Context(), out...).FirstErr(); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	bucket, err := blob.OpenFileSystem(dir)
	if err != nil {
		t.Fatal(err)
	}
	cfg := archiver.Default()
	cfg.Topics, cfg.Idle, cfg.MaxRecords = []string{schemas.UsageEvents}, 150*time.Millisecond, 40
	a, err := archiver.Open(cfg, archiver.Parts{
		Client: opts, TransactionTimeout: 3 * time.Second, TransactionalID: "archiver", Bucket: bucket, Codec: cdc, SpoolDir: t.TempDir(), Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	var schema *archive.Schema
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		n := int64(0)
		l, err := history.List(t.Context(), bucket, cfg.Prefix, schemas.UsageEvents)
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range l.Objects {
			r, err := archive.Open(t.Context(), bucket, o.Key)
			if err != nil {
				t.Fatal(err)
			}
			n, schema = n+r.Footer().Rows, r.Schema()
			r.Close()
		}
		if n == records {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("%d of %d rows", n, records)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}

	sql, err := archive.DDL(archive.DuckDB, archive.Table{Name: "usage_events", Location: dir + "/archive/" + schemas.UsageEvents, Schema: schema})
	if err != nil {
		t.Fatal(err)
	}
	day := time.Now().UTC().AddDate(0, 0, -1).Format(time.DateOnly)
	for query, want := range map[string]string{
		"SELECT count(*), count(DISTINCT (_partition, _offset)), sum(quantity)::BIGINT, count(*) FILTER (_tombstone), sum(len(_headers))::BIGINT FROM usage_events": fmt.Sprintf("[[%d,%d,%d,%d,%d]]", records, records, sum, tombstones, records),
		"SELECT typeof(dt), typeof(hr), typeof(_timestamp), typeof(account), min(_key)::VARCHAR FROM usage_events GROUP BY ALL ORDER BY 1":                          `[["DATE","VARCHAR","TIMESTAMP WITH TIME ZONE","VARCHAR","account-0"]]`,
		"SELECT count(*) FROM usage_events WHERE dt >= '" + day + "' AND strftime(_timestamp AT TIME ZONE 'UTC', '%Y-%m-%d') >= '" + day + "'":                      fmt.Sprintf("[[%d]]", records),
	} {
		got, err := pytool.Run(t.Context(), nil, "query.py", sql, query)
		if err != nil {
			t.Fatal(err)
		}
		var rows any
		if err := json.Unmarshal(got, &rows); err != nil {
			t.Fatalf("%s: %v", got, err)
		}
		if compact, _ := json.Marshal(rows); string(compact) != want {
			t.Errorf("%s:\n%s\nwant\n%s", query, compact, want)
		}
	}
}
