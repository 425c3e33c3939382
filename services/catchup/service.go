package catchup

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kgo"

	"databus/pkg/fill"
	"databus/pkg/job"
	"databus/pkg/service"
	"databus/schemas/codec"
)

// Definition is the service as a value.
func Definition() service.Definition[Config] {
	return service.Definition[Config]{
		Name:     Name,
		Summary:  "brings a database version up to date from the Databus, asked for by an event",
		Topology: Topology(),
		Default:  Default,
		New: func(ctx context.Context, env *service.Env, cfg Config) (service.Runner, error) {
			return New(ctx, env, cfg)
		},
	}
}

// Catchup is a running service.
type Catchup struct {
	*fill.Base
	cfg     Config
	log     *slog.Logger
	codec   *codec.Codec
	serdes  serdes
	kafka   func(extra ...kgo.Opt) []kgo.Opt
	records prometheus.Counter
}

// New opens what the service works with.
func New(ctx context.Context, env *service.Env, cfg Config) (*Catchup, error) {
	c := &Catchup{cfg: cfg, log: env.Log, codec: env.Codec, serdes: newSerdes(env.Codec), kafka: env.KafkaOpts}
	c.records = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "databus_catchup_records_total", Help: "Records applied, skipped or dead; what is read again counts again.",
	})
	if env.Metrics != nil {
		if err := env.Metrics.Register(c.records); err != nil {
			return nil, fmt.Errorf("registering metrics: %w", err)
		}
	}
	var err error
	if c.Base, err = fill.Open(ctx, env); err != nil {
		return nil, err
	}
	limits := job.Options{PlanTimeout: cfg.PlanTimeout, MaxAttempts: cfg.Attempts, Concurrency: cfg.Tasks}
	if err := c.Jobs(ctx, env, c.kind(), c.serdes.row, limits); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// Run works until ctx is done.
func (c *Catchup) Run(ctx context.Context) error { return c.Base.Run(ctx) }
