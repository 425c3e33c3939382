package job

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/lovoo/goka"
	"github.com/lovoo/goka/codec"
	"github.com/lovoo/goka/storage"
)

// Coordinator owns the jobs of its partitions. Any number of them may run; they share the partitions as one consumer
// group. Its rows are kept in memory and come from the table topic at each assignment: a local disk could be ahead
// of the topic after a crash, and then a repeated input would find its row recorded and not send it again.
type Coordinator struct {
	kind    Kind
	opts    Options
	log     *slog.Logger
	metrics metrics
	view    *View
	proc    atomic.Pointer[goka.Processor]
	parts   int // partitions of the requests topic, set before the processor runs
}

// NewCoordinator checks kind and o; it does not connect.
func NewCoordinator(kind Kind, o Options) (*Coordinator, error) {
	if err := kind.validateCoordinator(); err != nil {
		return nil, err
	}
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	view, err := NewView(kind.Topics, o)
	if err != nil {
		return nil, err
	}
	return &Coordinator{
		kind: kind, opts: o, log: o.Log.With("job_kind", kind.Name), metrics: newMetrics(o.Registerer), view: view,
	}, nil
}

// View is the coordinator's own view of all jobs, running while Run does.
func (c *Coordinator) View() *View { return c.view }

// Ready reports whether the coordinator has its assignment (which may be empty), has restored it, and its view is up to
// date.
func (c *Coordinator) Ready() bool {
	p := c.proc.Load()
	return p != nil && p.Recovered() && c.view.Ready()
}

// Run coordinates until ctx ends; it then returns nil. An error of a client or of a step restarts the processor, from
// the last marked inputs; Run gives up and returns the error when that has happened ten times in a row, each within a
// minute of its start.
func (c *Coordinator) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan struct{}, 2)
	go func() { c.view.Run(ctx); done <- struct{}{} }()
	go func() { c.nudgeStalled(ctx); done <- struct{}{} }()
	defer func() { cancel(); <-done; <-done }()

	for failures := 0; ; {
		started := time.Now()
		err := c.process(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err == nil {
			err = errors.New("the processor ended by itself")
		}
		if failures++; time.Since(started) > time.Minute {
			failures = 1
		}
		if failures == 10 {
			return fmt.Errorf("coordinating %s jobs: %w", c.kind.Name, err)
		}
		c.log.Warn("restarting the coordinator", "failures", failures, "error", err)
		if !sleep(ctx, min(time.Duration(failures)*500*time.Millisecond, 10*time.Second)) {
			return nil
		}
	}
}

// process runs one goka processor; a processor cannot be run twice.
func (c *Coordinator) process(ctx context.Context) error {
	t, o := c.kind.Topics, c.opts
	if err := c.checkTopics(); err != nil {
		return err
	}
	raw := new(codec.Bytes)
	edges := []goka.Edge{
		goka.Input(goka.Stream(t.Requests), raw, c.request),
		goka.Input(goka.Stream(t.Results), raw, c.result),
		goka.Output(goka.Stream(t.Tasks), raw),
		goka.Output(goka.Stream(t.Events), raw),
		goka.Output(goka.Stream(t.Requests), raw), // rerouting
		goka.Output(goka.Stream(t.Results), raw),
		goka.Persist(o.Codec),
	}
	if t.DeadLetters {
		edges = append(edges, goka.Output(goka.Stream(deadLetters(t.Requests)), raw), goka.Output(goka.Stream(deadLetters(t.Results)), raw))
	}
	p, err := goka.NewProcessor(o.Brokers, goka.DefineGroup(goka.Group(t.Group()), edges...),
		goka.WithLogger(gokaLogger{c.log}),
		goka.WithHasher(newMurmur2),
		goka.WithStorageBuilder(storage.MemoryBuilder()),
		goka.WithTopicManagerBuilder(topicManager(o, "databus-job-topics")),
		goka.WithConsumerGroupBuilder(saramaGroup(o)),
		goka.WithConsumerSaramaBuilder(saramaConsumer(o)),
		goka.WithProducerBuilder(saramaProducer(o)),
	)
	if err != nil {
		return fmt.Errorf("creating the processor: %w", err)
	}
	c.proc.Store(p)
	defer c.proc.Store(nil)
	if err := p.Run(ctx); err != nil {
		return fmt.Errorf("running the processor: %w", err)
	}
	return nil
}

// checkTopics refuses topics with which goka would lose rows silently or fail with less to go by.
func (c *Coordinator) checkTopics() error {
	tm, err := topicManager(c.opts, "databus-job-topics")(c.opts.Brokers)
	if err != nil {
		return fmt.Errorf("connecting to look up topics: %w", err)
	}
	defer tm.Close()
	t := c.kind.Topics
	for _, topic := range []string{t.Requests, t.Results, t.Table, t.Tasks, t.Events} {
		ps, err := tm.Partitions(topic)
		if err != nil || len(ps) == 0 {
			return fmt.Errorf("looking up topic %s (create the topics of the catalogue first): %v", topic, err)
		}
		switch topic {
		case t.Requests:
			c.parts = len(ps)
		case t.Results, t.Table:
			if len(ps) != c.parts {
				return fmt.Errorf("topic %s has %d partitions and %s has %d: they must be equal; create %s anew",
					topic, len(ps), t.Requests, c.parts, topic)
			}
		}
	}
	return nil
}

// nudgeStalled repeats the request of jobs that have not moved for a while. Steps answer a repeat with what is still open, so
// this repairs whatever a fault below this package's assumptions has lost, for example a row that a coordinator
// cut off from its group wrote over its successor's.
func (c *Coordinator) nudgeStalled(ctx context.Context) {
	last := map[string]time.Time{}
	for sleep(ctx, c.opts.Nudge/4) {
		p := c.proc.Load()
		if p == nil {
			continue
		}
		jobs, err := c.view.List()
		if err != nil {
			continue
		}
		stalled := map[string]time.Time{}
		var requests []State
		for _, s := range jobs {
			if _, err := p.Get(s.JobID); err != nil || closed(&s) {
				continue // another coordinator's, or ended
			}
			stalled[s.JobID] = last[s.JobID]
			if now := time.Now(); now.Sub(s.UpdatedAt) > c.opts.Nudge && now.Sub(last[s.JobID]) > c.opts.Nudge {
				stalled[s.JobID] = now
				requests = append(requests, s)
			}
		}
		last = stalled
		if err := c.repeat(requests); err != nil {
			c.log.Warn("repeating the requests of stalled jobs", "error", err)
		}
	}
}

func (c *Coordinator) repeat(jobs []State) error {
	if len(jobs) == 0 {
		return nil
	}
	e, err := goka.NewEmitter(c.opts.Brokers, goka.Stream(c.kind.Topics.Requests), new(codec.Bytes),
		goka.WithEmitterProducerBuilder(saramaProducer(c.opts)), goka.WithEmitterHasher(newMurmur2),
		goka.WithEmitterTopicManagerBuilder(topicManager(c.opts, "databus-job-topics")))
	if err != nil {
		return err
	}
	for _, s := range jobs {
		c.log.Info("job has not moved, repeating its request", "job", s.JobID, "since", s.UpdatedAt)
		if err := e.EmitSync(s.JobID, s.Request); err != nil {
			return errors.Join(err, e.Finish())
		}
	}
	return e.Finish()
}

// sleep returns false when ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return ctx.Err() == nil
	}
}
