package archiver_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"databus/pkg/archive"
	"databus/pkg/blob"
	"databus/pkg/embedded"
	"databus/pkg/service"
	"databus/pkg/topics"
	"databus/schemas"
	"databus/schemas/codec"
	"databus/schemas/event"
	"databus/services/archiver"
)

// world is a broker, a registry and a bucket, in which archivers live and die.
type world struct {
	t        *testing.T
	seeds    []string
	bucket   blob.Bucket
	codec    *codec.Codec
	registry codec.Registry
	admin    *kadm.Client
	producer *kgo.Client // transactional
	cfg      archiver.Config
	usage    *codec.Serde[event.UsageEvent]
	sent     int
}

// The addresses of real servers, which these tests then have for themselves: they delete topics. See test/archiver.
const (
	kafkaVariable    = "ARCHIVER_TEST_KAFKA"
	registryVariable = "ARCHIVER_TEST_REGISTRY"
	bucketVariable   = "ARCHIVER_TEST_BUCKET" // with %d in it, for a prefix of each test's own
)

func real() bool { return os.Getenv(kafkaVariable) != "" }

func TestMain(m *testing.M) {
	_ = flag.Set("test.parallel", "6") // they wait for sessions to end more than they work; the command line wins
	os.Exit(m.Run())
}

// parallel runs a test beside others, except on real servers, where all would meet in the same topics.
func parallel(t *testing.T) {
	if !real() {
		t.Parallel()
	}
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, cfg: archiver.Default()}
	w.bucket = w.emptyBucket()
	if real() {
		w.seeds = strings.Split(os.Getenv(kafkaVariable), ",")
		w.registry = codec.NewRegistry(os.Getenv(registryVariable))
	} else {
		stack := embedded.ForTest(t)
		w.seeds = stack.Broker.Seeds()
		w.registry = codec.NewRegistry(stack.Registry.URL())
	}
	w.codec = codec.New(w.registry, codec.Options{RegisterSchemas: true})
	w.usage = codec.For[event.UsageEvent](w.codec, schemas.UsageEvents)
	w.producer = w.client(kgo.TransactionalID("test-producer"), kgo.RecordPartitioner(service.Partitioner()))
	w.admin = kadm.NewClient(w.client())
	if real() {
		w.clear()
	}
	if _, err := topics.Apply(t.Context(), w.admin, schemas.WithDeadLetters(), topics.Options{}); err != nil {
		t.Fatal(err)
	}
	w.cfg.Idle = 150 * time.Millisecond
	w.cfg.MaxRecords = 100
	w.cfg.RetryMax = 300 * time.Millisecond
	w.cfg.SessionTimeout = 3 * time.Second // so long a crashed owner's partitions wait
	return w
}

func (w *world) emptyBucket() blob.Bucket {
	if !real() {
		return blob.NewMemory()
	}
	b, err := blob.Open(w.t.Context(), strings.Replace(os.Getenv(bucketVariable), "%d", fmt.Sprint(time.Now().UnixNano()), 1))
	if err != nil {
		w.t.Fatal(err)
	}
	return b
}

// clear removes what the test before left.
func (w *world) clear() {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), time.Minute)
	defer cancel()
	names := []string{schemas.DatabusRecords, schemas.UsageEvents, schemas.ArchiveFiles, schemas.UsageEvents + ".dlq", schemas.DatabusRecords + ".dlq"}
	for {
		_, _ = w.admin.DeleteTopics(ctx, names...) // missing ones answer with errors
		_, _ = w.admin.DeleteGroups(ctx, archiver.Name)
		time.Sleep(300 * time.Millisecond)
		listed, err := w.admin.ListTopics(ctx, names...)
		if err != nil {
			w.t.Fatal(err)
		}
		groups, err := w.admin.ListGroups(ctx)
		if err != nil {
			w.t.Fatal(err)
		}
		gone := !slices.Contains(groups.Groups(), archiver.Name)
		for _, name := range names {
			gone = gone && !listed.Has(name)
		}
		if gone {
			return
		}
	}
}

func (w *world) client(extra ...kgo.Opt) *kgo.Client {
	w.t.Helper()
	c, err := kgo.NewClient(append([]kgo.Opt{
		kgo.SeedBrokers(w.seeds...), kgo.MetadataMinAge(50 * time.Millisecond), kgo.FetchMaxWait(100 * time.Millisecond), kgo.UnknownTopicRetries(-1),
	}, extra...)...)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(c.Close)
	return c
}

// produce writes records in one transaction, and n more in one that is aborted before it.
func (w *world) produce(records []*kgo.Record, aborted int) {
	w.t.Helper()
	run := func(records []*kgo.Record, end kgo.TransactionEndTry) {
		if err := w.producer.BeginTransaction(); err != nil {
			w.t.Fatal(err)
		}
		if err := w.producer.ProduceSync(w.t.Context(), records...).FirstErr(); err != nil {
			w.t.Fatal(err)
		}
		if err := w.producer.EndTransaction(w.t.Context(), end); err != nil {
			w.t.Fatal(err)
		}
	}
	if aborted > 0 {
		run(w.usageRecords(aborted), kgo.TryAbort)
	}
	run(records, kgo.TryCommit)
}

func (w *world) usageRecords(n int) []*kgo.Record {
	w.t.Helper()
	records := make([]*kgo.Record, n)
	for i := range records {
		w.sent++
		account := fmt.Sprintf("account-%d", w.sent%13)
		value, err := w.usage.Encode(w.t.Context(), &event.UsageEvent{
			EventID: fmt.Sprintf("event-%d", w.sent), Account: account, Pack: "person", OccurredAt: time.UnixMicro(1_767_000_000_000_000 + int64(w.sent)),
			Quantity: 1, Status: 200,
		})
		if err != nil {
			w.t.Fatal(err)
		}
		records[i] = &kgo.Record{Topic: schemas.UsageEvents, Key: []byte(account), Value: value}
		if w.sent%3 == 0 {
			records[i].Headers = []kgo.RecordHeader{{Key: "traceparent", Value: fmt.Appendf(nil, "%d", w.sent)}}
		}
	}
	return records
}

// running is an archiver at work.
type running struct {
	done   chan error
	cancel context.CancelFunc
}

func (r *running) stop(t *testing.T) {
	t.Helper()
	r.cancel()
	if err := <-r.done; err != nil {
		t.Fatalf("the archiver ended with %v", err)
	}
}

// crashed waits for the crash that a hook injected.
func (r *running) crashed(t *testing.T) {
	t.Helper()
	select {
	case err := <-r.done:
		if !errors.Is(err, errCrash) {
			t.Fatalf("the archiver ended with %v, want the crash", err)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("the archiver never came to the crash")
	}
}

var errCrash = errors.New("injected crash")

type hook func(step archiver.Step, topic string, partition int32) error

// crashAt crashes at the nth time that a step is reached.
func crashAt(step archiver.Step, n int32) hook {
	var count atomic.Int32
	return func(s archiver.Step, _ string, _ int32) error {
		if s == step && count.Add(1) == n {
			return errCrash
		}
		return nil
	}
}

func (w *world) start(id string, h hook, change ...func(*archiver.Parts)) *running {
	w.t.Helper()
	parts := archiver.Parts{
		Client: []kgo.Opt{
			kgo.SeedBrokers(w.seeds...), kgo.MetadataMinAge(50 * time.Millisecond), kgo.FetchMaxWait(100 * time.Millisecond), kgo.UnknownTopicRetries(-1),
			kgo.RecordPartitioner(service.Partitioner()), kgo.HeartbeatInterval(500 * time.Millisecond),
		},
		TransactionTimeout: 3 * time.Second, TransactionalID: "archiver-" + id, Bucket: w.bucket, Codec: w.codec, SpoolDir: w.t.TempDir(), Log: slog.New(slog.DiscardHandler), Hook: h,
	}
	if testing.Verbose() {
		parts.Log = slog.New(slog.NewTextHandler(w.t.Output(), nil)).With("instance", id)
	}
	for _, f := range change {
		f(&parts)
	}
	a, err := archiver.Open(w.cfg, parts)
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(w.t.Context())
	r := &running{make(chan error, 1), cancel}
	go func() {
		r.done <- a.Run(ctx)
		close(r.done)
	}()
	w.t.Cleanup(func() { cancel(); <-r.done })
	return r
}

// read gives all committed records of a topic by partition.
func (w *world) read(topic string) map[int32][]*kgo.Record {
	w.t.Helper()
	var ends, starts kadm.ListedOffsets
	for { // the client may remember the topic as unknown for a moment
		var err, err2 error
		ends, err = w.admin.ListEndOffsets(w.t.Context(), topic)
		starts, err2 = w.admin.ListStartOffsets(w.t.Context(), topic)
		if err = errors.Join(err, err2, ends.Error(), starts.Error()); err == nil {
			break
		}
		if w.t.Context().Err() != nil {
			w.t.Fatal(err)
		}
		time.Sleep(20 * time.Millisecond)
	}
	left := map[int32]int64{}
	ends.Each(func(o kadm.ListedOffset) {
		if start, _ := starts.Lookup(topic, o.Partition); start.Offset < o.Offset {
			left[o.Partition] = o.Offset
		}
	})
	c := w.client(kgo.ConsumeTopics(topic), kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.KeepControlRecords())
	defer c.Close()
	found := map[int32][]*kgo.Record{}
	ctx, cancel := context.WithTimeout(w.t.Context(), 20*time.Second)
	defer cancel()
	for len(left) > 0 {
		fetches := c.PollFetches(ctx)
		if ctx.Err() != nil {
			w.t.Fatalf("reading %s: %v left", topic, left)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			if !r.Attrs.IsControl() {
				found[r.Partition] = append(found[r.Partition], r)
			}
			if r.Offset+1 >= left[r.Partition] {
				delete(left, r.Partition)
			}
		})
	}
	return found
}

// state is what somebody finds who only lists the bucket.
type state struct {
	objects map[int32][]archive.Footer // by partition, in the order of their names
	rows    map[int32]map[int64]archive.Record
	sums    map[string][32]byte
	total   int64 // rows and dead letters
}

func (w *world) list(topic string) state {
	w.t.Helper()
	s := state{objects: map[int32][]archive.Footer{}, rows: map[int32]map[int64]archive.Record{}, sums: map[string][32]byte{}}
	here := blob.NewMemory()
	err := w.bucket.List(w.t.Context(), w.cfg.Prefix+"/"+topic+"/", func(info blob.Info) error {
		if info.Key == archive.LayoutName(w.cfg.Prefix, topic) {
			return nil
		}
		data, _, err := blob.ReadAll(w.t.Context(), w.bucket, info.Key, 1<<30)
		if err != nil {
			return err
		}
		s.sums[info.Key] = sha256.Sum256(data)
		// Read once: on a real server each range costs a request.
		if _, err := here.Put(w.t.Context(), info.Key, bytes.NewReader(data), blob.PutOptions{}); err != nil {
			return err
		}
		r, err := archive.Open(w.t.Context(), here, info.Key)
		if err != nil {
			return err
		}
		defer r.Close()
		f := r.Footer()
		s.objects[f.Partition] = append(s.objects[f.Partition], f)
		s.total += f.Rows + f.DeadLetters
		if s.rows[f.Partition] == nil {
			s.rows[f.Partition] = map[int64]archive.Record{}
		}
		for {
			rec, err := r.Next()
			if err == io.EOF {
				break
			}
			if err != nil {
				return err
			}
			if _, twice := s.rows[f.Partition][rec.Offset]; twice {
				return fmt.Errorf("offset %d of partition %d is in two objects", rec.Offset, f.Partition)
			}
			if rec.Value != nil {
				rec.Value = bytes.Clone(rec.Value)
			}
			s.rows[f.Partition][rec.Offset] = rec
		}
		return nil
	})
	if err != nil {
		w.t.Fatal(err)
	}
	for _, objects := range s.objects {
		slices.SortFunc(objects, func(a, b archive.Footer) int { return int(a.First - b.First) })
	}
	return s
}

// archived waits until the bucket holds as many records as the topic, and the manifest as many objects.
func (w *world) archived(topic string) {
	w.t.Helper()
	want, last := 0, map[int32]int64{}
	for partition, records := range w.read(topic) {
		want += len(records)
		last[partition] = records[len(records)-1].Offset
	}
	deadline := time.Now().Add(40 * time.Second)
	for ; ; time.Sleep(30 * time.Millisecond) {
		late := time.Now().After(deadline)
		if !late && !w.committed(topic, last) { // cheaper to ask than the whole bucket
			continue
		}
		s := w.list(topic)
		if s.total == int64(want) {
			files := 0
			for _, records := range w.read(schemas.ArchiveFiles) {
				files += len(records)
			}
			if files >= len(s.sums) {
				return
			}
		}
		if late {
			w.t.Fatalf("%d of %d records archived", s.total, want)
		}
	}
}

// committed tells whether the group has committed beyond an offset in each partition.
func (w *world) committed(topic string, last map[int32]int64) bool {
	offsets, err := w.admin.FetchOffsets(w.t.Context(), archiver.Name)
	for partition, offset := range last {
		if at, ok := offsets.Lookup(topic, partition); err != nil || !ok || at.At <= offset {
			return false
		}
	}
	return true
}

// verify proves that the bucket alone, the manifest, the dead letters and the committed offsets all tell of each committed
// record exactly once. Values of older schemas are compared by compare, when it is given.
func (w *world) verify(topic string, compare func(t *testing.T, row archive.Record, r *kgo.Record)) state {
	t := w.t
	t.Helper()
	s := w.list(topic)
	committed, err := w.admin.FetchOffsets(t.Context(), archiver.Name)
	if err != nil {
		t.Fatal(err)
	}
	dead := map[string]int{}
	for _, records := range w.read(topic + ".dlq") {
		for _, r := range records {
			dead[header(r, "databus-dead-partition")+"/"+header(r, "databus-dead-offset")]++
		}
	}
	source := w.read(topic)
	for partition, records := range source {
		objects := s.objects[partition]
		next := int64(0)
		at := 0
		for _, f := range objects {
			if f.First != next {
				t.Errorf("%s/%d: an object begins at %d, the one before ends at %d", topic, partition, f.First, next)
			}
			next = f.Next
			rows, deadLetters := int64(0), int64(0)
			for ; at < len(records) && records[at].Offset < f.Next; at++ {
				r := records[at]
				row, ok := s.rows[partition][r.Offset]
				if !ok {
					deadLetters++
					place := fmt.Sprintf("%d/%d", partition, r.Offset)
					if dead[place] != 1 {
						t.Errorf("offset %s is no row and %d times in the dead letters", place, dead[place])
					}
					delete(dead, place)
					continue
				}
				rows++
				if row.Timestamp != r.Timestamp.UnixMilli() || !bytes.Equal(row.Key, r.Key) || len(row.Headers) != len(r.Headers) {
					t.Errorf("row %+v of record %+v", row, r)
				}
				for i, h := range r.Headers {
					if row.Headers[i].Key != h.Key || !bytes.Equal(row.Headers[i].Value, h.Value) {
						t.Errorf("headers %+v of %+v", row.Headers, r.Headers)
					}
				}
				switch {
				case r.Value == nil || row.Value == nil:
					if r.Value != nil || row.Value != nil {
						t.Errorf("offset %d: tombstone and value mixed up", r.Offset)
					}
				case compare != nil:
					compare(t, row, r)
				case !bytes.Equal(row.Value, r.Value[5:]):
					t.Errorf("offset %d: value % x, want % x", r.Offset, row.Value, r.Value[5:])
				}
				delete(s.rows[partition], r.Offset)
			}
			if rows != f.Rows || deadLetters != f.DeadLetters {
				t.Errorf("%s/%d [%d, %d): %d rows, %d dead letters; its footer says %d, %d",
					topic, partition, f.First, f.Next, rows, deadLetters, f.Rows, f.DeadLetters)
			}
		}
		if at != len(records) {
			t.Errorf("%s/%d: %d of %d records are in the archive", topic, partition, at, len(records))
		}
		if got, _ := committed.Lookup(topic, partition); got.At != next {
			t.Errorf("%s/%d: committed offset %d, the last object ends at %d", topic, partition, got.At, next)
		}
	}
	for partition, rows := range s.rows {
		if len(rows) > 0 {
			t.Errorf("%s/%d: rows that the topic has not: %v", topic, partition, slices.Collect(maps.Keys(rows)))
		}
	}
	if len(dead) > 0 {
		t.Errorf("dead letters that are no record's: %v", dead)
	}
	w.verifyManifest(topic, s)
	return s
}

func (w *world) verifyManifest(topic string, s state) {
	w.t.Helper()
	serde := codec.For[event.ArchiveFile](w.codec, schemas.ArchiveFiles)
	named := map[string]bool{}
	for _, records := range w.read(schemas.ArchiveFiles) {
		for _, r := range records {
			var f event.ArchiveFile
			if err := serde.Decode(w.t.Context(), r.Value, &f); err != nil {
				w.t.Fatal(err)
			}
			if f.Topic != topic {
				continue
			}
			if named[f.Object] {
				w.t.Errorf("the manifest names %s twice", f.Object)
			}
			named[f.Object] = true
			sum, ok := s.sums[f.Object]
			if !ok || !bytes.Equal(sum[:], f.Sha256) {
				w.t.Errorf("the manifest's %s: in the bucket %v, with its checksum %v", f.Object, ok, bytes.Equal(sum[:], f.Sha256))
			}
			i := slices.IndexFunc(s.objects[f.Partition], func(x archive.Footer) bool { return x.First == f.First })
			if i < 0 {
				w.t.Errorf("no object for %+v", f)
				continue
			}
			x := s.objects[f.Partition][i]
			if x.Next != f.Next || x.Rows != f.Rows || x.DeadLetters != f.DeadLetters || int32(x.SchemaID) != f.SchemaID ||
				x.EncoderVersion != f.EncoderVersion || (x.Rows > 0) != (f.MinTimestamp != nil) {
				w.t.Errorf("manifest %+v, footer %+v", f, x)
			}
			if want := fmt.Sprintf("%s/%d/%d", f.Topic, f.Partition, f.First); string(r.Key) != want {
				w.t.Errorf("key %s, want %s", r.Key, want)
			}
		}
	}
	if len(named) != len(s.sums) {
		w.t.Errorf("the manifest names %d objects, the bucket has %d", len(named), len(s.sums))
	}
}

func header(r *kgo.Record, key string) string {
	for _, h := range slices.Backward(r.Headers) {
		if h.Key == key {
			return string(h.Value)
		}
	}
	return "no " + strings.TrimPrefix(key, "databus-dead-")
}
