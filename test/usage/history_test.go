package usage

import (
	"context"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"databus/pkg/history"
	"databus/schemas"
	"databus/schemas/codec"
	"databus/schemas/event"
	usagehistory "databus/services/usage-history"
	"databus/test/crash"
	"databus/test/prove"
	"databus/test/usage/verify"
)

func TestProveHistoryOnEmbedded(t *testing.T) {
	w := onEmbedded(t)
	proveHistory(t, w, "file://"+filepath.Join(w.dir, "bucket"), prove.Size(20_000, 200_000))
}

// proveHistory lets an account have past events, most of them archived, some of those deleted from Kafka in the middle of a
// file. The services begin there, with repeats across that place. Then its contract changes: it starts in the middle of a file,
// and what came before counts as well. The worker is killed in three ways, the aggregator meanwhile, and events arrive all
// the while. Everything must be what somebody counts who has seen all of it.
func proveHistory(t *testing.T, w *world, bucket string, past int) {
	ctx := t.Context()
	w.window = 10 * time.Second
	l := newPast(w, past)
	l.contract(ctx, &event.Contract{Account: l.account, Version: 1, TimeZone: "UTC", StartsAt: l.at(past / 5),
		Packs: []event.ContractPack{{Pack: "*", Period: event.PeriodTotal, Limit: int64(past)}, {Pack: "person", Period: event.PeriodCalendarMonth, Limit: 1000}}})
	archiver := w.newInstance("archiver", "a", "bucket.url="+bucket, "archiver.topics="+schemas.UsageEvents, fmt.Sprintf("archiver.max_records=%d", past/7),
		"archiver.idle=1h", "archiver.max_record_time=1h")
	must(t, archiver.start())
	l.send(ctx, past)
	cut := l.archived(ctx, archiver, int64(past/2))
	must(t, archiver.Kill9())
	deleted := l.deleteBelow(ctx, cut)

	agg := w.newInstance(aggregator, "a", aggregator+".history.enabled=true")
	lim := w.newInstance(limiter, "a")
	worker := w.newInstance(usageHistory, "a", "bucket.url="+bucket, usageHistory+".clock_slack=100ms", usageHistory+".retry_min=100ms", usageHistory+".retry_max=1s")
	must(t, lim.start())
	must(t, agg.start())
	stop := l.background(ctx)
	kills := 0
	for _, point := range []string{usagehistory.CrashCounted, usagehistory.CrashAnswered} {
		must(t, worker.crash(crash.Point{Name: point}))
		kills++
	}
	must(t, agg.Kill9())
	must(t, agg.start())
	must(t, worker.start())
	l.answered(ctx)
	must(t, worker.Kill9()) // it reads nothing now: the requests of the next contract come first

	l.change(ctx, &event.Contract{Account: l.account, Version: 2, TimeZone: "Asia/Tokyo", StartsAt: l.at(past / 2).Add(time.Second),
		Packs: []event.ContractPack{{Pack: "*", Period: event.PeriodContractYear, Limit: int64(past)}, {Pack: "person", Period: event.PeriodContractMonth, Limit: 1000}}})
	l.asked(ctx, 6)
	must(t, worker.crash(crash.Point{Name: usagehistory.CrashCounted}))
	kills++
	must(t, worker.start())
	time.Sleep(time.Duration(300+l.rng.IntN(500)) * time.Millisecond)
	must(t, worker.Kill9()) // while it starts, in the middle of a pass over archive and tail, or behind it
	kills++
	must(t, agg.Kill9())
	must(t, agg.start())
	must(t, worker.start())
	l.answered(ctx)
	l.everywhere(ctx) // so that the aggregator has the rows of every partition again when it is stopped
	stop()
	must(t, w.caughtUp(ctx))
	l.answered(ctx)
	must(t, w.caughtUp(ctx))
	var dirs []string
	for _, i := range []*instance{agg, lim, worker} {
		must(t, i.Stop())
	}
	dirs = append(dirs, agg.stateDir(), lim.stateDir())
	l.timedOut(ctx, "databus.archiver.archiver.a")
	r, err := verify.Verify(ctx, verify.Options{Kafka: w.opts, Registry: w.registry, DedupWindow: w.window, Instances: dirs, History: true, Deleted: deleted})
	must(t, err)
	t.Logf("%d of %d events were deleted before the services began, %d requests, %d answers, which took back %d: %v", len(deleted), r.Events, r.Asked, r.Answers, r.TakenBack, r)
	if err := r.Err(); err != nil {
		t.Errorf("history: %v%s", err, tails([]*instance{agg, worker}))
	}
	if r.Asked < 12 || r.Answers <= r.Asked || r.TakenBack == 0 || r.Repeats == 0 || len(deleted) == 0 {
		t.Error("the proof did not see everything that it is about")
	}
	figures.history(past, kills, r)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// past are the events of an account and of some others, in order.
type past struct {
	w         *world
	account   string
	partition int32
	n         int
	began     time.Time
	producer  *kgo.Client
	events    *codec.Serde[event.UsageEvent]
	contracts *codec.Serde[event.Contract]

	mu   sync.Mutex // held while something of the account is sent
	rng  *rand.Rand
	sent []event.UsageEvent
}

func newPast(w *world, n int) *past {
	w.t.Helper()
	c := codec.New(codec.NewRegistry(w.registry), codec.Options{RegisterSchemas: true})
	l := &past{w: w, account: "acme", n: n, began: time.Now().UTC().Truncate(time.Second), rng: rand.New(rand.NewPCG(6, 5)),
		events: codec.For[event.UsageEvent](c, schemas.UsageEvents), contracts: codec.For[event.Contract](c, schemas.UsageContracts)}
	l.partition = schemas.Partition(schemas.UsageEvents, []byte(l.account), schemas.MustLookup(schemas.UsageEvents).Partitions)
	var err error
	l.producer, err = kgo.NewClient(append(slices.Clone(w.opts), kgo.MaxBufferedRecords(50_000))...)
	must(w.t, err)
	w.t.Cleanup(l.producer.Close)
	return l
}

// at is when event i happens: the past ones within the last forty days.
func (l *past) at(i int) time.Time {
	return l.began.Add(-time.Duration(l.n-i) * (40 * 24 * time.Hour / time.Duration(l.n)))
}

// next makes the next event. One in ten repeats one of the last two thousand; some are another account's.
func (l *past) next() event.UsageEvent {
	i := len(l.sent)
	if i > 10 && l.rng.IntN(10) == 0 {
		e := l.sent[max(0, i-1-l.rng.IntN(2000))]
		l.sent = append(l.sent, e)
		return e
	}
	e := event.UsageEvent{EventID: fmt.Sprint("event-", i), Account: l.account, Pack: packs[l.rng.IntN(3)], OccurredAt: l.at(i), Quantity: 1 + l.rng.Int64N(3), Status: 200,
		AmountMicros: l.rng.Int64N(1000), Endpoint: "/v1/match"}
	if i >= l.n {
		e.OccurredAt = time.Now().UTC()
	}
	if l.rng.IntN(3) == 0 {
		e.Status = 404
	}
	if l.rng.IntN(2) == 0 {
		provider := fmt.Sprint("provider-", l.rng.IntN(9))
		e.Provider = &provider
	}
	switch l.rng.IntN(200) {
	case 0:
		e.Quantity = 0 // refused
	case 1:
		e.Quantity = -2
	}
	if i%10 == 9 {
		e.Account = fmt.Sprint("other-", l.rng.IntN(20))
	}
	l.sent = append(l.sent, e)
	return e
}

// send sends the next n events and waits until they are there.
func (l *past) send(ctx context.Context, n int) {
	l.w.t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	for range n {
		e := l.next()
		v, err := l.events.Encode(ctx, &e)
		must(l.w.t, err)
		l.producer.Produce(ctx, &kgo.Record{Topic: schemas.UsageEvents, Key: []byte(e.Account), Value: v}, func(_ *kgo.Record, err error) {
			if err != nil {
				l.w.t.Errorf("sending an event: %v", err)
			}
		})
	}
	must(l.w.t, l.producer.Flush(ctx))
}

// everywhere sends events until each partition that has some has more.
func (l *past) everywhere(ctx context.Context) {
	l.w.t.Helper()
	before, err := l.w.endsOf(ctx, schemas.UsageEvents)
	must(l.w.t, err)
	for same := true; same; {
		l.send(ctx, 100)
		now, err := l.w.endsOf(ctx, schemas.UsageEvents)
		must(l.w.t, err)
		same = false
		before.Each(func(was kadm.ListedOffset) {
			is, _ := now.Lookup(was.Topic, was.Partition)
			same = same || was.Offset > 0 && is.Offset == was.Offset
		})
	}
}

// background sends events until stop is called.
func (l *past) background(ctx context.Context) (stop func()) {
	inner, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Add(1)
	go func() {
		defer wg.Done()
		for inner.Err() == nil {
			l.send(ctx, 5)
			select {
			case <-inner.Done():
			case <-time.After(20 * time.Millisecond):
			}
		}
	}()
	stop = sync.OnceFunc(func() { cancel(); wg.Wait() })
	l.w.t.Cleanup(stop)
	return stop
}

func (l *past) contract(ctx context.Context, c *event.Contract) *kgo.Record {
	l.w.t.Helper()
	v, err := l.contracts.Encode(ctx, c)
	must(l.w.t, err)
	rec := &kgo.Record{Topic: schemas.UsageContracts, Key: []byte(c.Account), Value: v}
	must(l.w.t, l.producer.ProduceSync(ctx, rec).FirstErr())
	return rec
}

// change sends a contract behind everything that is counted, and goes on behind it, so that there is one order.
func (l *past) change(ctx context.Context, c *event.Contract) {
	l.w.t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	must(l.w.t, l.w.caughtUp(ctx))
	time.Sleep(3 * time.Millisecond) // append times are in milliseconds
	rec := l.contract(ctx, c)
	seen := kadm.ListedOffsets{rec.Topic: {rec.Partition: {Topic: rec.Topic, Partition: rec.Partition, Offset: rec.Offset + 1}}}
	for _, s := range services {
		must(l.w.t, l.w.passed(ctx, s, seen))
	}
	time.Sleep(3 * time.Millisecond)
}

// archived waits until the archive of the account's partition reaches an offset, and returns one in the middle of a file.
func (l *past) archived(ctx context.Context, archiver *instance, reach int64) int64 {
	l.w.t.Helper()
	c := codec.New(codec.NewRegistry(l.w.registry), codec.Options{})
	m, err := history.Follow(ctx, l.w.opts, c, schemas.UsageEvents, nil)
	must(l.w.t, err)
	defer m.Close()
	for deadline := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		must(l.w.t, m.CaughtUp(ctx))
		chain, err := m.Chain(l.partition, 0)
		must(l.w.t, err)
		if chain.Next >= reach {
			ends, err := l.w.endsOf(ctx, schemas.UsageEvents)
			must(l.w.t, err)
			if end, _ := ends.Lookup(schemas.UsageEvents, l.partition); chain.Next >= end.Offset {
				l.w.t.Fatal("everything is archived: there is no tail")
			}
			f := chain.Files[len(chain.Files)*2/3]
			return (f.First + f.Next) / 2
		}
		if err := archiver.Alive(); err != nil || time.Now().After(deadline) {
			l.w.t.Fatalf("the archive ends at %d: %v%s", chain.Next, err, tails([]*instance{archiver}))
		}
	}
}

// timedOut waits until no transaction of an instance is open that may have been killed in the middle of one, and has no successor: the
// brokers end it after its timeout, and look for such only now and then.
func (l *past) timedOut(ctx context.Context, id string) {
	l.w.t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(100 * time.Millisecond) {
		listed, err := l.w.admin.ListTransactions(ctx, nil, []string{"Ongoing"})
		must(l.w.t, err)
		if !slices.Contains(listed.TransactionalIDs(), id) {
			return
		}
		if time.Now().After(deadline) {
			l.w.t.Fatalf("the transaction of %s stays open", id)
		}
	}
}

// deleteBelow deletes what is below an offset in the account's partition, as retention does, and returns it.
func (l *past) deleteBelow(ctx context.Context, offset int64) (deleted []*kgo.Record) {
	l.w.t.Helper()
	reader, err := kgo.NewClient(append(slices.Clone(l.w.opts), kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{schemas.UsageEvents: {l.partition: kgo.NewOffset().AtStart()}}))...)
	must(l.w.t, err)
	defer reader.Close()
	for next := int64(0); next < offset; {
		fetches := reader.PollFetches(ctx)
		must(l.w.t, fetches.Err())
		fetches.EachRecord(func(rec *kgo.Record) {
			if next = rec.Offset + 1; rec.Offset < offset {
				deleted = append(deleted, rec)
			}
		})
	}
	at := kadm.Offsets{}
	at.AddOffset(schemas.UsageEvents, l.partition, offset, -1)
	answer, err := l.w.admin.DeleteRecords(ctx, at)
	must(l.w.t, err)
	must(l.w.t, answer.Error())
	return deleted
}

// answered waits until the worker has answered everything that is asked for now.
func (l *past) answered(ctx context.Context) {
	l.w.t.Helper()
	ends, err := l.w.endsOf(ctx, schemas.UsageBaselineRequests)
	must(l.w.t, err)
	must(l.w.t, l.w.passed(ctx, usageHistory, ends))
}

// asked waits until so many requests are behind those that the worker has committed.
func (l *past) asked(ctx context.Context, n int64) {
	l.w.t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		ends, err := l.w.endsOf(ctx, schemas.UsageBaselineRequests)
		must(l.w.t, err)
		committed, err := l.w.admin.FetchOffsets(ctx, usageHistory)
		must(l.w.t, err)
		open := int64(0)
		ends.Each(func(end kadm.ListedOffset) {
			at, _ := committed.Lookup(end.Topic, end.Partition)
			open += end.Offset - max(0, at.At)
		})
		if open >= n {
			return
		}
		if time.Now().After(deadline) {
			l.w.t.Fatalf("%d requests are open, not %d", open, n)
		}
	}
}
