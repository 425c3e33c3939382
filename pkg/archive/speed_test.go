package archive_test

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/avro"

	"databus/pkg/archive"
	"databus/schemas"
	"databus/schemas/event"
)

// speedRecords are what `make bench-archiver` sends: usage events or Databus records.
func speedRecords(tb testing.TB, topic string, n int) []archive.Record {
	tb.Helper()
	schema, err := avro.Parse(schemas.MustLookup(topic).AvroSchema())
	if err != nil {
		tb.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(5, 5))
	at := time.Date(2026, 10, 1, 0, 0, 0, 0, time.UTC)
	payload := make([]byte, 300)
	records := make([]archive.Record, n)
	for i := range records {
		account := fmt.Sprintf("acct-%05d", rng.IntN(15_000))
		key := account
		var value any
		if topic == schemas.UsageEvents {
			value = &event.UsageEvent{EventID: fmt.Sprintf("%08x-%012x", rng.Uint32(), i), Account: account, Pack: "person",
				OccurredAt: at.Add(time.Duration(rng.Int64N(int64(28 * 24 * time.Hour)))).Truncate(time.Microsecond), Quantity: 1 + rng.Int64N(3), Status: 200,
				Endpoint: "/v1/person/enrich", AmountMicros: rng.Int64N(50_000)}
		} else {
			for n := 0; n+8 <= len(payload); n += 8 {
				binary.LittleEndian.PutUint64(payload[n:], rng.Uint64())
			}
			sum := sha256.Sum256(binary.LittleEndian.AppendUint64(nil, uint64(i)))
			r := &event.DatabusRecord{Account: account, RecordKey: hex.EncodeToString(sum[:16]), Kind: event.RecordKindUpsert,
				RequestID: fmt.Sprintf("request-%012x", i), KeyID: "key-1", PayloadSchema: sum[16:24], Sealed: payload[:200+rng.IntN(100)]}
			key, value = schemas.JoinKey(account, r.RecordKey), r
		}
		b, err := schema.Encode(value)
		if err != nil {
			tb.Fatal(err)
		}
		records[i] = archive.Record{Offset: int64(i), Timestamp: at.UnixMilli() + int64(i)/50, Key: []byte(key), Value: b}
	}
	return records
}

// discard counts what an object takes.
type discard struct{ n int64 }

func (d *discard) Write(b []byte) (int, error) { d.n += int64(len(b)); return len(b), nil }

// BenchmarkWriter writes objects as the archiver does; B/row is their size, CPU-ns/row the processor's time whatever else the
// machine does.
func BenchmarkWriter(b *testing.B) {
	for _, topic := range []string{schemas.UsageEvents, schemas.DatabusRecords} {
		schema, err := archive.Compile(schemas.MustLookup(topic).AvroSchema())
		if err != nil {
			b.Fatal(err)
		}
		records := speedRecords(b, topic, 300_000)
		b.Run(topic, func(b *testing.B) {
			b.ReportAllocs()
			var out discard
			var before, after syscall.Rusage
			_ = syscall.Getrusage(syscall.RUSAGE_SELF, &before)
			for range b.N {
				w, err := archive.NewWriter(&out, schema, archive.Range{Topic: topic, KeyFilter: topic == schemas.DatabusRecords})
				if err != nil {
					b.Fatal(err)
				}
				for i := range records {
					if err := w.Append(&records[i]); err != nil {
						b.Fatal(err)
					}
				}
				if _, err := w.Close(int64(len(records))); err != nil {
					b.Fatal(err)
				}
			}
			rows := float64(b.N * len(records))
			_ = syscall.Getrusage(syscall.RUSAGE_SELF, &after)
			used := after.Utime.Nano() + after.Stime.Nano() - before.Utime.Nano() - before.Stime.Nano()
			b.ReportMetric(float64(used)/rows, "CPU-ns/row")
			b.ReportMetric(float64(out.n)/rows, "B/row")
		})
	}
}
