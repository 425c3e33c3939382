package service

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.opentelemetry.io/otel/trace"

	"databus/pkg/blob"
	"databus/pkg/identity"
	"databus/pkg/seal"
	"databus/schemas/codec"
)

// Env is what a service is given to work with. Fields are set before the service is constructed and never change.
type Env struct {
	// Service is the service's name, Instance this instance's stable id (see [Config]).
	Service, Instance string
	// StateDir is this instance's own directory. It may not exist yet: services without state make it when
	// they keep a file, such as a graph's.
	StateDir string
	Log      *slog.Logger
	// Metrics registers with the label service=NAME, so that several services share a process.
	Metrics prometheus.Registerer
	// Health holds the service's own checks; a process is ready when all checks of all its services are.
	Health  *Health
	Brokers []string
	Codec   *codec.Codec
	// BucketURL, IdentityURL and KeysFile are what Bucket, Stores and Keys open.
	BucketURL, IdentityURL, KeysFile string
	// TransactionalSuffix ends every transactional id; the embedded broker's start count is in it, because after
	// kill -9 that broker hides later transactions of an id that had one open.
	TransactionalSuffix string
	// StuckAfter is how long a partition with lag may stand still before the service counts as not ready.
	StuckAfter time.Duration
	// DrainTimeout bounds the orderly end of the whole process.
	DrainTimeout time.Duration
	// Tracer makes the service's spans; it costs nothing while tracing is off.
	Tracer trace.Tracer
	// Crash is a test's hook, else nil: services hand it to their runtime, which calls it with the name of each place
	// between two steps of its protocol. An error ends the service there without cleaning up.
	Crash func(point string) error

	process         *Process
	tracing         *tracing
	kafkaSecurity   security
	maxMessageBytes int32
	metricsOnce     sync.Once
	metrics         *kafkaMetrics
}

// TransactionalID is the stable transactional id of one role of this instance, such as "loop".
func (e *Env) TransactionalID(role string) string {
	return "databus." + e.Service + "." + role + "." + e.Instance + e.TransactionalSuffix
}

// GroupInstanceID is the stable group.instance.id of one role of this instance.
func (e *Env) GroupInstanceID(role string) string { return e.Service + "." + role + "." + e.Instance }

// Progress returns a watch of one consumer of the service, registered as a readiness check under the given name.
func (e *Env) Progress(name string) *Progress {
	p := NewProgress(e.StuckAfter, nil)
	e.Health.Ask(name, p.Ready)
	return p
}

// Bucket opens the bucket of the configuration, once for the whole process; it must not be closed by the service.
func (e *Env) Bucket(ctx context.Context) (blob.Bucket, error) { return e.process.openBucket(ctx) }

// Stores opens the identity store of the configuration, once for the whole process; it must not be closed by the
// service. It waits while the store cannot be reached, and the check "identity store" says so; it fails when ctx ends
// and when the URL is wrong.
func (e *Env) Stores(ctx context.Context) (identity.Stores, error) { return e.process.openStores(ctx) }

// Keys loads the key file of the configuration, once for the whole process.
func (e *Env) Keys() (*seal.Keys, error) { return e.process.loadKeys(context.Background()) }

// Keyring opens the data keys of all accounts, once for the whole process; it must not be closed by the service. The
// check "keyring" is not ready until every key event is known; services that need that wait with its Ready.
func (e *Env) Keyring(ctx context.Context) (*seal.Keyring, error) { return e.process.openKeyring(ctx) }

func (e *Env) kafkaHooks() kgo.Hook {
	e.metricsOnce.Do(func() {
		if e.Metrics != nil {
			e.metrics = newKafkaMetrics(e.Metrics)
		}
	})
	if e.metrics == nil {
		return nil
	}
	return e.metrics
}
