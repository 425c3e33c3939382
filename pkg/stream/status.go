package stream

import (
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kgo"
)

type topicPartition struct {
	topic     string
	partition int32
}

// moved says where a partition stood when it last moved, or last had no lag.
type moved struct {
	at   int64
	when time.Time
}

// status is what other goroutines may know. Guarded by Runtime.mu.
type status struct {
	assigned bool
	ready    bool
	reason   string
	told     bool
	at       map[topicPartition]int64 // committed positions
	high     map[topicPartition]int64 // high watermarks as of the last fetch
	moved    map[topicPartition]moved
	after    time.Duration
}

func newStatus(o *Options) status {
	return status{reason: "starting", at: map[topicPartition]int64{}, high: map[topicPartition]int64{}, moved: map[topicPartition]moved{}, after: o.StuckAfter}
}

// Positions returns the committed position of every input partition that this instance owns: the next offset.
func (r *Runtime) Positions() map[string]map[int32]int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	m := map[string]map[int32]int64{}
	for p := range r.tasks {
		for _, topic := range r.shape.inputs {
			if at, ok := r.status.at[topicPartition{topic, p}]; ok {
				if m[topic] == nil {
					m[topic] = map[int32]int64{}
				}
				m[topic][p] = at
			}
		}
	}
	return m
}

// Lag returns how many offsets of the inputs this instance has not committed, as of the last fetch.
func (r *Runtime) Lag() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.lag()
}

func (r *Runtime) lag() (lag int64) {
	for p := range r.tasks {
		for _, topic := range r.shape.inputs {
			tp := topicPartition{topic, p}
			lag += max(0, r.status.high[tp]-r.status.at[tp])
		}
	}
	return lag
}

// Ready says whether the instance is assigned, restored and not stuck, and else why.
func (r *Runtime) Ready() (bool, string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.status.ready, r.status.reason
}

// assigning is told of an assignment before its partitions are restored.
func (r *Runtime) assigning(partitions map[string][]int32) {
	n := 0
	for _, ps := range partitions {
		n += len(ps)
	}
	r.mu.Lock()
	r.status.assigned = n == 0 // a standby without partitions has nothing to restore
	r.mu.Unlock()
	if n > 0 {
		r.report(false, "restoring")
	}
}

// published makes the tasks' committed positions visible.
func (r *Runtime) published(tasks []*task) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, t := range tasks {
		for topic, at := range t.committed {
			tp := topicPartition{topic, t.partition}
			r.status.at[tp] = at
			r.status.high[tp] = max(r.status.high[tp], at)
		}
	}
}

// tick looks whether the instance is well. It runs between transactions.
func (r *Runtime) tick() {
	for _, t := range r.snapshot() {
		r.ungate(t)
	}
	r.mu.Lock()
	lag, stuck := r.lag(), r.stuck(time.Now())
	ready, reason := r.status.assigned, "ready"
	if !ready {
		reason = r.status.reason
		if r.status.ready || reason == "ready" {
			reason = "waiting for partitions"
		}
	}
	if ready && stuck != "" {
		ready, reason = false, stuck
	}
	r.mu.Unlock()
	for _, p := range r.paused {
		ready, reason = false, p.reason
	}
	r.metrics.lag.Set(float64(lag))
	r.report(ready, reason)
}

// stuck names a partition that has lag and has not moved for too long, however well the others do.
func (r *Runtime) stuck(now time.Time) (reason string) {
	for p := range r.tasks {
		for _, topic := range r.shape.inputs {
			tp := topicPartition{topic, p}
			at, last := r.status.at[tp], r.status.moved[tp]
			if last.when.IsZero() || last.at != at || r.status.high[tp] <= at {
				r.status.moved[tp] = moved{at, now}
			} else if now.Sub(last.when) > r.status.after {
				reason = fmt.Sprintf("stuck: %s, partition %d stays at offset %d of %d", topic, p, at, r.status.high[tp])
			}
		}
	}
	return reason
}

func (r *Runtime) report(ready bool, reason string) {
	r.mu.Lock()
	changed := !r.status.told || r.status.ready != ready || r.status.reason != reason
	r.status.ready, r.status.reason, r.status.told = ready, reason, true
	r.mu.Unlock()
	if changed {
		r.o.Health(ready, reason)
	}
}

type metrics struct {
	records, transactions, aborted, slow, dead, waits, restoredRows prometheus.Counter
	lag, restoreSeconds, recallSeconds                              prometheus.Gauge
	commitSeconds                                                   prometheus.Histogram
}

// newMetrics registers the metrics, or finds those of an earlier runtime of the same group in the same process.
func newMetrics(reg prometheus.Registerer, group string) (*metrics, error) {
	m := &metrics{}
	labels := prometheus.Labels{"group": group}
	var errs []error
	counter := func(name, help string) prometheus.Counter {
		c, err := register(reg, prometheus.NewCounter(prometheus.CounterOpts{Namespace: "databus", Subsystem: "stream", Name: name, Help: help, ConstLabels: labels}))
		errs = append(errs, err)
		return c
	}
	gauge := func(name, help string) prometheus.Gauge {
		g, err := register(reg, prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "databus", Subsystem: "stream", Name: name, Help: help, ConstLabels: labels}))
		errs = append(errs, err)
		return g
	}
	m.records = counter("records_total", "Input records in committed transactions.")
	m.transactions = counter("transactions_total", "Committed transactions.")
	m.aborted = counter("aborted_transactions_total", "Batches that were dropped and read again.")
	m.slow = counter("slow_batches_total", "Batches that were given up and polled again in smaller parts, because they took half of the transaction timeout.")
	m.dead = counter("dead_letters_total", "Input records that went to a dead-letter topic.")
	m.waits = counter("waits_total", "Times that a partition was paused because the registry did not help.")
	m.restoredRows = counter("restored_rows_total", "Changelog rows replayed into local state.")
	m.lag = gauge("lag_records", "Input offsets that are not committed, over the partitions of this instance.")
	m.restoreSeconds = gauge("restore_seconds", "Duration of the last restore.")
	m.recallSeconds = gauge("recall_seconds", "Duration of the last time that derived rows were made anew.")
	h, err := register(reg, prometheus.NewHistogram(prometheus.HistogramOpts{Namespace: "databus", Subsystem: "stream", Name: "commit_seconds",
		Help: "From the last record of a transaction to its end in Kafka: finishing, producing and committing. Rows are written to Pebble later.", ConstLabels: labels, Buckets: prometheus.ExponentialBuckets(0.001, 2, 14)}))
	m.commitSeconds = h
	return m, errors.Join(append(errs, err)...)
}

func register[C prometheus.Collector](reg prometheus.Registerer, c C) (C, error) {
	err := reg.Register(c)
	var already prometheus.AlreadyRegisteredError
	if errors.As(err, &already) {
		if old, ok := already.ExistingCollector.(C); ok {
			return old, nil
		}
	}
	return c, err
}

var _ kgo.HookGroupManageError = groupErrors{}
