package stream

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"
)

// Two instances with state of their own start, crash at random points, stop and come back, while events arrive: each
// finds in its directory what the other one has overtaken.
func TestRandomCrashesOfTwoInstances(t *testing.T) {
	for _, kept := range []bool{false, true} {
		t.Run(fmt.Sprintf("kept=%v", kept), func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			b.kept = kept
			b.randomCrashes()
		})
	}
}

func (b *bench) randomCrashes() {
	t := b.t
	seed := uint64(time.Now().UnixNano())
	rng := rand.New(rand.NewPCG(seed, 0))
	dirs := map[string]string{"a": t.TempDir(), "b": t.TempDir()}
	points := []Point{AfterFlush, AfterEnd, BeforeState, InsideRestore}
	if b.kept {
		points = append(points, InsideRecall)
	}
	reached := map[Point]int{}
	run := map[string]*running{}
	plan := map[string]Point{}
	for round := range 16 {
		for _, id := range []string{"a", "b"} {
			if run[id] == nil && rng.IntN(4) > 0 {
				o := b.options(id, dirs[id])
				o.SessionTimeout, o.LeaveOnStop = time.Second, rng.IntN(2) == 0
				if rng.IntN(2) == 0 { // with derived rows, they are written alone
					o.WriteInterval, o.WriteRecords = time.Hour, 100
				}
				point, after := points[rng.IntN(len(points))], rng.Int32N(3)
				var left atomic.Int32
				left.Store(after)
				o.Crash = func(p Point) error {
					if p == point && left.Add(-1) < 0 {
						return errCrash
					}
					return nil
				}
				run[id], plan[id] = b.start(o), point
			}
		}
		b.events(50 + rng.IntN(200))
		time.Sleep(time.Duration(rng.IntN(500)) * time.Millisecond)
		for _, id := range []string{"a", "b"} {
			r := run[id]
			if r == nil {
				continue
			}
			stop := rng.IntN(4) == 0 || round == 15
			if stop {
				r.stop()
			}
			select {
			case err := <-r.done:
				r.done <- err
			default:
				if !stop {
					continue
				}
			}
			switch err := r.wait(); {
			case errors.Is(err, errCrash):
				reached[plan[id]]++
			case err != nil:
				t.Fatalf("seed %d: instance %s ended with %v", seed, id, err)
			}
			run[id] = nil
		}
	}
	t.Logf("seed %d, crashes %v", seed, reached)
	last := b.start(b.options("a", dirs["a"]))
	for deadline := time.Now().Add(20 * time.Second); len(last.Positions()[in]) < parts; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) { // the other one's session must end first
			t.Fatalf("seed %d: the last instance owns %v only", seed, last.Positions())
		}
	}
	b.caughtUp(last)
	last.finish()
	b.check(dirs)
}
