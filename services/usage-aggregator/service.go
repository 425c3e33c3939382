package usageaggregator

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kgo"

	"databus/pkg/service"
	"databus/pkg/stream"
	"databus/schemas"
	"databus/schemas/codec"
	"databus/schemas/event"
)

// Definition is the service as a value.
func Definition() service.Definition[Config] {
	return service.Definition[Config]{
		Name:     Name,
		Summary:  "counts usage events per account, data pack and period, exactly once",
		Topology: Topology(),
		Default:  Default,
		New:      New,
	}
}

// Service is a constructed aggregator.
type Service struct {
	cfg       Config
	codec     *codec.Codec
	stream    *stream.Runtime
	events    *codec.Serde[event.UsageEvent]
	contracts *codec.Serde[event.Contract]
	counts    *codec.Serde[event.UsageCount]
	requests  *codec.Serde[event.BaselineRequest]
	baselines *codec.Serde[event.Baseline]
	stored    *codec.Embedded[event.Contract]
	asked     *codec.Embedded[event.BaselineRequest]

	duplicates prometheus.Counter
	answers    *prometheus.CounterVec
}

// New builds the stream runtime. It opens nothing yet.
func New(_ context.Context, env *service.Env, cfg Config) (service.Runner, error) {
	s, err := newService(env.Codec, env.Metrics, cfg)
	if err != nil {
		return nil, err
	}
	check := env.Health.Register("stream")
	return s, s.build(stream.Options{
		Instance: env.Instance, TransactionalSuffix: env.TransactionalSuffix, Kafka: env.KafkaOpts(),
		StateDir: filepath.Join(env.StateDir, "stream"), StuckAfter: env.StuckAfter,
		Log: env.Log, Metrics: env.Metrics, Health: check.Set, Crash: stream.CrashHook(env.Crash),
	})
}

func newService(c *codec.Codec, metrics prometheus.Registerer, cfg Config) (*Service, error) {
	s := &Service{
		cfg:        cfg,
		events:     codec.For[event.UsageEvent](c, schemas.UsageEvents),
		contracts:  codec.For[event.Contract](c, schemas.UsageContracts),
		counts:     codec.For[event.UsageCount](c, schemas.UsageCounts),
		requests:   codec.For[event.BaselineRequest](c, schemas.UsageBaselineRequests),
		baselines:  codec.For[event.Baseline](c, schemas.UsageBaselines),
		stored:     codec.ForEmbedded[event.Contract]("contract"),
		asked:      codec.ForEmbedded[event.BaselineRequest]("baseline_request"),
		duplicates: prometheus.NewCounter(prometheus.CounterOpts{Namespace: "databus", Subsystem: "usage", Name: "duplicate_events_total", Help: "Events that were dropped because their id had been seen within the window."}),
	}
	if err := metrics.Register(s.duplicates); err != nil {
		var have prometheus.AlreadyRegisteredError
		if !errors.As(err, &have) {
			return nil, fmt.Errorf("registering metrics: %w", err)
		}
		if old, ok := have.ExistingCollector.(prometheus.Counter); ok {
			s.duplicates = old
		}
	}
	s.codec = c
	var err error
	s.answers, err = answersCounted(metrics)
	return s, err
}

// build completes the options of the runtime with what the service is.
func (s *Service) build(o stream.Options) error {
	o.Topology, o.Codec = Topology(), s.codec
	// Partitions keep counts and accounts themselves, decoded, within CacheBytes; the runtime's cache would hold them a second time.
	o.Stores = []stream.Store{{Name: storeCounts, Topic: schemas.UsageCounts, Uncached: true}, {Name: storeContracts, Uncached: true},
		{Name: storeBounds, Uncached: true}, {Name: storeSeen, Derived: true, Uncached: true}, {Name: storeAsked, Uncached: true}}
	o.Recall = stream.Recall{Topic: schemas.UsageEvents, Window: s.cfg.DedupWindow}
	o.CommitInterval, o.TransactionTimeout, o.SessionTimeout = s.cfg.CommitInterval, s.cfg.TransactionTimeout, s.cfg.SessionTimeout
	o.WriteRecords = 250_000
	o.MaxRecords, o.WriteInterval, o.CacheBytes, o.LeaveOnStop = s.cfg.MaxRecords, s.cfg.WriteInterval, s.cfg.CacheBytes, s.cfg.LeaveOnStop
	o.Handlers = func(int32) stream.Handlers {
		p := newPartition(s)
		return stream.Handlers{
			Inputs:  map[string]func(*stream.Tx, *kgo.Record) error{schemas.UsageContracts: p.onContract, schemas.UsageBaselines: p.onBaseline, schemas.UsageEvents: p.onEvent},
			Finish:  p.finish,
			Pending: p.pending,
			Again:   p.again,
		}
	}
	var err error
	s.stream, err = stream.New(o)
	return err
}

// Run counts until ctx is done.
func (s *Service) Run(ctx context.Context) error { return s.stream.Run(ctx) }
