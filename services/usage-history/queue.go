package usagehistory

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"databus/pkg/stream"
	"databus/pkg/usage"
	"databus/schemas"
	"databus/schemas/codec"
	"databus/schemas/event"
)

// queue holds the requests of one partition that are read and not committed, in the order of their offsets.
type queue struct {
	partition int32
	cancel    context.CancelFunc
	stopped   sync.WaitGroup
	wake      chan struct{}

	mu      sync.Mutex
	waiting []*waiting
}

// waiting is a request in a queue.
type waiting struct {
	rec   *kgo.Record
	after time.Time // it is not tried before
	done  bool      // answered, or a dead letter; committed once all before it are done
}

func (w *Worker) assigned(_ context.Context, _ *kgo.Client, topics map[string][]int32) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, p := range topics[schemas.UsageBaselineRequests] {
		ctx, cancel := context.WithCancel(context.Background())
		q := &queue{partition: p, cancel: cancel, wake: make(chan struct{}, 1)}
		w.queues[p] = q
		q.stopped.Add(1)
		go func() {
			defer q.stopped.Done()
			w.work(ctx, q)
		}()
	}
	w.check.Set(true, "")
}

func (w *Worker) revoked(_ context.Context, _ *kgo.Client, topics map[string][]int32) {
	for _, p := range topics[schemas.UsageBaselineRequests] {
		w.stop(p)
	}
}

func (w *Worker) stopAll() {
	w.mu.Lock()
	var all []int32
	for p := range w.queues {
		all = append(all, p)
	}
	w.mu.Unlock()
	for _, p := range all {
		w.stop(p)
	}
}

// stop ends the work on a partition. What is not committed its next owner does again.
func (w *Worker) stop(p int32) {
	w.mu.Lock()
	q := w.queues[p]
	delete(w.queues, p)
	w.mu.Unlock()
	if q != nil {
		q.cancel()
		q.stopped.Wait()
		q.mu.Lock()
		n := len(q.waiting)
		q.mu.Unlock()
		w.count(-n)
	}
}

// count changes the number of requests that are held, and stops fetching while there are too many.
func (w *Worker) count(n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pending += n
	w.waiting.Set(float64(w.pending))
	if full := w.pending >= w.cfg.MaxPending; full != w.paused {
		if w.paused = full; full {
			w.client.PauseFetchTopics(schemas.UsageBaselineRequests)
		} else {
			w.client.ResumeFetchTopics(schemas.UsageBaselineRequests)
		}
	}
}

func (w *Worker) enqueue(partition int32, records []*kgo.Record) {
	w.mu.Lock()
	q := w.queues[partition]
	w.mu.Unlock()
	if q == nil || len(records) == 0 {
		return
	}
	q.mu.Lock()
	for _, rec := range records {
		q.waiting = append(q.waiting, &waiting{rec: rec, done: rec.Attrs.IsControl()}) // those are committed as well, so that nothing is behind
	}
	q.mu.Unlock()
	w.count(len(records))
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// due returns the requests that can be tried now, or how long until there is one; negative: for as long as none comes.
func (q *queue) due(now time.Time) (due []*waiting, pause time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	pause = -1
	for _, r := range q.waiting {
		switch wait := r.after.Sub(now); {
		case r.done:
		case wait <= 0:
			due = append(due, r)
		case pause < 0 || wait < pause:
			pause = wait
		}
	}
	return due, pause
}

// work answers the requests of a partition until ctx ends.
func (w *Worker) work(ctx context.Context, q *queue) {
	retry := w.cfg.RetryMin
	for ctx.Err() == nil {
		due, pause := q.due(time.Now())
		if len(due) == 0 {
			if err := w.commit(ctx, q); err != nil && ctx.Err() == nil {
				w.log.Warn("committing requests", "partition", q.partition, "error", err) // the next commit makes up for it
			}
			var timer <-chan time.Time
			if pause >= 0 {
				timer = time.After(pause)
			}
			select {
			case <-ctx.Done():
			case <-q.wake:
			case <-timer:
			}
			continue
		}
		select {
		case w.slots <- struct{}{}:
		case <-ctx.Done():
			return
		}
		err := w.serve(ctx, due)
		<-w.slots
		if err == nil {
			err = w.commit(ctx, q)
		}
		if err == nil || ctx.Err() != nil {
			retry = w.cfg.RetryMin
			continue
		}
		if errors.Is(err, errCrash) {
			w.fail(err)
			return
		}
		w.log.Warn("history cannot be counted now; it is tried again", "partition", q.partition, "requests", len(due), "after", retry, "error", err)
		for _, r := range due {
			r.after = time.Now().Add(retry)
		}
		retry = min(2*retry, w.cfg.RetryMax)
	}
}

var errCrash = errors.New("ended by a test")

// serve tries requests and sends what came out.
func (w *Worker) serve(ctx context.Context, due []*waiting) error {
	var asked []*event.BaselineRequest
	var of []*waiting
	for _, r := range due {
		q := new(event.BaselineRequest)
		err := w.requests.Decode(ctx, r.rec.Value, q)
		why := ""
		switch {
		case codec.IsPoison(err):
			why = err.Error()
		case err != nil:
			return err
		default:
			why = refused(q, r.rec)
		}
		if why != "" {
			if err := w.dead(ctx, r, why); err != nil {
				return err
			}
			continue
		}
		asked, of = append(asked, q), append(of, r)
	}
	if len(asked) == 0 {
		return nil
	}
	out, err := w.source.answer(ctx, asked)
	if err != nil {
		return err
	}
	if err := w.point(CrashCounted); err != nil {
		return errors.Join(errCrash, err)
	}
	var send []*kgo.Record
	var answered []*waiting
	for i, o := range out {
		switch {
		case o.answer != nil:
			value, err := w.answers.Encode(ctx, o.answer)
			if err != nil {
				return err
			}
			send, answered = append(send, &kgo.Record{Topic: schemas.UsageBaselines, Key: []byte(o.answer.Account), Value: value}), append(answered, of[i])
			result := "answered"
			if o.answer.Estimated {
				result = "estimated"
			}
			w.answered.WithLabelValues(result).Inc()
		case o.refused != "":
			if err := w.dead(ctx, of[i], o.refused); err != nil {
				return err
			}
		default:
			w.log.Info("a baseline request waits; its count stays provisional until then", "partition", asked[i].SeamPartition, "until", o.wait)
			of[i].after = o.wait
		}
	}
	if err := w.producer.ProduceSync(ctx, send...).FirstErr(); err != nil {
		return fmt.Errorf("sending answers: %w", err)
	}
	for _, r := range answered {
		r.done = true
	}
	if len(answered) == 0 {
		return nil
	}
	if err := w.point(CrashAnswered); err != nil {
		return errors.Join(errCrash, err)
	}
	return nil
}

// refused says which rule a request breaks, and "" where none.
func refused(q *event.BaselineRequest, rec *kgo.Record) string {
	kind, ok := usage.Kind(q.Period)
	switch {
	case !schemas.ValidAccount(q.Account) || string(rec.Key) != q.Account:
		return "baseline request: the record's key is not the account"
	case q.Pack != usage.AllPacks && !usage.ValidPack(q.Pack):
		return "baseline request: the pack's name is not valid"
	case !ok:
		return "baseline request: the period is of an unknown kind"
	case q.PeriodEnd != nil && !q.PeriodEnd.After(q.PeriodStart), (kind == event.PeriodTotal) != (q.PeriodEnd == nil):
		return "baseline request: the period does not end behind its start"
	case q.SeamPartition < 0 || q.SeamOffset < 0 || q.KnownFrom < 0 || q.WindowMicros < 0 || q.KeepEndedMicros < 0:
		return "baseline request: a number is below zero"
	}
	return ""
}

// dead sends a request to its dead-letter topic.
func (w *Worker) dead(ctx context.Context, r *waiting, why string) error {
	header := func(key, value string) kgo.RecordHeader { return kgo.RecordHeader{Key: key, Value: []byte(value)} }
	rec := &kgo.Record{Topic: schemas.MustLookup(r.rec.Topic).DeadLetter(), Key: r.rec.Key, Value: r.rec.Value, Headers: append(r.rec.Headers[:len(r.rec.Headers):len(r.rec.Headers)],
		header(stream.HeaderReason, why), header(stream.HeaderTopic, r.rec.Topic), header(stream.HeaderPartition, strconv.Itoa(int(r.rec.Partition))),
		header(stream.HeaderOffset, strconv.FormatInt(r.rec.Offset, 10)), header(stream.HeaderService, Name))}
	if err := w.producer.ProduceSync(ctx, rec).FirstErr(); err != nil {
		return fmt.Errorf("sending a dead letter: %w", err)
	}
	w.log.Warn("a baseline request is dead", "partition", r.rec.Partition, "offset", r.rec.Offset, "reason", why)
	w.answered.WithLabelValues("dead").Inc()
	r.done = true
	return nil
}

// commit lets go of the requests at the head of a queue that are done.
func (w *Worker) commit(ctx context.Context, q *queue) error {
	q.mu.Lock()
	n := 0
	for n < len(q.waiting) && q.waiting[n].done {
		n++
	}
	var last *kgo.Record
	if n > 0 {
		last = q.waiting[n-1].rec
		q.waiting = append([]*waiting(nil), q.waiting[n:]...)
	}
	q.mu.Unlock()
	if last == nil {
		return nil
	}
	w.count(-n)
	return w.client.CommitRecords(ctx, last)
}
