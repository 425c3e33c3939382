package archive_test

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/parquet-go/parquet-go"

	"databus/pkg/archive"
)

func filtered(t testing.TB, schema *archive.Schema, filter bool, records []archive.Record) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := archive.NewWriter(&b, schema, archive.Range{Topic: "usage.events", KeyFilter: filter})
	if err != nil {
		t.Fatal(err)
	}
	for i := range records {
		if err := w.Append(&records[i]); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.Close(records[len(records)-1].Offset + 1); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func keyed(n int) []archive.Record {
	records := usageRecords(n, "")
	for i := range records {
		records[i].Key = fmt.Appendf(nil, "account-%d/%032x", i%7, i*7919)
	}
	records[n/2].Key = nil
	return records
}

// The filter knows every key, hardly any other one, and changes no row.
func TestKeyFilter(t *testing.T) {
	schema := compile(t, usageSchema)
	records := keyed(20_000)
	object := filtered(t, schema, true, records)
	if !bytes.Equal(object, filtered(t, schema, true, records)) {
		t.Error("the same records gave other bytes")
	}
	plain := filtered(t, schema, false, records)
	if grown := len(object) - len(plain); grown <= 0 || grown > 20_000*14/8+200 {
		t.Errorf("the filter takes %d bytes", grown)
	}
	if got, _ := decode(t, object); len(got) != len(records) {
		t.Errorf("%d rows of %d", len(got), len(records))
	}
	f, err := parquet.OpenFile(bytes.NewReader(object), int64(len(object)))
	if err != nil {
		t.Fatal(err)
	}
	filter := f.RowGroups()[0].ColumnChunks()[3].BloomFilter()
	if filter == nil {
		t.Fatal("the column _key has no filter")
	}
	wrong := 0
	for i, r := range records {
		if r.Key == nil {
			continue
		}
		if ok, err := filter.Check(parquet.ByteArrayValue(r.Key)); !ok || err != nil {
			t.Fatalf("the key of row %d is not in it (%v)", i, err)
		}
		if ok, _ := filter.Check(parquet.ByteArrayValue(fmt.Appendf(nil, "other-%d", i))); ok {
			wrong++
		}
	}
	if wrong > len(records)/50 {
		t.Errorf("%d of %d other keys are in it", wrong, len(records))
	}
	for i, c := range f.RowGroups()[0].ColumnChunks() {
		if i != 3 && c.BloomFilter() != nil {
			t.Errorf("column %d has a filter", i)
		}
	}
	// Bounds of chunks, which let readers skip: those of the timestamp, for instance.
	if low, high, ok := f.RowGroups()[0].ColumnChunks()[2].(*parquet.FileColumnChunk).Bounds(); !ok || low.Int64() != records[0].Timestamp || high.Int64() != records[len(records)-1].Timestamp {
		t.Errorf("bounds of _timestamp are %v to %v (%v)", low, high, ok)
	}
}

func BenchmarkKeyFilter(b *testing.B) {
	schema, err := archive.Compile(usageSchema)
	if err != nil {
		b.Fatal(err)
	}
	records := keyed(100_000)
	for _, filter := range []bool{false, true} {
		b.Run(fmt.Sprint(filter), func(b *testing.B) {
			for range b.N {
				b.SetBytes(int64(len(filtered(b, schema, filter, records))))
			}
		})
	}
}
