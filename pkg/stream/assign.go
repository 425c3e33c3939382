package stream

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// brokerError is a failure to ask the brokers: the group tries the assignment again.
type brokerError struct{ err error }

func (e *brokerError) Error() string { return e.err.Error() }
func (e *brokerError) Unwrap() error { return e.err }

// checkTopics refuses to start on topics that are missing or do not fit together.
func (r *Runtime) checkTopics(ctx context.Context) error {
	must := slices.Clone(r.shape.inputs)
	must = append(must, r.shape.rowTopics()...)
	joined := len(must) // inputs and what holds rows have equal numbers of partitions
	for _, topic := range slices.Sorted(maps.Keys(r.shape.sinks)) {
		if r.shape.kept[topic] == 0 {
			must = append(must, topic)
		}
	}
	for _, topic := range r.shape.inputs {
		if r.shape.dead[topic] {
			must = append(must, topic+".dlq")
		}
	}
	details, err := r.admin.ListTopics(ctx, must...)
	if err != nil {
		return fmt.Errorf("stream %s: asking for topics: %w", r.o.Group, err)
	}
	numbers := map[int][]string{}
	for i, topic := range must {
		d, ok := details[topic]
		if !ok || d.Err != nil || len(d.Partitions) == 0 {
			return fmt.Errorf("stream %s: topic %s does not exist; create it from the catalogue with `databus topics apply` (%w)", r.o.Group, topic, d.Err)
		}
		if i < joined {
			numbers[len(d.Partitions)] = append(numbers[len(d.Partitions)], topic)
			r.partitions = int32(len(d.Partitions))
		}
	}
	if len(numbers) > 1 {
		var says []string
		for _, n := range slices.Sorted(maps.Keys(numbers)) {
			says = append(says, fmt.Sprintf("%s: %d", strings.Join(numbers[n], ", "), n))
		}
		return fmt.Errorf("stream %s: joined topics and the changelog must have equal numbers of partitions, and have %s; see `databus topics check`",
			r.o.Group, strings.Join(says, "; "))
	}
	return nil
}

// logs are the offsets that exist of inputs, changelog and topics that hold rows.
type logs struct{ start, high kadm.ListedOffsets }

func (l logs) of(topic string, partition int32) (start, high int64, ok bool) {
	s, ok1 := l.start.Lookup(topic, partition)
	h, ok2 := l.high.Lookup(topic, partition)
	return s.Offset, h.Offset, ok1 && ok2 && s.Err == nil && h.Err == nil
}

// epoch is the leader epoch at the start of a log. The client asks brokers about every offset that has one before it fetches;
// one without would be fetched at once, and if there is nothing to read, the others' first fetch would wait until that one is over.
func (l logs) epoch(topic string, partition int32) int32 {
	s, ok := l.start.Lookup(topic, partition)
	if !ok {
		return -1
	}
	return s.LeaderEpoch
}

func (r *Runtime) logs(ctx context.Context) (l logs, err error) {
	topics := append(slices.Clone(r.shape.inputs), r.shape.rowTopics()...)
	if l.start, err = r.admin.ListStartOffsets(ctx, topics...); err == nil {
		// The high watermark, not the last stable offset: a dead owner's open transaction would hide what was committed
		// behind its first record.
		l.high, err = r.admin.ListEndOffsets(ctx, topics...)
	}
	if err != nil {
		return l, &brokerError{fmt.Errorf("asking for offsets: %w", err)}
	}
	return l, nil
}

// assign is called with the group's committed offsets before the first record of an assignment is fetched: it restores
// the partitions and says where to start. The group's heartbeats go on meanwhile; ctx ends when the next rebalance begins.
func (r *Runtime) assign(ctx context.Context, offsets map[string]map[int32]kgo.Offset) (map[string]map[int32]kgo.Offset, error) {
	select {
	case <-r.fenced:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	r.life.Lock()
	defer r.life.Unlock()
	if r.ended {
		return nil, context.Canceled
	}
	out, err := r.restoreAll(ctx, offsets)
	if err == nil || ctx.Err() != nil {
		return out, errors.Join(err, ctx.Err())
	}
	var broker *brokerError
	if errors.As(err, &broker) {
		r.o.Log.Warn("restoring; trying again", "group", r.o.Group, "error", err)
		r.report(false, "restoring: "+err.Error())
	} else {
		r.stop(fmt.Errorf("stream %s: %w", r.o.Group, err))
	}
	return nil, err
}

func (r *Runtime) restoreAll(ctx context.Context, offsets map[string]map[int32]kgo.Offset) (map[string]map[int32]kgo.Offset, error) {
	began := time.Now()
	partitions := map[int32]bool{}
	for _, ps := range offsets {
		for p := range ps {
			partitions[p] = true
		}
	}
	logs, err := r.logs(ctx)
	if err != nil {
		return nil, err
	}
	out := map[string]map[int32]kgo.Offset{}
	tasks := map[int32]*task{}
	for p := range partitions {
		t := r.newTask(p)
		tasks[p] = t
		for _, topic := range r.shape.inputs {
			o, ok := offsets[topic][p]
			start, high, known := logs.of(topic, p)
			if !ok && len(r.shape.inputs) > 1 && (known || r.shape.changelog != "") {
				return nil, fmt.Errorf("partition %d of %s is not assigned together with the other inputs; stop members of group %s that "+
					"run another version or another balancer", p, topic, r.o.Group)
			}
			if !ok {
				continue
			}
			if !known {
				return nil, &brokerError{fmt.Errorf("asking for offsets of %s, partition %d: no answer", topic, p)}
			}
			at := o.EpochOffset()
			switch {
			case at.Offset < 0:
				// A new group begins at the beginning; at its exact offset, so that an aborted first transaction finds
				// the way back.
				at = kgo.EpochOffset{Epoch: logs.epoch(topic, p), Offset: start}
			case at.Offset < start || at.Offset > high:
				return nil, gapError(topic, p, at.Offset, start, high)
			default:
				t.committed[topic] = at.Offset
			}
			if r.shape.tables[topic] && at.Offset < high {
				t.gates[topic] = high
			}
			if out[topic] == nil {
				out[topic] = map[int32]kgo.Offset{}
			}
			// Without NoReset an offset that retention has passed would silently become another one.
			out[topic][p] = kgo.NoResetOffset().At(at.Offset).WithEpoch(at.Epoch)
		}
	}
	if r.db != nil {
		if err := r.restore(ctx, tasks, logs); err != nil {
			return nil, err
		}
		if err := r.recall(ctx, tasks, logs); err != nil {
			return nil, err
		}
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	for _, t := range tasks {
		t.gate()
	}
	r.mu.Lock()
	for p, t := range tasks {
		t.next = maps.Clone(t.committed)
		r.tasks[p] = t
		for _, topic := range r.shape.inputs {
			_, high, _ := logs.of(topic, p)
			r.status.high[topicPartition{topic, p}] = high
		}
	}
	r.status.assigned = true
	r.mu.Unlock()
	r.published(slices.Collect(maps.Values(tasks)))
	r.metrics.restoreSeconds.Set(time.Since(began).Seconds())
	r.o.Log.Info("partitions assigned", "group", r.o.Group, "partitions", len(tasks), "restored_in", time.Since(began))
	return out, nil
}

func gapError(topic string, partition int32, at, start, high int64) error {
	if at < start {
		return fmt.Errorf("%w: %s, partition %d is consumed up to offset %d and its log starts at %d: retention has deleted %d to %d before "+
			"they were read. Recover them from the archive, or set the group's offset and accept the loss; lengthen the topic's retention",
			ErrPosition, topic, partition, at, start, at, start-1)
	}
	return fmt.Errorf("%w: %s, partition %d is consumed up to offset %d and its log ends at %d: the topic was recreated or the brokers lost "+
		"%d to %d. Start over with an empty state and a new group, or restore the topic", ErrPosition, topic, partition, at, high, high, at-1)
}

// gap turns an offset that the broker calls out of range into an error that names what is missing. It never resets.
func (r *Runtime) gap(topic string, partition int32) error {
	r.mu.Lock()
	t := r.tasks[partition]
	r.mu.Unlock()
	at := int64(-1)
	if t != nil {
		at = t.next[topic]
	}
	logs, err := r.logs(r.ctx)
	if err != nil {
		return fmt.Errorf("stream %s: consuming %s, partition %d: offset %d is out of range: %w", r.o.Group, topic, partition, at, err)
	}
	start, high, _ := logs.of(topic, partition)
	return fmt.Errorf("stream %s: %w", r.o.Group, gapError(topic, partition, at, start, high))
}

// gate holds the other inputs of a partition back until its tables have been read up to where they ended when the
// partition was assigned: what was in force before an event was sent is known when the event is processed.
func (t *task) gate() {
	closed := false
	for topic, high := range t.gates {
		closed = closed || t.committed[topic] < high
	}
	if !closed && !t.gated {
		return
	}
	sources := map[string][]int32{}
	for _, topic := range t.r.shape.inputs {
		if !t.r.shape.tables[topic] {
			sources[topic] = []int32{t.partition}
		}
	}
	if !closed {
		t.gated = false
		t.r.session.Client().ResumeFetchPartitions(sources)
		return
	}
	t.r.session.Client().PauseFetchPartitions(sources)
	if !t.gated {
		t.gated, t.gatedAt = true, time.Now()
	}
}

// regate is gate for Run's goroutine, which also knows partitions that are paused as a whole.
func (r *Runtime) regate(t *task) {
	if p := r.paused[t.partition]; p == nil || p.until.IsZero() {
		t.gate()
	}
}

// gateTimeout bounds the wait for a table whose last records were compacted away: its position never reaches the end.
const gateTimeout = 10 * time.Second

// ungate opens gates that have been closed for too long.
func (r *Runtime) ungate(t *task) {
	if !t.gated || time.Since(t.gatedAt) < gateTimeout {
		return
	}
	r.o.Log.Warn("a table's end was not reached, going on without", "group", r.o.Group, "partition", t.partition)
	clear(t.gates)
	r.regate(t)
}
