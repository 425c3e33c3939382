package stream

import (
	"errors"
	"fmt"
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
