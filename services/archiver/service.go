package archiver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"databus/pkg/archive"
	"databus/pkg/blob"
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
		Name: Name, Summary: "copies topics to Parquet objects in the bucket, each offset exactly once",
		Topology: Topology(), Needs: Config.topology, Default: Default, New: New,
	}
}

// New constructs the service.
func New(ctx context.Context, env *service.Env, cfg Config) (service.Runner, error) {
	bucket, err := resource.Bucket(ctx, env)
	if err != nil {
		return nil, err
	}
	var hook func(Step, string, int32) error
	if env.Crash != nil {
		hook = func(step Step, _ string, _ int32) error { return env.Crash(string(step)) }
	}
	return Open(cfg, Parts{
		Hook: hook, TransactionTimeout: cfg.TransactionTimeout,
		Client: env.KafkaOpts(), InstanceID: env.GroupInstanceID(Name), TransactionalID: env.TransactionalID(Name),
		Bucket: bucket, Codec: env.Codec, SpoolDir: filepath.Join(env.StateDir, "spool"),
		Log: env.Log, Metrics: env.Metrics, Progress: env.Progress(Name), Health: env.Health,
	})
}

// Parts are what an Archiver works with.
type Parts struct {
	// Client are the options of the Kafka client, without its group and its transactional id.
	Client []kgo.Opt
	// InstanceID is the static member's id; empty makes a dynamic member.
	InstanceID string
	// TransactionalID is this instance's own; a second instance with the same one fences the first.
	TransactionalID string
	// TransactionTimeout is how long a dead instance can hold up its successors and the manifest's readers; 0 means 10s.
	TransactionTimeout time.Duration
	Bucket             blob.Bucket
	Codec              *codec.Codec
	// SpoolDir is this instance's own; what it holds is removed.
	SpoolDir string
	Log      *slog.Logger
	Metrics  prometheus.Registerer
	// Progress and Health may be nil.
	Progress *service.Progress
	Health   *service.Health
	// Hook, when set, is called at each step of a partition's cut; an error ends Run at once, as a crash would.
	Hook func(step Step, topic string, partition int32) error
}

// Step is a place between two effects, where a crash must do no harm.
type Step string

const (
	Encoded     Step = "encoded"     // nobody can see the object
	Put         Step = "put"         // the object is in the bucket, the transaction not begun
	Adopting    Step = "adopting"    // another's object was found
	Adopted     Step = "adopted"     // and agrees with the topic; the transaction not begun
	Transacting Step = "transacting" // everything was sent in the transaction, its end was not
	Committed   Step = "committed"   // the transaction is committed, the instance has not noted it
)

// Archiver is the running service. See the package's comment.
type Archiver struct {
	Parts
	cfg      Config
	limits   limits
	bucket   blob.Bucket
	codec    *codec.Codec
	spoolDir string
	manifest *codec.Serde[event.ArchiveFile]
	client   *kgo.Client
	admin    *kadm.Client
	opened   chan struct{} // closed when client and admin are set; the group's callbacks may come earlier
	metrics  *metrics
	compiled sync.Map // topic/id -> *archive.Schema
	frozen   sync.Map // topics whose layout is known to be this one's
	unsorted sync.Map // topic/schema id: objects that could not be sorted, and it was said

	chain       *history.Manifest // where old objects go
	expired     time.Time         // when expire looked last
	topicsEvery time.Duration
	aged        time.Time              // when watchAge looked last
	old         atomic.Pointer[string] // what waits for too long; read by health checks

	mu         sync.Mutex // of what rebalances and watchTopics change
	topics     []string
	retention  map[string]time.Duration
	leftOut    map[string]bool // reasons that were logged
	partitions map[tp]*partition
	metadata   map[tp]string // of the committed offsets, between fetching and assigning them
	member     string
	generation int32
}

type tp struct {
	topic     string
	partition int32
}

// Open makes an Archiver. Nothing joins the group before Run.
func Open(cfg Config, parts Parts) (*Archiver, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if parts.TransactionTimeout == 0 {
		parts.TransactionTimeout = 10 * time.Second
	}
	if err := os.RemoveAll(parts.SpoolDir); err != nil {
		return nil, fmt.Errorf("clearing the spool: %w", err)
	}
	if err := os.MkdirAll(parts.SpoolDir, 0o700); err != nil {
		return nil, fmt.Errorf("creating the spool: %w", err)
	}
	a := &Archiver{
		Parts: parts, cfg: cfg, bucket: parts.Bucket, codec: parts.Codec, spoolDir: parts.SpoolDir,
		limits: limits{
			records: int64(cfg.MaxRecords), bytes: cfg.MaxBytes,
			recordTime: max(1, cfg.MaxRecordTime.Milliseconds()), idle: cfg.Idle,
		},
		manifest:   codec.For[event.ArchiveFile](parts.Codec, schemas.ArchiveFiles),
		partitions: map[tp]*partition{}, metadata: map[tp]string{}, generation: -1, opened: make(chan struct{}),
		topics: slices.Clone(cfg.Topics), retention: map[string]time.Duration{}, leftOut: map[string]bool{}, topicsEvery: topicsEvery,
	}
	var err error
	if a.metrics, err = newMetrics(parts.Metrics, a); err != nil {
		return nil, err
	}
	if err := kgo.ValidateOpts(a.clientOpts()...); err != nil {
		return nil, fmt.Errorf("opening the Kafka client: %w", err)
	}
	if parts.Health != nil {
		parts.Health.Ask("partitions", a.healthy)
	}
	return a, nil
}

// pollRecords bounds what is in memory between two looks at the cuts.
const pollRecords = 20_000

// Run archives until ctx is done. What is spooled then is left for the next start.
func (a *Archiver) Run(ctx context.Context) error {
	if err := a.chooseTopics(ctx); err != nil || ctx.Err() != nil {
		return err
	}
	client, err := kgo.NewClient(a.clientOpts()...)
	if err != nil {
		return fmt.Errorf("opening the Kafka client: %w", err)
	}
	a.client, a.admin = client, kadm.NewClient(client)
	close(a.opened)
	defer a.closeAll()
	// Fences this instance's predecessor and aborts what it left open, before anything is read.
	if _, _, err := a.client.ProducerID(ctx); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("initialising the transactional producer: %w", err)
	}
	if err := a.waitForManifest(ctx); err != nil || ctx.Err() != nil {
		return err
	}
	watching, cancel := context.WithCancel(ctx)
	defer cancel()
	if a.cfg.KeepFor > 0 {
		if a.chain, err = history.Follow(watching, a.Client, a.codec, "", a.Log); err != nil {
			return fmt.Errorf("following the manifest: %w", err)
		}
		defer a.chain.Close()
	}
	go a.watchTopics(watching)
	tick := min(500*time.Millisecond, max(20*time.Millisecond, a.cfg.Idle/4))
	for {
		pollCtx, cancel := context.WithTimeout(ctx, tick)
		fetches := a.client.PollRecords(pollCtx, pollRecords)
		cancel()
		if ctx.Err() != nil {
			return nil
		}
		if fetches.IsClientClosed() {
			return errors.New("the Kafka client is closed")
		}
		if len(fetches) == 0 {
			continue // only a poll that returns something holds rebalances up
		}
		err := a.round(ctx, fetches)
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		a.watchAge(ctx, time.Now())
		if err := a.expire(ctx, time.Now()); err != nil {
			return err
		}
		a.client.AllowRebalance()
	}
}

// waitForManifest makes sure that the manifest's schema is known before anything is uploaded.
func (a *Archiver) waitForManifest(ctx context.Context) error {
	for pause := 200 * time.Millisecond; ; pause = min(2*pause, a.cfg.RetryMax) {
		err := a.manifest.Ready(ctx)
		if err == nil || ctx.Err() != nil {
			return nil
		}
		if !errors.Is(err, codec.ErrUnavailable) {
			return fmt.Errorf("preparing the manifest: %w", err)
		}
		a.Log.Warn("waiting for the schema registry", "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

// round takes what was fetched and carries out all cuts that are due. No rebalance happens meanwhile.
func (a *Archiver) round(ctx context.Context, fetches kgo.Fetches) error {
	if err := a.take(ctx, fetches); err != nil {
		return err
	}
	for {
		var due []*partition
		now := time.Now()
		for _, p := range a.assigned() {
			if p.stopped != "" {
				continue
			}
			if err := p.feed(now, a.limits); err != nil {
				if err := a.handle(p, err); err != nil {
					return err
				}
				continue
			}
			if p.adopt == nil && !p.due && p.idle(now, a.limits) {
				p.due = true
			}
			a.observe(p)
			if p.due && !now.Before(p.retryAt) {
				due = append(due, p)
			}
		}
		if len(due) == 0 {
			a.throttle(now)
			return nil
		}
		if err := a.cut(ctx, due); err != nil {
			return err
		}
	}
}

// cut puts objects in parallel, then commits one after the other.
func (a *Archiver) cut(ctx context.Context, due []*partition) error {
	errs := make([]error, len(due))
	var wg sync.WaitGroup
	slots := make(chan struct{}, a.cfg.Workers)
	for i, p := range due {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			errs[i] = a.prepare(ctx, p)
		})
	}
	wg.Wait()
	for i, p := range due {
		err := errs[i]
		if err == nil && p.object != nil {
			err = a.commit(ctx, p)
		}
		if err != nil {
			if err := a.handle(p, err); err != nil {
				return err
			}
		}
	}
	return nil
}

// prepare brings a due range into the bucket, or begins the adoption of the object that is there.
func (a *Archiver) prepare(ctx context.Context, p *partition) error {
	if p.uncommitted {
		if err := a.commitFirst(ctx, p); err != nil {
			return err
		}
	}
	if p.adopt != nil {
		o, err := p.adopt.finish(p.spool)
		if err != nil {
			return err
		}
		p.object, p.adopt = o, nil
		return a.step(Adopted, p)
	}
	if p.object != nil {
		return nil
	}
	start := time.Now()
	adopted, err := a.upload(ctx, p)
	if err != nil {
		return err
	}
	if adopted == nil {
		a.metrics.putSeconds.Observe(time.Since(start).Seconds())
		return a.step(Put, p)
	}
	a.Log.Info("adopting an object that is there already", "topic", p.topic, "partition", p.id,
		"object", adopted.key, "first", adopted.footer.First, "next", adopted.footer.Next)
	a.metrics.adoptions.Inc()
	if err := a.rewind(p); err != nil {
		return err
	}
	p.adopt = adopted
	return a.step(Adopting, p)
}

// crash is an error of the hook.
type crash struct{ err error }

func (e *crash) Error() string { return e.err.Error() }
func (e *crash) Unwrap() error { return e.err }

func (a *Archiver) step(s Step, p *partition) error {
	if a.Hook == nil {
		return nil
	}
	if err := a.Hook(s, p.topic, p.id); err != nil {
		return &crash{err}
	}
	return nil
}

// handle decides about an error of one partition: stop it, try again later, or end Run by returning the error.
func (a *Archiver) handle(p *partition, err error) error {
	var s *stop
	var f *fatal
	var c *crash
	switch {
	case errors.As(err, &f), errors.As(err, &c):
		return err
	case errors.As(err, &s):
		a.Log.Error("partition stopped", "topic", p.topic, "partition", p.id, "committed", p.first, "reason", s.hint)
		p.stop(s.hint)
	case !p.due || errors.Is(err, errSpool): // what was spooled is not to be trusted
		p.failed(time.Now(), a.cfg.RetryMax, err)
		a.Log.Warn("reading again from the committed offset", "topic", p.topic, "partition", p.id, "error", err)
		if again := a.rewind(p); again != nil {
			p.stop(fmt.Sprintf("%v; %v; make room on the disk of the spool and restart", err, again))
		}
	default:
		p.failed(time.Now(), a.cfg.RetryMax, err)
		a.metrics.failures.Inc()
		a.Log.Warn("trying again", "topic", p.topic, "partition", p.id, "after", p.pause, "error", err)
	}
	return nil
}

// rewind forgets the open range and reads it again from the committed offset.
func (a *Archiver) rewind(p *partition) error {
	if err := p.begin(p.first); err != nil {
		return err
	}
	p.position, p.pending = p.first, nil
	a.client.SetOffsets(map[string]map[int32]kgo.EpochOffset{p.topic: {p.id: {Epoch: -1, Offset: p.first}}})
	return nil
}

func (p *partition) selector() map[string][]int32 { return map[string][]int32{p.topic: {p.id}} }

func (p *partition) spoolPath(dir string) string {
	return filepath.Join(dir, fmt.Sprintf("%s+%d.spool", p.topic, p.id))
}

func (p *partition) adoptedPath(dir string) string {
	return filepath.Join(dir, fmt.Sprintf("%s+%d.adopted", p.topic, p.id))
}

func (p *partition) objectName(prefix string) string {
	return archive.ObjectName(prefix, p.topic, p.id, p.first, p.firstTime)
}
