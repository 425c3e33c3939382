package catchup

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/sync/errgroup"

	"databus/pkg/blob"
	"databus/pkg/history"
	"databus/pkg/identity"
	"databus/pkg/job"
	"databus/pkg/service"
	"databus/schemas"
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

// keyring is what catching up needs of seal.Keyring, beside opening.
type keyring interface {
	Ready(ctx context.Context) error
}

// Catchup is a running service.
type Catchup struct {
	cfg    Config
	log    *slog.Logger
	codec  *codec.Codec
	serdes serdes

	bucket  blob.Bucket
	stores  identity.Stores
	keyring keyring
	rows    identity.Rower

	kafka     func(extra ...kgo.Opt) []kgo.Opt
	producer  *kgo.Client
	admin     *kadm.Client
	databases *identity.Databases
	graphs    *identity.Graphs
	manifest  *history.Manifest

	coordinator *job.Coordinator
	worker      *job.Worker
	metrics     metrics
}

type metrics struct{ records prometheus.Counter }

// New opens what the service works with.
func New(ctx context.Context, env *service.Env, cfg Config) (_ *Catchup, err error) {
	c := &Catchup{cfg: cfg, log: env.Log, codec: env.Codec, serdes: newSerdes(env.Codec), kafka: env.KafkaOpts}
	c.metrics.records = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "databus_catchup_records_total", Help: "Records applied, skipped or dead; what is read again counts again.",
	})
	if env.Metrics != nil {
		if err := env.Metrics.Register(c.metrics.records); err != nil {
			var known prometheus.AlreadyRegisteredError // an earlier run in this process
			if !errors.As(err, &known) {
				return nil, fmt.Errorf("registering metrics: %w", err)
			}
			c.metrics.records = known.ExistingCollector.(prometheus.Counter)
		}
	}
	if c.bucket, err = env.Bucket(ctx); err != nil {
		return nil, err
	}
	if c.stores, err = env.Stores(ctx); err != nil {
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
	c.keyring = ring
	// The region matters for normalising new records only; these are normalised.
	if c.rows, err = identity.NewResolver(keys, ring, "US"); err != nil {
		return nil, err
	}
	if c.producer, err = kgo.NewClient(env.KafkaOpts(kgo.RequiredAcks(kgo.AllISRAcks()))...); err != nil {
		return nil, fmt.Errorf("opening Kafka client: %w", err)
	}
	defer func() {
		if err != nil {
			c.close()
		}
	}()
	c.admin = kadm.NewClient(c.producer)
	if c.databases, err = identity.FollowDatabases(ctx, env.KafkaOpts(), env.Codec, env.Log); err != nil {
		return nil, err
	}
	if c.graphs, err = identity.FollowGraphs(ctx, env.KafkaOpts(), env.Codec, c.bucket, env.Log); err != nil {
		return nil, err
	}
	if c.manifest, err = history.Follow(ctx, env.KafkaOpts(), env.Codec, schemas.DatabusRecords, env.Log); err != nil {
		return nil, err
	}
	opts := job.Options{
		Brokers: env.Brokers, Codec: job.NewRows(ctx, c.serdes.row), InstanceID: env.GroupInstanceID("jobs"), Log: env.Log, Registerer: env.Metrics,
		Kafka: env.KafkaOpts(), PlanTimeout: cfg.PlanTimeout, MaxAttempts: cfg.Attempts, Concurrency: cfg.Tasks,
	}
	if c.coordinator, err = job.NewCoordinator(c.kind(), opts); err != nil {
		return nil, err
	}
	if c.worker, err = job.NewWorker(c.kind(), opts, c.coordinator.View()); err != nil {
		return nil, err
	}
	env.Health.Ask("jobs", c.ready)
	return c, nil
}

func (c *Catchup) ready() (bool, string) {
	switch {
	case !c.databases.IsReady() || !c.graphs.IsReady() || !c.manifest.IsReady():
		return false, "reading databases, graphs and the archive's manifest"
	case !c.coordinator.Ready():
		return false, "the coordinator has no assignment yet"
	case !c.worker.Ready():
		return false, "the worker has not joined its group yet"
	}
	return true, ""
}

// Run coordinates and works until ctx is done. Tasks that run then are left for the next start.
func (c *Catchup) Run(ctx context.Context) error {
	defer c.close()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return c.coordinator.Run(ctx) })
	group.Go(func() error { return c.worker.Run(ctx) })
	if err := group.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

func (c *Catchup) close() {
	if c.databases != nil {
		c.databases.Close()
	}
	if c.graphs != nil {
		c.graphs.Close()
	}
	if c.manifest != nil {
		c.manifest.Close()
	}
	c.producer.Close()
}
