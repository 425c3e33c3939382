package stream

import (
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"databus/pkg/state"
)

// Derived rows that cover a shorter window than the one that is set now are deleted and made anew; those that cover it stay.
func TestRecallWindow(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.kept = true
	dir := t.TempDir()
	run := func(window time.Duration) {
		t.Helper()
		b.events(100)
		o := b.options("0", dir)
		o.Recall.Window = window
		r := b.start(o)
		b.caughtUp(r)
		r.finish()
	}
	stray := func(add bool) (found int) {
		t.Helper()
		db := b.state("0", dir, false)
		batch := db.NewBatch()
		for p := range int32(parts) {
			r, err := db.NewReader(p)
			if err != nil {
				t.Fatal(err)
			}
			if _, ok, err := r.Get(nil, "newest", []byte("stray")); err != nil {
				t.Fatal(err)
			} else if ok {
				found++
			}
			if err := r.Close(); err != nil {
				t.Fatal(err)
			}
			if add {
				if err := batch.Set(p, "newest", []byte("stray"), []byte("1")); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := errors.Join(batch.Commit(), batch.Close(), db.Close()); err != nil {
			t.Fatal(err)
		}
		return found
	}
	run(time.Hour)
	stray(true)
	run(time.Hour)
	if n := stray(false); n != parts {
		t.Errorf("the same window: the derived rows of %d of %d partitions were used again", n, parts)
	}
	run(time.Minute)
	if n := stray(false); n != parts {
		t.Errorf("a shorter window: the derived rows of %d of %d partitions were used again", n, parts)
	}
	run(24 * time.Hour)
	if n := stray(false); n != 0 {
		t.Errorf("a longer window: derived rows of %d partitions were used again", n)
	}
	b.check(map[string]string{"0": dir})
}

// Where much was processed and few rows have changed, only what derived rows cover moves on. A crash then has the other rows restored
// from their logs, and little processed again.
func TestDerivedRowsAlone(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.kept = true
	dir := t.TempDir()
	hot := func(n int) {
		t.Helper()
		var kv []string
		for range n {
			b.sums["hot"]++
			kv = append(kv, "hot", "1")
		}
		b.produce(in, kv...)
	}
	position := func() (pos state.Position) {
		t.Helper()
		db := b.state("0", dir, true)
		for p := range int32(parts) {
			at, ok, err := db.Position(p)
			if err != nil {
				t.Fatal(err)
			}
			if ok && at.Inputs[in] > pos.Inputs[in] {
				pos = at
			}
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		return pos
	}
	o := b.options("0", dir)
	o.WriteInterval, o.WriteRecords, o.CommitInterval = time.Hour, 200, 200*time.Millisecond
	var crash atomic.Bool
	o.Crash = func(p Point) error {
		if p == AfterEnd && crash.Load() {
			return errCrash
		}
		return nil
	}
	r := b.start(o)
	for range 4 { // the first time everything is written
		hot(300)
		b.caughtUp(r)
	}
	crash.Store(true)
	hot(1)
	if err := r.wait(); !errors.Is(err, errCrash) {
		t.Fatalf("it ended with %v", err)
	}
	pos := position()
	if pos.Derived == nil || pos.Inputs[in] > 600 || pos.Derived.Next < 900 {
		t.Errorf("rows stand for %d events, derived rows cover %+v", pos.Inputs[in], pos.Derived)
	}
	o.Crash = nil
	r = b.start(o)
	b.caughtUp(r)
	r.finish()
	if pos = position(); pos.Inputs[in] < 1200 || pos.Derived.Next != pos.Inputs[in] {
		t.Errorf("at the end rows stand for %d events, derived rows cover %+v", pos.Inputs[in], pos.Derived)
	}
	b.check(map[string]string{"0": dir})
}
