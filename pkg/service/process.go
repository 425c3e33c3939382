package service

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"runtime/debug"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"databus/schemas/codec"
)

// A Process holds what its services share: logs, metrics, health, tracing, the codec and opened stores. [Main] makes one
// for a single service; `databus dev` makes one for all of them.
type Process struct {
	Config  Config
	Log     *slog.Logger
	Metrics *prometheus.Registry
	Health  *Health
	Codec   *codec.Codec

	name     string
	suffix   string
	tracing  *tracing
	security security
	draining *Check

	mu      sync.Mutex
	closers []func() error
	shared  map[any]*opened
}

// ProcessOptions are what a process may be given instead of opening it itself.
type ProcessOptions struct {
	// Log replaces the logger of the configuration.
	Log *slog.Logger
	// Registry replaces the registry at Config.Registry.URL.
	Registry codec.Registry
	// Given replaces what services would open.
	Given []Given
	// TransactionalSuffix: see [Env].
	TransactionalSuffix string
}

// NewProcess opens what services share. name is the service's or the program's. Close it after Run.
func NewProcess(ctx context.Context, name string, c Config, o ProcessOptions) (*Process, error) {
	if err := c.Validate(); err != nil {
		return nil, fmt.Errorf("configuring %s: %w", name, err)
	}
	security, err := newSecurity(c.Kafka)
	if err != nil {
		return nil, err
	}
	tracing, err := startTracing(ctx, c.Trace, name, c.Instance.ID, version())
	if err != nil {
		return nil, err
	}
	reg := prometheus.NewRegistry()
	reg.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		collectors.NewBuildInfoCollector(),
	)
	if o.Registry == nil {
		o.Registry = codec.NewRegistry(c.Registry.URL)
	}
	p := &Process{
		Config: c, Log: o.Log, Metrics: reg, Health: NewHealth(),
		Codec: codec.New(o.Registry, codec.Options{RegisterSchemas: c.Registry.RegisterSchemas}),
		name:  name, suffix: o.TransactionalSuffix, tracing: tracing, security: security, shared: map[any]*opened{},
	}
	for _, g := range o.Given {
		p.shared[g.shared] = &opened{thing: g.thing}
	}
	p.draining = p.Health.Register("process")
	return p, nil
}

// Name is the service's or the program's.
func (p *Process) Name() string { return p.name }

// Env returns what one service works with. Its state directory is <state_dir>/<service>/<instance>.
func (p *Process) Env(service string) *Env {
	c := p.Config
	return &Env{
		Service: service, Instance: c.Instance.ID,
		StateDir:  filepath.Join(c.Instance.StateDir, service, c.Instance.ID),
		Log:       p.Log.With("service", service, "instance", c.Instance.ID),
		Metrics:   prometheus.WrapRegistererWith(prometheus.Labels{"service": service}, p.Metrics),
		Health:    p.Health.Group(service),
		Brokers:   c.Kafka.Brokers,
		Codec:     p.Codec,
		BucketURL: c.Bucket.URL, IdentityURL: c.Identity.URL, KeysFile: c.Keys.File,
		TransactionalSuffix: p.suffix,
		StuckAfter:          c.Ready.StuckAfter,
		DrainTimeout:        c.DrainTimeout,
		Tracer:              p.tracing.provider.Tracer("databus/" + service),
		process:             p,
		tracing:             p.tracing,
		kafkaSecurity:       p.security,
		maxMessageBytes:     c.Kafka.MaxMessageBytes,
	}
}

// A Task is a named runner.
type Task struct {
	Name   string
	Runner Runner
}

// Run runs the tasks until ctx is done or one of them fails, then lets all of them drain within the drain timeout. A
// value on force gives up at once. The error says what failed or what was still running.
func (p *Process) Run(ctx context.Context, force <-chan struct{}, tasks ...Task) error {
	p.draining.Set(true, "")
	return supervise(ctx, force, p.Config.DrainTimeout, func() {
		p.draining.Set(false, "draining")
		p.Log.Info("draining", "timeout", p.Config.DrainTimeout.String())
	}, tasks)
}

// ServeAdmin opens the operators' port and serves it until stop is called. Without a listen address it does nothing.
func (p *Process) ServeAdmin(ctx context.Context) (stop func(), addr net.Addr, err error) {
	if p.Config.HTTP.Listen == "" {
		return func() {}, nil, nil
	}
	l, err := net.Listen("tcp", p.Config.HTTP.Listen)
	if err != nil {
		return nil, nil, fmt.Errorf("opening the operators' port: %w; set http.listen to a free address", err)
	}
	// The port outlives ctx: /readyz tells of draining.
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := Serve(ctx, l, adminHandler(p.Metrics, p.Health, p.Config.HTTP.Profile), adminDrain, p.Log); err != nil {
			p.Log.Warn("operators' port", "error", err)
		}
	}()
	return func() { cancel(); <-done }, l.Addr(), nil
}

// Close closes what was opened for services, the last first, and sends the last traces.
func (p *Process) Close(ctx context.Context) error {
	p.mu.Lock()
	closers := p.closers
	p.closers = nil
	p.mu.Unlock()
	var errs []error
	for i := len(closers) - 1; i >= 0; i-- {
		errs = append(errs, closers[i]())
	}
	return errors.Join(append(errs, p.tracing.stop(ctx))...)
}

// version is the program's version as the Go tool recorded it.
func version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "unknown"
}
