package stream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"databus/pkg/embedded"
	"databus/pkg/state"
	"databus/schemas"
	"databus/schemas/codec"
)

// The service under test: a sum per key of usage.events, joined with a factor per key of usage.contracts, emitted to
// usage.counts once per transaction. Values are decimal numbers.
const (
	in     = schemas.UsageEvents
	table  = schemas.UsageContracts
	out    = schemas.UsageCounts
	parts  = 4
	group  = "usage-aggregator"
	chatty = false // log the runtime
)

func topology() schemas.Topology {
	return schemas.Topology{Service: group, Edges: []schemas.Edge{
		{Kind: schemas.Source, Topic: in, Group: group},
		{Kind: schemas.Table, Topic: table, Group: group},
		{Kind: schemas.Changelog, Topic: schemas.UsageAggregatorChangelog},
		{Kind: schemas.Sink, Topic: out},
	}}
}

func number(rec *kgo.Record) (int64, error) {
	n, err := strconv.ParseInt(string(rec.Value), 10, 64)
	if err != nil {
		return 0, Poison("the value is not a number")
	}
	return n, nil
}

func summing(int32) Handlers {
	touched := map[string]bool{}
	return Handlers{
		Inputs: map[string]func(*Tx, *kgo.Record) error{
			table: func(tx *Tx, rec *kgo.Record) error {
				_, err := number(rec)
				tx.Put("factors", rec.Key, rec.Value)
				return err // behind the write: it must be undone
			},
			in: func(tx *Tx, rec *kgo.Record) error {
				sum, err := tx.Get("sums", rec.Key)
				if err != nil {
					return err
				}
				total, _ := strconv.ParseInt(string(sum), 10, 64)
				factor := int64(1)
				if f, err := tx.Get("factors", rec.Key); err != nil {
					return err
				} else if f != nil {
					factor, _ = strconv.ParseInt(string(f), 10, 64)
				}
				n, poison := number(rec)
				tx.Put("sums", rec.Key, strconv.AppendInt(nil, total+n*factor, 10))
				if poison != nil {
					tx.Emit(out, rec.Key, []byte("must never be seen"))
					return poison
				}
				touched[string(rec.Key)] = true
				return nil
			},
		},
		Finish: func(tx *Tx) error {
			for key := range touched {
				v, err := tx.Get("sums", []byte(key))
				if err != nil {
					return err
				}
				tx.Emit(out, []byte(key), v)
			}
			clear(touched)
			return nil
		},
	}
}

// keeping is the same service with its sums kept in the output's topic, and with a derived store: the offset of each key's newest
// record.
func keeping(int32) Handlers {
	h := summing(0)
	sum := h.Inputs[in]
	h.Inputs[in] = func(tx *Tx, rec *kgo.Record) error {
		tx.Put("newest", rec.Key, strconv.AppendInt(nil, rec.Offset, 10))
		if _, err := number(rec); err != nil {
			return err // behind the write
		}
		return sum(tx, rec)
	}
	h.Finish = nil
	h.Again = func(tx *Tx, recs []*kgo.Record) error {
		for _, rec := range recs {
			if _, err := number(rec); err == nil {
				tx.Put("newest", rec.Key, strconv.AppendInt(nil, rec.Offset, 10))
			}
		}
		return nil
	}
	return h
}

type bench struct {
	kept  bool // the service is keeping
	t     *testing.T
	stack *embedded.Stack
	codec *codec.Codec
	opts  []kgo.Opt
	admin *kadm.Client
	prod  *kgo.Client
	sums  map[string]int64 // what must come out
}

func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{t: t, stack: embedded.ForTest(t), sums: map[string]int64{}}
	seeds := b.stack.Broker.Seeds()
	if addr := os.Getenv(realKafka); addr != "" {
		seeds = []string{addr}
	}
	b.opts = []kgo.Opt{kgo.SeedBrokers(seeds...), kgo.MetadataMinAge(50 * time.Millisecond), kgo.FetchMaxWait(100 * time.Millisecond)}
	b.codec = codec.New(codec.NewRegistry(b.stack.Registry.URL()), codec.Options{RegisterSchemas: true})
	var err error
	b.prod, err = kgo.NewClient(append(b.opts, kgo.RecordPartitioner(partitioner{func(string) bool { return false }}), kgo.ProducerLinger(0))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.prod.Close)
	b.admin = kadm.NewClient(b.prod)
	topics := []string{in, table, out, schemas.UsageAggregatorChangelog, in + ".dlq", table + ".dlq"}
	if os.Getenv(realKafka) != "" {
		b.clear(topics...)
	}
	b.create(parts, topics...)
	return b
}

// realKafka names an environment variable with the address of a broker to run on instead of the embedded one. The tests
// delete the topics and the group there, and must run one after the other (-parallel 1).
const realKafka = "STREAM_TEST_KAFKA"

// clear removes what an earlier test left.
func (b *bench) clear(topics ...string) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if _, err := b.admin.DeleteTopics(ctx, topics...); err != nil {
		b.t.Fatal(err)
	}
	for { // until its static members have timed out
		resp, err := b.admin.DeleteGroup(ctx, group)
		if err == nil {
			err = resp.Err
		}
		if err == nil || errors.Is(err, kerr.GroupIDNotFound) {
			break
		}
		if ctx.Err() != nil {
			b.t.Fatalf("deleting the group: %v", err)
		}
		time.Sleep(200 * time.Millisecond)
	}
	for { // deletion is not immediate
		have, err := b.admin.ListTopics(ctx, topics...)
		if err != nil {
			b.t.Fatal(err)
		}
		left := 0
		for _, d := range have {
			if d.Err == nil {
				left++
			}
		}
		if left == 0 {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func (b *bench) create(partitions int32, topics ...string) {
	b.t.Helper()
	resp, err := b.admin.CreateTopics(context.Background(), partitions, 1, nil, topics...)
	if err == nil {
		err = resp.Error()
	}
	if err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) produce(topic string, keysAndValues ...string) {
	b.t.Helper()
	var recs []*kgo.Record
	for i := 0; i < len(keysAndValues); i += 2 {
		recs = append(recs, &kgo.Record{Topic: topic, Key: []byte(keysAndValues[i]), Value: []byte(keysAndValues[i+1])})
	}
	if err := b.prod.ProduceSync(context.Background(), recs...).FirstErr(); err != nil {
		b.t.Fatal(err)
	}
}

// events produces n events over 20 keys.
func (b *bench) events(n int) {
	b.t.Helper()
	var kv []string
	for range n {
		key, v := fmt.Sprintf("k%02d", rand.IntN(20)), 1+rand.Int64N(9)
		b.sums[key] += v
		kv = append(kv, key, strconv.FormatInt(v, 10))
	}
	b.produce(in, kv...)
}

func (b *bench) options(instance, dir string) Options {
	o := Options{Topology: topology(), Stores: []Store{{Name: "sums"}, {Name: "factors"}}, Handlers: summing, Instance: instance, Kafka: b.opts,
		Codec: b.codec, StateDir: dir, CommitInterval: 10 * time.Millisecond, SessionTimeout: 2 * time.Second, TransactionTimeout: 5 * time.Second,
		// The embedded broker may wait that long for a member that died while it joined.
		RebalanceTimeout: 5 * time.Second}
	if b.kept {
		o.Handlers = keeping
		o.Stores = []Store{{Name: "sums", Topic: out, Uncached: true}, {Name: "factors"}, {Name: "newest", Derived: true}}
		o.Recall = Recall{Topic: in, Window: 24 * time.Hour}
	}
	if chatty {
		o.Log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	return o
}

// running is a runtime in its goroutine.
type running struct {
	*Runtime
	t    *testing.T
	stop context.CancelFunc
	done chan error
	once sync.Once
	err  error
}

func (b *bench) start(o Options) *running {
	b.t.Helper()
	r, err := New(o)
	if err != nil {
		b.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	run := &running{Runtime: r, t: b.t, stop: cancel, done: make(chan error, 1)}
	go func() { run.done <- r.Run(ctx) }()
	b.t.Cleanup(func() { cancel(); run.wait() })
	return run
}

func (r *running) wait() error {
	r.once.Do(func() {
		select {
		case r.err = <-r.done:
		case <-time.After(60 * time.Second):
			r.err = errors.New("the runtime did not end within 60 s")
			r.t.Error(r.err)
		}
	})
	return r.err
}

// finish stops it cleanly.
func (r *running) finish() {
	r.t.Helper()
	r.stop()
	if err := r.wait(); err != nil {
		r.t.Fatal(err)
	}
}

// caughtUp waits until the group has committed everything that the inputs hold.
func (b *bench) caughtUp(rs ...*running) {
	b.t.Helper()
	deadline := time.Now().Add(45 * time.Second)
	for {
		for _, r := range rs {
			select {
			case err := <-r.done:
				r.done <- err
				b.t.Fatalf("the runtime ended: %v", err)
			default:
			}
		}
		ends, err := b.admin.ListEndOffsets(context.Background(), in, table)
		if err != nil {
			b.t.Fatal(err)
		}
		commits, err := b.admin.FetchOffsets(context.Background(), group)
		if err != nil && !errors.Is(err, kerr.GroupIDNotFound) {
			b.t.Fatal(err)
		}
		behind := int64(0)
		ends.Each(func(o kadm.ListedOffset) {
			c, _ := commits.Lookup(o.Topic, o.Partition)
			behind += o.Offset - max(0, c.At)
		})
		for _, r := range rs {
			if ready, _ := r.Ready(); !ready {
				behind++ // offsets may be committed by a predecessor while the state is not restored yet
			}
		}
		if behind == 0 {
			return
		}
		if time.Now().After(deadline) {
			b.t.Fatalf("%d records are not processed", behind)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// read returns all committed records of a topic, by partition in order.
func (b *bench) read(topic string) []*kgo.Record {
	b.t.Helper()
	ends, err := b.admin.ListEndOffsets(context.Background(), topic)
	if err != nil {
		b.t.Fatal(err)
	}
	left := map[int32]int64{}
	ends.Each(func(o kadm.ListedOffset) {
		if o.Offset > 0 {
			left[o.Partition] = o.Offset
		}
	})
	c, err := kgo.NewClient(append(b.opts, kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.KeepControlRecords())...)
	if err != nil {
		b.t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	var recs []*kgo.Record
	for len(left) > 0 {
		fetches := c.PollFetches(ctx)
		if ctx.Err() != nil {
			b.t.Fatalf("reading %s: an open transaction hides the end: %v", topic, left)
		}
		fetches.EachRecord(func(rec *kgo.Record) {
			if rec.Offset+1 >= left[rec.Partition] {
				delete(left, rec.Partition)
			}
			if !rec.Attrs.IsControl() {
				recs = append(recs, rec)
			}
		})
	}
	return recs
}

// state opens the directory of an instance that does not run.
func (b *bench) state(instance, dir string, readOnly bool) *state.DB {
	b.t.Helper()
	db, err := state.Open(state.Options{Dir: dir, Service: group, Instance: instance, ReadOnly: readOnly})
	if err != nil {
		b.t.Fatal(err)
	}
	return db
}

// check compares outputs and the state directories with the recomputation.
func (b *bench) check(dirs map[string]string) {
	b.t.Helper()
	last := map[string]int64{}
	for _, rec := range b.read(out) {
		n, err := strconv.ParseInt(string(rec.Value), 10, 64)
		if err != nil {
			b.t.Fatalf("output of %s: %v", rec.Key, err)
		}
		if n <= last[string(rec.Key)] {
			b.t.Errorf("%s goes from %d to %d: an output was repeated", rec.Key, last[string(rec.Key)], n)
		}
		last[string(rec.Key)] = n
	}
	if !maps.Equal(last, b.sums) {
		b.t.Errorf("outputs %v\nwant    %v", last, b.sums)
	}
	rows, newest := map[string]int64{}, map[string]int64{}
	for instance, dir := range dirs {
		db := b.state(instance, dir, true)
		for p := range int32(parts) {
			pos, ok, err := db.Position(p)
			if err != nil || !ok {
				continue
			}
			// Of several directories the furthest holds the newest rows.
			furthest := true
			for i2, d2 := range dirs {
				if i2 == instance {
					continue
				}
				db2 := b.state(i2, d2, true)
				if p2, ok, _ := db2.Position(p); ok && p2.Logs[schemas.UsageAggregatorChangelog] > pos.Logs[schemas.UsageAggregatorChangelog] {
					furthest = false
				}
				db2.Close()
			}
			if !furthest {
				continue
			}
			rd, err := db.NewReader(p)
			if err != nil {
				b.t.Fatal(err)
			}
			for store, of := range map[string]map[string]int64{"sums": rows, "newest": newest} {
				rd.Scan(store, nil, func(k, v []byte) bool {
					of[string(k)], _ = strconv.ParseInt(string(v), 10, 64)
					return true
				})
			}
			rd.Close()
		}
		db.Close()
	}
	if len(dirs) > 0 && !maps.Equal(rows, b.sums) {
		b.t.Errorf("state   %v\nwant    %v", rows, b.sums)
	}
	if !b.kept || len(dirs) == 0 {
		return
	}
	want := map[string]int64{}
	for _, rec := range b.read(in) {
		if _, err := number(rec); err == nil {
			want[string(rec.Key)] = rec.Offset
		}
	}
	if !maps.Equal(newest, want) {
		b.t.Errorf("derived %v\nwant    %v", newest, want)
	}
}

func TestCleanRestart(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	dir := t.TempDir()
	for range 3 {
		b.events(500)
		r := b.start(b.options("0", dir))
		b.events(500)
		b.caughtUp(r)
		r.finish()
		b.check(map[string]string{"0": dir})
	}
	// With nothing new, a start commits nothing.
	before := len(b.read(schemas.UsageAggregatorChangelog))
	r := b.start(b.options("0", dir))
	for ready, _ := r.Ready(); !ready; ready, _ = r.Ready() {
		time.Sleep(5 * time.Millisecond)
	}
	time.Sleep(100 * time.Millisecond)
	r.finish()
	if after := len(b.read(schemas.UsageAggregatorChangelog)); after != before {
		t.Errorf("an idle start wrote %d changelog records", after-before)
	}
}

func TestStopCommitsWhatWasPolled(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	dir := t.TempDir()
	for range 10 {
		b.events(300)
		r := b.start(b.options("0", dir))
		time.Sleep(time.Duration(rand.IntN(300)) * time.Millisecond)
		r.finish()
	}
	r := b.start(b.options("0", dir))
	b.caughtUp(r)
	r.finish()
	b.check(map[string]string{"0": dir})
}

var errCrash = errors.New("injected crash")

// Crashes at every point, then starts anew on the same state directory or on an empty one.
func TestCrashes(t *testing.T) {
	for _, point := range []Point{AfterFlush, AfterEnd, BeforeState, InsideRestore, InsideRecall} {
		for mode := range 4 {
			empty, kept := mode&1 > 0, mode&2 > 0
			restoring := point == InsideRestore || point == InsideRecall
			if point == InsideRecall && !kept {
				continue
			}
			t.Run(fmt.Sprintf("%s, empty=%v, kept=%v", point, empty, kept), func(t *testing.T) {
				t.Parallel()
				b := newBench(t)
				b.kept = kept
				dir := t.TempDir()
				for round := range 3 {
					b.events(400)
					o := b.options("0", dir)
					hits := 0
					o.Crash = func(p Point) error {
						if p == point {
							if hits++; hits > 1 || restoring {
								return errCrash
							}
						}
						return nil
					}
					r := b.start(o)
					if restoring {
						if round > 0 { // the first start has nothing to restore
							if err := r.wait(); !errors.Is(err, errCrash) {
								t.Fatalf("ended with %v", err)
							}
						} else {
							b.caughtUp(r)
							r.finish()
						}
					} else {
						crashed, quiet := make(chan struct{}), make(chan struct{})
						go func() { // so that there is a second transaction
							defer close(quiet)
							for {
								select {
								case <-crashed:
									return
								case <-time.After(20 * time.Millisecond):
									b.produce(in, "extra", "1")
									b.sums["extra"]++
								}
							}
						}()
						err := r.wait()
						close(crashed)
						<-quiet
						if !errors.Is(err, errCrash) {
							t.Fatalf("ended with %v", err)
						}
					}
					if empty || restoring && round < 2 { // the last one goes on from half a restore
						dir = t.TempDir()
					}
				}
				r := b.start(b.options("0", dir))
				b.caughtUp(r)
				r.finish()
				b.check(map[string]string{"0": dir})
			})
		}
	}
}

func TestTwoInstances(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	dirs := map[string]string{"a": t.TempDir(), "b": t.TempDir()}
	stop := make(chan struct{})
	var produced sync.WaitGroup
	produced.Add(1)
	go func() {
		defer produced.Done()
		for {
			select {
			case <-stop:
				return
			case <-time.After(10 * time.Millisecond):
				b.events(20)
			}
		}
	}()
	own := func(r *running, want bool) {
		t.Helper()
		for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
			if ready, _ := r.Ready(); ready && (len(r.Positions()[in]) > 0) == want {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("positions %v", r.Positions())
			}
		}
	}
	first := b.start(b.options("a", dirs["a"]))
	own(first, true)
	leaving := b.options("b", dirs["b"])
	leaving.LeaveOnStop = true
	for range 2 {
		second := b.start(leaving)
		own(second, true)
		time.Sleep(300 * time.Millisecond)
		second.finish()
		time.Sleep(300 * time.Millisecond)
	}
	second := b.start(leaving)
	own(second, true)
	close(stop)
	produced.Wait()
	b.caughtUp(first, second)
	first.finish()
	second.finish()
	b.check(dirs)
}

func TestPoison(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	dir := t.TempDir()
	b.produce(table, "k", "x")
	b.produce(in, "k", "1", "k", "boom", "k", "2")
	b.sums["k"] = 3
	r := b.start(b.options("0", dir))
	b.caughtUp(r)
	r.finish()
	b.check(map[string]string{"0": dir})
	dead := b.read(in + ".dlq")
	if len(dead) != 1 || string(dead[0].Key) != "k" || string(dead[0].Value) != "boom" {
		t.Fatalf("dead letters: %v", dead)
	}
	headers := map[string]string{}
	for _, h := range dead[0].Headers {
		headers[h.Key] = string(h.Value)
	}
	if headers[HeaderReason] != "the value is not a number" || headers[HeaderTopic] != in || headers[HeaderOffset] != "1" || headers[HeaderService] != group {
		t.Errorf("headers %v", headers)
	}
	if dead := b.read(table + ".dlq"); len(dead) != 1 {
		t.Errorf("%d dead letters of the table", len(dead))
	}
}

// Factors that existed before an event was sent are in force for it, whatever is fetched first.
func TestTablesFirst(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	dir := t.TempDir()
	var events, factors []string
	for i := range 200 {
		key := fmt.Sprint("t", i)
		factors = append(factors, key, "10")
		events = append(events, key, "3")
		b.sums[key] = 30
	}
	b.produce(in, events...)
	b.produce(table, factors...)
	r := b.start(b.options("0", dir))
	b.caughtUp(r)
	r.finish()
	b.check(map[string]string{"0": dir})
}

func TestRegistryIsWaitedFor(t *testing.T) {
	t.Parallel()
	for _, kind := range []error{codec.ErrUnavailable, codec.ErrUnknownSchema} {
		b := newBench(t)
		dir := t.TempDir()
		b.events(100)
		var mu sync.Mutex
		failing := true
		o := b.options("0", dir)
		o.Handlers = func(p int32) Handlers {
			h := summing(p)
			sum := h.Inputs[in]
			h.Inputs[in] = func(tx *Tx, rec *kgo.Record) error {
				mu.Lock()
				defer mu.Unlock()
				if failing && tx.Partition() == 1 && rec.Offset > 3 {
					return fmt.Errorf("decoding: %w", kind)
				}
				return sum(tx, rec)
			}
			return h
		}
		r := b.start(o)
		for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
			if ready, reason := r.Ready(); !ready && strings.Contains(reason, kind.Error()) && strings.Contains(reason, "partition 1") {
				break
			} else if time.Now().After(deadline) {
				t.Fatalf("health says %v %q", ready, reason)
			}
		}
		mu.Lock()
		failing = false
		mu.Unlock()
		b.caughtUp(r)
		for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
			if ready, reason := r.Ready(); ready {
				break
			} else if time.Now().After(deadline) {
				t.Fatalf("health says %v %q", ready, reason)
			}
		}
		r.finish()
		b.check(map[string]string{"0": dir})
	}
}

// What came before a record that has to wait is committed, in its partition and in the others, and stands when the instance is
// restored from nothing; the partition goes on when the record can be processed. With two inputs, the second one waits too.
func TestWhatComesBeforeIsCommitted(t *testing.T) {
	t.Parallel()
	for _, kept := range []bool{false, true} {
		for _, first := range []int64{0, 7} { // of the records of partition 1, and a middle one
			b := newBench(t)
			b.kept = kept
			b.events(400)
			ends, err := b.admin.ListEndOffsets(t.Context(), in)
			if err != nil {
				t.Fatal(err)
			}
			var failing atomic.Bool
			failing.Store(true)
			options := func() Options {
				o := b.options("0", t.TempDir())
				handlers := o.Handlers
				o.Handlers = func(p int32) Handlers {
					h := handlers(p)
					process := h.Inputs[in]
					h.Inputs[in] = func(tx *Tx, rec *kgo.Record) error {
						bad := tx.Partition() == 1 && rec.Offset == first || tx.Partition() == 3 && rec.Offset == 5
						if failing.Load() && bad {
							// Behind changes, in the store and in memory.
							return errors.Join(process(tx, rec), &codec.Error{Topic: in, SchemaID: 77, Kind: codec.ErrUnknownSchema, Detail: "not found"})
						}
						return process(tx, rec)
					}
					return h
				}
				return o
			}
			for range 2 { // the second time it restores
				r := b.start(options())
				for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
					at, _ := b.admin.FetchOffsets(t.Context(), group)
					behind := 0
					for p := range int32(parts) {
						end, _ := ends.Lookup(in, p)
						want := map[int32]int64{1: first, 3: 5}
						if _, waits := want[p]; !waits {
							want[p] = end.Offset
						}
						have, _ := at.Lookup(in, p)
						if have.At > want[p] {
							t.Fatalf("partition %d is committed up to %d, %d is the end or waits", p, have.At, want[p])
						}
						if have.At < want[p] {
							behind++
						}
					}
					ready, reason := r.Ready()
					if behind == 0 && !ready && strings.Contains(reason, "usage.events, partition ") && strings.Contains(reason, ", offset ") &&
						strings.Contains(reason, "schema id 77") && strings.Contains(reason, "databus schemas register") {
						break
					}
					if time.Now().After(deadline) {
						t.Fatalf("kept %v, first %d: %d partitions are behind, health says %v %q", kept, first, behind, ready, reason)
					}
				}
				r.finish()
			}
			// More comes while it waits.
			o := options()
			r := b.start(o)
			b.events(100)
			b.produce(table, "other", "3")
			failing.Store(false)
			b.caughtUp(r)
			r.finish()
			b.check(map[string]string{"0": o.StateDir})
		}
	}
}
