package stream

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"databus/pkg/state"
	"databus/schemas"
	"databus/schemas/codec"
	"databus/schemas/event"
)

// Runtime runs one topology on one instance. Make it with New, and a new one for every Run.
type Runtime struct {
	o       Options
	shape   *shape
	metrics *metrics
	entries *codec.Serde[event.ChangelogEntry]

	ctx     context.Context // of Run's work: outlives the request to stop, ends with Run
	cancel  context.CancelFunc
	db      *state.DB
	session *kgo.GroupTransactSession
	admin   *kadm.Client

	rebalanced atomic.Bool   // since the session last ended a transaction
	hurry      atomic.Bool   // a rebalance waits for AllowRebalance
	fail       chan error    // capacity 1: what a callback found out and Run must return
	fenced     chan struct{} // closed once the producer id is ours; assignments wait for it

	late     atomic.Bool // half of the transaction timeout is over: no further record may start
	deserted bool        // a handler never came back and may still use the state

	partitions int32 // of the inputs

	// Used by Run's goroutine only.
	pace     pace
	begun    time.Time // when the open transaction began
	last     lap       // the last commit
	open     bool
	deadline time.Time // when the open transaction ends
	records  int       // of the open transaction
	aborts   int       // in a row
	paused   map[int32]*pause
	moved    time.Time // when control records first moved a position that no transaction has committed

	life  sync.Mutex // held during an assignment
	ended bool       // guarded by life

	mu      sync.Mutex
	tasks   map[int32]*task
	started bool // a transaction was committed since the assignment
	failed  bool // Run returns an error: nothing more is written
	status  status
}

// task is one partition of all inputs and its state.
type task struct {
	r         *Runtime
	partition int32
	handlers  Handlers
	cache     *cache // nil without stores
	tx        Tx
	queue     [][]*kgo.Record  // polled, by input
	committed map[string]int64 // next offset of each input after the last transaction; absent: nothing was processed
	next      map[string]int64 // the same after what has been processed
	gates     map[string]int64 // high watermarks of tables at the assignment: other inputs wait for them
	logs      map[string]int64 // next offset of the changelog and of the topics that hold rows
	derived   *state.Derived   // what derived rows on disk covered at the assignment; nil: nothing
	unwritten bool             // transactions are committed that Pebble does not have yet
	changed   time.Time        // when the first of them was
	unread    int              // records of them, which a restart would read again
	passed    int              // records processed since derived rows were last written, which a restart would process again
	written   state.Position   // what Pebble's rows stand for; nothing before the assignment's first write
	gated     bool             // the other inputs are paused for gates
	gatedAt   time.Time
	touched   bool // Finish is due
	dead      int
	last      map[string]*kgo.Record     // of the open transaction: the newest record of the changelog and of topics that hold rows
	processed int                        // records of the open transaction
	current   atomic.Pointer[kgo.Record] // in its handler
	stop      *retry                     // a record that has to wait: what comes before it is committed
	held      map[string]int64           // the open transaction has got as far as stop: what is read again of each input
}

// pause of a partition that waits for the registry.
type pause struct {
	until  time.Time
	wait   time.Duration
	reason string
}

// New checks the options.
func New(o Options) (*Runtime, error) {
	if err := o.complete(); err != nil {
		return nil, err
	}
	s, err := newShape(&o)
	if err != nil {
		return nil, err
	}
	r := &Runtime{o: o, shape: s, fail: make(chan error, 1), fenced: make(chan struct{}), tasks: map[int32]*task{}, paused: map[int32]*pause{}}
	if r.metrics, err = newMetrics(o.Metrics, o.Group); err != nil {
		return nil, err
	}
	if s.changelog != "" {
		r.entries = codec.For[event.ChangelogEntry](o.Codec, s.changelog)
	}
	r.status = newStatus(&o)
	return r, nil
}

// Run processes until ctx is done and everything polled is committed (it returns nil), or until something is wrong.
//
// What a handler's error leads to: Poison, or bytes that the codec calls undecodable, too large or of the wrong schema:
// dead letter. Wait, registry unreachable or schema unknown to it: the partition waits and Health says so. Else: Run
// returns it.
func (r *Runtime) Run(ctx context.Context) (err error) {
	starting := true
	defer func() {
		if starting && ctx.Err() != nil && errors.Is(err, context.Canceled) {
			err = nil // asked to stop before the first poll: there is nothing to finish
		}
	}()
	r.ctx, r.cancel = context.WithCancel(context.WithoutCancel(ctx))
	defer r.cancel()
	defer func() { r.report(false, "stopped") }()

	if len(r.o.Stores) > 0 {
		r.db, err = state.Open(state.Options{Dir: r.o.StateDir, FS: r.o.StateFS, Service: r.o.Group, Instance: r.o.Instance, Log: r.o.Log})
		if err != nil {
			return fmt.Errorf("stream %s: %w", r.o.Group, err)
		}
		defer func() {
			if !r.deserted {
				err = errors.Join(err, r.db.Close())
			}
		}()
		defer r.release()
	}
	plain, err := kgo.NewClient(r.o.Kafka...)
	if err != nil {
		return fmt.Errorf("stream %s: making a client: %w", r.o.Group, err)
	}
	defer plain.Close()
	r.admin = kadm.NewClient(plain)
	if err := r.checkTopics(ctx); err != nil {
		return err
	}
	if err := r.fence(ctx); err != nil {
		return err
	}
	clientCtx, cancelClient := context.WithCancel(r.ctx)
	defer cancelClient()
	if r.session, err = kgo.NewGroupTransactSession(append(r.clientOptions(), kgo.WithContext(clientCtx))...); err != nil {
		return fmt.Errorf("stream %s: making a client: %w", r.o.Group, err)
	}
	defer func() {
		// Everything is committed or given up, and a static member says no good-bye. Without the cancellation Close would
		// wait for a join that is under way, as long as the slowest member of the group takes.
		cancelClient()
		r.session.CloseAllowingRebalance()
	}()
	// The session's own producer id, before the first poll: from here on nobody else with this transactional id can
	// commit anything.
	if _, _, err := r.session.Client().ProducerID(ctx); err != nil {
		return r.fatal("taking over the transactional id", err)
	}
	close(r.fenced)
	starting = false
	err = r.loop(ctx)
	if err == nil {
		err = r.write()
	}
	if err != nil {
		r.mu.Lock()
		r.failed = true
		r.mu.Unlock()
		return err
	}
	if r.o.LeaveOnStop {
		r.leave()
	}
	return nil
}

func (r *Runtime) transactionalID() string {
	return r.o.Group + "-" + r.o.Instance + r.o.TransactionalSuffix
}

// fence aborts what a killed predecessor left open, before the group is joined: the offset fetch of the assignment and
// the restore would else wait for its transaction timeout. Without it a restart after kill -9 sometimes stalled 40 s.
func (r *Runtime) fence(ctx context.Context) error {
	c, err := kgo.NewClient(append(append([]kgo.Opt{}, r.o.Kafka...),
		kgo.TransactionalID(r.transactionalID()), kgo.TransactionTimeout(r.o.TransactionTimeout))...)
	if err != nil {
		return fmt.Errorf("stream %s: fencing: %w", r.o.Group, err)
	}
	defer c.Close()
	if _, _, err := c.ProducerID(ctx); err != nil {
		return fmt.Errorf("stream %s: fencing the predecessor of %s: %w", r.o.Group, r.transactionalID(), err)
	}
	return nil
}

func (r *Runtime) clientOptions() []kgo.Opt {
	fixed := func(topic string) bool {
		if topic == r.shape.changelog || r.shape.kept[topic] != 0 {
			return true
		}
		t, ok := schemas.Lookup(topic)
		return ok && t.Schema == "" // dead letters stay with their source's partition
	}
	return append(append([]kgo.Opt{}, r.o.Kafka...),
		kgo.ConsumerGroup(r.o.Group),
		kgo.ConsumeTopics(r.shape.inputs...),
		// One id names the member, the producer and the state directory.
		kgo.InstanceID(r.o.Instance),
		kgo.TransactionalID(r.transactionalID()),
		kgo.TransactionTimeout(r.o.TransactionTimeout),
		kgo.SessionTimeout(r.o.SessionTimeout),
		kgo.HeartbeatInterval(min(3*time.Second, r.o.SessionTimeout/4)),
		kgo.RebalanceTimeout(r.o.RebalanceTimeout),
		// Range gives partition p of every input to the same member, as long as the inputs have equal numbers.
		kgo.Balancers(kgo.RangeBalancer()),
		kgo.DisableAutoCommit(),
		// Two fetches of all partitions are in memory, decompressed and with 200 bytes beside each record.
		kgo.FetchMaxPartitionBytes(64<<10),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		// Without control records the position stops short of the end behind a commit marker.
		kgo.KeepControlRecords(),
		// Never skip: an offset that is not in the log any more must stop the partition.
		kgo.ConsumeResetOffset(kgo.NoResetOffset()),
		// A partition must not change hands between poll and the end of the Pebble commit.
		kgo.BlockRebalanceOnPoll(),
		kgo.OnPartitionsCallbackBlocked(func(context.Context, *kgo.Client) { r.hurry.Store(true) }),
		kgo.AdjustFetchOffsetsFn(r.assign),
		kgo.OnPartitionsAssigned(func(_ context.Context, _ *kgo.Client, p map[string][]int32) { r.assigning(p) }),
		kgo.OnPartitionsRevoked(func(_ context.Context, _ *kgo.Client, p map[string][]int32) { r.drop("revoked", p) }),
		kgo.OnPartitionsLost(func(_ context.Context, _ *kgo.Client, p map[string][]int32) { r.drop("lost", p) }),
		kgo.WithHooks(groupErrors{r}),
		kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.RecordPartitioner(partitioner{fixed}),
		// Everything is produced at once and flushed, which ends the linger: full batches instead of many small ones.
		kgo.ProducerLinger(50*time.Millisecond),
		kgo.MaxBufferedRecords(100_000),
	)
}

// groupErrors hears of the errors that end a group session.
type groupErrors struct{ r *Runtime }

func (g groupErrors) OnGroupManageError(err error) {
	if errors.Is(err, kerr.FencedInstanceID) {
		g.r.stop(g.r.fatal("keeping the group membership", err))
		select {
		case <-g.r.fenced:
			// The client would join again and so throw out the member that has rightly taken over.
			go g.r.session.Client().LeaveGroup()
		default: // Run has not started to poll and ends at once
		}
	}
}

// stop makes Run return err.
func (r *Runtime) stop(err error) {
	select {
	case r.fail <- err:
	default:
	}
}

// drop forgets partitions. Their state stays in Pebble, as of their last committed transaction.
func (r *Runtime) drop(how string, partitions map[string][]int32) {
	r.rebalanced.Store(true)
	r.mu.Lock()
	defer r.mu.Unlock()
	n := len(r.tasks)
	if err := r.writeTasks(r.tasks, false); err != nil {
		r.o.Log.Error("writing state; the next owner restores what is missing", "error", err)
	}
	for p, t := range r.tasks {
		if t.cache != nil {
			if err := t.cache.release(); err != nil {
				r.o.Log.Error("releasing a partition", "partition", p, "error", err)
			}
		}
	}
	// The range balancer is eager: every rebalance takes everything away and the next assignment starts from what is
	// committed.
	r.tasks, r.started = map[int32]*task{}, false
	r.status.assigned = false
	r.o.Log.Info("partitions "+how, "group", r.o.Group, "partitions", n)
}

func (r *Runtime) loop(ctx context.Context) error {
	const idle = 250 * time.Millisecond
	for {
		select {
		case err := <-r.fail:
			return err
		default:
		}
		wait := idle
		if r.open {
			wait = time.Until(r.deadline)
		}
		if wait > 0 {
			if err := r.poll(ctx, wait); err != nil {
				return err
			}
		}
		if r.open && (ctx.Err() != nil || r.full() || r.hurry.Load() || r.due()) {
			if err := r.commit(); err != nil {
				return err
			}
		} else if !r.open && !r.moved.IsZero() && time.Since(r.moved) > 2*idle {
			// Only control records came: commit them, so that a group without lag shows none.
			if err := r.begin(); err != nil {
				return err
			}
			if err := r.commit(); err != nil {
				return err
			}
		}
		if !r.open {
			if err := r.writeDue(); err != nil {
				return err
			}
			r.hurry.Store(false)
			r.session.AllowRebalance()
			r.resume()
			r.tick()
			if ctx.Err() != nil {
				return nil
			}
		}
	}
}

// full says whether the open transaction has as much as it may: what it read, and what it is going to write.
func (r *Runtime) full() bool {
	rows := 0
	for _, t := range r.snapshot() {
		rows += t.pending()
	}
	return r.records >= r.o.MaxRecords || rows >= r.o.MaxRows
}

func (r *Runtime) begin() error {
	if err := r.session.Begin(); err != nil {
		return r.fatal("beginning a transaction", err)
	}
	r.begun = time.Now()
	r.open, r.records, r.deadline = true, 0, r.collectUntil(r.begun)
	r.late.Store(false)
	return nil
}

// poll waits for records and processes them.
func (r *Runtime) poll(ctx context.Context, wait time.Duration) error {
	pctx, cancel := context.WithTimeout(ctx, wait)
	fetches := r.session.PollRecords(pctx, r.pollSize())
	cancel()
	if err := r.fetchErrors(fetches); err != nil {
		return err
	}
	if fetches.NumRecords() == 0 {
		return nil
	}
	if !r.open && r.rebalanced.Swap(false) {
		// The session refuses the first commit behind a rebalance, even if no transaction was open meanwhile. An empty
		// abort clears that before work is done in vain; the records are polled again.
		if err := r.begin(); err != nil {
			return err
		}
		return r.abort("clearing the session behind a rebalance")
	}
	data, err := r.enqueue(fetches)
	if err != nil {
		return err
	}
	if data > 0 && !r.open {
		if err := r.begin(); err != nil {
			return err
		}
	}
	r.records += data
	return r.process(data)
}

func (r *Runtime) fetchErrors(fetches kgo.Fetches) error {
	for _, e := range fetches.Errors() {
		var session *kgo.ErrGroupSession
		var loss *kgo.ErrDataLoss
		switch {
		case errors.Is(e.Err, context.DeadlineExceeded), errors.Is(e.Err, context.Canceled):
		case errors.As(e.Err, &session):
			if isFenced(session.Err) {
				return r.fatal("keeping the group membership", session.Err)
			}
			r.o.Log.Warn("group session ended; joining again", "group", r.o.Group, "error", session.Err)
			r.report(false, "joining the group: "+session.Err.Error())
		case errors.As(e.Err, &loss):
			return fmt.Errorf("stream %s: consuming %s, partition %d: %w: the brokers lost records that were read already, %d to %d; "+
				"counts include them and outputs may repeat others: decide by hand", r.o.Group, e.Topic, e.Partition, ErrPosition, loss.ResetTo, loss.ConsumedTo)
		case errors.Is(e.Err, kerr.OffsetOutOfRange):
			return r.gap(e.Topic, e.Partition)
		case kerr.IsRetriable(e.Err):
			r.o.Log.Warn("fetching", "topic", e.Topic, "partition", e.Partition, "error", e.Err)
		default:
			return fmt.Errorf("stream %s: consuming %s, partition %d: %w", r.o.Group, e.Topic, e.Partition, e.Err)
		}
	}
	return nil
}

// enqueue hands records to their tasks and counts those that are data.
func (r *Runtime) enqueue(fetches kgo.Fetches) (data int, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	fetches.EachPartition(func(p kgo.FetchTopicPartition) {
		t := r.tasks[p.Partition]
		if t == nil {
			err = fmt.Errorf("stream %s: got records of %s, partition %d, which is not assigned", r.o.Group, p.Topic, p.Partition)
			return
		}
		r.status.high[topicPartition{p.Topic, p.Partition}] = p.HighWatermark
		for i, topic := range r.shape.inputs {
			if topic == p.Topic {
				t.queue[i] = append(t.queue[i], p.Records...)
			}
		}
		for _, rec := range p.Records {
			if !rec.Attrs.IsControl() {
				data++
			}
		}
	})
	return data, err
}

// process runs the handlers over everything enqueued, partitions in parallel.
func (r *Runtime) process(data int) error {
	if r.moved.IsZero() {
		r.moved = time.Now()
	}
	began := time.Now()
	err := r.guard(r.snapshot(), "processing", func(t *task) error {
		if t.waiting() {
			return t.process()
		}
		return nil
	})
	if errors.Is(err, errLate) {
		return r.slower(data)
	}
	if err == nil && data > 0 {
		r.pace.took(data, time.Since(began))
	}
	if err == nil {
		for _, t := range r.snapshot() {
			if t.held != nil && (r.paused[t.partition] == nil || r.paused[t.partition].until.IsZero()) {
				r.pause(t.stop)
			}
		}
	}
	return r.handle(err)
}

// handle does what a handler's error asks for.
func (r *Runtime) handle(err error) error {
	var wait *retry
	if errors.As(err, &wait) {
		return r.wait(wait)
	}
	return err
}

// wait gives the transaction up, because of a record that has to wait. Where others of its partition came before it, they
// are processed once more, up to it, and committed. They are not committed at once: the failed record has been in a handler
// whose memory may be halfway.
func (r *Runtime) wait(cause *retry) error {
	var first *task
	for _, t := range r.snapshot() {
		if t.partition == cause.partition && t.processed > 0 && cause.topic != "" {
			first = t
		}
	}
	if err := r.abort(cause.Error()); err != nil {
		return err
	}
	if first != nil {
		first.stop = cause
		return nil
	}
	r.pause(cause)
	return nil
}

func (r *Runtime) snapshot() []*task {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := make([]*task, 0, len(r.tasks))
	for _, t := range r.tasks {
		all = append(all, t)
	}
	return all
}

// pause stops a partition after an error that time may cure. The other partitions go on.
func (r *Runtime) pause(cause *retry) {
	p := r.paused[cause.partition]
	if p == nil {
		p = &pause{wait: 100 * time.Millisecond}
		r.paused[cause.partition] = p
	}
	p.until, p.wait = time.Now().Add(p.wait), min(2*p.wait, 5*time.Second)
	p.reason = "waiting: " + cause.Error()
	r.session.Client().PauseFetchPartitions(r.allInputs(cause.partition))
	r.o.Log.Warn("partition waits", "group", r.o.Group, "partition", cause.partition, "error", cause.err)
	r.metrics.waits.Inc()
}

// resume lets paused partitions try again. What was wrong counts as cured with the next commit of the partition.
func (r *Runtime) resume() {
	for partition, p := range r.paused {
		if !p.until.IsZero() && time.Now().After(p.until) {
			p.until = time.Time{}
			r.session.Client().ResumeFetchPartitions(r.allInputs(partition))
			for _, t := range r.snapshot() {
				if t.partition == partition {
					t.stop = nil
					r.regate(t)
				}
			}
		}
	}
}

func (r *Runtime) allInputs(partition int32) map[string][]int32 {
	m := map[string][]int32{}
	for _, topic := range r.shape.inputs {
		m[topic] = []int32{partition}
	}
	return m
}

// leave gives the partitions away at once.
func (r *Runtime) leave() {
	b := kadm.LeaveGroup(r.o.Group).InstanceIDs(r.o.Instance).Reason("scaling down")
	if _, err := r.admin.LeaveGroup(r.ctx, b); err != nil {
		r.o.Log.Warn("leaving the group; its session timeout will do it", "error", err)
	}
}

// release ends the use of the state. Callbacks of the client may still run, or come later: they find no task and no way
// to an assignment.
func (r *Runtime) release() {
	r.life.Lock()
	defer r.life.Unlock()
	r.ended = true
	if r.deserted {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, t := range r.tasks {
		if err := t.cache.release(); err != nil {
			r.o.Log.Error("releasing a partition", "partition", t.partition, "error", err)
		}
	}
	r.tasks = map[int32]*task{}
}
