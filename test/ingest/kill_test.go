package ingest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"time"

	"databus/pkg/identity"
	"databus/pkg/stream"
	"databus/services/ingest"
	"databus/test/crash"
	"databus/test/prove"
)

// Points that every instance has, and those of an instance that applies to a store without transactions.
var (
	points = []string{
		ingest.PointAcknowledged, ingest.PointBatch,
		ingest.LoopPoint(false, stream.AfterFlush), ingest.LoopPoint(false, stream.AfterEnd),
		ingest.LoopPoint(true, stream.AfterFlush), ingest.LoopPoint(true, stream.AfterEnd), ingest.LoopPoint(true, stream.BeforeState),
		restoring,
	}
	restoring    = ingest.LoopPoint(true, stream.InsideRestore)
	movingPoints = []string{identity.MoveWritten, identity.MoveCleared}
)

func (i *instance) points() []string {
	all := points
	if i.applies {
		all = append(all[:len(all):len(all)], ingest.PointApplied)
	}
	if i.applies && i.w.shared {
		all = append(all, movingPoints...)
	}
	return all
}

func TestProveKillsOnEmbedded(t *testing.T) {
	w := onEmbedded(t)
	l := proveKills(t, w, prove.Size(18, 60), prove.Size(1, 2))
	if !prove.Full() {
		w.notices(t, l)
	}
}

// proveKills kills two instances kills times in all, under load: each in each of its points windows times, the rest at
// random moments. Then everything must be as the model says.
func proveKills(t *testing.T, w *world, kills, windows int) *load {
	for _, id := range []string{"a", "b"} {
		w.newInstance(id)
	}
	l := newLoad(w, 60*time.Millisecond)
	stop := l.start(t.Context())
	began := time.Now()
	var wg sync.WaitGroup
	failed := make([]error, len(w.instances))
	for n, i := range w.instances {
		own := (kills + n) / len(w.instances)
		wg.Add(1)
		go func() {
			defer wg.Done()
			failed[n] = (&killer{i: i, rng: rand.New(rand.NewPCG(31, uint64(n)))}).run(t.Context(), plan(i.points(), own, windows, uint64(n)))
		}()
	}
	wg.Wait()
	for n, err := range failed {
		if err != nil {
			t.Fatalf("instance %s: %v", w.instances[n].id, err)
		}
	}
	t.Logf("%d kills in %v", kills, time.Since(began).Round(time.Second))
	for _, i := range w.instances {
		if err := i.start(); err != nil {
			t.Fatal(err)
		}
	}
	if err := stop(); err != nil {
		t.Fatalf("%v%s", err, w.tails())
	}
	t.Logf("%d calls failed and were sent again", l.again)
	r := w.verify(l)
	if r.Repeats == 0 || r.Moves == 0 || r.SameMillisecond == 0 || l.again == 0 {
		t.Errorf("the load does not test: %v", r)
	}
	return l
}

// plan is the order of n kills: a point, or "" for a random moment. A kill inside a restore comes behind one that left the
// state behind Kafka, every other time, else it meets a deleted state.
func plan(points []string, n, windows int, seed uint64) []string {
	var blocks [][]string
	left := n
	add := func(b ...string) {
		if left >= len(b) {
			blocks, left = append(blocks, b), left-len(b)
		}
	}
	for k := range windows {
		for _, p := range points {
			switch {
			case p == ingest.LoopPoint(true, stream.AfterEnd) && k%2 == 1:
				add(p, restoring)
			case p == restoring && k%2 == 1:
			default:
				add(p)
			}
		}
	}
	for left > 0 {
		add("")
	}
	rng := rand.New(rand.NewPCG(seed, 9))
	rng.Shuffle(len(blocks), func(i, j int) { blocks[i], blocks[j] = blocks[j], blocks[i] })
	var all []string
	for _, b := range blocks {
		all = append(all, b...)
	}
	return all
}

// killer kills one instance again and again.
type killer struct {
	i   *instance
	rng *rand.Rand
}

func (k *killer) run(ctx context.Context, kills []string) error {
	before := ""
	for n, point := range kills {
		var err error
		if point == "" {
			err = k.atRandom(ctx)
		} else {
			err = k.inside(point, before)
		}
		if err != nil {
			return fmt.Errorf("kill %d of %d (%s): %w", n+1, len(kills), point, err)
		}
		figures.kill(point)
		before = point
	}
	return nil
}

// atRandom kills at some moment: while it starts and joins, or while it works.
func (k *killer) atRandom(ctx context.Context) error {
	if err := k.i.start(); err != nil {
		return err
	}
	if k.rng.IntN(10) < 3 {
		k.i.Ends(time.Duration(50+k.rng.IntN(1000)) * time.Millisecond)
	} else {
		for deadline := time.Now().Add(patience); !k.i.ready(); {
			if ctx.Err() != nil || time.Now().After(deadline) {
				return fmt.Errorf("it does not become ready:\n%s", k.i.Tail())
			}
			if k.i.Ends(30 * time.Millisecond) {
				break
			}
		}
		k.i.Ends(time.Duration(k.rng.IntN(1000)) * time.Millisecond)
	}
	return k.i.Kill9()
}

// inside lets the instance kill itself at a point, and checks that it did.
func (k *killer) inside(point, before string) error {
	after := k.rng.IntN(4)
	if point == restoring {
		after = 0
		if before != ingest.LoopPoint(true, stream.AfterEnd) {
			if err := os.RemoveAll(k.i.dir); err != nil {
				return err
			}
		}
	}
	return k.i.crash(crash.Point{Name: point, After: after})
}
