package ingest

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics of the service; none has an identifier in a label.
type metrics struct {
	calls     *prometheus.CounterVec
	seconds   *prometheus.HistogramVec
	applied   *prometheus.CounterVec
	undecoded prometheus.Counter
	retries   prometheus.Counter
	evidence  *prometheus.CounterVec
}

func newMetrics(r prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		calls:   prometheus.NewCounterVec(prometheus.CounterOpts{Name: "databus_ingest_calls_total", Help: "Records written or looked up through the API, by route and status."}, []string{"route", "status"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "databus_ingest_call_seconds", Help: "Time of a call, by route.", Buckets: prometheus.ExponentialBuckets(0.001, 2, 14)}, []string{"route"}),
		applied: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "databus_applier_records_total", Help: "Records that an applier read, by database version and outcome."}, []string{"database", "outcome"}),
		undecoded: prometheus.NewCounter(prometheus.CounterOpts{Name: "databus_applier_undecodable_total",
			Help: "Records that appliers skipped because they cannot be decoded; the evidence loop puts them into the dead-letter topic."}),
		retries:  prometheus.NewCounter(prometheus.CounterOpts{Name: "databus_applier_retries_total", Help: "Batches that were given up because the store or Kafka failed, to be applied again."}),
		evidence: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "databus_ingest_evidence_total", Help: "Records that the evidence loop read, by outcome."}, []string{"outcome"}),
	}
	for _, c := range []prometheus.Collector{m.calls, m.seconds, m.applied, m.undecoded, m.retries, m.evidence} {
		if err := r.Register(c); err != nil {
			return nil, fmt.Errorf("registering metrics: %w", err)
		}
	}
	return m, nil
}
