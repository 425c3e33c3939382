package archiver_test

import (
	"bytes"
	"log/slog"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"databus/pkg/archive"
	"databus/pkg/blob"
	"databus/schemas"
	"databus/services/archiver"
)

func (w *world) backfill(from int64) archiver.Backfilled {
	w.t.Helper()
	sum, err := archiver.Backfill{
		Config: w.cfg, Topic: schemas.UsageEvents, From: from,
		Parts: archiver.Parts{
			Client:          []kgo.Opt{kgo.SeedBrokers(w.seeds...), kgo.MetadataMinAge(50 * time.Millisecond), kgo.FetchMaxWait(100 * time.Millisecond)},
			TransactionalID: "archiver-backfill", Bucket: w.bucket, Codec: w.codec, SpoolDir: w.t.TempDir(), Log: slog.New(slog.DiscardHandler),
		},
	}.Run(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	return sum
}

// lose deletes the objects that were found.
func (w *world) lose(s state) {
	w.t.Helper()
	for key := range s.sums {
		if err := w.bucket.Delete(w.t.Context(), key); err != nil {
			w.t.Fatal(err)
		}
	}
}

// Objects that the bucket lost come back byte by byte, however they were cut; nothing else is touched.
func TestBackfillOfLostObjects(t *testing.T) {
	parallel(t)
	w := newWorld(t)
	records := w.usageRecords(900)
	for i := 0; i < len(records); i += 29 {
		records[i].Value = records[i].Value[:7]
	}
	w.produce(records, 20)
	r := w.start("a", nil)
	w.archived(schemas.UsageEvents)
	r.stop(t)
	before := w.verify(schemas.UsageEvents, nil)
	n := 0
	for key := range before.sums {
		if n++; n%3 == 0 {
			if err := w.bucket.Delete(t.Context(), key); err != nil {
				t.Fatal(err)
			}
		}
	}
	w.cfg.MaxRecords = 17 // the manifest decides, not the settings of today
	sum := w.backfill(0)
	if sum.Again != n/3 || sum.New != 0 || sum.Gone != 0 || len(sum.Differing) != 0 {
		t.Errorf("%+v, want %d again", sum, n/3)
	}
	after := w.verify(schemas.UsageEvents, nil)
	for key, sum := range before.sums {
		if after.sums[key] != sum {
			t.Errorf("%s differs", key)
		}
	}
	if again := w.backfill(0); again.Again+again.New != 0 {
		t.Errorf("a second run made %+v", again)
	}
}

// An archive that was begun late gets its beginning.
func TestBackfillOfTheBeginning(t *testing.T) {
	parallel(t)
	w := newWorld(t)
	records := w.usageRecords(1500)
	for i := 0; i < len(records); i += 31 {
		records[i].Value = records[i].Value[:7]
	}
	w.produce(records[:1000], 20)
	ends, err := w.admin.ListEndOffsets(t.Context(), schemas.UsageEvents)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.admin.CommitAllOffsets(t.Context(), archiver.Name, ends.Offsets()); err != nil {
		t.Fatal(err)
	}
	w.produce(records[1000:], 20)
	w.start("a", nil)
	want := int64(500)
	for end := time.Now().Add(30 * time.Second); w.list(schemas.UsageEvents).total < want; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the tail is not archived")
		}
	}
	late := w.list(schemas.UsageEvents)
	// Retention takes a part of one partition meanwhile.
	var cut kadm.Offsets
	cut.AddOffset(schemas.UsageEvents, 3, 40, -1)
	if _, err := w.admin.DeleteRecords(t.Context(), cut); err != nil {
		t.Fatal(err)
	}
	sum := w.backfill(0)
	if sum.New == 0 || sum.Again != 0 || len(sum.Differing) != 0 || sum.Gone > 40 {
		t.Errorf("%+v", sum)
	}
	t.Logf("%+v", sum)
	s := w.list(schemas.UsageEvents)
	for key, old := range late.sums {
		if s.sums[key] != old {
			t.Errorf("%s differs", key)
		}
	}
	for partition, objects := range s.objects {
		next := int64(0)
		if partition == 3 && len(objects) > 0 && objects[0].First > 0 {
			next = objects[0].First
		}
		for _, f := range objects {
			if f.First != next || f.Rows+f.DeadLetters > 100 {
				t.Errorf("partition %d: an object [%d, %d) of %d behind %d", partition, f.First, f.Next, f.Rows+f.DeadLetters, next)
			}
			next = f.Next
		}
	}
	w.verifyManifest(schemas.UsageEvents, s)
	if again := w.backfill(0); again.Again+again.New != 0 {
		t.Errorf("a second run made %+v", again)
	}
	// From an offset on: nothing before it comes back.
	if sum := w.backfill(1 << 40); sum.New+sum.Again+int(sum.Gone) != 0 {
		t.Errorf("%+v", sum)
	}
}

// A lost object that cannot be made again as it was is not put.
func TestBackfillRefusesWhatDiffers(t *testing.T) {
	parallel(t)
	w := newWorld(t)
	w.produce(w.usageRecords(50), 0)
	r := w.start("a", nil)
	w.archived(schemas.UsageEvents)
	r.stop(t)
	s := w.list(schemas.UsageEvents)
	w.lose(s)
	// Another layout makes other bytes.
	layout := archive.LayoutName(w.cfg.Prefix, schemas.UsageEvents)
	was, _, err := blob.ReadAll(t.Context(), w.bucket, layout, 1000)
	if err != nil {
		t.Fatal(err)
	}
	now := bytes.Replace(was, []byte(`"key_filter": false`), []byte(`"key_filter": true`), 1)
	if _, err := w.bucket.Put(t.Context(), layout, bytes.NewReader(now), blob.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	w.cfg.KeyFilters = []string{schemas.UsageEvents}
	if sum := w.backfill(0); len(sum.Differing) != len(s.sums) || sum.Again+sum.New != 0 {
		t.Errorf("%+v, want %d differing", sum, len(s.sums))
	}
	if left := w.list(schemas.UsageEvents); len(left.sums) != 0 {
		t.Errorf("%d objects were put", len(left.sums))
	}
}
