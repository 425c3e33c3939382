package job

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/lovoo/goka"

	"databus/schemas/codec"
)

// Headers of the records that this package emits.
const (
	headerPlan    = "plan"    // tasks, results: id of the plan
	headerAttempt = "attempt" // tasks, results: how often the task had failed before
	headerFinal   = "final"   // results: "true" for a failure that is not to be tried again
	headerNumber  = "number"  // events: task number or count of tasks
	headerReason  = "reason"  // dead letters
)

// errStopped ends a step or a task whose partition is taken away; its record stays unmarked.
var errStopped = errors.New("the partition was taken away")

// request is the goka callback of the requests topic. goka runs one callback at a time for each partition.
func (c *Coordinator) request(ctx goka.Context, msg any) {
	const input = "request"
	id, value, at := ctx.Key(), msg.([]byte), timestamp(ctx)
	if !c.accept(ctx, input, value) {
		return
	}
	req, err := patiently(ctx.Context(), func() (Request, error) { return c.kind.Request(id, value) })
	if err != nil {
		c.unreadable(ctx, input, value, err)
		return
	}
	s, err := row(ctx.Value())
	if err != nil {
		abandon(ctx, err)
		return
	}
	if req.Cancel {
		c.apply(ctx, input, s, onCancel(s, at), at)
		return
	}
	d := onRequest(c.kind.Name, id, s, value, c.kind.Stage, at)
	if s, ok := c.apply(ctx, input, s, d, at); ok && d.plan && !closed(s) {
		c.plan(ctx, s, at)
	}
}

// plan makes the plan of a job in phase REQUESTED, inside the callback: the request stays unmarked until the plan's row
// is acknowledged, so a crash leads to a new plan. See due for why no task of the lost plan runs.
func (c *Coordinator) plan(ctx goka.Context, s *State, at time.Time) {
	deadline, cancel := context.WithTimeout(ctx.Context(), c.opts.PlanTimeout)
	defer cancel()
	type planned struct {
		bytes []byte
		tasks int
	}
	p, err := patiently(deadline, func() (p planned, err error) {
		if p.bytes, err = c.kind.Plan(deadline, *s); err != nil {
			return p, err
		}
		with := *s
		with.Plan = p.bytes
		tasks, err := c.kind.Tasks(with)
		if p.tasks = len(tasks); err == nil && p.tasks > c.opts.MaxTasks {
			err = fmt.Errorf("the plan has %d tasks and %d are allowed", p.tasks, c.opts.MaxTasks)
		}
		return p, err
	})
	switch {
	case ctx.Context().Err() != nil:
		abandon(ctx, errStopped)
	case err != nil:
		c.apply(ctx, "plan", s, onPlanFailed(s, err, at), at)
	default:
		if p.bytes == nil {
			p.bytes = []byte{}
		}
		c.apply(ctx, "plan", s, onPlan(s, p.bytes, p.tasks, c.kind.Stage, c.kind.Gather, at), at)
	}
}

// result is the goka callback of the results topic.
func (c *Coordinator) result(ctx goka.Context, msg any) {
	const input = "result"
	value, at := msg.([]byte), timestamp(ctx)
	if !c.accept(ctx, input, value) {
		return
	}
	r, err := patiently(ctx.Context(), func() (Result, error) { return c.kind.Result(value) })
	if err != nil {
		c.unreadable(ctx, input, value, err)
		return
	}
	h := ctx.Headers()
	attempt, err := strconv.Atoi(string(h[headerAttempt]))
	if err != nil {
		c.reject(ctx, input, value, "the header attempt is no number")
		return
	}
	s, err := row(ctx.Value())
	if err != nil {
		abandon(ctx, err)
		return
	}
	o := outcome{Result: r, plan: string(h[headerPlan]), attempt: attempt, final: string(h[headerFinal]) == "true", value: value}
	c.apply(ctx, input, s, onResult(s, o, c.opts.MaxAttempts, c.kind.Stage, c.kind.Gather, at), at)
}

// apply does what d says: the row first, then events and tasks. Everything is encoded before anything is emitted. It
// returns the row as it is afterwards, and false if the step was abandoned.
func (c *Coordinator) apply(ctx goka.Context, input string, s *State, d decision, at time.Time) (*State, bool) {
	type emit struct {
		topic, key string
		value      []byte
		headers    goka.Headers
	}
	var emits []emit
	_, err := patiently(ctx.Context(), func() (struct{}, error) {
		emits = emits[:0]
		if d.next != nil {
			s = d.next
			data, err := c.opts.Codec.Encode(s)
			if err != nil && !errors.Is(err, codec.ErrTooLarge) {
				return struct{}{}, fmt.Errorf("encoding the row of job %s: %w", s.JobID, err)
			}
			if err != nil || len(data) > c.opts.MaxRow {
				d = tooLarge(s, c.opts.MaxRow, at)
				s = d.next
			}
		}
		for _, e := range d.say {
			v, err := c.kind.Event(*s, e.what, e.number)
			if err != nil {
				return struct{}{}, fmt.Errorf("making event %s of job %s: %w", e.what, s.JobID, err)
			}
			emits = append(emits, emit{c.kind.Topics.Events, s.JobID, v, goka.Headers{headerNumber: decimal(e.number)}})
		}
		if len(d.tasks) == 0 {
			return struct{}{}, nil
		}
		tasks, err := c.kind.Tasks(*s)
		if err == nil && len(tasks) != len(s.Tasks) {
			err = fmt.Errorf("%d tasks instead of %d", len(tasks), len(s.Tasks))
		}
		if err != nil {
			return struct{}{}, fmt.Errorf("deriving the tasks of job %s: %w", s.JobID, err)
		}
		plan := []byte(planID(s.Plan))
		for _, n := range d.tasks {
			emits = append(emits, emit{c.kind.Topics.Tasks, s.JobID + "/" + strconv.Itoa(n), tasks[n],
				goka.Headers{headerPlan: plan, headerAttempt: decimal(int(s.Tasks[n].Attempts))}})
		}
		return struct{}{}, nil
	})
	if err != nil {
		abandon(ctx, err)
		return s, false
	}

	effect := "none"
	if d.next != nil {
		effect = "applied"
		ctx.SetValue(s)
		if closed(s) {
			c.metrics.ended.WithLabelValues(c.kind.Name, string(s.Phase)).Inc()
		}
		c.log.Info("job", "job", s.JobID, "phase", s.Phase, "done", len(s.Tasks)-len(openTasks(s)), "tasks", len(s.Tasks), "error", s.Error)
	} else if d.note != "" {
		c.log.Debug("input without effect", "job", ctx.Key(), "note", d.note)
	}
	for _, e := range emits {
		ctx.Emit(goka.Stream(e.topic), e.key, e.value, goka.WithCtxEmitHeaders(e.headers))
	}
	c.metrics.inputs.WithLabelValues(c.kind.Name, input, effect).Inc()
	return s, true
}

// accept deals with inputs that no kind should see: a key that is no job id, a value that is too large, and a record in
// another partition than its key's (a producer with a partitioner of its own), whose row nobody would find again.
// The last is sent on to its partition.
func (c *Coordinator) accept(ctx goka.Context, input string, value []byte) bool {
	switch {
	case !idPattern.MatchString(ctx.Key()):
		c.reject(ctx, input, value, "the key is no job id ("+idPattern.String()+")")
	case len(value) > c.opts.MaxValue:
		c.reject(ctx, input, value, fmt.Sprintf("the value has %d bytes and %d are allowed", len(value), c.opts.MaxValue))
	case partitionOf(ctx.Key(), c.parts) != ctx.Partition():
		c.log.Warn("record in the wrong partition, sending it on: its producer must partition by murmur2 of the key",
			"job", ctx.Key(), "topic", ctx.Topic(), "partition", ctx.Partition(), "offset", ctx.Offset())
		ctx.Emit(ctx.Topic(), ctx.Key(), value, goka.WithCtxEmitHeaders(ctx.Headers()))
		c.metrics.inputs.WithLabelValues(c.kind.Name, input, "rerouted").Inc()
	default:
		return true
	}
	return false
}

// unreadable handles an error of Kind.Request or Kind.Result.
func (c *Coordinator) unreadable(ctx goka.Context, input string, value []byte, err error) {
	if isTemporary(err) || ctx.Context().Err() != nil {
		abandon(ctx, errStopped)
		return
	}
	c.reject(ctx, input, value, err.Error())
}

func (c *Coordinator) reject(ctx goka.Context, input string, value []byte, reason string) {
	c.log.Error("rejected a record", "topic", ctx.Topic(), "partition", ctx.Partition(), "offset", ctx.Offset(), "reason", shorten(reason))
	if c.kind.Topics.DeadLetters {
		ctx.Emit(goka.Stream(deadLetters(string(ctx.Topic()))), ctx.Key(), value,
			goka.WithCtxEmitHeaders(ctx.Headers().Merged(goka.Headers{headerReason: []byte(shorten(reason))})))
	}
	c.metrics.inputs.WithLabelValues(c.kind.Name, input, "rejected").Inc()
}

// abandon ends a step without marking its input: the processor stops with err and the input comes again. ctx.Fail does
// not serve, since it returns, and lets the input be marked, when the partition is being taken away.
func abandon(ctx goka.Context, err error) { ctx.DeferCommit()(err) }

// patiently calls f until it gives something else than a temporary error or ctx ends.
func patiently[T any](ctx context.Context, f func() (T, error)) (T, error) {
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, 5*time.Second) {
		v, err := f()
		if err == nil || !isTemporary(err) || !sleep(ctx, pause) {
			return v, err
		}
	}
}

// timestamp is the record's, so that a repeated step writes the same times.
func timestamp(ctx goka.Context) time.Time {
	t := ctx.Timestamp()
	if t.IsZero() {
		t = time.Now()
	}
	return t.UTC().Truncate(time.Microsecond)
}

func decimal(n int) []byte { return strconv.AppendInt(nil, int64(n), 10) }
