package ingest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/sync/errgroup"

	"databus/pkg/graph"
	"databus/pkg/identity"
	"databus/pkg/limits"
	"databus/pkg/resource"
	"databus/pkg/seal"
	"databus/pkg/service"
	"databus/pkg/stream"
	"databus/pkg/usage"
	"databus/schemas"
	"databus/schemas/codec"
	"databus/schemas/event"
)

// Definition is the service as a value.
func Definition() service.Definition[Config] {
	return service.Definition[Config]{
		Name:     Name,
		Summary:  "resolves customers' records to persons, seals them onto the Databus and keeps the serving database",
		Topology: Topology(),
		Default:  Default,
		New:      New,
	}
}

// Service is a constructed ingest.
type Service struct {
	env *service.Env
	cfg Config

	resolver  *identity.Resolver
	keyring   *seal.Keyring
	opener    *seal.RequestOpener
	public    *seal.PublicKey
	databases *identity.Databases
	graphs    *identity.Graphs
	stores    identity.Stores
	served    atomic.Pointer[served]
	keys      *apiKeys

	records      *codec.Serde[event.DatabusRecord]
	requests     *codec.Serde[event.ResolveRequest]
	resolutions  *codec.Serde[event.Resolution]
	observations *codec.Serde[event.Observation]
	customers    *codec.Embedded[event.CustomerRecord]

	metrics  *metrics
	listener net.Listener
}

// New opens what the service works with. The API's address is taken here, so that a wrong one is found at the start.
func New(ctx context.Context, env *service.Env, cfg Config) (service.Runner, error) {
	s := &Service{
		env: env, cfg: cfg,
		records:      codec.For[event.DatabusRecord](env.Codec, schemas.DatabusRecords),
		requests:     codec.For[event.ResolveRequest](env.Codec, schemas.IdentityRequests),
		resolutions:  codec.For[event.Resolution](env.Codec, schemas.IdentityResolutions),
		observations: codec.For[event.Observation](env.Codec, schemas.IdentityObservations),
		customers:    codec.ForEmbedded[event.CustomerRecord]("customer_record"),
	}
	var err error
	if s.keys, err = loadAPIKeys(cfg.API.KeysFile); err != nil {
		return nil, err
	}
	keys, err := resource.Keys(ctx, env)
	if err != nil {
		return nil, err
	}
	if s.opener, err = keys.RequestOpener(); err != nil {
		return nil, err
	}
	s.public = keys.PublicKey()
	if s.keyring, err = resource.Keyring(ctx, env); err != nil {
		return nil, err
	}
	if s.resolver, err = identity.NewResolver(keys, s.keyring, cfg.Region); err != nil {
		return nil, err
	}
	if s.stores, err = resource.Stores(ctx, env); err != nil {
		return nil, err
	}
	bucket, err := resource.Bucket(ctx, env)
	if err != nil {
		return nil, err
	}
	if s.databases, err = identity.FollowDatabases(ctx, env.KafkaOpts(), env.Codec, env.Log); err != nil {
		return nil, err
	}
	if s.graphs, err = identity.FollowGraphs(ctx, env.KafkaOpts(), env.Codec, graph.NewCache(bucket, filepath.Join(env.StateDir, "graphs"), env.Log), env.Log); err != nil {
		s.databases.Close()
		return nil, err
	}
	if s.metrics, err = newMetrics(env.Metrics); err != nil {
		s.close()
		return nil, err
	}
	if s.listener, err = net.Listen("tcp", cfg.API.Listen); err != nil {
		s.close()
		return nil, fmt.Errorf("opening the API's port: %w; set api.listen to a free address", err)
	}
	return s, nil
}

func (s *Service) close() {
	s.databases.Close()
	s.graphs.Close()
	if s.listener != nil {
		_ = s.listener.Close() // closed by the server already, if it ran
	}
}

// Run serves the API and runs the loops until ctx is done. The API stops first: calls that wait for the applier get
// their answer.
func (s *Service) Run(ctx context.Context) error {
	defer s.close()
	s.env.Health.Ask("database", s.ready)
	if err := s.tables(ctx); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	work, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	g.Go(func() error {
		defer stop()
		return s.serveAPI(ctx)
	})
	if s.cfg.Requests.Enabled {
		g.Go(func() error { return s.keepLoop(work, requestsGroup, s.cfg.Requests, s.requestLoop()) })
	}
	if s.cfg.Evidence.Enabled {
		g.Go(func() error { return s.keepLoop(work, evidenceGroup, s.cfg.Evidence, s.evidenceLoop()) })
	}
	if s.cfg.Applier.Enabled {
		g.Go(func() error { return s.runAppliers(work) })
	}
	return g.Wait()
}

// tables waits until the service knows databases and graphs as they were when it started.
func (s *Service) tables(ctx context.Context) error {
	if err := s.databases.Ready(ctx); err != nil {
		return fmt.Errorf("reading %s: %w", schemas.DatabusDatabases, err)
	}
	if err := s.graphs.Ready(ctx); err != nil {
		return fmt.Errorf("reading %s: %w", schemas.IdentityGraphs, err)
	}
	return nil
}

// A loop is one exactly-once topology of the service.
type loop struct {
	stores   []stream.Store
	handlers func(partition int32) stream.Handlers
}

// loopRetry is the pause before a loop that failed is started again.
const loopRetry = time.Second

// keepLoop runs a loop and starts it again when it failed: what a loop ends with, such as a transaction whose outcome is
// unknown because Kafka went away, its next start finds out, and the API goes on meanwhile. A fenced loop ends the
// service, because another process has its instance id.
func (s *Service) keepLoop(ctx context.Context, group string, cfg LoopConfig, l loop) error {
	check := s.env.Health.Register(group)
	for {
		err := s.runLoop(ctx, group, cfg, l, check)
		// A member that stood still for too long counts as fenced as well, and nobody has taken its place.
		replaced := errors.Is(err, stream.ErrFenced) && !errors.Is(err, kerr.UnknownMemberID)
		switch {
		case err == nil:
			return nil
		case replaced:
			return err
		case ctx.Err() != nil:
			s.env.Log.Warn("loop stopped with an error, its next start goes on from what is committed", "group", group, "error", err)
			return nil
		}
		check.Set(false, err.Error())
		s.env.Log.Warn("loop stopped, it starts again from what is committed", "group", group, "after", loopRetry, "error", err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(loopRetry):
		}
	}
}

// runLoop is one life of a loop.
func (s *Service) runLoop(ctx context.Context, group string, cfg LoopConfig, l loop, check *service.Check) error {
	runtime, err := stream.New(stream.Options{
		Topology: s.loopTopology(group, len(l.stores) > 0), Group: group, Stores: l.stores, Handlers: l.handlers,
		Instance: s.env.Instance, TransactionalSuffix: s.env.TransactionalSuffix,
		Kafka: s.env.KafkaOpts(), Codec: s.env.Codec, StateDir: filepath.Join(s.env.StateDir, group),
		CommitInterval: cfg.CommitInterval, StuckAfter: s.env.StuckAfter,
		Log: s.env.Log, Metrics: s.env.Metrics, Health: check.Set, Crash: s.loopCrash(group),
	})
	if err != nil {
		return err
	}
	return runtime.Run(ctx)
}

// loopTopology is the part of the service's topology that one loop is about.
func (s *Service) loopTopology(group string, stateful bool) schemas.Topology {
	t := schemas.Topology{Service: Name}
	for _, e := range Topology().Edges {
		switch {
		case e.Kind == schemas.Source && e.Group != group, e.Kind == schemas.Table, e.Kind == schemas.Changelog && !stateful:
		default:
			t.Edges = append(t.Edges, e)
		}
	}
	return t
}

// limitsView follows the accounts' limits.
func (s *Service) limitsView(ctx context.Context) (*limits.View, error) {
	return limits.NewView(ctx, limits.Options{Kafka: s.env.KafkaOpts(), Codec: s.env.Codec, Open: s.cfg.API.WhenNotCaughtUp == "open", Metrics: s.env.Metrics, Log: s.env.Log})
}

// usageProducer emits the service's own usage events. Its buffer takes several full batches at once: what finds no room
// is not counted.
func (s *Service) usageProducer() (*usage.Producer, error) {
	return usage.NewProducer(usage.Options{Buffer: 100_000, Kafka: s.env.KafkaOpts(), Codec: s.env.Codec, Metrics: s.env.Metrics, Log: s.env.Log})
}

// newProducer makes the API's idempotent producer: acks=all, so that an answer means the record is on the Databus.
func (s *Service) newProducer() (*kgo.Client, error) {
	client, err := kgo.NewClient(s.env.KafkaOpts(
		kgo.ProducerLinger(s.cfg.API.Linger),
		kgo.RecordDeliveryTimeout(s.cfg.API.Timeout),
		kgo.MaxBufferedRecords(50_000),
		kgo.MaxBufferedBytes(64<<20),
	)...)
	if err != nil {
		return nil, fmt.Errorf("making the API's producer: %w", err)
	}
	return client, nil
}
