package archive_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"

	"github.com/twmb/avro"

	"databus/pkg/archive"
	"databus/pkg/archive/archivetest"
	"databus/pkg/blob"
)

func compile(t *testing.T, text string) *archive.Schema {
	t.Helper()
	s, err := archive.Compile(text)
	if err != nil {
		t.Fatalf("compiling %s: %v", text, err)
	}
	return s
}

// encode writes records [first, ...) of test.topic/3 as an object.
func encode(t *testing.T, schema *archive.Schema, first, next int64, records []archive.Record) ([]byte, archive.Footer) {
	t.Helper()
	var out bytes.Buffer
	w, err := archive.NewWriter(&out, schema, archive.Range{Topic: "test.topic", Partition: 3, First: first, SchemaID: 7})
	if err != nil {
		t.Fatal(err)
	}
	for i := range records {
		if err := w.Append(&records[i]); err != nil {
			t.Fatal(err)
		}
	}
	footer, err := w.Close(next)
	if err != nil {
		t.Fatal(err)
	}
	return out.Bytes(), footer
}

func decode(t *testing.T, object []byte) ([]archive.Record, archive.Footer) {
	t.Helper()
	r, err := archive.NewReader(bytes.NewReader(object), int64(len(object)))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var records []archive.Record
	for {
		rec, err := r.Next()
		if err == io.EOF {
			return records, r.Footer()
		}
		if err != nil {
			t.Fatal(err)
		}
		if rec.Value != nil {
			rec.Value = append([]byte{}, rec.Value...)
		}
		records = append(records, rec)
	}
}

// randomRecords leaves holes between offsets, as transactions do.
func randomRecords(rng *rand.Rand, n int, first int64, write archivetest.WriteValue) []archive.Record {
	records := make([]archive.Record, n)
	offset := first
	for i := range records {
		r := &records[i]
		r.Offset = offset
		offset += 1 + int64(rng.IntN(3))
		r.Timestamp = 1_767_000_000_000 + rng.Int64N(10_000_000)
		switch rng.IntN(4) {
		case 0:
		case 1:
			r.Key = []byte{}
		default:
			r.Key = archivetest.String(rng)
		}
		for range rng.IntN(3) {
			h := archive.Header{Key: string(archivetest.String(rng))}
			if rng.IntN(3) > 0 {
				h.Value = append([]byte{}, archivetest.String(rng)[:rng.IntN(2)]...)
			}
			r.Headers = append(r.Headers, h)
		}
		if rng.IntN(12) > 0 {
			r.Value = write(rng, []byte{})
		}
	}
	return records
}

func TestRoundTripOfGeneratedSchemas(t *testing.T) {
	for seed := range uint64(60) {
		rng := rand.New(rand.NewPCG(seed, 3))
		g := &archivetest.Generator{Rand: rng}
		text, write := g.Schema()
		schema := compile(t, text)
		want := randomRecords(rng, 1+rng.IntN(1500), 40, write)
		oracle := avro.MustParse(text)
		for i := range want {
			if want[i].Value == nil {
				continue
			}
			var native any
			if rest, err := oracle.Decode(want[i].Value, &native); err != nil || len(rest) > 0 {
				t.Fatalf("seed %d: the generator wrote no value of %s: %v", seed, text, err)
			}
		}
		next := want[len(want)-1].Offset + 5
		object, footer := encode(t, schema, 38, next, want)
		got, read := decode(t, object)
		if read != footer {
			t.Fatalf("seed %d: footer\n%+v, wrote\n%+v", seed, read, footer)
		}
		if len(got) != len(want) {
			t.Fatalf("seed %d: %d records, want %d", seed, len(got), len(want))
		}
		for i := range want {
			if !reflect.DeepEqual(got[i], want[i]) {
				t.Fatalf("seed %d, record %d, schema %s:\n got %+v\nwant %+v", seed, i, text, got[i], want[i])
			}
		}
		if again, _ := encode(t, compile(t, text), 38, next, want); !bytes.Equal(object, again) {
			t.Fatalf("seed %d: the same records gave other bytes", seed)
		}
	}
}

const usageSchema = `{"type":"record","name":"Usage","fields":[
	{"name":"id","type":"string"},{"name":"account","type":"string"},
	{"name":"at","type":{"type":"long","logicalType":"timestamp-micros"}},
	{"name":"count","type":"int"},{"name":"note","type":["null","string"]}]}`

func usage(i int) []byte {
	b := appendBytes(nil, fmt.Appendf(nil, "event-%06d", i))
	b = appendBytes(b, fmt.Appendf(nil, "account-%d", i%7))
	b = binary.AppendVarint(b, 1_767_000_000_000_000+int64(i)*1000)
	b = binary.AppendVarint(b, int64(i%3))
	if i%5 == 0 {
		return appendBytes(append(b, 2), []byte("note"))
	}
	return append(b, 0)
}

func usageRecords(n int, payload string) []archive.Record {
	records := make([]archive.Record, n)
	for i := range records {
		records[i] = archive.Record{
			Offset: int64(i), Timestamp: 1_767_000_000_000 + int64(i), Key: fmt.Appendf(nil, "account-%d%s", i%7, payload), Value: usage(i),
		}
	}
	return records
}

// The bytes of an object are part of the format: whoever changes them changes EncoderVersion and this sum.
func TestBytesAreThoseOfTheEncoderVersion(t *testing.T) {
	if archive.EncoderVersion != "databus-archive/3" {
		t.Fatal("a new encoder version needs a new sum here")
	}
	object, _ := encode(t, compile(t, usageSchema), 0, 3000, usageRecords(3000, ""))
	sum := sha256.Sum256(object)
	const want = "b51b3b51f6cab9d622d0b2cb0af0d46dec98de5f39d73f66dda5a72608768f19"
	if got := hex.EncodeToString(sum[:]); got != want {
		t.Errorf("SHA-256 %s, want %s: the encoder writes other bytes under its old version", got, want)
	}
}

func TestManyRowGroups(t *testing.T) {
	want := usageRecords(9_000, strings.Repeat("k", 10_000)) // 90 MB of keys, three row groups
	object, footer := encode(t, compile(t, usageSchema), 0, 9_000, want)
	if footer.Rows != 9_000 || footer.MinTimestamp != want[0].Timestamp || footer.MaxTimestamp != want[8_999].Timestamp {
		t.Errorf("footer %+v", footer)
	}
	got, _ := decode(t, object)
	if !reflect.DeepEqual(got, want) {
		t.Error("records differ")
	}
}

func TestUndecodableValueLeavesTheWriterAsItWas(t *testing.T) {
	good := usageRecords(900, "")
	bad := [][]byte{
		{}, {2}, usage(1)[:10], append(usage(1), 0), {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff},
		appendBytes(nil, []byte("\xff\xfe")),             // no UTF-8
		binary.AppendVarint(nil, 1<<62),                  // a string longer than anything
		binary.AppendVarint(nil, -5),                     // and one shorter
		append(usage(1)[:len(usage(1))-1], 4),            // no such branch
		append(append([]byte{}, usage(1)[:29]...), 0x7f), // cut in a number
	}
	var out, without bytes.Buffer
	schema := compile(t, usageSchema)
	w, _ := archive.NewWriter(&out, schema, archive.Range{Topic: "t", Partition: 0, First: 0})
	plain, _ := archive.NewWriter(&without, schema, archive.Range{Topic: "t", Partition: 0, First: 0})
	for i := range good {
		if i%9 == 4 {
			broken := good[i]
			broken.Value = bad[i/9%len(bad)]
			if err := w.Append(&broken); !errors.Is(err, archive.ErrValue) {
				t.Fatalf("% x: %v, want ErrValue", broken.Value, err)
			}
			if err := schema.Check(broken.Value); !errors.Is(err, archive.ErrValue) {
				t.Fatalf("% x: Check: %v, want ErrValue", broken.Value, err)
			}
			for _, x := range []*archive.Writer{w, plain} {
				if err := x.DeadLetter(good[i].Offset); err != nil {
					t.Fatal(err)
				}
			}
			continue
		}
		for _, x := range []*archive.Writer{w, plain} {
			if err := x.Append(&good[i]); err != nil {
				t.Fatal(err)
			}
		}
	}
	footer, err := w.Close(900)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := plain.Close(900); err != nil {
		t.Fatal(err)
	}
	if footer.Rows != 800 || footer.DeadLetters != 100 {
		t.Errorf("footer %+v", footer)
	}
	if !bytes.Equal(out.Bytes(), without.Bytes()) {
		t.Error("refused values left a trace in the object")
	}
}

func TestOnlyDeadLetters(t *testing.T) {
	var out bytes.Buffer
	w, _ := archive.NewWriter(&out, compile(t, usageSchema), archive.Range{Topic: "t", Partition: 0, First: 5})
	if err := w.DeadLetter(6); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Close(8); err != nil {
		t.Fatal(err)
	}
	records, footer := decode(t, out.Bytes())
	if len(records) != 0 || footer.DeadLetters != 1 || footer.First != 5 || footer.Next != 8 {
		t.Errorf("%d records, footer %+v", len(records), footer)
	}
}

func TestWriterRefusesWhatIsNoRange(t *testing.T) {
	begin := func() *archive.Writer {
		w, err := archive.NewWriter(io.Discard, compile(t, usageSchema), archive.Range{Topic: "t", Partition: 0, First: 10})
		if err != nil {
			t.Fatal(err)
		}
		return w
	}
	rec := usageRecords(1, "")[0]
	rec.Offset = 9
	if err := begin().Append(&rec); err == nil {
		t.Error("an offset before the range was taken")
	}
	w := begin()
	rec.Offset = 12
	if err := w.Append(&rec); err != nil {
		t.Fatal(err)
	}
	if err := w.Append(&rec); err == nil {
		t.Error("an offset was taken twice")
	}
	if err := w.DeadLetter(12); err == nil {
		t.Error("an offset was taken as a row and as a dead letter")
	}
	if _, err := w.Close(12); err == nil {
		t.Error("a range ended before its last record")
	}
	if _, err := begin().Close(20); err == nil {
		t.Error("an object without any record was written")
	}
	if _, err := archive.NewWriter(io.Discard, compile(t, usageSchema), archive.Range{Topic: "a/b"}); err == nil {
		t.Error("a topic with a slash was taken")
	}
}

func TestRefusedSchemas(t *testing.T) {
	record := func(field string) string {
		return `{"type":"record","name":"R","fields":[{"name":"ok","type":"int"},` + field + `]}`
	}
	for _, test := range []struct{ schema, want string }{
		{record(`{"name":"n","type":"null"}`), "field n: a value that is always null"},
		{record(`{"name":"n","type":["null"]}`), "field n: a union that is always null"},
		{record(`{"name":"next","type":["null","R"]}`), "field next: the recursive type R"},
		{record(`{"name":"a","type":{"type":"array","items":{"type":"record","name":"S","fields":[{"name":"r","type":{"type":"map","values":"S"}}]}}}`),
			"field a.element.r.value: the recursive type S"},
		{record(`{"name":"e","type":{"type":"record","name":"E","fields":[]}}`), "field e: a record without fields"},
		{record(`{"name":"_offset","type":"long"}`), "field _offset: the name belongs"},
		{`{"type":"record"`, ""},
	} {
		_, err := archive.Compile(test.schema)
		if !errors.Is(err, archive.ErrSchema) || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want ErrSchema with %q", test.schema, err, test.want)
		}
	}
	deep := `"int"`
	for range 60 {
		deep = `{"type":"array","items":` + deep + `}`
	}
	if _, err := archive.Compile(record(`{"name":"deep","type":` + deep + `}`)); !errors.Is(err, archive.ErrSchema) {
		t.Errorf("60 arrays in each other: %v", err)
	}
}

func TestNamedTypesUsedTwice(t *testing.T) {
	schema := compile(t, `{"type":"record","name":"a.R","fields":[
		{"name":"z","type":{"type":"record","name":"P","fields":[{"name":"x","type":"int"}]}},
		{"name":"y","type":["null","P"]},{"name":"x","type":{"type":"array","items":"a.P"}}]}`)
	value := []byte{2, 2, 4, 4, 6, 8, 0} // z.x=1, y.x=2, x=[3, 4]
	object, _ := encode(t, schema, 0, 1, []archive.Record{{Value: value}})
	if got, _ := decode(t, object); !bytes.Equal(got[0].Value, value) {
		t.Errorf("got % x", got[0].Value)
	}
}

func TestBlocksOfAnyForm(t *testing.T) {
	schema := compile(t, `{"type":"record","name":"R","fields":[{"name":"l","type":{"type":"array","items":"int"}}]}`)
	value := []byte{2, 2, 3, 4, 4, 6, 2, 8, 0} // a block of 1, a sized block of 2, a block of 1
	object, _ := encode(t, schema, 0, 1, []archive.Record{{Value: value}})
	if got, _ := decode(t, object); !bytes.Equal(got[0].Value, []byte{8, 2, 4, 6, 8, 0}) {
		t.Errorf("got % x", got[0].Value)
	}
}

func TestMapKeysAreUnique(t *testing.T) {
	schema := compile(t, `{"type":"record","name":"R","fields":[{"name":"m","type":{"type":"map","values":"int"}}]}`)
	value := func(keys ...string) []byte {
		b := binary.AppendVarint(nil, int64(len(keys)))
		for _, k := range keys {
			b = append(appendBytes(b, []byte(k)), 2)
		}
		return append(b, 0)
	}
	var many []string
	for i := range 100 {
		many = append(many, fmt.Sprint("key", i))
	}
	for _, good := range [][]byte{value("a"), value("a", "b", ""), value(many...)} {
		if err := schema.Check(good); err != nil {
			t.Error(err)
		}
	}
	for _, bad := range [][]byte{value("a", "b", "a"), value(append(many, "key3")...), value(append(many, "key77")...), append(value("x")[:4], value("x")...)} {
		if err := schema.Check(bad); !errors.Is(err, archive.ErrValue) {
			t.Errorf("% x: %v, want ErrValue", bad, err)
		}
	}
}

func TestBombsCostNothing(t *testing.T) {
	wide := `{"name":"w","type":["null",{"type":"record","name":"W","fields":[{"name":"a","type":"int"}`
	for i := range 300 {
		wide += fmt.Sprintf(`,{"name":"a%d","type":"int"}`, i)
	}
	wide += `]}]}`
	schema := compile(t, `{"type":"record","name":"R","fields":[{"name":"l","type":{"type":"array","items":
		{"type":"record","name":"E","fields":[`+wide+`]}}}]}`)
	nulls := append(binary.AppendVarint(nil, 1<<20), make([]byte, 1<<20+1)...) // 1 MB that would be 315 M values
	count := binary.AppendVarint(nil, 1<<40)
	for _, bomb := range [][]byte{nulls, count, append(count, 0, 0)} {
		if err := schema.Check(bomb); !errors.Is(err, archive.ErrValue) {
			t.Errorf("a bomb of %d bytes: %v", len(bomb), err)
		}
	}
}

func TestResolve(t *testing.T) {
	old := compile(t, `{"type":"record","name":"R","fields":[{"name":"a","type":"int"},{"name":"gone","type":"string"}]}`)
	now := compile(t, `{"type":"record","name":"R","fields":[{"name":"b","type":["null","string"],"default":null},
		{"name":"a","type":"long"},{"name":"c","type":"string","default":"new"}]}`)
	r, err := archive.NewResolver(old, now)
	if err != nil {
		t.Fatal(err)
	}
	got, err := r.Resolve(nil, append([]byte{10}, appendBytes(nil, []byte("x"))...))
	if want := appendBytes([]byte{0, 10}, []byte("new")); err != nil || !bytes.Equal(got, want) {
		t.Errorf("got % x, %v, want % x", got, err, want)
	}
	if _, err := r.Resolve(nil, []byte{10}); !errors.Is(err, archive.ErrValue) {
		t.Errorf("half a value: %v", err)
	}
	if _, err := archive.NewResolver(now, old); !errors.Is(err, archive.ErrSchema) {
		t.Errorf("an incompatible pair: %v", err)
	}
	same, err := archive.NewResolver(old, old)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := same.Resolve(nil, []byte{9, 9}); err != nil || !bytes.Equal(got, []byte{9, 9}) {
		t.Errorf("equal schemas: % x, %v", got, err)
	}
}

func TestResolveKeepsValuesOfGeneratedSchemas(t *testing.T) {
	for seed := range uint64(40) {
		rng := rand.New(rand.NewPCG(seed, 9))
		text, write := (&archivetest.Generator{Rand: rng}).Schema()
		// The same schema with one more field in front.
		newer := strings.Replace(text, `"fields":[`, `"fields":[{"name":"added","type":["null","int"],"default":null},`, 1)
		r, err := archive.NewResolver(compile(t, text), compile(t, newer))
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		for range 50 {
			value := write(rng, nil)
			got, err := r.Resolve(nil, value)
			if err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
			if len(got) != len(value)+1 || got[0] != 0 {
				t.Fatalf("seed %d: % x became % x", seed, value, got)
			}
			if !bytes.Equal(got[1:], value) {
				t.Fatalf("seed %d: % x became % x\n%s", seed, value, got, text)
			}
		}
	}
}

// TestResolveAgreesWithAvro compares promotions, order, aliases, enums and nested changes with a general decoder.
func TestResolveAgreesWithAvro(t *testing.T) {
	const old = `{"type":"record","name":"n.R","fields":[
		{"name":"i1","type":"int"},{"name":"i2","type":"int"},{"name":"l1","type":"long"},{"name":"f1","type":"float"},
		{"name":"s1","type":"string"},{"name":"b1","type":"bytes"},{"name":"was","type":"string"},{"name":"gone","type":{"type":"array","items":"string"}},
		{"name":"e","type":{"type":"enum","name":"E","symbols":["A","B","C"]}},{"name":"o","type":["null","int"]},{"name":"p","type":"int"},
		{"name":"m","type":{"type":"map","values":{"type":"record","name":"In","fields":[{"name":"x","type":"int"},{"name":"y","type":"string"}]}}}]}`
	const now = `{"type":"record","name":"n.R","fields":[
		{"name":"m","type":{"type":"map","values":{"type":"record","name":"In","fields":[{"name":"z","type":["null","E0"],"default":null},{"name":"y","type":"string"},{"name":"x","type":"double"}]}}},
		{"name":"e","type":{"type":"enum","name":"E","symbols":["C","A","OTHER"],"default":"OTHER"}},{"name":"is","aliases":["was"],"type":"string"},
		{"name":"i1","type":"long"},{"name":"i2","type":"double"},{"name":"l1","type":"float"},{"name":"f1","type":"double"},
		{"name":"s1","type":"bytes"},{"name":"b1","type":"string"},{"name":"o","type":["long","null"]},{"name":"p","type":["null","int"]},
		{"name":"d","type":"n.In","default":{"x":1.5,"y":"why"}},{"name":"d2","type":{"type":"array","items":"int"},"default":[1,2]}]}`
	newer := strings.Replace(now, `"E0"`, `{"type":"enum","name":"E0","symbols":["Q"]}`, 1)
	w, r := avro.MustParse(old), avro.MustParse(newer)
	oracle, err := avro.Resolve(w, r)
	if err != nil {
		t.Fatal(err)
	}
	resolver, err := archive.NewResolver(compile(t, old), compile(t, newer))
	if err != nil {
		t.Fatal(err)
	}
	for i, symbol := range []string{"A", "B", "C"} {
		in := map[string]any{
			"i1": -7, "i2": 9, "l1": int64(12), "f1": float32(1.25), "s1": "str", "b1": []byte("byt"), "was": "alias", "gone": []any{"x", "y"},
			"e": symbol, "o": any(nil), "p": i, "m": map[string]any{"k": map[string]any{"x": 3, "y": "v"}},
		}
		if i > 0 {
			in["o"] = i
		}
		value, err := w.Encode(in)
		if err != nil {
			t.Fatal(err)
		}
		var want, got any
		if _, err := oracle.Decode(value, &want); err != nil {
			t.Fatal(err)
		}
		resolved, err := resolver.Resolve(nil, value)
		if err != nil {
			t.Fatal(err)
		}
		if rest, err := r.Decode(resolved, &got); err != nil || len(rest) > 0 {
			t.Fatalf("%v, %d bytes left", err, len(rest))
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s:\n got %+v\nwant %+v", symbol, got, want)
		}
	}
}

func TestOpen(t *testing.T) {
	bucket := blob.NewMemory()
	object, footer := encode(t, compile(t, usageSchema), 0, 3000, usageRecords(3000, ""))
	put := func(key string, data []byte) {
		t.Helper()
		if _, err := bucket.Put(t.Context(), key, bytes.NewReader(data), blob.PutOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	key := archive.ObjectName("pre/fix", "test.topic", 3, 0, 1_767_000_000_000)
	put(key, object)
	r, err := archive.Open(t.Context(), bucket, key)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if r.Footer() != footer {
		t.Errorf("footer %+v", r.Footer())
	}
	for i := range 3000 {
		if rec, err := r.Next(); err != nil || rec.Offset != int64(i) {
			t.Fatalf("record %d: %+v, %v", i, rec, err)
		}
	}
	if _, err := r.Next(); err != io.EOF {
		t.Fatalf("after the last: %v", err)
	}

	other := archive.ObjectName("", "test.topic", 3, 1, 0)
	put(other, object)
	if _, err := archive.Open(t.Context(), bucket, other); !errors.Is(err, archive.ErrFormat) {
		t.Errorf("an object under another's name: %v", err)
	}
	if _, err := archive.Open(t.Context(), bucket, "no/such/object"); !errors.Is(err, blob.ErrNotFound) {
		t.Errorf("a missing object: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := archive.Open(ctx, bucket, key); !errors.Is(err, context.Canceled) || errors.Is(err, archive.ErrFormat) {
		t.Errorf("an ended context: %v", err)
	}
}

// Damage gives an error or other data, never a panic or a hang; in the footer it is always found.
func TestDamagedObjects(t *testing.T) {
	schema := compile(t, usageSchema)
	object, _ := encode(t, schema, 0, 400, usageRecords(400, ""))
	inOrder, _ := sorted(t, schema, "account", usageRecords(400, ""))
	read := func(data []byte) error {
		r, err := archive.NewReader(bytes.NewReader(data), int64(len(data)))
		if err != nil {
			return err
		}
		defer r.Close()
		for {
			if _, err := r.Next(); err != nil {
				return err
			}
		}
	}
	for _, object := range [][]byte{object, inOrder} {
		if err := read(object); err != io.EOF {
			t.Fatal(err)
		}
		for _, size := range []int{0, 3, 8, len(object) / 2, len(object) - 1} {
			if err := read(object[:size]); !errors.Is(err, archive.ErrFormat) {
				t.Errorf("cut to %d bytes: %v", size, err)
			}
		}
		rng := rand.New(rand.NewPCG(5, 5))
		for range 500 {
			damaged := bytes.Clone(object)
			damaged[rng.IntN(len(damaged))] ^= byte(1 + rng.IntN(255))
			if err := read(damaged); err == nil {
				t.Fatal("reading went on without end")
			}
		}
	}
	if err := read([]byte("PAR1 but nothing else PAR1")); !errors.Is(err, archive.ErrFormat) {
		t.Errorf("no Parquet file: %v", err)
	}
}

func TestNames(t *testing.T) {
	name := archive.ObjectName("archive", "usage.events", 7, 42, 1_767_322_799_999)
	if want := "archive/usage.events/dt=2026-01-02/hr=02/usage.events+7+00000000000000000042.parquet"; name != want {
		t.Errorf("%s, want %s", name, want)
	}
	parsed, ok := archive.ParseName(name)
	if want := (archive.Name{Topic: "usage.events", Partition: 7, First: 42, Hour: "dt=2026-01-02/hr=02"}); !ok || parsed != want {
		t.Errorf("parsed %+v, %v", parsed, ok)
	}
	for _, bad := range []string{
		"", "x.parquet", "usage.events/dt=2026-01-02/hr=02/usage.events+7+42.parquet",
		"usage.events/dt=2026-01-02/hr=02/usage.events+07+00000000000000000042.parquet",
		"usage.events/dt=2026-01-02/hr=02/usage.events+-7+00000000000000000042.parquet",
		"usage.events/dt=2026-13-02/hr=02/usage.events+7+00000000000000000042.parquet",
		"other/dt=2026-01-02/hr=02/usage.events+7+00000000000000000042.parquet",
		"usage.events/dt=2026-01-02/hr=02/usage.events+7+00000000000000000042.parquet.tmp",
	} {
		if n, ok := archive.ParseName(bad); ok {
			t.Errorf("%q parsed as %+v", bad, n)
		}
	}
	for ts, want := range map[int64]string{0: "dt=1970-01-01/hr=00", -1: "dt=1969-12-31/hr=23", 1 << 62: "dt=9999-12-31/hr=23"} {
		if got := archive.HourOf(ts); got != want {
			t.Errorf("%d: %s, want %s", ts, got, want)
		}
		if _, ok := archive.ParseName(archive.ObjectName("", "t", 0, 0, ts)); !ok {
			t.Errorf("the name for timestamp %d cannot be parsed", ts)
		}
	}
}

func appendBytes(dst, b []byte) []byte {
	return append(binary.AppendVarint(dst, int64(len(b))), b...)
}
