package ingest

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics of the service; none has an identifier in a label.
type metrics struct {
	calls     *prometheus.CounterVec
	seconds   *prometheus.HistogramVec
	lines     *prometheus.CounterVec
	requests  *prometheus.CounterVec
	evidence  *prometheus.CounterVec
	applied   *prometheus.CounterVec
	lag       *prometheus.GaugeVec
	undecoded *prometheus.CounterVec
	retries   *prometheus.CounterVec
	shredded  *prometheus.CounterVec
	kafkaAway prometheus.Gauge
}

func newMetrics(r prometheus.Registerer) (*metrics, error) {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "databus", Subsystem: "ingest", Name: name, Help: help}, labels)
	}
	m := &metrics{
		calls: counter("calls_total", "Calls of the API, refused ones included, by route and status.", "route", "status"),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{Namespace: "databus", Subsystem: "ingest", Name: "call_seconds",
			Help: "Time of a call, by route.", Buckets: prometheus.ExponentialBuckets(0.001, 2, 14)}, []string{"route"}),
		lines:    counter("batch_records_total", "Records of batches, by the status of their lines.", "status"),
		requests: counter("requests_total", "Requests that the request loop answered, by outcome; those of a transaction that is done again count again.", "outcome"),
		evidence: counter("evidence_records_total", "Records that the evidence loop read, by outcome; those of a transaction that is done again count again.", "outcome"),
		applied:  counter("applier_records_total", "Records that an applier took in, by database version and outcome.", "database", "outcome"),
		lag: prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: "databus", Subsystem: "ingest", Name: "applier_lag_records",
			Help: "Offsets of databus.records that this instance's applier has read of and not applied, by database version."}, []string{"database"}),
		undecoded: counter("applier_undecodable_total", "Records that an applier skipped because they cannot be decoded; the evidence loop puts them into the dead-letter topic.", "database"),
		retries:   counter("applier_retries_total", "Times that an applier gave up a batch because the store or Kafka failed, to apply it again.", "database"),
	}
	m.kafkaAway = prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "databus", Subsystem: "ingest", Name: "records_refused",
		Help: "1 while the API refuses records at once because Kafka does not acknowledge them."})
	m.shredded = counter("shredded_records_total", "Records of which a marker was left because their keys were revoked after they were applied, by database version.", "database")
	for _, c := range []prometheus.Collector{m.shredded, m.kafkaAway, m.calls, m.seconds, m.lines, m.requests, m.evidence, m.applied, m.lag, m.undecoded, m.retries} {
		if err := r.Register(c); err != nil {
			return nil, fmt.Errorf("registering metrics: %w", err)
		}
	}
	return m, nil
}
