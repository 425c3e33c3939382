package stream

import (
	"errors"
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
		db, err := state.Open(state.Options{Dir: dir, Service: group, Instance: "0"})
		if err != nil {
			t.Fatal(err)
		}
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
