package aggregator

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"databus/pkg/service"
	"databus/test/process"
)

// restarted starts a contender that does not run and returns how long its first new committed output took, seen by a
// consumer under read committed.
func (b *bench) restarted(ctx context.Context, c contender, dedup bool) (time.Duration, *process.Program, error) {
	ends, err := b.ends(ctx, c.output())
	if err != nil {
		return 0, nil, err
	}
	from := map[int32]kgo.Offset{}
	for p, end := range ends {
		from[p] = kgo.NewOffset().At(end)
	}
	watch, err := b.newClient(kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{c.output(): from}), kgo.FetchIsolationLevel(kgo.ReadCommitted()))
	if err != nil {
		return 0, nil, err
	}
	defer watch.Close()
	began := time.Now()
	p, err := c.start(100*time.Millisecond, dedup)
	if err != nil {
		return 0, nil, err
	}
	for {
		pctx, cancel := context.WithTimeout(ctx, time.Second)
		fetches := watch.PollFetches(pctx)
		cancel()
		if fetches.NumRecords() > 0 {
			return time.Since(began), p, nil
		}
		if err := errors.Join(p.Alive(), ctx.Err()); err != nil {
			return 0, p, err
		}
		if time.Since(began) > 10*time.Minute {
			return 0, p, fmt.Errorf("%s puts out nothing behind its restart", c.name())
		}
	}
}

// restarts of one contender: until its first new output; and how long of that behind the kill ids were made anew.
type restarts struct{ clean, killed, wiped, recalled time.Duration }

// restart measures restarts of a running, caught-up contender; it ends with a kill in the middle of a new run, whose
// result must be as exact as any other. The contender runs when it returns.
func (b *bench) restart(ctx context.Context, c contender, dedup bool, p *process.Program) (r restarts, _ *process.Program, err error) {
	for _, wipe := range []bool{false, true} {
		if err := p.Stop(); err != nil {
			return r, p, err
		}
		if wipe {
			if err := c.wipe(); err != nil {
				return r, nil, err
			}
		}
		if err := b.in.send(ctx, 100, false); err != nil { // something to do
			return r, nil, err
		}
		took := &r.clean
		if wipe {
			took = &r.wiped
		}
		if *took, p, err = b.restarted(ctx, c, dedup); err != nil {
			return r, p, err
		}
		if err := b.caughtUp(ctx, c, p); err != nil {
			return r, p, err
		}
	}
	if _, err := b.verify(ctx, c.output(), dedup); err != nil {
		return r, p, err
	}
	if err := p.Stop(); err != nil {
		return r, p, err
	}

	if err := c.fresh(ctx); err != nil {
		return r, nil, err
	}
	if p, err = c.start(100*time.Millisecond, dedup); err != nil {
		return r, nil, err
	}
	total, err := b.total(ctx)
	if err != nil {
		return r, p, err
	}
	for at := int64(0); at < total*2/5; time.Sleep(10 * time.Millisecond) {
		if at, err = b.progress(ctx, c, p); err != nil {
			return r, p, err
		}
	}
	if err := p.Kill9(); err != nil {
		return r, p, err
	}
	if err := b.in.send(ctx, 100, false); err != nil { // few events may all be counted by then
		return r, nil, err
	}
	if r.killed, p, err = b.restarted(ctx, c, dedup); err != nil {
		return r, p, err
	}
	r.recalled = c.recalled(p)
	if err := b.caughtUp(ctx, c, p); err != nil {
		return r, p, err
	}
	_, err = b.verify(ctx, c.output(), dedup)
	return r, p, err
}

// latency sends events at a rate to a contender that does not run, once it has caught up, and returns the times from just before each
// event is produced until a consumer under read committed has the count, sorted, in milliseconds.
func (b *bench) latency(ctx context.Context, c contender, dedup bool) (ms []float64, err error) {
	p, err := c.start(commitForLatency, dedup)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, p.Stop()) }()
	if err := b.caughtUp(ctx, c, p); err != nil {
		return nil, err
	}
	if ms, err = b.turnaround(ctx, fmt.Sprintf("probe-%s-%v-", c.name(), dedup), c.output(), p); err != nil {
		return nil, fmt.Errorf("%s: %w", c.name(), err)
	}
	if err := b.caughtUp(ctx, c, p); err != nil {
		return nil, err
	}
	_, err = b.verify(ctx, c.output(), dedup)
	return ms, err
}

const commitForLatency = 20 * time.Millisecond

// turnaround is latency for a program that runs. Each event has an account of its own, of a prefix.
func (b *bench) turnaround(ctx context.Context, prefix, output string, p *process.Program) (ms []float64, err error) {
	producer, err := kgo.NewClient(kgo.SeedBrokers(b.addr), kgo.ProducerLinger(0), kgo.RecordPartitioner(service.Partitioner()))
	if err != nil {
		return nil, fmt.Errorf("making a client: %w", err)
	}
	defer producer.Close()
	ends, err := b.ends(ctx, output)
	if err != nil {
		return nil, err
	}
	from := map[int32]kgo.Offset{}
	for p, end := range ends {
		from[p] = kgo.NewOffset().At(end)
	}
	watch, err := b.newClient(kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{output: from}), kgo.FetchIsolationLevel(kgo.ReadCommitted()))
	if err != nil {
		return nil, err
	}
	defer watch.Close()

	warm := int(b.o.Warm.Seconds() * float64(b.o.Rate))
	n := warm + int(b.o.Latency.Seconds()*float64(b.o.Rate))
	records := make([]*kgo.Record, n)
	for i := range records {
		if records[i], err = b.in.probe(ctx, prefix+strconv.Itoa(i)); err != nil {
			return nil, err
		}
	}
	sentAt, seenAt := make([]time.Time, n), make([]time.Time, n)
	var mu sync.Mutex // of sentAt, and failed
	var failed error
	go func() {
		began := time.Now()
		for i, rec := range records {
			time.Sleep(time.Until(began.Add(time.Duration(i) * time.Second / time.Duration(b.o.Rate))))
			mu.Lock()
			sentAt[i] = time.Now()
			mu.Unlock()
			producer.Produce(ctx, rec, func(_ *kgo.Record, err error) {
				if err != nil {
					mu.Lock()
					failed = err
					mu.Unlock()
				}
			})
		}
	}()
	for left, deadline := n, time.Now().Add(b.o.Warm+b.o.Latency+2*time.Minute); left > 0; {
		pctx, cancel := context.WithTimeout(ctx, time.Second)
		fetches := watch.PollFetches(pctx)
		cancel()
		now := time.Now()
		fetches.EachRecord(func(rec *kgo.Record) {
			account, _, _ := strings.Cut(string(rec.Key), "/")
			i, err := strconv.Atoi(strings.TrimPrefix(account, prefix))
			if err == nil && strings.HasPrefix(account, prefix) && seenAt[i].IsZero() {
				seenAt[i] = now
				left--
			}
		})
		mu.Lock()
		err := failed
		mu.Unlock()
		if err = errors.Join(err, p.Alive(), ctx.Err()); err != nil {
			return nil, err
		}
		if now.After(deadline) {
			return nil, fmt.Errorf("%d of %d events have not been put out", left, n)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	for i := warm; i < n; i++ {
		ms = append(ms, float64(seenAt[i].Sub(sentAt[i]).Microseconds())/1000)
	}
	slices.Sort(ms)
	return ms, nil
}
