package service

import (
	"net"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kgo"
)

// kafkaMetrics counts what a service's Kafka clients move, all clients of the service together.
type kafkaMetrics struct {
	records, bytes                        *prometheus.CounterVec
	connectErrors, disconnects, throttled prometheus.Counter
}

var (
	_ kgo.HookProduceBatchWritten = (*kafkaMetrics)(nil)
	_ kgo.HookFetchBatchRead      = (*kafkaMetrics)(nil)
	_ kgo.HookBrokerConnect       = (*kafkaMetrics)(nil)
	_ kgo.HookBrokerDisconnect    = (*kafkaMetrics)(nil)
	_ kgo.HookBrokerThrottle      = (*kafkaMetrics)(nil)
)

func newKafkaMetrics(reg prometheus.Registerer) *kafkaMetrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Namespace: "databus", Subsystem: "kafka", Name: name, Help: help})
	}
	vec := func(name, help string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "databus", Subsystem: "kafka", Name: name, Help: help}, []string{"topic", "direction"})
	}
	m := &kafkaMetrics{
		records:       vec("records_total", "Records written to or read from brokers, retried and aborted ones included."),
		bytes:         vec("compressed_bytes_total", "Bytes of record batches written to or read from brokers, as compressed."),
		connectErrors: counter("connect_errors_total", "Connections to brokers that could not be opened."),
		disconnects:   counter("disconnects_total", "Connections to brokers that ended."),
		throttled:     counter("throttled_seconds_total", "Time for which brokers asked to wait."),
	}
	reg.MustRegister(m.records, m.bytes, m.connectErrors, m.disconnects, m.throttled)
	return m
}

func (m *kafkaMetrics) OnProduceBatchWritten(_ kgo.BrokerMetadata, topic string, _ int32, b kgo.ProduceBatchMetrics) {
	m.records.WithLabelValues(topic, "produced").Add(float64(b.NumRecords))
	m.bytes.WithLabelValues(topic, "produced").Add(float64(b.CompressedBytes))
}

func (m *kafkaMetrics) OnFetchBatchRead(_ kgo.BrokerMetadata, topic string, _ int32, b kgo.FetchBatchMetrics) {
	m.records.WithLabelValues(topic, "fetched").Add(float64(b.NumRecords))
	m.bytes.WithLabelValues(topic, "fetched").Add(float64(b.CompressedBytes))
}

func (m *kafkaMetrics) OnBrokerConnect(_ kgo.BrokerMetadata, _ time.Duration, _ net.Conn, err error) {
	if err != nil {
		m.connectErrors.Inc()
	}
}

func (m *kafkaMetrics) OnBrokerDisconnect(kgo.BrokerMetadata, net.Conn) { m.disconnects.Inc() }

func (m *kafkaMetrics) OnBrokerThrottle(_ kgo.BrokerMetadata, d time.Duration, _ bool) {
	m.throttled.Add(d.Seconds())
}
