package service

import (
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.opentelemetry.io/otel/trace"

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
	// BucketURL, IdentityURL and KeysFile are what package resource opens.
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
