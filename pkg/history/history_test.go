package history_test

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"

	"databus/pkg/archive"
	"databus/pkg/blob"
	"databus/pkg/history"
	"databus/pkg/history/historytest"
	"databus/schemas"
	"databus/schemas/event"
)

type place struct {
	partition int32
	offset    int64
}

func TestReadsWhatTheLogHeld(t *testing.T) {
	w := historytest.New(t, 1)
	w.Write(200)
	ends := w.Ends()
	files := w.Archive(make([]int64, len(ends)), ends, nil)
	m, err := history.Follow(t.Context(), []kgo.Opt{kgo.SeedBrokers(w.Config.Kafka.Brokers...)}, w.Codec, schemas.DatabusRecords, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if err := m.CaughtUp(t.Context()); err != nil {
		t.Fatal(err)
	}
	logged := map[place]string{}
	w.Log(ends, func(rec *kgo.Record) {
		_, _, payload, err := w.Codec.Writer(t.Context(), rec.Topic, rec.Value)
		if err != nil {
			t.Fatal(err)
		}
		logged[place{rec.Partition, rec.Offset}] = fmt.Sprint(string(rec.Key), rec.Timestamp.UnixMilli(), len(payload))
	})
	for p, end := range ends {
		for _, cut := range [][2]int64{{0, end}, {end / 3, end - end/4}, {end, end}} {
			chain, err := m.Chain(int32(p), cut[0])
			if err == nil {
				chain, err = chain.Until(cut[1])
			}
			if err != nil {
				t.Fatal(err)
			}
			want := maps.Clone(logged)
			maps.DeleteFunc(want, func(at place, _ string) bool {
				return at.partition != int32(p) || at.offset < cut[0] || at.offset >= cut[1]
			})
			last, n := int64(-1), len(want)
			sum, err := history.Read(t.Context(), w.Bucket, chain, func(rec history.Record[event.DatabusRecord]) error {
				if rec.Offset <= last {
					t.Errorf("offset %d after %d", rec.Offset, last)
				}
				last = rec.Offset
				at := place{int32(p), rec.Offset}
				value := rec.Value
				size := len(value.Account) + len(value.RecordKey) + len(value.RequestID) + len(value.KeyID) + len(value.PayloadSchema) + len(value.Sealed)
				if string(rec.Key) != value.Account+"/"+value.RecordKey {
					t.Errorf("offset %d has the key %s", rec.Offset, rec.Key)
				}
				if got := fmt.Sprint(string(rec.Key), rec.Time.UnixMilli()); len(want[at]) < len(got) || want[at][:len(got)] != got || size == 0 {
					t.Errorf("offset %d is %s, in the log %s", rec.Offset, got, want[at])
				}
				delete(want, at)
				return nil
			})
			if err != nil || len(want) > 0 || sum.Records != int64(n) {
				t.Errorf("partition %d, %v: %d of %d records are missing, %+v, %v", p, cut, len(want), n, sum, err)
			}
		}
		if _, err := (history.Chain{Next: 5}).Until(6); err == nil {
			t.Error("a chain was cut behind its end")
		}
	}

	// Objects that are not what the manifest says.
	full, err := m.Chain(files[0].Partition, 0)
	if err != nil {
		t.Fatal(err)
	}
	read := func(change func(*event.ArchiveFile)) error {
		c := full
		c.Files = slices.Clone(c.Files)
		change(&c.Files[0])
		_, err := history.Read(t.Context(), w.Bucket, c, func(history.Record[event.DatabusRecord]) error { return nil })
		return err
	}
	if err := read(func(f *event.ArchiveFile) { f.Rows++ }); !errors.Is(err, archive.ErrFormat) {
		t.Errorf("an object with fewer rows: %v", err)
	}
	if err := read(func(f *event.ArchiveFile) { f.Object += ".gone" }); !errors.Is(err, blob.ErrNotFound) {
		t.Errorf("an object that is missing: %v", err)
	}
}

func TestGapsAndOverlaps(t *testing.T) {
	w := historytest.New(t, 2)
	m, err := history.Follow(t.Context(), []kgo.Opt{kgo.SeedBrokers(w.Config.Kafka.Brokers...)}, w.Codec, schemas.DatabusRecords, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	put := func(topic string, partition int32, first, next int64) {
		t.Helper()
		historytest.Send(w, schemas.ArchiveFiles, fmt.Sprintf("%s/%d/%d", topic, partition, first), &event.ArchiveFile{
			Topic: topic, Partition: partition, First: first, Next: next, Rows: 1, Sha256: []byte{},
		})
		if err := m.CaughtUp(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	chain := func(from, next int64, files int) {
		t.Helper()
		c, err := m.Chain(1, from)
		if err != nil || c.Next != next || len(c.Files) != files {
			t.Errorf("from %d: %d files up to %d, want %d up to %d (%v)", from, len(c.Files), c.Next, files, next, err)
		}
	}
	gap := func(from, first, last int64) {
		t.Helper()
		_, err := m.Chain(1, from)
		var g *history.Gap
		if !errors.As(err, &g) || g.From != first || g.To != last+1 || g.Partition != 1 {
			t.Errorf("from %d: %v, want a gap from %d to %d", from, err, first, last)
		}
	}
	chain(0, 0, 0)
	put(schemas.DatabusRecords, 1, 10, 20)
	put(schemas.DatabusRecords, 0, 0, 10) // another partition, another topic
	put(schemas.UsageEvents, 1, 0, 10)
	gap(0, 0, 9)
	chain(10, 20, 1)
	chain(15, 20, 1)
	chain(20, 20, 0)
	put(schemas.DatabusRecords, 1, 30, 40)
	put(schemas.DatabusRecords, 1, 0, 10)
	gap(0, 20, 29)
	put(schemas.DatabusRecords, 1, 20, 30)
	chain(0, 40, 4)
	put(schemas.DatabusRecords, 1, 35, 45)
	if _, err := m.Chain(1, 0); err == nil {
		t.Error("files that overlap make a chain")
	}
}

func TestListAndScan(t *testing.T) {
	w := historytest.New(t, 3)
	w.Write(500)
	ends := w.Ends()
	files := w.Archive(make([]int64, len(ends)), ends, nil)
	l, err := history.List(t.Context(), w.Bucket, "archive", schemas.DatabusRecords)
	if err != nil || len(l.Objects) != len(files) || len(l.Strays) != 0 {
		t.Fatalf("%d objects of %d, strays %v, %v", len(l.Objects), len(files), l.Strays, err)
	}
	var objects []history.Object
	for _, part := range l.Partitions() {
		if len(part) > len(objects) {
			objects = part
		}
	}
	type row struct{ offset, time int64 }
	scan := func(b history.Bounds, objects ...history.Object) (rows []row, err error) {
		err = history.Scan(t.Context(), w.Bucket, objects, b, func(f *archive.Footer, rec *archive.Record) error {
			rows = append(rows, row{rec.Offset, rec.Timestamp})
			return nil
		})
		return rows, err
	}
	all, err := scan(history.Bounds{}, objects...)
	if err != nil || len(all) < 10 || len(objects) < 3 {
		t.Fatalf("%d rows, %v", len(all), err)
	}
	for i := 0; i < len(all); i += 5 {
		for j := i + 1; j < len(all); j += 7 {
			rows, err := scan(history.Bounds{From: all[i].offset, To: all[j].offset}, objects...)
			if err != nil || !slices.Equal(rows, all[i:j]) {
				t.Fatalf("rows %d to %d: %v, %v, want %v", i, j, rows, err, all[i:j])
			}
		}
		since := all[i].time
		from := slices.IndexFunc(all, func(r row) bool { return r.time >= since })
		if rows, err := scan(history.Bounds{Since: &since}, objects...); err != nil || !slices.Equal(rows, all[from:]) {
			t.Fatalf("since %d: %v, %v", since, rows, err)
		}
		if rows, err := scan(history.Bounds{Before: &since}, objects...); err != nil || !slices.Equal(rows, all[:from]) {
			t.Fatalf("before %d: %v, %v", since, rows, err)
		}
	}
	var gap *history.Gap
	rows, err := scan(history.Bounds{}, objects[0], objects[2])
	if !errors.As(err, &gap) || gap.From != objects[1].First || gap.To != objects[2].First || len(rows) == 0 {
		t.Errorf("without the second object: %d rows, %v", len(rows), err)
	}
	if _, err := scan(history.Bounds{}, objects[0], objects[1], objects[1]); err == nil {
		t.Error("an object that follows itself was read")
	}
}
