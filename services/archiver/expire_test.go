package archiver_test

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"databus/pkg/archive"
	"databus/pkg/blob"
	"databus/pkg/history"
	"databus/schemas"
	"databus/schemas/codec"
	"databus/schemas/event"
	"databus/services/archiver"
)

// later is a bucket whose marks are a day older than they are.
type later struct {
	blob.Bucket
	on atomic.Bool
}

func (l *later) List(ctx context.Context, prefix string, fn func(blob.Info) error) error {
	return l.Bucket.List(ctx, prefix, func(info blob.Info) error {
		if l.on.Load() && strings.Contains(info.Key, "/_left+") {
			info.ModTime = info.ModTime.Add(-25 * time.Hour)
		}
		return fn(info)
	})
}

// named lists the firsts of a partition's files in the manifest.
func (w *world) named(partition int32) (firsts []int64) {
	w.t.Helper()
	serde := codec.For[event.ArchiveFile](w.codec, schemas.ArchiveFiles)
	last := map[string]*kgo.Record{}
	for _, records := range w.read(schemas.ArchiveFiles) {
		for _, r := range records {
			last[string(r.Key)] = r
		}
	}
	for _, r := range last {
		if r.Value == nil {
			continue
		}
		var f event.ArchiveFile
		if err := serde.Decode(w.t.Context(), r.Value, &f); err != nil {
			w.t.Fatal(err)
		}
		if f.Topic == schemas.UsageEvents && f.Partition == partition {
			firsts = append(firsts, f.First)
		}
	}
	slices.Sort(firsts)
	return firsts
}

// firsts lists those of the bucket, and its marks.
func (w *world) firsts(partition int32) (firsts []int64, marks int) {
	w.t.Helper()
	err := w.bucket.List(w.t.Context(), w.cfg.Prefix, func(info blob.Info) error {
		if name, ok := archive.ParseName(info.Key); ok && name.Partition == partition {
			firsts = append(firsts, name.First)
		}
		if strings.Contains(info.Key, fmt.Sprintf("/_left+%d+", partition)) {
			marks++
		}
		return nil
	})
	if err != nil {
		w.t.Fatal(err)
	}
	slices.Sort(firsts)
	return firsts, marks
}

// verified verifies the archive: nothing is wrong, and what is below left was let go.
func (w *world) verified(partition int32, left int64) {
	w.t.Helper()
	v := history.Verifier{Bucket: w.bucket, Prefix: w.cfg.Prefix, Topic: schemas.UsageEvents, Kafka: []kgo.Opt{kgo.SeedBrokers(w.seeds...), kgo.FetchMaxWait(100 * time.Millisecond)}, Codec: w.codec, Group: archiver.Name, Patience: 10 * time.Second}
	seen := false
	err := v.Run(w.t.Context(), func(p *history.Verified) error {
		for _, problem := range p.Problems {
			w.t.Error(problem)
		}
		if p.Partition == partition {
			seen = true
			if p.Left != left {
				w.t.Errorf("everything below %d was let go, verify says %d", left, p.Left)
			}
		}
		return nil
	})
	if err != nil || !seen {
		w.t.Errorf("verifying: %v; the partition was seen: %t", err, seen)
	}
}

// Old objects leave the manifest, and the bucket a day later; a chain without a gap is left, and an object that waits for
// its commit is not touched.
func TestOldObjectsGo(t *testing.T) {
	parallel(t)
	w := newWorld(t)
	key := []byte("account-1")
	partition := schemas.Partition(schemas.UsageEvents, key, 8)
	w.keepsTimes(partition, "-1")
	day := 24 * time.Hour
	w.cfg.MaxRecords = 10
	bucket := &later{Bucket: w.bucket}
	change := func(p *archiver.Parts) { p.Bucket = bucket }
	r := w.start("a", nil, change)
	for _, age := range []time.Duration{9 * day, 8 * day, 2 * day, 7 * day, day, 0} { // the fourth is old behind a young one
		var records []*kgo.Record
		for _, rec := range w.usageRecords(10) {
			rec.Key, rec.Timestamp = key, time.Now().Add(-age).Truncate(time.Millisecond)
			records = append(records, rec)
		}
		w.produce(records, 0)
		w.archived(schemas.UsageEvents)
	}
	r.stop(t)
	all, _ := w.firsts(partition)
	if len(all) != 6 || len(w.named(partition)) != 6 {
		t.Fatalf("%d objects, %d are named", len(all), len(w.named(partition)))
	}
	await := func(what string, named, there []int64, marks int) {
		t.Helper()
		for end := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
			is, m := w.firsts(partition)
			if slices.Equal(w.named(partition), named) && slices.Equal(is, there) && m == marks {
				return
			}
			if time.Now().After(end) {
				t.Fatalf("%s: the manifest names %v, the bucket has %v and %d marks; want %v, %v and %d", what, w.named(partition), is, m, named, there, marks)
			}
		}
	}
	w.cfg.KeepFor = 5 * day
	r = w.start("a", nil, change)
	await("withdrawn", all[2:], all, 2)
	w.verified(partition, all[2])
	r.stop(t)
	r = w.start("a", nil, change)
	time.Sleep(500 * time.Millisecond)
	await("before the day is over", all[2:], all, 2)
	r.stop(t)
	bucket.on.Store(true)
	r = w.start("a", nil, change)
	await("a day later", all[2:], all[2:], 2)
	r.stop(t)
	r = w.start("a", nil, change)
	await("in the end", all[2:], all[2:], 1)
	mark, _, err := w.bucket.Get(t.Context(), archive.MarkName(w.cfg.Prefix, schemas.UsageEvents, partition, all[1]))
	if err != nil {
		t.Fatal(err)
	}
	defer mark.Close()
	text, err := io.ReadAll(mark)
	if left, err2 := archive.ReadMark(string(text)); err != nil || err2 != nil || left.Next != all[2] {
		t.Errorf("the last mark says %q: %+v, %v, %v", text, left, err, err2)
	}
	w.verified(partition, all[2])
	r.stop(t)
	if filled := w.backfill(0); filled.Again+filled.New != 0 || filled.Gone != 0 {
		t.Errorf("a backfill brought back what was let go: %+v", filled)
	}
	// Somebody's object waits behind the chain: it is archived, not removed; and the last object stays, however old.
	w.cfg.KeepFor = time.Hour
	var records []*kgo.Record
	for _, rec := range w.usageRecords(10) {
		rec.Key, rec.Timestamp = key, time.Now().Add(-20*day).Truncate(time.Millisecond)
		records = append(records, rec)
	}
	w.produce(records, 0)
	w.start("x", crashAt(archiver.Put, 1), change).crashed(t)
	there, _ := w.firsts(partition)
	last := there[len(there)-1]
	w.start("a", nil, change)
	for end := time.Now().Add(20 * time.Second); !slices.Contains(w.named(partition), last); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("the object at %d is not committed; the manifest names %v", last, w.named(partition))
		}
	}
	if is, _ := w.firsts(partition); !slices.Contains(is, last) {
		t.Errorf("the last object, %d, is gone; left are %v", last, is)
	}
}
