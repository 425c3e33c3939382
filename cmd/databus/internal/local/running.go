package local

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"databus/pkg/resource"
	"databus/pkg/service"
)

// running is one service and its present life.
type running struct {
	stack *Stack
	svc   service.Service

	mu      sync.Mutex
	process *service.Process // of the present life; nil between lives
	cancel  context.CancelFunc
	done    chan struct{}
}

// start begins a new run: life after life until it is cancelled.
func (r *running) start() {
	ctx, cancel := context.WithCancel(context.Background())
	r.cancel, r.done = cancel, make(chan struct{})
	go func() {
		defer close(r.done)
		for pause := 500 * time.Millisecond; ; pause = min(2*pause, 10*time.Second) {
			began := time.Now()
			err := r.live(ctx)
			if ctx.Err() != nil {
				if err != nil {
					r.stack.cfg.Log.Error("service did not end well", "service", r.svc.Name(), "error", err)
				}
				return
			}
			if time.Since(began) > time.Minute {
				pause = 500 * time.Millisecond
			}
			r.stack.cfg.Log.Error("service ended, it is started again", "service", r.svc.Name(), "after", pause, "error", err)
			select {
			case <-ctx.Done():
				return
			case <-time.After(pause):
			}
		}
	}()
}

// live runs the service once, as service.Main does in a process of its own.
func (r *running) live(ctx context.Context) (err error) {
	s := r.stack
	cfg := service.DefaultConfig()
	cfg.Kafka.Brokers, cfg.Registry.URL = s.Brokers, s.RegistryURL
	cfg.Bucket.URL, cfg.Identity.URL, cfg.Keys.File = s.cfg.External.Bucket, s.cfg.External.Identity, s.cfg.KeysFile
	cfg.Instance.ID, cfg.Instance.StateDir = s.cfg.Instance, filepath.Join(s.cfg.Dir, "state")
	cfg.HTTP.Listen = "127.0.0.1:0"
	p, err := service.NewProcess(ctx, r.svc.Name(), cfg, service.ProcessOptions{
		Log: s.cfg.Log, Given: []service.Given{resource.GivenBucket(s.Bucket), resource.GivenStores(s.Stores)}, TransactionalSuffix: s.suffix,
	})
	if err != nil {
		return err
	}
	r.set(p)
	defer func() {
		r.set(nil)
		bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		if cerr := p.Close(bounded); err == nil {
			err = cerr
		}
	}()
	stop, operators, err := p.ServeAdmin(ctx)
	if err != nil {
		return err
	}
	defer stop()
	p.Log.Info("starting", "service", r.svc.Name(), "operators_port", operators.String())
	if err := p.Prepare(ctx, r.svc.Topology()); err != nil {
		return err
	}
	settings := map[string]any{}
	for k, v := range s.cfg.Settings[r.svc.Name()] {
		settings[k] = v
	}
	if r.svc.Name() == "ingest" {
		settings = withAPI(settings, s.cfg.API)
	}
	runner, err := r.svc.Start(ctx, p.Env(r.svc.Name()), settings)
	if err != nil {
		return err
	}
	return p.Run(ctx, nil, service.Task{Name: r.svc.Name(), Runner: runner})
}

// withAPI adds the API's address to ingest's settings.
func withAPI(settings map[string]any, addr string) map[string]any {
	api := map[string]any{"listen": addr}
	if given, ok := settings["api"].(map[string]any); ok {
		for k, v := range given {
			api[k] = v
		}
	}
	settings["api"] = api
	return settings
}

func (r *running) set(p *service.Process) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.process = p
}

// state says whether the service is ready, and if not why.
func (r *running) state() (bool, string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.process == nil {
		return false, r.svc.Name() + ": starting"
	}
	ok, checks := r.process.Health.Ready()
	if ok {
		return true, ""
	}
	i := slices.IndexFunc(checks, func(c service.State) bool { return !c.Ready })
	return false, fmt.Sprintf("%s: %s: %s", r.svc.Name(), checks[i].Name, checks[i].Reason)
}

// Ready waits until every service is ready; the error names one that is not.
func (s *Stack) Ready(ctx context.Context) error {
	for {
		missing := ""
		for _, r := range s.running {
			if ok, why := r.state(); !ok {
				missing = why
			}
		}
		if missing == "" {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for services to be ready: %w; %s", ctx.Err(), missing)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Names lists the services.
func (s *Stack) Names() []string {
	var names []string
	for _, r := range s.running {
		names = append(names, r.svc.Name())
	}
	return names
}

// Restart stops a service in an orderly way and starts it again.
func (s *Stack) Restart(name string) error {
	i := slices.IndexFunc(s.running, func(r *running) bool { return r.svc.Name() == name })
	if i < 0 {
		return fmt.Errorf("there is no service %q", name)
	}
	r := s.running[i]
	r.cancel()
	<-r.done
	r.start()
	return nil
}
