package archive_test

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/parquet-go/parquet-go"
	"github.com/parquet-go/parquet-go/format"

	"databus/pkg/archive"
	"databus/pkg/archive/archivetest"
)

func sorted(t testing.TB, schema *archive.Schema, by string, records []archive.Record) ([]byte, archive.Footer) {
	t.Helper()
	var b bytes.Buffer
	w, err := archive.NewWriter(&b, schema, archive.Range{Topic: "usage.events", SortBy: by, SchemaID: 7})
	if err != nil {
		t.Fatal(err)
	}
	for i := range records {
		if err := w.Append(&records[i]); err != nil {
			t.Fatal(err)
		}
	}
	footer, err := w.Close(records[len(records)-1].Offset + 1)
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes(), footer
}

// fileRows gives column and offset of each row as the file has them, by row group.
func fileRows(t *testing.T, object []byte, leaf int) (groups [][]fileRow) {
	t.Helper()
	f, err := parquet.OpenFile(bytes.NewReader(object), int64(len(object)))
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range f.RowGroups() {
		rows, buffer := g.Rows(), make([]parquet.Row, 100)
		var all []fileRow
		for {
			n, err := rows.ReadRows(buffer)
			for _, row := range buffer[:n] {
				all = append(all, fileRow{row[leaf].Clone(), row[1].Int64()})
			}
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		rows.Close()
		groups = append(groups, all)
	}
	return groups
}

type fileRow struct {
	key    parquet.Value
	offset int64
}

// Rows are sorted by column and offset inside a row group, row groups by offset; the metadata says so; the reader gives them back in
// order of offsets; and the same records give the same bytes.
func TestSortedByColumn(t *testing.T) {
	schema := compile(t, usageSchema)
	records := usageRecords(1_400, "")
	for i := range records { // three row groups
		records[i].Headers = []archive.Header{{Key: "padding", Value: bytes.Repeat([]byte{byte(i)}, 50_000)}}
	}
	records[17].Value, records[400].Value, records[401].Key = nil, nil, nil
	for _, c := range []struct {
		by    string
		leaf  int
		nulls bool
	}{{"account", 8, true}, {"_key", 3, true}, {"_timestamp", 2, false}, {"at", 9, true}, {"note", 11, true}} {
		object, footer := sorted(t, schema, c.by, records)
		if again, _ := sorted(t, compile(t, usageSchema), c.by, records); !bytes.Equal(object, again) {
			t.Errorf("%s: the same records gave other bytes", c.by)
		}
		groups := fileRows(t, object, c.leaf)
		if len(groups) != 3 {
			t.Fatalf("%s: %d row groups", c.by, len(groups))
		}
		next, nulls := int64(0), 0
		for g, rows := range groups {
			offsets := make([]int64, len(rows))
			for i, row := range rows {
				offsets[i] = row.offset
				if row.key.IsNull() {
					nulls++
				}
				if i == 0 {
					continue
				}
				last, order := rows[i-1], 0
				switch {
				case last.key.IsNull() || row.key.IsNull():
					if !row.key.IsNull() {
						order = 1
					} else if !last.key.IsNull() {
						order = -1
					}
				case row.key.Kind() == parquet.Int64:
					order = cmp.Compare(last.key.Int64(), row.key.Int64())
				default:
					order = bytes.Compare(last.key.ByteArray(), row.key.ByteArray())
				}
				if order > 0 || order == 0 && last.offset >= row.offset {
					t.Fatalf("%s: row %d of group %d is (%v, %d) behind (%v, %d)", c.by, i, g, row.key, row.offset, last.key, last.offset)
				}
			}
			slices.Sort(offsets)
			for _, offset := range offsets {
				if offset != next {
					t.Fatalf("%s: group %d has offset %d, want %d", c.by, g, offset, next)
				}
				next++
			}
		}
		if next != int64(len(records)) || (nulls > 0) != c.nulls {
			t.Errorf("%s: %d rows, %d nulls", c.by, next, nulls)
		}
		f, err := parquet.OpenFile(bytes.NewReader(object), int64(len(object)))
		if err != nil {
			t.Fatal(err)
		}
		for _, g := range f.Metadata().RowGroups {
			if !slices.Equal(g.SortingColumns, []format.SortingColumn{{ColumnIdx: int32(c.leaf)}}) {
				t.Errorf("%s: sorting columns %+v", c.by, g.SortingColumns)
			}
		}
		got, read := decode(t, object)
		if read != footer || read.SortedBy != c.by || read.EncoderVersion != archive.EncoderVersion {
			t.Errorf("%s: footer %+v, wrote %+v", c.by, read, footer)
		}
		if !reflect.DeepEqual(got, records) {
			t.Errorf("%s: the records came back as others", c.by)
		}
	}
}

// Whatever the schema, each column that can be sorted by gives all records back as they were.
func TestSortedRoundTripOfGeneratedSchemas(t *testing.T) {
	tried, kinds := 0, map[string]bool{}
	for seed := range uint64(30) {
		rng := rand.New(rand.NewPCG(seed, 3))
		text, write := (&archivetest.Generator{Rand: rng}).Schema()
		schema := compile(t, text)
		want := randomRecords(rng, 1+rng.IntN(300), 0, write)
		for _, by := range schema.SortColumns() {
			if err := schema.Sortable(by); err != nil {
				t.Fatalf("seed %d: %s is named as one that can be sorted by: %v", seed, by, err)
			}
			object, _ := sorted(t, schema, by, want)
			if got, _ := decode(t, object); !reflect.DeepEqual(got, want) {
				t.Fatalf("seed %d, by %s, schema %s: the records came back as others", seed, by, text)
			}
			tried++
			kinds[strings.Split(by, ".")[0]] = true
		}
	}
	if tried < 100 || len(kinds) < 10 {
		t.Errorf("%d columns were tried, %d names", tried, len(kinds))
	}
}

func TestColumnsThatCannotBeSortedBy(t *testing.T) {
	schema := compile(t, `{"type":"record","name":"R","fields":[{"name":"id","type":"string"},{"name":"ratio","type":"double"},
		{"name":"price","type":{"type":"bytes","logicalType":"decimal","precision":9,"scale":2}},{"name":"tags","type":{"type":"array","items":"string"}},
		{"name":"more","type":{"type":"map","values":"long"}},{"name":"either","type":["null","int","string"]},
		{"name":"who","type":["null",{"type":"record","name":"Who","fields":[{"name":"account","type":"string"},{"name":"day","type":{"type":"int","logicalType":"date"}}]}]}]}`)
	for _, by := range []string{"id", "who.account", "who.day", "_key", "_timestamp"} {
		if err := schema.Sortable(by); err != nil {
			t.Errorf("%s: %v", by, err)
		}
	}
	const there = "; there are _key, _timestamp, id, who.account and who.day"
	for by, why := range map[string]string{
		"acount": "is not there", "": "is not there", "id.x": "is not there", "who.id": "is not there", "_offset": "is not there", "_headers": "is not there",
		"tags": "has no single value in each row", "tags.element": "is not there", "more": "has no single value in each row",
		"either": "has no single value in each row", "either.int": "is not there", "who": "has no single value in each row",
		"ratio": "is of a type that readers do not order alike", "price": "is of a type that readers do not order alike",
	} {
		err := schema.Sortable(by)
		if !errors.Is(err, archive.ErrOrder) || !strings.Contains(err.Error(), by+" "+why+there) {
			t.Errorf("%q: %v", by, err)
		}
		if by == "" {
			continue
		}
		if _, err := archive.NewWriter(io.Discard, schema, archive.Range{Topic: "t", SortBy: by}); !errors.Is(err, archive.ErrOrder) {
			t.Errorf("%q: %v", by, err)
		}
	}
}

// A value that does not follow its schema is refused where it comes, and leaves nothing behind.
func TestSortedUndecodable(t *testing.T) {
	schema := compile(t, usageSchema)
	var b, without bytes.Buffer
	for _, x := range []struct {
		out *bytes.Buffer
		bad bool
	}{{&b, true}, {&without, false}} {
		w, err := archive.NewWriter(x.out, schema, archive.Range{Topic: "usage.events", SortBy: "account"})
		if err != nil {
			t.Fatal(err)
		}
		for i, r := range usageRecords(700, "") {
			if i%7 == 3 {
				if x.bad {
					bad := r
					bad.Value = r.Value[:len(r.Value)-3]
					if i%2 == 0 {
						bad.Value, bad.Headers = r.Value, []archive.Header{{Key: "\xff"}}
					}
					if err := w.Append(&bad); !errors.Is(err, archive.ErrValue) {
						t.Fatal(err)
					}
				}
				if err := w.DeadLetter(r.Offset); err != nil {
					t.Fatal(err)
				}
				continue
			}
			if err := w.Append(&r); err != nil {
				t.Fatal(err)
			}
		}
		if f, err := w.Close(700); err != nil || f.Rows != 600 || f.DeadLetters != 100 {
			t.Fatalf("%+v, %v", f, err)
		}
	}
	if !bytes.Equal(b.Bytes(), without.Bytes()) {
		t.Error("bad records changed the object")
	}
}

// An object without rows has an order as well, and nothing in it.
func TestSortedWithoutRows(t *testing.T) {
	var b bytes.Buffer
	w, err := archive.NewWriter(&b, compile(t, usageSchema), archive.Range{Topic: "usage.events", SortBy: "account"})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.DeadLetter(3); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Close(5); err != nil {
		t.Fatal(err)
	}
	if got, f := decode(t, b.Bytes()); len(got) != 0 || f.DeadLetters != 1 || f.SortedBy != "account" {
		t.Errorf("%d rows, %+v", len(got), f)
	}
}

// An object whose rows are not in the order that it claims is refused: engines would skip rows by it.
func TestClaimedOrderIsChecked(t *testing.T) {
	schema := compile(t, usageSchema)
	object, _ := sorted(t, schema, "account", usageRecords(100, ""))
	claims, _ := encode(t, schema, 0, 100, usageRecords(100, "")) // by offset
	lie := bytes.ReplaceAll(object, []byte("databus.archive.sorted_by\x18\x07account"), []byte("databus.archive.sorted_by\x18\x07_tstamp"))
	if _, err := archive.NewReader(bytes.NewReader(lie), int64(len(lie))); bytes.Equal(lie, object) || !errors.Is(err, archive.ErrFormat) {
		t.Errorf("a column that is not there: %v", err)
	}
	lie = bytes.ReplaceAll(object, []byte("databus.archive.sorted_by"), []byte("databus.archive.sorted_bx"))
	r, err := archive.NewReader(bytes.NewReader(lie), int64(len(lie)))
	for err == nil {
		_, err = r.Next()
	}
	if !errors.Is(err, archive.ErrFormat) {
		t.Errorf("without its order it was read to the end: %v", err)
	}
	// Sorted by another column than it says: footer and metadata agree, the rows do not.
	lie = resorted(t, claims)
	r, err = archive.NewReader(bytes.NewReader(lie), int64(len(lie)))
	if err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = r.Next()
	}
	if !errors.Is(err, archive.ErrFormat) || !strings.Contains(err.Error(), "it is not sorted by account") {
		t.Errorf("rows in another order: %v", err)
	}
}

// resorted copies an object's rows as they are into one that claims to be sorted by account.
func resorted(t *testing.T, object []byte) []byte {
	t.Helper()
	f, err := parquet.OpenFile(bytes.NewReader(object), int64(len(object)))
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	w := parquet.NewGenericWriter[any](&b, f.Schema(), parquet.SortingWriterConfig(parquet.SortingColumns(parquet.Ascending("account"))))
	rows := f.RowGroups()[0].Rows()
	defer rows.Close()
	if _, err := parquet.CopyRows(w, rows); err != nil {
		t.Fatal(err)
	}
	for _, kv := range f.Metadata().KeyValueMetadata {
		w.SetKeyValueMetadata(kv.Key, kv.Value)
	}
	w.SetKeyValueMetadata("databus.archive.sorted_by", "account")
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// What sorting is for: whoever looks for one account reads the pages of few rows.
func TestSortedPagesAreFew(t *testing.T) {
	schema := compile(t, usageSchema)
	rng := rand.New(rand.NewPCG(1, 2))
	records := make([]archive.Record, 100_000)
	for i := range records {
		v := appendBytes(appendBytes(nil, fmt.Appendf(nil, "event-%d", i)), fmt.Appendf(nil, "account-%03d", rng.IntN(500)))
		v = binary.AppendVarint(binary.AppendVarint(v, int64(i)), 1)
		records[i] = archive.Record{Offset: int64(i), Timestamp: 1, Value: append(v, 0)}
	}
	touched := func(object []byte) (rows int64) {
		f, err := parquet.OpenFile(bytes.NewReader(object), int64(len(object)))
		if err != nil {
			t.Fatal(err)
		}
		for _, g := range f.RowGroups() {
			index, err := g.ColumnChunks()[8].ColumnIndex()
			if err != nil {
				t.Fatal(err)
			}
			offsets, err := g.ColumnChunks()[8].OffsetIndex()
			if err != nil {
				t.Fatal(err)
			}
			for i := range index.NumPages() {
				end := g.NumRows()
				if i+1 < index.NumPages() {
					end = offsets.FirstRowIndex(i + 1)
				}
				if string(index.MinValue(i).ByteArray()) <= "account-123" && string(index.MaxValue(i).ByteArray()) >= "account-123" {
					rows += end - offsets.FirstRowIndex(i)
				}
			}
		}
		return rows
	}
	object, _ := sorted(t, schema, "account", records)
	plain, _ := sorted(t, schema, "", records)
	few, all := touched(object), touched(plain)
	t.Logf("%d rows of %d are read for one account, %d where they are not sorted; %d bytes, %d not sorted", few, len(records), all, len(object), len(plain))
	if few > 10_000 || all != int64(len(records)) {
		t.Errorf("%d rows, %d not sorted", few, all)
	}
}

func BenchmarkSorted(b *testing.B) {
	schema, err := archive.Compile(usageSchema)
	if err != nil {
		b.Fatal(err)
	}
	records := keyed(300_000)
	for _, by := range []string{"", "account"} {
		b.Run("by="+by, func(b *testing.B) {
			for range b.N {
				object, _ := sorted(b, schema, by, records)
				b.SetBytes(int64(len(object)))
			}
		})
	}
}

// Whoever sorts holds one row group's records, however large the object.
func TestSortingMemoryIsBounded(t *testing.T) {
	schema := compile(t, usageSchema)
	heap := func() int64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	const records, size = 2_000, 80_000 // 160 MB
	rng := rand.New(rand.NewPCG(1, 2))
	padding := make([]byte, size)
	object, err := os.Create(filepath.Join(t.TempDir(), "object"))
	if err != nil {
		t.Fatal(err)
	}
	defer object.Close()
	w, err := archive.NewWriter(object, schema, archive.Range{Topic: "usage.events", SortBy: "at"})
	if err != nil {
		t.Fatal(err)
	}
	most, before := int64(0), heap()
	for i := range records {
		for j := range padding[:100] {
			padding[rng.IntN(size)] = byte(j)
		}
		r := archive.Record{Offset: int64(i), Timestamp: 1, Key: padding, Value: usage(records - i)}
		if err := w.Append(&r); err != nil {
			t.Fatal(err)
		}
		if i%97 == 0 {
			most = max(most, heap()-before)
		}
	}
	if _, err := w.Close(records); err != nil {
		t.Fatal(err)
	}
	const bound = 96 << 20 // what does not shrink is held twice: as records and encoded
	if most > bound {
		t.Errorf("the writer holds %d MiB, bound %d", most>>20, bound>>20)
	}
	w = nil
	info, err := object.Stat()
	if err != nil {
		t.Fatal(err)
	}
	r, err := archive.NewReader(object, info.Size())
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	read, before := int64(0), heap()
	for ; ; n++ {
		if _, err := r.Next(); err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		if n%97 == 0 {
			read = max(read, heap()-before)
		}
	}
	t.Logf("of %d MB a writer holds %d MiB, a reader %d MiB", records*size/1_000_000, most>>20, read>>20)
	if n != records || read > bound {
		t.Errorf("%d records, the reader holds %d MiB, bound %d", n, read>>20, bound>>20)
	}
}
