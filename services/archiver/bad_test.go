package archiver_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"databus/pkg/archive"
	"databus/pkg/blob"
	"databus/pkg/service"
	"databus/schemas"
	"databus/schemas/codec"
	"databus/services/archiver"
)

// forgetful is a registry that has lost its schemas.
type forgetful struct {
	codec.Registry
	lost atomic.Bool
}

func (f *forgetful) Schema(ctx context.Context, id int) (string, error) {
	if f.lost.Load() {
		return "", fmt.Errorf("%w: %d", codec.ErrUnknownSchema, id)
	}
	return f.Registry.Schema(ctx, id)
}

// The registry has lost the schema: the partition waits and says so, and goes on when it is registered again.
func TestRegistryLosesTheSchema(t *testing.T) {
	parallel(t)
	w := newWorld(t)
	w.produce(w.usageRecords(200), 0)
	r := w.start("a", nil)
	w.archived(schemas.UsageEvents)
	r.stop(t)
	w.produce(w.usageRecords(200), 10)
	registry := &forgetful{Registry: w.registry}
	registry.lost.Store(true)
	h := service.NewHealth()
	before := w.list(schemas.UsageEvents)
	w.start("b", nil, withHealth(h), func(p *archiver.Parts) {
		p.Codec = codec.New(manifestKnown{registry, w.registry}, codec.Options{RegisterSchemas: true})
	})
	stuck(t, h, "register it again")
	if now := w.list(schemas.UsageEvents); len(now.sums) != len(before.sums) {
		t.Error("objects were put without a schema")
	}
	registry.lost.Store(false)
	w.archived(schemas.UsageEvents)
	w.verify(schemas.UsageEvents, nil)
}

// manifestKnown has lost everything but what the manifest needs.
type manifestKnown struct {
	*forgetful
	whole codec.Registry
}

func (m manifestKnown) ID(ctx context.Context, subject, schema string) (int, error) {
	return m.whole.ID(ctx, subject, schema)
}

// open opens an archiver, lets change prepare what it will find, and runs it.
func (w *world) open(id string, h *service.Health, change func(spool string)) *running {
	w.t.Helper()
	var parts archiver.Parts
	w.start(id+"-template", nil, func(p *archiver.Parts) { parts = *p }).stop(w.t)
	parts.TransactionalID, parts.SpoolDir, parts.Health = "archiver-"+id, w.t.TempDir(), h
	a, err := archiver.Open(w.cfg, parts)
	if err != nil {
		w.t.Fatal(err)
	}
	change(parts.SpoolDir)
	ctx, cancel := context.WithCancel(w.t.Context())
	r := &running{make(chan error, 1), cancel}
	go func() {
		r.done <- a.Run(ctx)
		close(r.done)
	}()
	w.t.Cleanup(func() { cancel(); <-r.done })
	return r
}

// fillDisk lets every write to files of a kind find the disk full.
func fillDisk(t *testing.T, dir, kind string) {
	t.Helper()
	for p := range 8 {
		if err := os.Symlink("/dev/full", filepath.Join(dir, fmt.Sprintf("%s+%d.%s", schemas.UsageEvents, p, kind))); err != nil {
			t.Fatal(err)
		}
	}
}

// The disk is full when records are spooled: clear words, nothing archived, nothing lost after the restart.
func TestFullDiskOfTheSpool(t *testing.T) {
	parallel(t)
	w := newWorld(t)
	w.cfg.MaxRecords = 5000
	var records []*kgo.Record
	for range 10 {
		records = append(records, w.usageRecords(500)...)
	}
	h := service.NewHealth()
	r := w.open("a", h, func(spool string) { fillDisk(t, spool, "spool") })
	w.produce(records, 0)
	stuck(t, h, "no space left on device")
	if s := w.list(schemas.UsageEvents); len(s.sums) > 0 {
		t.Error("something was archived")
	}
	r.stop(t)
	w.start("a", nil)
	w.archived(schemas.UsageEvents)
	w.verify(schemas.UsageEvents, nil)
}

// The disk is full when another's object is looked at: it is tried again, and succeeds when there is room.
func TestFullDiskOfAnAdoption(t *testing.T) {
	parallel(t)
	w := newWorld(t)
	w.produce(w.usageRecords(400), 5)
	w.start("a", crashAt(archiver.Put, 1)).crashed(t)
	w.cfg.MaxRecords = 30 // another object than the one that is there
	h := service.NewHealth()
	var spool string
	var once sync.Once
	w.start("b", func(archiver.Step, string, int32) error {
		once.Do(func() { fillDisk(t, spool, "adopted") })
		return nil
	}, withHealth(h), func(p *archiver.Parts) { spool = p.SpoolDir })
	stuck(t, h, "no space left on device")
	w.archived(schemas.UsageEvents)
	w.verify(schemas.UsageEvents, nil)
}

// keepsTimes makes usage.events keep its producers' times, for ever.
func (w *world) keepsTimes(partition int32, retention string) {
	w.t.Helper()
	kind := "CreateTime"
	changes := []kadm.AlterConfig{{Op: kadm.SetConfig, Name: "message.timestamp.type", Value: &kind}, {Op: kadm.SetConfig, Name: "retention.ms", Value: &retention}}
	if _, err := w.admin.AlterTopicConfigs(w.t.Context(), changes, schemas.UsageEvents); err != nil {
		w.t.Fatal(err)
	}
	w.waitForCreateTime(partition, time.Now().Add(-time.Hour).Truncate(time.Millisecond))
}

// Clocks jump backwards, by days and to 1970: only a record of a later time cuts, each object is in the hour of its first
// record, and nothing is lost.
func TestClocksJumpBackwards(t *testing.T) {
	parallel(t)
	w := newWorld(t)
	w.cfg.MaxRecords, w.cfg.MaxRecordTime, w.cfg.Idle = 1000, 10*time.Minute, time.Second
	key := []byte("account-1")
	partition := schemas.Partition(schemas.UsageEvents, key, 8)
	w.keepsTimes(partition, "-1")
	now := time.Date(2026, 3, 1, 12, 30, 0, 0, time.UTC)
	var records []*kgo.Record
	for _, at := range []time.Time{
		now,                            // 0
		now.Add(-48 * time.Hour),       // 1: back by days, the same object
		now.Add(-47 * time.Hour),       // 2: later than the one before, but not than the first
		now.Add(time.Minute),           // 3
		time.UnixMilli(0),              // 4: 1970, the same object
		now.Add(11 * time.Minute),      // 5: 10 minutes behind the first
		now.Add(40 * time.Minute),      // 6: a later hour
		time.UnixMilli(1),              // 7: 1970 in that one
		now.Add(3 * time.Hour),         // 8: later
		now.Add(-300 * 24 * time.Hour), // 9
	} {
		r := w.usageRecords(1)[0]
		r.Key, r.Timestamp = key, at
		records = append(records, r)
	}
	w.produce(records, 0)
	w.start("a", nil)
	w.archived(schemas.UsageEvents)
	// An object that begins in 1970, and one that begins long ago; then today again.
	for _, at := range []time.Time{time.UnixMilli(5), now.Add(-300 * 24 * time.Hour), now} {
		r := w.usageRecords(1)[0]
		r.Key, r.Timestamp = key, at
		w.produce([]*kgo.Record{r}, 0)
	}
	w.archived(schemas.UsageEvents)
	s := w.verify(schemas.UsageEvents, nil)
	var hours []string
	for key := range s.sums {
		if name, _ := archive.ParseName(key); name.Partition == partition {
			hours = append(hours, fmt.Sprintf("%d:%s", name.First, name.Hour))
		}
	}
	all := strings.Join(hours, " ")
	for _, want := range []string{"0:dt=2026-03-01/hr=12", "5:dt=2026-03-01/hr=12", "6:dt=2026-03-01/hr=13", "8:dt=2026-03-01/hr=15", "dt=1970-01-01/hr=00"} {
		if !strings.Contains(all, want) {
			t.Errorf("no object %s among %s", want, all)
		}
	}
}

// broken is a bucket in which nothing can be put.
type broken struct {
	blob.Bucket
	works atomic.Bool
}

var errVanished = errors.New("the bucket has vanished")

func (b *broken) Put(ctx context.Context, key string, body io.Reader, o blob.PutOptions) (blob.Info, error) {
	if !b.works.Load() {
		return blob.Info{}, errVanished
	}
	return b.Bucket.Put(ctx, key, body, o)
}

// stalled is a bucket that does not answer.
type stalled struct {
	blob.Bucket
	works atomic.Bool
}

func (b *stalled) Put(ctx context.Context, key string, body io.Reader, o blob.PutOptions) (blob.Info, error) {
	if !b.works.Load() {
		<-ctx.Done()
		return blob.Info{}, ctx.Err()
	}
	return b.Bucket.Put(ctx, key, body, o)
}

// An upload that takes too long is given up, with words that say what may be done, and tried again.
func TestUploadTakesTooLong(t *testing.T) {
	parallel(t)
	w := newWorld(t)
	w.cfg.PutTimeout = 300 * time.Millisecond
	bucket := &stalled{Bucket: w.bucket}
	h := service.NewHealth()
	w.start("a", nil, withHealth(h), func(p *archiver.Parts) { p.Bucket = bucket })
	w.produce(w.usageRecords(400), 5)
	stuck(t, h, "lengthen it, or cut smaller objects")
	bucket.works.Store(true)
	w.archived(schemas.UsageEvents)
	w.verify(schemas.UsageEvents, nil)
}

// Records that wait for long raise the alarm, and get more time where that is allowed.
func TestAgeingRecords(t *testing.T) {
	parallel(t)
	w := newWorld(t)
	key := []byte("account-1")
	week := 7 * 24 * time.Hour
	w.keepsTimes(schemas.Partition(schemas.UsageEvents, key, 8), fmt.Sprint(week.Milliseconds()))
	r := w.usageRecords(1)[0]
	r.Key, r.Timestamp = key, time.Now().Add(-5*24*time.Hour)
	w.produce([]*kgo.Record{r}, 0)
	bucket := &broken{Bucket: w.bucket}
	w.cfg.ExtendRetentionTo = 10 * 24 * time.Hour
	w.cfg.AlarmAt = 0.4
	h, reg := service.NewHealth(), prometheus.NewRegistry()
	w.start("a", nil, withHealth(h), func(p *archiver.Parts) { p.Bucket, p.Metrics = bucket, reg })
	stuck(t, h, errVanished.Error())
	stuck(t, h, "records wait for 120h")
	retention := func() string {
		configs, err := w.admin.DescribeTopicConfigs(t.Context(), schemas.UsageEvents)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range configs[0].Configs {
			if c.Key == "retention.ms" {
				return c.MaybeValue()
			}
		}
		return ""
	}
	want := fmt.Sprint(w.cfg.ExtendRetentionTo.Milliseconds())
	for end := time.Now().Add(20 * time.Second); retention() != want; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("the retention is %s, want %s", retention(), want)
		}
	}
	if age := gauge(t, reg, "archiver_lag_seconds"); age < 5*24*3600-60 || age > 5*24*3600+600 {
		t.Errorf("lag of %v s", age)
	}
	if n := gauge(t, reg, "archiver_lag_records"); n < 1 {
		t.Errorf("lag of %v records", n)
	}
	if n := gauge(t, reg, "archiver_lag_bytes"); n < 10 {
		t.Errorf("lag of %v bytes", n)
	}
	bucket.works.Store(true)
	w.archived(schemas.UsageEvents)
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if ok, states := h.Ready(); ok && gauge(t, reg, "archiver_lag_seconds") == 0 {
			break
		} else if time.Now().After(end) {
			t.Fatalf("%v", states)
		}
	}
	w.verify(schemas.UsageEvents, nil)
}

func gauge(t *testing.T, reg *prometheus.Registry, name string) float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			if m.GetLabel()[0].GetValue() == schemas.UsageEvents {
				return m.GetGauge().GetValue()
			}
		}
	}
	t.Fatalf("no metric %s", name)
	return 0
}

// A topic that does not fit is refused by name, and left out where a pattern found it; new ones are found later.
func TestTopicsThatDoNotFit(t *testing.T) {
	parallel(t)
	w := newWorld(t)
	create := func(name, cleanup string) {
		t.Helper()
		if _, err := w.admin.CreateTopic(t.Context(), 1, -1, map[string]*string{"cleanup.policy": &cleanup}, name); err != nil {
			t.Fatal(err)
		}
	}
	create("odd.compacted", "compact")
	create("odd.compacted.dlq", "delete")
	create("odd.lonely", "delete")
	for name, want := range map[string]string{"odd.compacted": "is compacted", "odd.lonely": "odd.lonely.dlq"} {
		w.cfg.Topics = []string{name}
		r := w.start("named", nil)
		select {
		case err := <-r.done:
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v", name, err)
			}
		case <-time.After(20 * time.Second):
			t.Errorf("%s is accepted", name)
		}
	}
	w.cfg.Topics, w.cfg.Patterns = []string{schemas.UsageEvents}, []string{"odd.*"}
	w.produce(w.usageRecords(50), 0)
	w.start("pattern", nil)
	w.archived(schemas.UsageEvents)
	w.verify(schemas.UsageEvents, nil)
	for _, name := range []string{"odd.compacted", "odd.lonely"} {
		if s := w.list(name); len(s.sums) > 0 {
			t.Errorf("%s is archived", name)
		}
	}
}
