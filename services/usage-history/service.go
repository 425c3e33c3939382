package usagehistory

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"databus/pkg/history"
	"databus/pkg/resource"
	"databus/pkg/service"
	"databus/schemas"
	"databus/schemas/codec"
	"databus/schemas/event"
)

// Definition is the service as a value.
func Definition() service.Definition[Config] {
	return service.Definition[Config]{
		Name:     Name,
		Summary:  "counts the usage from before the aggregator counted it, from the archive or Druid",
		Topology: Topology(),
		Default:  Default,
		New: func(ctx context.Context, env *service.Env, cfg Config) (service.Runner, error) {
			return New(ctx, env, cfg)
		},
	}
}

// Worker is a running service.
type Worker struct {
	cfg      Config
	instance string // in the group
	log      *slog.Logger
	source   source
	kafka    func(extra ...kgo.Opt) []kgo.Opt
	requests *codec.Serde[event.BaselineRequest]
	answers  *codec.Serde[event.Baseline]
	check    *service.Check
	crash    func(string) error
	slots    chan struct{}

	manifest *history.Manifest // nil with Druid
	producer *kgo.Client
	client   *kgo.Client // of the group

	mu      sync.Mutex
	queues  map[int32]*queue
	pending int  // requests in all queues
	paused  bool // nothing is fetched until there is room
	fatal   chan error

	answered *prometheus.CounterVec
	waiting  prometheus.Gauge
}

// Places between two steps where a test may end the process.
const (
	CrashCounted  = "history counted"  // an answer is made and not sent
	CrashAnswered = "history answered" // it is sent, and the request not committed
)

// New opens what the service works with.
func New(ctx context.Context, env *service.Env, cfg Config) (_ *Worker, err error) {
	w := &Worker{cfg: cfg, instance: env.GroupInstanceID("requests"), log: env.Log, kafka: env.KafkaOpts, crash: env.Crash, queues: map[int32]*queue{}, slots: make(chan struct{}, cfg.Concurrency), fatal: make(chan error, 1),
		requests: codec.For[event.BaselineRequest](env.Codec, schemas.UsageBaselineRequests), answers: codec.For[event.Baseline](env.Codec, schemas.UsageBaselines)}
	w.answered = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "databus_usage_history_requests_total",
		Help: "Baseline requests by what became of them: answered, estimated (answered so), or dead."}, []string{"result"})
	w.waiting = prometheus.NewGauge(prometheus.GaugeOpts{Name: "databus_usage_history_pending_requests", Help: "Baseline requests that are read and not answered."})
	if env.Metrics != nil {
		if err := errors.Join(env.Metrics.Register(w.answered), env.Metrics.Register(w.waiting)); err != nil {
			return nil, fmt.Errorf("registering metrics: %w", err)
		}
	}
	if w.producer, err = kgo.NewClient(env.KafkaOpts(kgo.RequiredAcks(kgo.AllISRAcks()))...); err != nil {
		return nil, fmt.Errorf("opening Kafka client: %w", err)
	}
	defer func() {
		if err != nil {
			w.close()
		}
	}()
	if cfg.Source == sourceDruid {
		w.source = newDruid(cfg.Druid)
	} else {
		bucket, err := resource.Bucket(ctx, env)
		if err != nil {
			return nil, err
		}
		if w.manifest, err = history.Follow(ctx, env.KafkaOpts(), env.Codec, schemas.UsageEvents, env.Log); err != nil {
			return nil, err
		}
		w.source = &archive{maxIDs: cfg.MaxIDs, slack: cfg.ClockSlack, log: env.Log, events: &history.Log{
			Topic: schemas.UsageEvents, Manifest: w.manifest, Bucket: bucket, Kafka: env.KafkaOpts(), Admin: kadm.NewClient(w.producer), Codec: env.Codec}}
	}
	w.check = env.Health.Register("requests")
	return w, nil
}

func (w *Worker) close() {
	if w.manifest != nil {
		w.manifest.Close()
	}
	w.producer.Close()
}

// Run answers until ctx is done.
func (w *Worker) Run(ctx context.Context) error {
	defer w.close()
	client, err := kgo.NewClient(w.kafka(
		kgo.ConsumerGroup(Name), kgo.ConsumeTopics(schemas.UsageBaselineRequests), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.KeepControlRecords(), kgo.DisableAutoCommit(), kgo.BlockRebalanceOnPoll(), kgo.RebalanceTimeout(time.Minute),
		kgo.InstanceID(w.instance), kgo.SessionTimeout(w.cfg.SessionTimeout), kgo.HeartbeatInterval(min(3*time.Second, w.cfg.SessionTimeout/5)),
		kgo.OnPartitionsAssigned(w.assigned), kgo.OnPartitionsRevoked(w.revoked), kgo.OnPartitionsLost(w.revoked))...)
	if err != nil {
		return fmt.Errorf("opening Kafka client: %w", err)
	}
	w.client = client
	defer client.CloseAllowingRebalance()
	defer w.stopAll()
	for {
		fetches := client.PollRecords(ctx, min(w.cfg.MaxPending, 1000))
		if ctx.Err() != nil {
			return nil
		}
		select {
		case err := <-w.fatal:
			return err
		default:
		}
		fetches.EachError(func(topic string, partition int32, err error) {
			w.log.Warn("fetching requests", "topic", topic, "partition", partition, "error", err)
		})
		fetches.EachPartition(func(p kgo.FetchTopicPartition) { w.enqueue(p.Partition, p.Records) })
		client.AllowRebalance()
	}
}

// fail ends Run.
func (w *Worker) fail(err error) {
	select {
	case w.fatal <- err:
	default:
	}
}

// point lets a test end the service between two steps.
func (w *Worker) point(at string) error {
	if w.crash == nil {
		return nil
	}
	return w.crash(at)
}
