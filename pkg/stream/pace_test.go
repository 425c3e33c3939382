package stream

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/twmb/franz-go/pkg/kgo"
)

// slowly wraps the service under test: delay runs before each event.
func slowly(delay func(*Tx, *kgo.Record)) func(int32) Handlers {
	return func(p int32) Handlers {
		h := summing(p)
		sum := h.Inputs[in]
		h.Inputs[in] = func(tx *Tx, rec *kgo.Record) error {
			delay(tx, rec)
			return sum(tx, rec)
		}
		return h
	}
}

// A hot key whose records are slow: far more are waiting than one transaction can take. After one batch that is too
// large, no transaction is lost any more.
func TestSlowRecords(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	dir := t.TempDir()
	var kv []string
	for i := range 1200 {
		kv = append(kv, "hot", strconv.Itoa(i+1))
		b.sums["hot"] += int64(i + 1)
	}
	b.produce(in, kv...)
	o := b.options("0", dir)
	o.TransactionTimeout = 2 * time.Second
	var began, longest atomic.Int64
	o.Handlers = func(p int32) Handlers {
		h := slowly(func(*Tx, *kgo.Record) {
			began.CompareAndSwap(0, time.Now().UnixNano())
			time.Sleep(3 * time.Millisecond)
		})(p)
		finish := h.Finish
		h.Finish = func(tx *Tx) error {
			longest.Store(max(longest.Load(), time.Now().UnixNano()-began.Load()))
			began.Store(0)
			return finish(tx)
		}
		return h
	}
	r := b.start(o)
	b.caughtUp(r)
	slow, transactions := testutil.ToFloat64(r.metrics.slow), testutil.ToFloat64(r.metrics.transactions)
	r.finish()
	b.check(map[string]string{"0": dir})
	if slow < 1 || slow > 3 {
		t.Errorf("%v batches were too slow: the first one must be, and hardly another", slow)
	}
	if transactions < 3 || transactions > 60 {
		t.Errorf("%v transactions", transactions)
	}
	// The batch that was given up lies between the first record and the first Finish.
	if d := time.Duration(longest.Load()); d > 3*time.Second {
		t.Errorf("the longest transaction took %v", d)
	}
}

// A record whose handler does not come back: the instance stops, says which one it is, and does not wait for it.
func TestStalledRecord(t *testing.T) {
	for _, polite := range []bool{true, false} {
		t.Run(fmt.Sprintf("polite=%v", polite), func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			dir := t.TempDir()
			b.events(300)
			b.produce(in, "hot", "1", "hot", "2")
			b.sums["hot"] = 3
			o := b.options("0", dir)
			o.TransactionTimeout = 2 * time.Second
			var place atomic.Pointer[string]
			never := make(chan struct{})
			t.Cleanup(func() { close(never) })
			o.Handlers = slowly(func(tx *Tx, rec *kgo.Record) {
				if string(rec.Key) != "hot" {
					return
				}
				at := fmt.Sprintf("%s, partition %d, offset %d", rec.Topic, rec.Partition, rec.Offset)
				place.Store(&at)
				if polite {
					<-tx.Context().Done()
				} else {
					<-never
				}
			})
			began := time.Now()
			err := b.start(o).wait()
			if !errors.Is(err, ErrStalled) || place.Load() == nil || !strings.Contains(err.Error(), *place.Load()) {
				t.Fatalf("ended with %v, want %v at %v", err, ErrStalled, place.Load())
			}
			if d := time.Since(began); d > 15*time.Second {
				t.Errorf("it took %v to say so", d)
			}
			if !polite {
				return // a process ends here: the handler still holds the state
			}
			o.Handlers = summing
			r := b.start(o)
			b.caughtUp(r)
			r.finish()
			b.check(map[string]string{"0": dir})
		})
	}
}

// A stall that ends by itself costs one batch.
func TestPassingStall(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	dir := t.TempDir()
	b.events(300)
	o := b.options("0", dir)
	o.TransactionTimeout = 4 * time.Second
	var stalled atomic.Bool
	o.Handlers = slowly(func(_ *Tx, rec *kgo.Record) {
		if rec.Offset == 10 && stalled.CompareAndSwap(false, true) {
			time.Sleep(2300 * time.Millisecond)
		}
	})
	r := b.start(o)
	b.caughtUp(r)
	r.finish()
	b.check(map[string]string{"0": dir})
	if n := testutil.ToFloat64(r.metrics.slow); n != 1 {
		t.Errorf("%v batches were given up, want 1", n)
	}
}

func TestPace(t *testing.T) {
	var p pace
	if n := p.size(time.Second); n != firstPoll {
		t.Errorf("the first poll takes %d", n)
	}
	p.took(1000, time.Millisecond)
	if n := p.size(time.Second); n != 1_000_000 {
		t.Errorf("at a microsecond each: %d", n)
	}
	p.took(10, time.Second)
	if n := p.size(time.Second); n != 10 {
		t.Errorf("slower is believed at once: %d", n)
	}
	p.took(10, 10*time.Millisecond)
	if n := p.size(time.Second); n < 11 || n > 20 {
		t.Errorf("faster by and by: %d", n)
	}
	p.most = 1
	for range 10 {
		p.took(p.size(time.Second), time.Microsecond)
	}
	if n := p.size(time.Second); n < 50 {
		t.Errorf("behind a stall it recovers: %d", n)
	}
	if n := p.size(-time.Second); n != 1 {
		t.Errorf("with no time left: %d", n)
	}
}

// A transaction collects for its interval, for longer while more is waiting than it has read, and never for ever.
func TestDue(t *testing.T) {
	const interval = time.Minute
	r := &Runtime{o: Options{CommitInterval: interval, TransactionTimeout: time.Hour}, tasks: map[int32]*task{}, paused: map[int32]*pause{}}
	r.status.high = map[topicPartition]int64{{in, 0}: 100_000, {in, 1}: 100_000}
	for p := range int32(2) {
		r.tasks[p] = &task{next: map[string]int64{in: 40_000}}
	}
	r.records, r.started = 100_000, true
	check := func(what string, age time.Duration, want bool) {
		t.Helper()
		r.begun = time.Now().Add(-age)
		r.deadline = r.begun.Add(interval)
		if got := r.due(); got != want {
			t.Errorf("%s: due is %v", what, got)
		}
		if left := time.Until(r.deadline); !want && (left <= 0 || left > interval) {
			t.Errorf("%s: %v are left", what, left)
		}
	}
	check("young", interval/2, false)
	check("more is waiting", interval+time.Second, false)
	check("more is waiting, nearly for too long", catchUp*interval-time.Second, false)
	check("more is waiting, for too long", catchUp*interval+time.Second, true)
	r.started = false
	check("it was assigned just now", interval+time.Second, true)
	r.started = true
	r.tasks[0].gated = true
	check("half of it waits for a table", interval+time.Second, true)
	r.tasks[0].gated = false
	r.paused[1] = &pause{}
	check("half of it waits for the registry", interval+time.Second, true)
	delete(r.paused, 1)
	r.records = 120_000
	check("less is waiting than it has", interval+time.Second, true)
	r.records = 1
	r.tasks[0].next[in], r.tasks[1].next[in] = 95_000, 95_000
	check("little is waiting, though more than it has", interval+time.Second, true)
	r.tasks[0].next[in] = 0
	r.o.TransactionTimeout = 4 * interval
	check("a quarter of the transaction timeout is over", interval+time.Second, true)
}

// Commits are an interval apart, and leave the brokers as much time as they take.
func TestCollectUntil(t *testing.T) {
	const interval = 20 * time.Millisecond
	now := time.Now()
	r := &Runtime{o: Options{CommitInterval: interval, TransactionTimeout: time.Hour}}
	for _, c := range []struct {
		what       string
		took, over time.Duration // of the last commit; how long ago it ended
		want       time.Duration
	}{
		{"a quick commit just now", 5 * time.Millisecond, 0, 15 * time.Millisecond},
		{"a quick commit, and nothing came for a while", 5 * time.Millisecond, 10 * time.Millisecond, 5 * time.Millisecond},
		{"a quiet time", 5 * time.Millisecond, time.Second, 0},
		{"a commit of more than half an interval", 15 * time.Millisecond, 0, 15 * time.Millisecond},
		{"a commit of an interval", interval, 0, interval},
		{"a slow commit", time.Second, 0, interval},
		{"a slow commit some time ago", time.Second, interval + 1, 0},
	} {
		r.last = lap{now.Add(-c.over - c.took), now.Add(-c.over)}
		if got := r.collectUntil(now).Sub(now); got != c.want {
			t.Errorf("%s: %v, want %v", c.what, got, c.want)
		}
	}
	r.last = lap{}
	if got := r.collectUntil(now).Sub(now); got != 0 {
		t.Errorf("the first transaction waits %v", got)
	}
}

// Partitions are written in turns, the longest changed first, and all together where it is too much.
func TestToWrite(t *testing.T) {
	now := time.Now()
	r := &Runtime{o: Options{WriteInterval: time.Second, WriteRecords: 100, CacheBytes: 1000}, shape: &shape{}, tasks: map[int32]*task{}}
	for p := range int32(4) { // 0 has nothing to write
		r.tasks[p] = &task{cache: &cache{}, unwritten: p > 0, unread: 10, changed: now.Add(-time.Duration(p) * 400 * time.Millisecond)}
	}
	check := func(what string, wantDerived bool, want ...int32) {
		t.Helper()
		due, derived := r.toWrite(now)
		if got := slices.Sorted(maps.Keys(due)); !slices.Equal(got, want) || derived != wantDerived {
			t.Errorf("%s: writes %v, want %v; derived rows of the others %v, want %v", what, got, want, derived, wantDerived)
		}
	}
	check("only the last is old enough", false, 3)
	r.tasks[2].changed = now.Add(-1100 * time.Millisecond)
	check("two are old enough", false, 3)
	r.tasks[3].unwritten = false
	check("the older one was written", false, 2)
	r.tasks[1].passed = 100
	check("there are no derived rows", false, 2)
	r.shape.derived = true
	check("none of them would be made again", false, 2)
	r.o.Recall.Window = time.Hour
	check("a restart would process too much again", true, 2)
	r.tasks[2].unwritten = false
	check("both were written", true)
	r.tasks[1].unread = 100
	check("a restart would read too much", false, 0, 1, 2, 3)
	r.tasks[1].unread, r.tasks[1].cache.bytes = 99, 1001
	check("they hold too much memory", false, 0, 1, 2, 3)
}

// However long a transaction may collect: what it is going to write ends it, and what a restart would read again is written.
func TestRowsEndTransactions(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	dir := t.TempDir()
	b.events(2000)
	o := b.options("0", dir)
	o.CommitInterval, o.WriteInterval, o.MaxRows, o.WriteRecords = 2500*time.Millisecond, time.Hour, 100, 50
	var writes atomic.Int64
	o.Crash = func(p Point) error {
		if p == BeforeState {
			writes.Add(1)
		}
		return nil
	}
	o.Handlers = func(p int32) Handlers {
		h := summing(p)
		n, sum, finish := 0, h.Inputs[in], h.Finish
		h.Inputs[in] = func(tx *Tx, rec *kgo.Record) error {
			n++
			return sum(tx, rec)
		}
		h.Pending = func() int { return n }
		h.Finish = func(tx *Tx) error {
			n = 0
			return finish(tx)
		}
		return h
	}
	r := b.start(o)
	b.caughtUp(r)
	transactions, wrote := testutil.ToFloat64(r.metrics.transactions), writes.Load()
	r.finish()
	b.check(map[string]string{"0": dir})
	if transactions < 10 {
		t.Errorf("%v transactions, each of 100 records and one poll more at most", transactions)
	}
	if wrote < 3 {
		t.Errorf("the state was written %d times", wrote)
	}
}
