package usage

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"databus/pkg/stream"
	"databus/test/crash"
	"databus/test/prove"
	"databus/test/servers"
)

// points are the places between two steps of the protocol.
var points = []string{string(stream.AfterFlush), string(stream.AfterEnd), string(stream.BeforeState), string(stream.InsideRestore)}

func TestMain(m *testing.M) { servers.Main(m, figures.print, binaries.Remove) }

func TestProveKillsOnEmbedded(t *testing.T) {
	proveKills(t, onEmbedded(t), prove.Size(50, 500), prove.Size(1, 10))
}

// proveKills kills one instance of each service kills times in all, under load: each in each window windows times, the
// rest at random moments. Then everything must be exact.
func proveKills(t *testing.T, w *world, kills, windows int) {
	l := newLoad(w, 4)
	if err := l.firstContracts(t.Context()); err != nil {
		t.Fatal(err)
	}
	stop := l.background(t, prove.Size(600, 300))
	all := []*instance{w.newInstance(aggregator, "a"), w.newInstance(limiter, "a")}
	began := time.Now()
	var wg sync.WaitGroup
	failed := make([]error, len(all))
	for n, i := range all {
		own := (kills + 1 - n) / 2
		wg.Add(1)
		go func() {
			defer wg.Done()
			failed[n] = killer{i, rand.New(rand.NewPCG(11, uint64(n)))}.run(t.Context(), plan(own, windows, uint64(n)))
			if failed[n] == nil {
				failed[n] = i.start() // the other one's kills need what it produces
			}
		}()
	}
	wg.Wait()
	for _, err := range failed {
		if err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d kills in %v", kills, time.Since(began).Round(time.Second))
	stop()
	w.verify("kills", all...)
	t.Logf("%d contracts were changed", l.changes.Load())
}

// background runs the load until stop is called.
func (l *load) background(t *testing.T, rate int) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- l.run(ctx, rate) }()
	return sync.OnceFunc(func() {
		t.Helper()
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	})
}

// plan is the order of n kills: a point, or "" for a random moment. A kill inside a restore comes behind one that left
// the state behind Kafka, every other time, else it meets a deleted state.
func plan(n, windows int, seed uint64) []string {
	var blocks [][]string
	left := n
	for k := range windows {
		for _, p := range points {
			b := []string{p}
			if p == string(stream.AfterEnd) && k%2 == 0 {
				b = []string{p, string(stream.InsideRestore)}
			} else if p == string(stream.InsideRestore) && k%2 == 0 {
				continue
			}
			if left >= len(b) {
				blocks, left = append(blocks, b), left-len(b)
			}
		}
	}
	for range left {
		blocks = append(blocks, []string{""})
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

func (k killer) run(ctx context.Context, kills []string) error {
	if err := k.first(ctx); err != nil {
		return fmt.Errorf("the run before the kills: %w", err)
	}
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

// first runs the instance until it has committed something, so that there is something to restore.
func (k killer) first(ctx context.Context) error {
	if err := k.i.start(); err != nil {
		return err
	}
	if err := k.commits(ctx, 0); err != nil {
		return err
	}
	return k.i.Stop()
}

// commits waits until the group is further than at, or the instance has ended.
func (k killer) commits(ctx context.Context, at int64) error {
	for deadline := time.Now().Add(patience); ; {
		if now, err := k.sum(ctx); err == nil && now > at {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("it commits nothing:\n%s", k.i.Tail())
		}
		if k.i.Ends(30 * time.Millisecond) {
			return nil
		}
	}
}

// atRandom kills at some moment: while it starts and joins, or while it works.
func (k killer) atRandom(ctx context.Context) error {
	at, err := k.sum(ctx)
	if err != nil {
		return err
	}
	if err := k.i.start(); err != nil {
		return err
	}
	if k.rng.IntN(10) < 3 {
		k.i.Ends(time.Duration(50+k.rng.IntN(1000)) * time.Millisecond)
	} else {
		if err := k.commits(ctx, at); err != nil {
			return err
		}
		k.i.Ends(time.Duration(k.rng.IntN(700)) * time.Millisecond)
	}
	return k.i.Kill9()
}

// sum says how far the group is.
func (k killer) sum(ctx context.Context) (n int64, err error) {
	offsets, err := k.i.w.admin.FetchOffsets(ctx, k.i.service)
	for _, ps := range offsets {
		for _, o := range ps {
			n += max(0, o.At)
		}
	}
	if err != nil && strings.Contains(err.Error(), "GROUP_ID_NOT_FOUND") {
		err = nil // the first start
	}
	return n, err
}

// inside lets the instance kill itself at a point, and checks that it did.
func (k killer) inside(point, before string) error {
	after := k.rng.IntN(4)
	if point == string(stream.InsideRestore) {
		after = 0
		if before != string(stream.AfterEnd) {
			if err := os.RemoveAll(k.i.dir); err != nil {
				return err
			}
		}
	}
	return k.i.crash(crash.Point{Name: point, After: after})
}
