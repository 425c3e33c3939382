package limiter

import (
	"context"
	"path/filepath"

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
		Summary:  "compares counts with contracts and announces crossed thresholds and limits, exactly once",
		Topology: Topology(),
		Default:  Default,
		New:      New,
	}
}

// Service is a constructed limiter.
type Service struct {
	cfg        Config
	codec      *codec.Codec
	stream     *stream.Runtime
	counts     *codec.Serde[event.UsageCount]
	contracts  *codec.Serde[event.Contract]
	thresholds *codec.Serde[event.ThresholdEvent]
	limits     *codec.Serde[event.LimitState]

	storedContracts *codec.Embedded[event.Contract]
}

// New builds the stream runtime. It opens nothing yet.
func New(_ context.Context, env *service.Env, cfg Config) (service.Runner, error) {
	s := newService(env.Codec, cfg)
	check := env.Health.Register("stream")
	return s, s.build(stream.Options{
		Instance: env.Instance, TransactionalSuffix: env.TransactionalSuffix, Kafka: env.KafkaOpts(),
		StateDir: filepath.Join(env.StateDir, "stream"), StuckAfter: env.StuckAfter,
		Log: env.Log, Metrics: env.Metrics, Health: check.Set, Crash: stream.CrashHook(env.Crash),
	})
}

func newService(c *codec.Codec, cfg Config) *Service {
	return &Service{
		cfg: cfg, codec: c,
		counts:          codec.For[event.UsageCount](c, schemas.UsageCounts),
		contracts:       codec.For[event.Contract](c, schemas.UsageContracts),
		thresholds:      codec.For[event.ThresholdEvent](c, schemas.UsageThresholds),
		limits:          codec.For[event.LimitState](c, schemas.UsageLimits),
		storedContracts: codec.ForEmbedded[event.Contract]("contract"),
	}
}

// build completes the options of the runtime with what the service is.
func (s *Service) build(o stream.Options) error {
	o.Topology, o.Codec = Topology(), s.codec
	o.Stores = []stream.Store{{Name: storeCounts}, {Name: storeContracts}, {Name: storeCrossed}}
	o.CommitInterval, o.TransactionTimeout, o.SessionTimeout = s.cfg.CommitInterval, s.cfg.TransactionTimeout, s.cfg.SessionTimeout
	o.MaxRecords, o.CacheBytes, o.LeaveOnStop = s.cfg.MaxRecords, s.cfg.CacheBytes, s.cfg.LeaveOnStop
	o.Handlers = func(int32) stream.Handlers {
		p := newPartition(s)
		return stream.Handlers{
			Inputs: map[string]func(*stream.Tx, *kgo.Record) error{schemas.UsageContracts: p.onContract, schemas.UsageCounts: p.onCount},
			Finish: p.finish,
		}
	}
	var err error
	s.stream, err = stream.New(o)
	return err
}

// Run compares until ctx is done.
func (s *Service) Run(ctx context.Context) error { return s.stream.Run(ctx) }
