package stream

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"
)

// A transaction that takes longer than Kafka's timeout is aborted by the broker, read again, and aborted again, for ever.
// So its time is shared out:
//
//	up to 1/4 of the timeout   records are polled, no more at once than the measured pace allows in that time
//	at 1/2                     no further record starts: the batch is given up and polled again in smaller parts
//	at 3/4                     a handler that is still busy with one record stalls: the instance stops and names the record

// ErrStalled is wrapped by the error with which an instance stops whose handler does not come back from a record.
var ErrStalled = errors.New("stalled")

// errLate ends the processing of a batch that takes too long.
var errLate = errors.New("half of the transaction timeout is over")

// firstPoll bounds the first batch, when nothing has been measured.
const firstPoll = 1000

// pace is the measured time that a record takes, over all partitions.
type pace struct {
	record time.Duration // 0: not measured
	most   int           // records of a poll after one that took too long; 0: no bound
}

// took notes how long a batch took. Slower is believed at once, faster by and by.
func (p *pace) took(records int, d time.Duration) {
	record := max(d/time.Duration(records), 1)
	if record < p.record {
		record = (p.record + record) / 2
	}
	p.record = record
	if p.most > 0 && records >= p.most {
		p.most *= 2 // it went well
	}
}

// size is how many records to poll if left may be spent on them.
func (p *pace) size(left time.Duration) int {
	n := firstPoll
	if p.record > 0 {
		n = int(min(left/p.record, 1<<30))
	}
	if p.most > 0 {
		n = min(n, p.most)
	}
	return max(n, 1)
}

// catchUp is how many commit intervals a transaction may take while there is a backlog: more than it has read, and more than a
// poll brings in passing, which would only delay it.
const (
	catchUp    = 10
	backlogMin = 10_000
)

// lap is the time that something took.
type lap struct{ began, ended time.Time }

func (l lap) took() time.Duration { return l.ended.Sub(l.began) }

// collectUntil is when a transaction that begins now has collected for long enough: an interval behind the beginning of the last
// commit. So what comes behind a quiet time is committed at once, and nothing waits for an interval and two commits. As much time
// as that commit took is left between the two, up to an interval, lest brokers that are slow had nothing but commits to do.
func (r *Runtime) collectUntil(now time.Time) time.Time {
	interval := min(r.o.CommitInterval, r.o.TransactionTimeout/4)
	at := r.last.ended.Add(min(r.last.took(), interval))
	if next := r.last.began.Add(interval); next.After(at) {
		at = next
	}
	if now.After(at) {
		return now
	}
	return at
}

// due says whether the open transaction has collected for long enough.
func (r *Runtime) due() bool {
	now := time.Now()
	if now.Before(r.deadline) {
		return false
	}
	if !r.underWay() {
		return true
	}
	latest := r.begun.Add(min(catchUp*r.o.CommitInterval, r.o.TransactionTimeout/4))
	if !now.Before(latest) || r.backlog() <= int64(max(r.records, backlogMin)) {
		return true
	}
	r.deadline = now.Add(min(r.o.CommitInterval, latest.Sub(now)))
	return false
}

// backlog is how much lies behind what has been polled, in offsets, where partitions are not held up.
func (r *Runtime) backlog() (n int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for p, t := range r.tasks {
		if r.paused[p] != nil || t.gated {
			continue
		}
		for topic, next := range t.next {
			n += max(0, r.status.high[topicPartition{topic, p}]-next)
		}
	}
	return n
}

// underWay says whether a transaction was committed since the assignment. The first one ends in time, so that results move soon
// behind a restart, although much may be waiting and every row is looked for on disk.
func (r *Runtime) underWay() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.started
}

// pollSize is how many records the next poll may return.
func (r *Runtime) pollSize() int {
	left := r.o.TransactionTimeout / 4
	if r.open {
		left -= time.Since(r.begun)
	}
	if !r.underWay() {
		left = min(left, r.o.CommitInterval)
	}
	return min(r.o.MaxRecords-r.records, r.o.MaxRows, r.pace.size(left))
}

// slower gives up a batch that took too long. A batch of one record never comes here: there was none behind it to start.
func (r *Runtime) slower(data int) error {
	done := 0
	for _, t := range r.snapshot() {
		done += t.processed
	}
	r.pace.most = max(1, min(data, done)/2)
	r.pace.record = max(r.pace.record, time.Since(r.begun)/time.Duration(max(done, 1)))
	r.metrics.slow.Inc()
	return r.abort(fmt.Sprintf("%d of %d records took half of the transaction timeout of %v; polling %d at once from now on", done, r.records, r.o.TransactionTimeout, r.pace.most))
}

// guard runs work for the tasks in parallel. It does not wait for a handler that stalls.
func (r *Runtime) guard(tasks []*task, doing string, work func(*task) error) error {
	done := make(chan error, 1)
	go func() {
		var g errgroup.Group
		g.SetLimit(r.o.Parallel)
		for _, t := range tasks {
			g.Go(func() error { return work(t) })
		}
		done <- g.Wait()
	}()
	if !r.open { // control records only: no handler is called
		return <-done
	}
	half := time.AfterFunc(time.Until(r.begun.Add(r.o.TransactionTimeout/2)), func() { r.late.Store(true) })
	defer half.Stop()
	stalled := time.NewTimer(time.Until(r.begun.Add(r.o.TransactionTimeout * 3 / 4)))
	defer stalled.Stop()
	select {
	case err := <-done:
		return err
	case <-stalled.C:
	}
	at := "a partition"
	for _, t := range tasks {
		if rec := t.current.Load(); rec != nil {
			at = fmt.Sprintf("%s, partition %d, offset %d", rec.Topic, rec.Partition, rec.Offset)
		}
	}
	r.cancel() // a handler that looks at its context ends now
	select {
	case <-done:
	case <-time.After(time.Second):
		// The state stays open under the handler's feet until the process ends.
		r.deserted = true
	}
	return fmt.Errorf("stream %s: %s %s: %w: it is not done after %v, three quarters of the transaction timeout, although little was polled at "+
		"once; look at what the handler waits for (a slow disk, a huge row), or lengthen the transaction timeout", r.o.Group, doing, at, ErrStalled, time.Since(r.begun).Round(time.Millisecond))
}
