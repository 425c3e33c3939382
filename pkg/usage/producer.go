package usage

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kgo"

	"databus/schemas"
	"databus/schemas/codec"
	"databus/schemas/event"
)

// Options of a Producer.
type Options struct {
	// Kafka says where the brokers are.
	Kafka []kgo.Opt
	Codec *codec.Codec
	// Buffer is how many events wait at most; default 10,000. Events beyond that are dropped and counted.
	Buffer  int
	Metrics prometheus.Registerer
	Log     *slog.Logger
}

// Producer sends usage events behind the back of the requests that cause them. Its client is idempotent and waits for
// all replicas, so an event that was taken is sent once, unless the process dies first or Close gives up.
type Producer struct {
	serde  *codec.Serde[event.UsageEvent]
	client *kgo.Client
	log    *slog.Logger
	queue  chan event.UsageEvent
	done   chan struct{}
	ctx    context.Context // of encoding and sending; ends when Close gives up
	cancel context.CancelFunc

	mu     sync.RWMutex
	closed bool

	sent, dropped, failed prometheus.Counter
}

// NewProducer starts a producer. Close it.
func NewProducer(o Options) (*Producer, error) {
	if o.Codec == nil {
		return nil, errors.New("usage: a producer needs a codec")
	}
	if o.Buffer == 0 {
		o.Buffer = 10_000
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Metrics == nil {
		o.Metrics = prometheus.NewRegistry()
	}
	client, err := kgo.NewClient(append(append([]kgo.Opt{}, o.Kafka...), kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.ProducerLinger(5*time.Millisecond), kgo.MaxBufferedRecords(o.Buffer),
		kgo.RecordPartitioner(kgo.BasicConsistentPartitioner(func(topic string) func(*kgo.Record, int) int {
			return func(r *kgo.Record, n int) int { return int(schemas.Partition(topic, r.Key, int32(n))) }
		})))...)
	if err != nil {
		return nil, fmt.Errorf("usage: making a client: %w", err)
	}
	p := &Producer{serde: codec.For[event.UsageEvent](o.Codec, schemas.UsageEvents), client: client, log: o.Log,
		queue: make(chan event.UsageEvent, o.Buffer), done: make(chan struct{})}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	vec := prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "databus", Subsystem: "usage", Name: "events_emitted_total",
		Help: "Usage events by outcome: sent, dropped (buffer full or closed), failed (refused by codec or broker)."}, []string{"outcome"})
	if err := o.Metrics.Register(vec); err != nil {
		var have prometheus.AlreadyRegisteredError
		old, ok := (*prometheus.CounterVec)(nil), false
		if errors.As(err, &have) {
			old, ok = have.ExistingCollector.(*prometheus.CounterVec)
		}
		if !ok {
			client.Close()
			return nil, fmt.Errorf("usage: registering metrics: %w", err)
		}
		vec = old
	}
	p.sent, p.dropped, p.failed = vec.WithLabelValues("sent"), vec.WithLabelValues("dropped"), vec.WithLabelValues("failed")
	go p.run()
	return p, nil
}

// Emit takes an event and returns at once. It is false where the event was dropped, because the buffer is full or the
// producer is closed.
func (p *Producer) Emit(e event.UsageEvent) bool {
	p.mu.RLock()
	defer p.mu.RUnlock()
	if !p.closed {
		select {
		case p.queue <- e:
			return true
		default:
		}
	}
	p.dropped.Inc()
	return false
}

func (p *Producer) run() {
	defer close(p.done)
	for e := range p.queue {
		value, err := p.encode(&e)
		if err != nil {
			p.failed.Inc()
			p.log.Error("a usage event is lost", "error", err)
			continue
		}
		// Blocks while the client's buffer is full; the queue fills meanwhile, and Emit drops.
		p.client.Produce(p.ctx, &kgo.Record{Topic: schemas.UsageEvents, Key: []byte(e.Account), Value: value}, func(_ *kgo.Record, err error) {
			if err != nil {
				p.failed.Inc()
				p.log.Error("a usage event is lost", "error", err)
				return
			}
			p.sent.Inc()
		})
	}
}

// encode waits for a registry that does not answer.
func (p *Producer) encode(e *event.UsageEvent) ([]byte, error) {
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
		value, err := p.serde.Encode(p.ctx, e)
		if !errors.Is(err, codec.ErrUnavailable) {
			return value, err
		}
		select {
		case <-p.ctx.Done():
			return nil, err
		case <-time.After(wait):
		}
	}
}

// Close stops taking events and sends those taken. When ctx ends first, the rest is lost and the error says so.
func (p *Producer) Close(ctx context.Context) error {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return nil
	}
	p.closed = true
	close(p.queue)
	p.mu.Unlock()
	defer p.client.Close()
	defer p.cancel()
	select {
	case <-p.done:
	case <-ctx.Done():
		return fmt.Errorf("closing the usage producer: %d events are not sent: %w", len(p.queue), ctx.Err())
	}
	if err := p.client.Flush(ctx); err != nil {
		return fmt.Errorf("closing the usage producer: %d events are not sent: %w", p.client.BufferedProduceRecords(), err)
	}
	return nil
}
