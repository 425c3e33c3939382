package service

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"databus/schemas"
)

// TestKafkaOptions sends a record through the options of two services: the partition is the catalogue's, the trace goes
// on, the bytes are counted.
func TestKafkaOptions(t *testing.T) {
	s := startStack(t)
	s.applyTopics(t)
	c := DefaultConfig()
	c.Instance.ID, c.Kafka.Brokers = "one", s.broker.ListenAddrs()
	p, err := NewProcess(t.Context(), "test", c, ProcessOptions{Log: NewLogger(c.Log, &lockedBuffer{})})
	if err != nil {
		t.Fatal(err)
	}
	spans := tracetest.NewSpanRecorder()
	c.Trace.SampleRatio = 1
	if p.tracing, err = startTracing(t.Context(), c.Trace, "test", "one", "v", sdktrace.WithSpanProcessor(spans)); err != nil {
		t.Fatal(err)
	}
	producer, consumer := p.Env("limiter"), p.Env("archiver")
	out, err := kgo.NewClient(producer.KafkaOpts()...)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	in, err := kgo.NewClient(consumer.KafkaOpts(kgo.ConsumeTopics(schemas.UsageLimits), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))...)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()

	ctx, parent := p.tracing.provider.Tracer("t").Start(t.Context(), "call")
	first := &kgo.Record{Topic: schemas.UsageLimits, Key: []byte("acme/pack-a/2026-11"), Value: []byte("x"), Context: ctx}
	second := &kgo.Record{Topic: schemas.UsageLimits, Key: []byte("acme/pack-b/2026-12"), Value: []byte("x"), Context: ctx}
	if err := out.ProduceSync(ctx, first, second).FirstErr(); err != nil {
		t.Fatal(err)
	}
	if want := schemas.Partition(schemas.UsageLimits, first.Key, 8); first.Partition != want || second.Partition != want {
		t.Errorf("partitions %d and %d of one account, want %d", first.Partition, second.Partition, want)
	}
	bounded, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	r := in.PollRecords(bounded, 1).Records()
	if len(r) == 0 {
		t.Fatal("nothing arrived")
	}
	var traceparent string
	for _, h := range r[0].Headers {
		if h.Key == "traceparent" {
			traceparent = string(h.Value)
		}
	}
	if id := parent.SpanContext().TraceID().String(); !strings.Contains(traceparent, id) {
		t.Errorf("traceparent %q is not of trace %s", traceparent, id)
	}
	metrics, err := p.Metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	if text := fmt.Sprint(metrics); !strings.Contains(text, "databus_kafka_records_total") || !strings.Contains(text, "archiver") {
		t.Error("the clients' counters are missing")
	}
	if err := p.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestTLSFiles(t *testing.T) {
	k := DefaultConfig().Kafka
	k.TLS = TLSConfig{Enabled: true, CAFile: configFile(t, "no certificate")}
	if _, err := newSecurity(k); err == nil || !strings.Contains(err.Error(), "must be PEM") {
		t.Error(err)
	}
	k.TLS = TLSConfig{Enabled: true}
	k.SASL = SASLConfig{Mechanism: "scram-sha-512", User: "u", Password: "p"}
	if s, err := newSecurity(k); err != nil || len(s.opts()) != 2 {
		t.Error(len(s.opts()), err)
	}
}
