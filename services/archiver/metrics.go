package archiver

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	files, rows, deadLetters, bytes *prometheus.CounterVec
	adoptions, failures             prometheus.Counter
	putSeconds                      prometheus.Histogram

	lagRecords, lagBytes, lagSeconds, retentionUsed *prometheus.GaugeVec
	extensions                                      prometheus.Counter
}

func newMetrics(reg prometheus.Registerer, a *Archiver) (*metrics, error) {
	counter := func(name, help string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "archiver", Name: name, Help: help}, []string{"topic"})
	}
	seconds := func(name, help string) prometheus.Histogram {
		return prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: "archiver", Name: name, Help: help, Buckets: prometheus.ExponentialBuckets(0.005, 2.5, 12),
		})
	}
	gauge := func(name, help string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: "archiver", Name: name, Help: help}, []string{"topic"})
	}
	m := &metrics{
		lagRecords:    gauge("lag_records", "Offsets that are not archived yet."),
		lagBytes:      gauge("lag_bytes", "Bytes that are not archived yet, estimated from those that are spooled."),
		lagSeconds:    gauge("lag_seconds", "Age of the oldest record that is not archived yet, by its timestamp."),
		retentionUsed: gauge("retention_used_ratio", "Share of the topic's retention that the oldest record that is not archived has waited. At 1 it is lost."),
		extensions:    prometheus.NewCounter(prometheus.CounterOpts{Namespace: "archiver", Name: "retention_extensions_total", Help: "Times that a topic's retention was extended."}),
		files:         counter("files_total", "Objects committed."),
		rows:          counter("rows_total", "Rows of committed objects."),
		deadLetters:   counter("dead_letters_total", "Records of committed objects that went to the dead letters."),
		bytes:         counter("object_bytes_total", "Bytes of committed objects."),
		adoptions:     prometheus.NewCounter(prometheus.CounterOpts{Namespace: "archiver", Name: "adoptions_total", Help: "Objects found in the bucket instead of put."}),
		failures:      prometheus.NewCounter(prometheus.CounterOpts{Namespace: "archiver", Name: "failures_total", Help: "Attempts at a cut that failed and are tried again."}),
		putSeconds:    seconds("put_seconds", "Time to encode and upload an object."),
	}
	stopped := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Namespace: "archiver", Name: "troubled_partitions", Help: "Partitions that stand still or wait for another attempt.",
	}, a.troubled)
	if reg == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.files, m.rows, m.deadLetters, m.bytes, m.adoptions, m.failures, m.putSeconds, stopped,
		m.lagRecords, m.lagBytes, m.lagSeconds, m.retentionUsed, m.extensions} {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("registering metrics: %w", err)
		}
	}
	return m, nil
}

func (m *metrics) count(o *object) {
	f := o.footer
	m.files.WithLabelValues(f.Topic).Inc()
	m.rows.WithLabelValues(f.Topic).Add(float64(f.Rows))
	m.deadLetters.WithLabelValues(f.Topic).Add(float64(f.DeadLetters))
	m.bytes.WithLabelValues(f.Topic).Add(float64(o.size))
}
