package rebuilder

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"databus/pkg/fill"
	"databus/pkg/job"
	"databus/pkg/service"
	"databus/schemas/codec"
)

// Definition is the service as a value.
func Definition() service.Definition[Config] {
	return service.Definition[Config]{
		Name:     Name,
		Summary:  "builds a new database version from the archive, asked for by an event",
		Topology: Topology(),
		Default:  Default,
		New: func(ctx context.Context, env *service.Env, cfg Config) (service.Runner, error) {
			return New(ctx, env, cfg)
		},
	}
}

// Rebuilder is a running service.
type Rebuilder struct {
	*fill.Base
	cfg     Config
	log     *slog.Logger
	codec   *codec.Codec
	serdes  serdes
	written prometheus.Counter
}

// New opens what the service works with.
func New(ctx context.Context, env *service.Env, cfg Config) (*Rebuilder, error) {
	r := &Rebuilder{cfg: cfg, log: env.Log, codec: env.Codec, serdes: newSerdes(env.Codec)}
	r.written = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "databus_rebuilder_records_written_total", Help: "Records written to new database versions; a task that runs again counts again.",
	})
	if env.Metrics != nil {
		if err := env.Metrics.Register(r.written); err != nil {
			return nil, fmt.Errorf("registering metrics: %w", err)
		}
	}
	var err error
	if r.Base, err = fill.Open(ctx, env); err != nil {
		return nil, err
	}
	limits := job.Options{PlanTimeout: cfg.PlanTimeout, MaxAttempts: cfg.Attempts, Concurrency: cfg.Tasks}
	if err := r.Jobs(ctx, env, r.kind(), r.serdes.row, limits); err != nil {
		r.Close()
		return nil, err
	}
	return r, nil
}

// Run works until ctx is done, and drops what failed jobs have left.
func (r *Rebuilder) Run(ctx context.Context) error {
	return r.Base.Run(ctx, func(ctx context.Context) error {
		tick := time.NewTicker(r.cfg.Cleanup)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-tick.C:
				r.cleanUp(ctx)
			}
		}
	})
}
