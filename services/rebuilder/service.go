package rebuilder

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/sync/errgroup"

	"databus/pkg/blob"
	"databus/pkg/history"
	"databus/pkg/identity"
	"databus/pkg/job"
	"databus/pkg/seal"
	"databus/pkg/service"
	"databus/schemas"
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

// keyring is what rebuilding needs of seal.Keyring.
type keyring interface {
	Ready(ctx context.Context) error
	Opener(ctx context.Context, keyID string) (*seal.DataKey, error)
}

// Rebuilder is a running service.
type Rebuilder struct {
	cfg    Config
	log    *slog.Logger
	codec  *codec.Codec
	serdes serdes

	bucket  blob.Bucket
	stores  identity.Stores
	keyring keyring
	rows    identity.Rower

	producer  *kgo.Client
	admin     *kadm.Client
	databases *identity.Databases
	graphs    *identity.Graphs
	manifest  *history.Manifest

	coordinator *job.Coordinator
	worker      *job.Worker
	metrics     metrics
}

type metrics struct{ rows prometheus.Counter }

// New opens what the service works with.
func New(ctx context.Context, env *service.Env, cfg Config) (_ *Rebuilder, err error) {
	r := &Rebuilder{cfg: cfg, log: env.Log, codec: env.Codec, serdes: newSerdes(env.Codec)}
	r.metrics.rows = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "databus_rebuilder_records_written_total", Help: "Records written to new database versions; a task that runs again counts again.",
	})
	if env.Metrics != nil {
		if err := env.Metrics.Register(r.metrics.rows); err != nil {
			var known prometheus.AlreadyRegisteredError // an earlier run in this process
			if !errors.As(err, &known) {
				return nil, fmt.Errorf("registering metrics: %w", err)
			}
			r.metrics.rows = known.ExistingCollector.(prometheus.Counter)
		}
	}
	if r.bucket, err = env.Bucket(ctx); err != nil {
		return nil, err
	}
	if r.stores, err = env.Stores(ctx); err != nil {
		return nil, err
	}
	keys, err := env.Keys()
	if err != nil {
		return nil, err
	}
	ring, err := env.Keyring(ctx)
	if err != nil {
		return nil, err
	}
	r.keyring = ring
	// The region matters for normalising new records only; these are normalised.
	if r.rows, err = identity.NewResolver(keys, ring, "US"); err != nil {
		return nil, err
	}
	if r.producer, err = kgo.NewClient(env.KafkaOpts(kgo.RequiredAcks(kgo.AllISRAcks()))...); err != nil {
		return nil, fmt.Errorf("opening Kafka client: %w", err)
	}
	defer func() {
		if err != nil {
			r.close()
		}
	}()
	r.admin = kadm.NewClient(r.producer)
	if r.databases, err = identity.FollowDatabases(ctx, env.KafkaOpts(), env.Codec, env.Log); err != nil {
		return nil, err
	}
	if r.graphs, err = identity.FollowGraphs(ctx, env.KafkaOpts(), env.Codec, r.bucket, env.Log); err != nil {
		return nil, err
	}
	if r.manifest, err = history.Follow(ctx, env.KafkaOpts(), env.Codec, schemas.DatabusRecords, env.Log); err != nil {
		return nil, err
	}
	opts := job.Options{
		Brokers: env.Brokers, Codec: job.NewRows(ctx, r.serdes.row), InstanceID: env.GroupInstanceID("jobs"), Log: env.Log, Registerer: env.Metrics,
		Kafka: env.KafkaOpts(), PlanTimeout: cfg.PlanTimeout, MaxAttempts: cfg.Attempts, Concurrency: cfg.Tasks,
	}
	if r.coordinator, err = job.NewCoordinator(r.kind(), opts); err != nil {
		return nil, err
	}
	if r.worker, err = job.NewWorker(r.kind(), opts, r.coordinator.View()); err != nil {
		return nil, err
	}
	env.Health.Ask("jobs", r.ready)
	return r, nil
}

func (r *Rebuilder) ready() (bool, string) {
	switch {
	case !r.databases.IsReady() || !r.graphs.IsReady() || !r.manifest.IsReady():
		return false, "reading databases, graphs and the archive's manifest"
	case !r.coordinator.Ready():
		return false, "the coordinator has no assignment yet"
	case !r.worker.Ready():
		return false, "the worker has not joined its group yet"
	}
	return true, ""
}

// Run coordinates and works until ctx is done. Tasks that run then are left for the next start.
func (r *Rebuilder) Run(ctx context.Context) error {
	defer r.close()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return r.coordinator.Run(ctx) })
	group.Go(func() error { return r.worker.Run(ctx) })
	group.Go(func() error {
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
	if err := group.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

func (r *Rebuilder) close() {
	if r.databases != nil {
		r.databases.Close()
	}
	if r.graphs != nil {
		r.graphs.Close()
	}
	if r.manifest != nil {
		r.manifest.Close()
	}
	r.producer.Close()
}
