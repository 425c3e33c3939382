package stream

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// maxAborts transactions in a row may be refused before Run gives up.
const maxAborts = 20

// commit ends the open transaction. The order of its steps is the package's promise.
func (r *Runtime) commit() error {
	began := time.Now()
	var tasks []*task
	for _, t := range r.snapshot() {
		if t.moved() {
			tasks = append(tasks, t)
		}
	}
	held := r.held()
	if len(tasks) == 0 && len(held) > 0 {
		return r.abort("every record of it waits")
	}
	if err := r.guard(tasks, "finishing", (*task).finish); err != nil {
		return r.handle(err)
	}

	// The steps below may wait for brokers that are away. The loop says nothing meanwhile; its next round looks again.
	slow := time.AfterFunc(r.o.TransactionTimeout/4, func() {
		r.report(false, fmt.Sprintf("committing: the brokers have not answered for %v", r.o.TransactionTimeout/4))
	})
	defer slow.Stop()
	// Every promise is looked at behind Flush, which itself says nothing about records that failed.
	if err := r.produce(tasks); err != nil {
		if isFenced(err) {
			return r.fatal("producing", err)
		}
		return r.abort("producing: " + err.Error())
	}
	if err := r.o.Crash(AfterFlush); err != nil {
		return err
	}

	ctx, cancel := context.WithTimeout(r.ctx, 2*r.o.TransactionTimeout)
	defer cancel()
	if len(held) > 0 {
		ctx = kgo.PreTxnCommitFnContext(ctx, asProcessed(held))
	}
	committed, err := r.session.End(ctx, kgo.TryCommit)
	r.open = false
	r.rebalanced.Store(false)
	if err != nil {
		if open := time.Since(r.begun); open > r.o.TransactionTimeout {
			err = fmt.Errorf("%w (the transaction was open for %v, and brokers give it up after its timeout of %v: the brokers or this machine are too slow)",
				err, open.Round(time.Millisecond), r.o.TransactionTimeout)
		}
		// Kafka may or may not have committed. Only a restore can tell, so nothing in memory may be used again.
		return r.replaced(r.fatal("ending a transaction", fmt.Errorf("%w; start again, the restore finds out: %w", ErrOutcomeUnknown, err)))
	}
	if !committed {
		return r.refused(tasks)
	}
	if err := r.o.Crash(AfterEnd); err != nil {
		return err
	}
	r.aborts = 0
	r.moved = time.Time{}
	r.readAgain(held)
	r.done(tasks, began)
	return nil
}

// held are the tasks, by partition, that have got to a record that has to wait. The client takes everything that it has
// given out for processed: what it commits of them must be put right, and what is behind it read again.
func (r *Runtime) held() map[int32]*task {
	held := map[int32]*task{}
	for _, t := range r.snapshot() {
		if t.held != nil {
			held[t.partition] = t
		}
	}
	return held
}

// asProcessed puts the offsets right that the client is about to commit.
func asProcessed(held map[int32]*task) func(*kmsg.TxnOffsetCommitRequest) error {
	return func(req *kmsg.TxnOffsetCommitRequest) error {
		for i := range req.Topics {
			topic := &req.Topics[i]
			kept := topic.Partitions[:0]
			for _, p := range topic.Partitions {
				if t := held[p.Partition]; t != nil {
					next, ok := t.next[topic.Topic]
					if !ok {
						continue
					}
					p.Offset, p.LeaderEpoch = next, -1
				}
				kept = append(kept, p)
			}
			topic.Partitions = kept
		}
		req.Topics = slices.DeleteFunc(req.Topics, func(t kmsg.TxnOffsetCommitRequestTopic) bool { return len(t.Partitions) == 0 })
		return nil
	}
}

// readAgain turns the client back to what is not processed.
func (r *Runtime) readAgain(held map[int32]*task) {
	again := map[string]map[int32]kgo.EpochOffset{}
	for partition, t := range held {
		from := maps.Clone(t.held)
		maps.Copy(from, t.next)
		for topic, at := range from {
			if again[topic] == nil {
				again[topic] = map[int32]kgo.EpochOffset{}
			}
			again[topic][partition] = kgo.EpochOffset{Epoch: -1, Offset: at}
		}
		t.held = nil
	}
	r.session.Client().SetOffsets(again)
}

// replaced adds to an unknown outcome that this instance has lost its place in the group, if that is why: the session of a
// zombie that wakes up at the end of a transaction waits in vain for a heartbeat, and its request then times out.
func (r *Runtime) replaced(err error) error {
	member, generation := r.session.Client().GroupMetadata()
	if errors.Is(err, ErrFenced) || member == "" {
		return err
	}
	req := kmsg.NewPtrHeartbeatRequest()
	req.Group, req.MemberID, req.Generation, req.InstanceID = r.o.Group, member, generation, &r.o.Instance
	ctx, cancel := context.WithTimeout(r.ctx, 5*time.Second)
	defer cancel()
	for {
		resp, asking := req.RequestWith(ctx, r.session.Client())
		if asking != nil {
			return err
		}
		switch why := kerr.ErrorForCode(resp.ErrorCode); {
		case isFenced(why):
			return fmt.Errorf("%w; %w", r.fatal("keeping the group membership", why), err)
		case errors.Is(why, kerr.UnknownMemberID):
			return fmt.Errorf("stream %s: keeping the group membership: instance %q is %w: it stood still for longer than the session timeout of %v "+
				"and its partitions were given away (%w); %w", r.o.Group, r.o.Instance, ErrFenced, r.o.SessionTimeout, why, err)
		case !errors.Is(err, kerr.InvalidTxnState):
			return err
		}
		// So answers the coordinator while it aborts the transaction for a successor, who joins the group a moment later.
		select {
		case <-ctx.Done():
			return err
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// produce sends what the tasks emitted and waits for all of it.
func (r *Runtime) produce(tasks []*task) error {
	var mu sync.Mutex
	var failed error
	done := func(rec *kgo.Record, err error) {
		if err != nil {
			mu.Lock()
			defer mu.Unlock()
			if failed == nil || isFenced(err) {
				failed = fmt.Errorf("topic %s: %w", rec.Topic, err)
			}
		}
	}
	for _, t := range tasks {
		for _, rec := range t.tx.out {
			r.session.Produce(r.ctx, rec, done)
		}
	}
	ctx, cancel := context.WithTimeout(r.ctx, 2*r.o.TransactionTimeout)
	defer cancel()
	if err := r.session.Client().Flush(ctx); err != nil {
		return fmt.Errorf("flushing: %w", err)
	}
	mu.Lock()
	defer mu.Unlock()
	return failed
}

// refused handles a transaction that Kafka did not commit: the batch never happened, and the client reads it again.
func (r *Runtime) refused(tasks []*task) error {
	// The client reports "not committed" also where a broker answered with an unknown error and the abort that followed
	// may have come too late. The group's offsets know.
	ctx, cancel := context.WithTimeout(kadm.RequireStable(r.ctx), 2*r.o.TransactionTimeout)
	defer cancel()
	offsets, err := r.admin.FetchOffsets(ctx, r.o.Group)
	if err != nil {
		return r.fatal("asking whether a transaction was committed", fmt.Errorf("%w: %w", ErrOutcomeUnknown, err))
	}
	for _, t := range tasks {
		for topic, next := range t.next {
			if o, ok := offsets.Lookup(topic, t.partition); ok && t.committed[topic] != next && o.At == next {
				return r.fatal("ending a transaction", fmt.Errorf("%w; start again: the client says it was refused and the group's offsets have moved", ErrOutcomeUnknown))
			}
		}
	}
	return r.forget("the group refused it")
}

// abort ends the open transaction without effect; what was polled is read again.
func (r *Runtime) abort(why string) error {
	if r.open {
		ctx, cancel := context.WithTimeout(r.ctx, 2*r.o.TransactionTimeout)
		defer cancel()
		_, err := r.session.End(ctx, kgo.TryAbort)
		r.open = false
		r.rebalanced.Store(false)
		if err != nil {
			return r.fatal("aborting a transaction ("+why+")", err)
		}
	}
	return r.forget(why)
}

// forget drops all in-memory state of the batch.
func (r *Runtime) forget(why string) error {
	var errs []error
	for _, t := range r.snapshot() {
		t.reset()
		r.regate(t)
	}
	r.moved = time.Time{}
	r.metrics.aborted.Inc()
	r.o.Log.Info("transaction aborted", "group", r.o.Group, "why", why)
	if r.aborts++; r.aborts >= maxAborts && len(r.paused) == 0 {
		errs = append(errs, fmt.Errorf("stream %s: %d transactions in a row were aborted, the last because of: %s; if batches take longer "+
			"than the transaction timeout of %v, lower the number of records of a transaction", r.o.Group, r.aborts, why, r.o.TransactionTimeout))
	}
	return errors.Join(errs...)
}

// done makes the transaction's end the new committed state in memory.
func (r *Runtime) done(tasks []*task, began time.Time) {
	r.metrics.transactions.Inc()
	r.metrics.records.Add(float64(r.records))
	r.last = lap{began, time.Now()}
	r.metrics.commitSeconds.Observe(r.last.took().Seconds())
	r.records = 0
	r.mu.Lock()
	r.started = true
	r.mu.Unlock()
	for _, t := range tasks {
		t.unread += len(t.tx.out)
		t.passed += t.processed
		r.metrics.dead.Add(float64(t.dead))
		t.commit()
		if p := r.paused[t.partition]; p != nil && p.until.IsZero() {
			delete(r.paused, t.partition)
		}
		r.regate(t)
	}
	r.published(tasks)
}

// writeDue writes what committed transactions have changed, where it is too much or has waited for long enough.
func (r *Runtime) writeDue() error {
	if r.db == nil {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	due, derived := r.toWrite(time.Now())
	err := r.writeTasks(due, false)
	if err == nil && derived {
		err = r.writeTasks(r.tasks, true)
	}
	return err
}

// toWrite are the partitions to write now: all of them if together it is too much, else the one that has waited longest. Since
// the next transaction waits meanwhile, they take turns. And whether to write the derived rows of all others, where a restart would
// process too much again: rows that change over and over are not written as often.
func (r *Runtime) toWrite(now time.Time) (due map[int32]*task, derived bool) {
	due, latest := map[int32]*task{}, now.Add(-r.o.WriteInterval)
	unread, passed := 0, 0
	for p, t := range r.tasks {
		if !t.unwritten {
			continue
		}
		passed += t.passed
		if unread += t.unread; unread >= r.o.WriteRecords || t.cache.bytes > r.o.CacheBytes {
			return r.tasks, false
		}
		if !t.changed.After(latest) {
			due, latest = map[int32]*task{p: t}, t.changed
		}
	}
	return due, r.shape.derived && r.o.Recall.Window > 0 && passed >= r.o.WriteRecords
}

// write puts everything committed into Pebble. Pebble comes after Kafka: it may be behind, never ahead.
func (r *Runtime) write() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.writeTasks(r.tasks, false)
}

// writeTasks is write of some partitions, or of their derived rows alone, for those who hold mu. Each one's rows, offsets of logs
// and of inputs go in one batch.
func (r *Runtime) writeTasks(tasks map[int32]*task, derived bool) error {
	if r.db == nil || r.failed {
		return nil
	}
	for _, t := range tasks {
		if !t.unwritten {
			continue
		}
		only := derived && t.written.Logs != nil // else it is not known what the other rows stand for
		err := r.writeTask(t, only)
		if err == nil {
			err = t.cache.written(r.o.CacheBytes, only)
		}
		if err != nil {
			return fmt.Errorf("stream %s: %w", r.o.Group, err)
		}
		if t.passed = 0; !only {
			t.unwritten, t.unread = false, 0
		}
	}
	return nil
}

func (r *Runtime) writeTask(t *task, derived bool) error {
	b := r.db.NewBatchOf(t.cache.waiting(derived))
	err := t.write(b, derived)
	if err == nil {
		err = r.o.Crash(BeforeState)
	}
	if err == nil {
		err = b.Commit()
	}
	return errors.Join(err, b.Close())
}
