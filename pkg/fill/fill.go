// Package fill holds what both ways of filling a database version work with: a rebuild from the archive and a catch-up
// from the Databus.
//
// Promise: a job that runs on a [Base] knows the databases, graphs, keys and the archive as the topics tell, and works
// on the configured store and bucket.
//
// Concurrency: the fields are set once and may be used by any number of goroutines.
//
// Failure: what cannot be opened is an error of [Open], which leaves nothing open. Brokers and registry that go away
// later are waited for by those who use them.
package fill

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/sync/errgroup"

	"databus/pkg/blob"
	"databus/pkg/graph"
	"databus/pkg/history"
	"databus/pkg/identity"
	"databus/pkg/job"
	"databus/pkg/resource"
	"databus/pkg/seal"
	"databus/pkg/service"
	"databus/schemas"
	"databus/schemas/codec"
	"databus/schemas/event"
)

// Base is the environment of one kind of job.
type Base struct {
	Bucket  blob.Bucket
	Stores  identity.Stores
	Keyring *seal.Keyring
	Rows    identity.Rower

	// Producer is not transactional: goka reads what it writes.
	Producer  *kgo.Client
	Admin     *kadm.Client
	Databases *identity.Databases
	Graphs    *identity.Graphs
	Manifest  *history.Manifest

	coordinator *job.Coordinator
	worker      *job.Worker
}

// Open opens everything but the jobs; see Jobs. Close it.
func Open(ctx context.Context, env *service.Env) (_ *Base, err error) {
	b := &Base{}
	if b.Bucket, err = resource.Bucket(ctx, env); err != nil {
		return nil, err
	}
	if b.Stores, err = resource.Stores(ctx, env); err != nil {
		return nil, err
	}
	keys, err := resource.Keys(ctx, env)
	if err != nil {
		return nil, err
	}
	if b.Keyring, err = resource.Keyring(ctx, env); err != nil {
		return nil, err
	}
	// The region matters for normalising new records only; these are normalised.
	if b.Rows, err = identity.NewResolver(keys, b.Keyring, "US"); err != nil {
		return nil, err
	}
	if b.Producer, err = kgo.NewClient(env.KafkaOpts(kgo.RequiredAcks(kgo.AllISRAcks()))...); err != nil {
		return nil, fmt.Errorf("opening Kafka client: %w", err)
	}
	defer func() {
		if err != nil {
			b.Close()
		}
	}()
	b.Admin = kadm.NewClient(b.Producer)
	if b.Databases, err = identity.FollowDatabases(ctx, env.KafkaOpts(), env.Codec, env.Log); err != nil {
		return nil, err
	}
	if b.Graphs, err = identity.FollowGraphs(ctx, env.KafkaOpts(), env.Codec, graph.NewCache(b.Bucket, filepath.Join(env.StateDir, "graphs"), env.Log), env.Log); err != nil {
		return nil, err
	}
	if b.Manifest, err = history.Follow(ctx, env.KafkaOpts(), env.Codec, schemas.DatabusRecords, env.Log); err != nil {
		return nil, err
	}
	return b, nil
}

// Jobs makes the coordinator and the worker of a kind; o may set limits, the rest comes from env. It registers the
// readiness check "jobs".
func (b *Base) Jobs(ctx context.Context, env *service.Env, kind job.Kind, row *codec.Serde[event.JobState], o job.Options) (err error) {
	o.Brokers, o.Codec, o.InstanceID = env.Brokers, job.NewRows(ctx, row), env.GroupInstanceID("jobs")
	o.Log, o.Registerer, o.Kafka = env.Log, env.Metrics, env.KafkaOpts()
	o.TLS, o.SASL = env.KafkaSecurity()
	if b.coordinator, err = job.NewCoordinator(kind, o); err != nil {
		return err
	}
	if b.worker, err = job.NewWorker(kind, o, b.coordinator.View()); err != nil {
		return err
	}
	env.Health.Ask("jobs", b.ready)
	return nil
}

// View is the coordinator's view of all jobs of the kind.
func (b *Base) View() *job.View { return b.coordinator.View() }

func (b *Base) ready() (bool, string) {
	switch {
	case !b.Databases.IsReady() || !b.Graphs.IsReady() || !b.Manifest.IsReady():
		return false, "reading databases, graphs and the archive's manifest"
	case !b.coordinator.Ready():
		return false, "the coordinator has no assignment yet"
	case !b.worker.Ready():
		return false, "the worker has not joined its group yet"
	}
	return true, ""
}

// Run coordinates and works, and runs what else is given, until ctx is done; then it closes the base. Tasks that run
// then are left for the next start.
func (b *Base) Run(ctx context.Context, also ...func(context.Context) error) error {
	defer b.Close()
	group, ctx := errgroup.WithContext(ctx)
	for _, run := range append(also, b.coordinator.Run, b.worker.Run) {
		group.Go(func() error { return run(ctx) })
	}
	if err := group.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// Close closes what Open has opened.
func (b *Base) Close() {
	if b.Databases != nil {
		b.Databases.Close()
	}
	if b.Graphs != nil {
		b.Graphs.Close()
	}
	if b.Manifest != nil {
		b.Manifest.Close()
	}
	b.Producer.Close()
}
