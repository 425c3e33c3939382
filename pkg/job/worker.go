package job

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// Worker runs tasks. Any number of them may run; they share the partitions of the tasks topic as one consumer group.
// Tasks are started in the order of their partition, up to Options.Concurrency at once. The group's heartbeats go on while
// tasks run, however long they take; a rebalance cancels the tasks of the partitions that move and waits for them to return.
//
// A task is committed only after its result and all earlier tasks' are acknowledged. A task that fails is reported as failed and the coordinator
// decides whether it is tried again. A task whose worker dies with it is counted in the metadata of the group's offset,
// so that it cannot kill workers for ever.
type Worker struct {
	kind    Kind
	opts    Options
	log     *slog.Logger
	metrics metrics
	view    *View
	slots   chan struct{} // one token for each task that runs
	client  *kgo.Client   // set by Run

	mu      sync.Mutex
	runners map[int32]*runner
	running map[string]bool // tasks by key, plan and attempt
	ready   bool
}

// runner works on the tasks of one assigned partition.
type runner struct {
	ctx     context.Context
	cancel  context.CancelFunc
	ledger  *ledger
	queue   []*kgo.Record  // guarded by Worker.mu
	busy    bool           // guarded by Worker.mu; a goroutine empties queue
	stopped sync.WaitGroup // the goroutines of this runner
}

// stopPatience bounds the wait for a cancelled task at a rebalance or at the end; the group's rebalance timeout is 60 s.
const stopPatience = 45 * time.Second

// NewWorker checks kind and o; it does not connect. view must be one of kind's topics, kept running by the caller (the
// coordinator's, for example): a task is run only when the table says that it is open.
func NewWorker(kind Kind, o Options, view *View) (*Worker, error) {
	if err := kind.validateWorker(); err != nil {
		return nil, err
	}
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	if view == nil {
		return nil, errors.New("a worker needs a view of its kind's jobs")
	}
	return &Worker{
		kind: kind, opts: o, log: o.Log.With("job_kind", kind.Name), metrics: newMetrics(o.Registerer), view: view,
		slots: make(chan struct{}, o.Concurrency), runners: map[int32]*runner{}, running: map[string]bool{},
	}, nil
}

// Ready reports whether the worker has joined its group.
func (w *Worker) Ready() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.ready
}

// Run works until ctx ends; it then cancels the running tasks, waits for them and returns nil. They stay uncommitted.
func (w *Worker) Run(ctx context.Context) error {
	opts := []kgo.Opt{
		kgo.SeedBrokers(w.opts.Brokers...),
		kgo.ConsumerGroup(w.kind.Topics.WorkerGroup()),
		kgo.ConsumeTopics(w.kind.Topics.Tasks),
		kgo.ConsumeResetOffset(kgo.NoResetOffset().AtStart()),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.DisableAutoCommit(),
		kgo.BlockRebalanceOnPoll(),
		kgo.SessionTimeout(w.opts.SessionTimeout),
		kgo.HeartbeatInterval(min(3*time.Second, w.opts.SessionTimeout/5)),
		kgo.RebalanceTimeout(time.Minute),
		kgo.FetchMaxWait(500 * time.Millisecond),
		kgo.MetadataMinAge(200 * time.Millisecond),
		kgo.OnPartitionsAssigned(w.assigned),
		kgo.OnPartitionsRevoked(w.revoked),
		kgo.OnPartitionsLost(w.revoked),
		kgo.OnOffsetsFetched(w.offsetsFetched),
	}
	if w.opts.InstanceID != "" {
		opts = append(opts, kgo.InstanceID(w.opts.InstanceID+"-worker"))
	}
	opts = append(opts, w.opts.kafkaSecurity()...)
	client, err := kgo.NewClient(append(opts, w.opts.Kafka...)...)
	if err != nil {
		return fmt.Errorf("creating the worker's client: %w", err)
	}
	w.client = client
	defer client.CloseAllowingRebalance()
	defer w.stopAll()
	for ctx.Err() == nil {
		fetches := client.PollFetches(ctx)
		fetches.EachError(func(topic string, partition int32, err error) {
			if ctx.Err() == nil {
				w.log.Warn("fetching tasks", "topic", topic, "partition", partition, "error", err)
			}
		})
		w.mu.Lock()
		fetches.EachPartition(func(p kgo.FetchTopicPartition) { w.enqueue(p.Partition, p.Records) })
		w.mu.Unlock()
		client.AllowRebalance()
	}
	return nil
}

// enqueue gives records to their partition's runner and holds back further ones while it has a queue. Called with mu held
// and rebalances blocked, so the partition is this worker's.
func (w *Worker) enqueue(partition int32, records []*kgo.Record) {
	r := w.runners[partition]
	if r == nil || len(records) == 0 {
		return
	}
	for _, rec := range records {
		r.ledger.deliver(rec.Offset)
	}
	r.queue = append(r.queue, records...)
	if r.busy {
		return
	}
	r.busy = true
	w.client.PauseFetchPartitions(w.partitions(partition))
	r.stopped.Add(1)
	go func() {
		defer r.stopped.Done()
		w.drain(r)
		w.client.ResumeFetchPartitions(w.partitions(partition))
	}()
}

// drain starts the queued tasks, each in a goroutine of its own: a task that follows something until its job is
// cancelled must not hold up those behind it.
func (w *Worker) drain(r *runner) {
	for {
		w.mu.Lock()
		if len(r.queue) == 0 || r.ctx.Err() != nil {
			r.queue, r.busy = nil, false
			w.mu.Unlock()
			return
		}
		rec := r.queue[0]
		r.queue = r.queue[1:]
		w.mu.Unlock()
		select {
		case w.slots <- struct{}{}:
		case <-r.ctx.Done():
			continue
		}
		r.stopped.Add(1)
		go func() {
			defer r.stopped.Done()
			defer func() { <-w.slots }()
			for !w.handle(r, rec) && sleep(r.ctx, 5*time.Second) {
			}
		}()
	}
}

func (w *Worker) partitions(ps ...int32) map[string][]int32 {
	return map[string][]int32{w.kind.Topics.Tasks: ps}
}

func (w *Worker) assigned(_ context.Context, _ *kgo.Client, topics map[string][]int32) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ready = true
	for _, p := range topics[w.kind.Topics.Tasks] {
		ctx, cancel := context.WithCancel(context.Background())
		w.runners[p] = &runner{ctx: ctx, cancel: cancel, ledger: newLedger(nil, func(position int64, metadata string) {
			// Also after a cancel, while the partition is still this worker's: see stop.
			last, done := context.WithTimeout(context.Background(), 5*time.Second)
			defer done()
			w.commitPosition(last, p, position, metadata)
		})}
	}
}

func (w *Worker) revoked(_ context.Context, _ *kgo.Client, topics map[string][]int32) {
	w.stop(topics[w.kind.Topics.Tasks])
}

func (w *Worker) stopAll() {
	w.mu.Lock()
	var all []int32
	for p := range w.runners {
		all = append(all, p)
	}
	w.ready = false
	w.mu.Unlock()
	w.stop(all)
}

// stop cancels the tasks of the partitions and waits for them.
func (w *Worker) stop(partitions []int32) {
	done := make(chan struct{})
	var stopped []*runner
	w.mu.Lock()
	for _, p := range partitions {
		if r := w.runners[p]; r != nil {
			r.cancel()
			stopped = append(stopped, r)
		}
		delete(w.runners, p)
	}
	w.mu.Unlock()
	go func() {
		defer close(done)
		for _, r := range stopped {
			r.stopped.Wait()
		}
	}()
	select {
	case <-done:
	case <-time.After(stopPatience):
		w.log.Error("a cancelled task does not return; it goes on beside its next run", "patience", stopPatience)
	}
}

// handle brings one task to its end: done, failed or skipped. It returns false if it did not get there, because the
// partition was taken away or the result could not be reported.
func (w *Worker) handle(r *runner, rec *kgo.Record) bool {
	ctx := r.ctx
	end := func(outcome string) bool {
		r.ledger.finish(rec.Offset)
		w.metrics.tasks.WithLabelValues(w.kind.Name, outcome).Inc()
		return true
	}
	task, plan, err := readTask(rec)
	if err != nil { // only another program can have written it
		w.log.Error("skipping a record that is no task", "partition", rec.Partition, "offset", rec.Offset, "error", err)
		return end("skipped")
	}
	log := w.log.With("job", task.JobID, "task", task.Number, "attempt", task.Attempt)
	// Sent again while it runs: if this run comes to nothing, neither of the two records is committed.
	key := fmt.Sprint(string(rec.Key), " ", plan, " ", task.Attempt)
	if !w.claim(key) {
		log.Debug("skipping a task that runs already")
		return end("skipped")
	}
	defer w.release(key)
	switch w.await(ctx, task, plan) {
	case skip:
		log.Debug("skipping a task that is not open")
		return end("skipped")
	case wait:
		if ctx.Err() != nil {
			return false
		}
		log.Warn("skipping a task whose job is not in the table")
		return end("skipped")
	}
	if task.Attempt > 0 && !sleep(ctx, min(w.opts.RetryBackoff<<min(task.Attempt-1, 10), time.Minute)) {
		return false
	}

	value, err := w.runCounted(r, rec.Offset, task, plan)
	switch {
	case errors.Is(err, errStopped):
		w.metrics.tasks.WithLabelValues(w.kind.Name, "stopped").Inc()
		return false
	case errors.Is(err, ErrClosed):
		log.Info("stopped a task that is no longer open")
		return end("skipped")
	}

	// From here on the work is done: it is reported even if the partition is being taken away.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopPatience/2)
	defer cancel()
	outcome := "done"
	headers := []kgo.RecordHeader{{Key: headerPlan, Value: []byte(plan)}, {Key: headerAttempt, Value: decimal(task.Attempt)}}
	if err != nil {
		outcome = "failed"
		log.Warn("task failed", "error", err)
		if isPermanent(err) {
			headers = append(headers, kgo.RecordHeader{Key: headerFinal, Value: []byte("true")})
		}
		reason := err
		value, err = patiently(ctx, func() ([]byte, error) { return w.kind.Failure(task, reason) })
	}
	if err == nil {
		err = w.client.ProduceSync(ctx, &kgo.Record{
			Topic: w.kind.Topics.Results, Key: []byte(task.JobID), Value: value, Headers: headers,
		}).FirstErr()
	}
	if err != nil {
		log.Error("a result cannot be reported, the task will run again", "error", err)
		return false
	}
	return end(outcome)
}

func (w *Worker) claim(key string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.running[key] {
		return false
	}
	w.running[key] = true
	return true
}

func (w *Worker) release(key string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.running, key)
}

// await asks the table what to do with a task, waiting for a row that is still on its way, at most a minute.
func (w *Worker) await(ctx context.Context, t Task, plan string) verdict {
	for deadline := time.Now().Add(time.Minute); ; {
		s, found, err := w.view.Get(t.JobID)
		if err != nil { // not up to date: no reason to give up
			deadline = time.Now().Add(time.Minute)
		} else {
			var known *State
			if found {
				known = &s
			}
			if v := due(known, plan, t.Number, t.Attempt, w.kind.Stage); v != wait || time.Now().After(deadline) {
				return v
			}
		}
		if !sleep(ctx, 50*time.Millisecond) {
			return wait
		}
	}
}

// runCounted runs a task between two commits: before, one that counts the start; after a stop, one that takes it back.
// It returns errStopped if the task did not end because ctx did, and ErrClosed if it is no longer open.
func (w *Worker) runCounted(r *runner, offset int64, t Task, plan string) ([]byte, error) {
	before := r.ledger.started(offset)
	if before >= w.opts.MaxStarts {
		return nil, Permanent(fmt.Errorf("started %d times, and each time its worker ended with it", before))
	}
	r.ledger.count(offset, +1)

	running, cancel := context.WithCancelCause(r.ctx)
	defer cancel(nil)
	go w.watch(running, t, plan, cancel)
	value, err := w.runSafely(running, t)
	if err == nil && len(value) > w.opts.MaxValue {
		err = Permanent(fmt.Errorf("the result has %d bytes and %d are allowed", len(value), w.opts.MaxValue))
	}
	if err == nil || running.Err() == nil {
		return value, err
	}
	if errors.Is(context.Cause(running), ErrClosed) {
		return nil, ErrClosed
	}
	r.ledger.count(offset, -1)
	return nil, errStopped
}

// runSafely turns a panic of a task into its failure: a panic here would take the whole process along.
func (w *Worker) runSafely(ctx context.Context, t Task) (value []byte, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v", r)
		}
	}()
	return w.kind.Run(ctx, t)
}

// watch cancels a task when it is no longer open, for example because its job was cancelled.
func (w *Worker) watch(ctx context.Context, t Task, plan string, cancel context.CancelCauseFunc) {
	for sleep(ctx, 200*time.Millisecond) {
		if s, found, err := w.view.Get(t.JobID); err == nil && found && due(&s, plan, t.Number, t.Attempt, w.kind.Stage) == skip {
			cancel(ErrClosed)
			return
		}
	}
}

func readTask(rec *kgo.Record) (Task, string, error) {
	cut := strings.LastIndexByte(string(rec.Key), '/')
	if cut < 0 {
		return Task{}, "", errors.New("its key has no task number")
	}
	number, err := strconv.Atoi(string(rec.Key[cut+1:]))
	if err != nil {
		return Task{}, "", errors.New("its key has no task number")
	}
	t := Task{JobID: string(rec.Key[:cut]), Number: number, Value: rec.Value}
	var plan string
	for _, h := range rec.Headers {
		switch h.Key {
		case headerPlan:
			plan = string(h.Value)
		case headerAttempt:
			if t.Attempt, err = strconv.Atoi(string(h.Value)); err != nil || t.Attempt < 0 {
				return Task{}, "", errors.New("its header attempt is no number")
			}
		}
	}
	return t, plan, nil
}
