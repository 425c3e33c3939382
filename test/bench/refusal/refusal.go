// Package refusal measures how long an account that has reached its limit is still let through, and how many calls that
// is, through everything that lies between: HTTP, usage.events, the aggregator, the limiter, a view, HTTP again.
//
// Groups of accounts call at a chosen rate, one group after the other, each account until it is refused. For each account
// the crossing event is the call that used up the limit; from its beginning to that of the first call that was answered
// 429 is the delay, and the calls that were let through meanwhile are the overshoot. What comes out also proves the
// promise about it: no account gets more than the rate times the delay, and the view measures the same overshoot.
package refusal

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"databus/pkg/limits"
	"databus/pkg/service"
	"databus/pkg/topics"
	"databus/pkg/usage"
	"databus/schemas"
	"databus/schemas/codec"
	"databus/schemas/event"
	"databus/services/limiter"
	usageaggregator "databus/services/usage-aggregator"
)

// Options of a run.
type Options struct {
	Brokers  []string
	Registry string // base URL
	// Rate is the number of requests per second, over the accounts that call at a time.
	Rate int
	// InFlight is the number of calls that wait for their answer at most; default 256. Without a bound, a machine that
	// falls behind would be given a connection for each call of the time lost, and never get out of it.
	InFlight int
	// Accounts reach their limits, AtOnce of them at a time.
	Accounts, AtOnce int
	// Warm groups of as many accounts call before, and are not part of the result: a broker compiles its code meanwhile.
	Warm int
	// Limit of each account, in calls.
	Limit int64
	// Commit is the commit interval of aggregator and limiter.
	Commit time.Duration
	Log    *slog.Logger
}

// Result of a run.
type Result struct {
	Delays    []time.Duration  // from the crossing call to the first 429, one per account, in order of length
	Overshoot []int64          // calls beyond the limit, one per account
	Predicted []float64        // the account's rate times its delay
	View      limits.Overshoot // of the measured accounts; Worst is of the warm ones too
	Requests  int64
	Dropped   int64   // events that the API did not send, because its buffer was full or a broker refused them
	Restarts  int64   // of the services, after an error: delays hold them
	Seconds   float64 // during which requests were sent
}

// Run starts the services and an API in this process, and calls it.
func Run(ctx context.Context, o Options) (_ *Result, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.InFlight == 0 {
		o.InFlight = 256
	}
	kafka := []kgo.Opt{kgo.SeedBrokers(o.Brokers...), kgo.RecordPartitioner(service.Partitioner()), kgo.FetchMaxWait(500 * time.Millisecond)}
	c := codec.New(codec.NewRegistry(o.Registry), codec.Options{RegisterSchemas: true})
	client, err := kgo.NewClient(kafka...)
	if err != nil {
		return nil, fmt.Errorf("making a client: %w", err)
	}
	defer client.Close()
	if err := prepare(ctx, client, c, o); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "bench-refusal")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()

	var restarts atomic.Int64
	var running sync.WaitGroup
	start := func(name string, run func(context.Context, *service.Env) error) {
		env := &service.Env{Service: name, Instance: "0", StateDir: filepath.Join(dir, name), Log: o.Log, Metrics: prometheus.NewRegistry(),
			Health: service.NewHealth(), Brokers: o.Brokers, Codec: c, StuckAfter: time.Minute, DrainTimeout: time.Minute}
		running.Go(func() {
			for ctx.Err() == nil {
				// A service that ends is started again, as everywhere.
				if err := run(ctx, env); err != nil && ctx.Err() == nil {
					o.Log.Error("a service ended", "service", name, "error", err)
					restarts.Add(1)
					time.Sleep(100 * time.Millisecond)
				}
			}
		})
	}
	start(usageaggregator.Name, func(ctx context.Context, env *service.Env) error {
		cfg := usageaggregator.Default()
		cfg.CommitInterval = o.Commit
		r, err := usageaggregator.New(ctx, env, cfg)
		if err != nil {
			return err
		}
		return r.Run(ctx)
	})
	start(limiter.Name, func(ctx context.Context, env *service.Env) error {
		cfg := limiter.Default()
		cfg.CommitInterval = o.Commit
		r, err := limiter.New(ctx, env, cfg)
		if err != nil {
			return err
		}
		return r.Run(ctx)
	})
	res, err := call(ctx, kafka, c, o)
	cancel()
	running.Wait()
	if res != nil {
		res.Restarts = restarts.Load()
	}
	return res, err
}

func account(i int) string { return fmt.Sprintf("account-%03d", i) }

// prepare makes the topics and the contracts.
func prepare(ctx context.Context, client *kgo.Client, c *codec.Codec, o Options) error {
	var all []schemas.Topic
	for _, t := range schemas.WithDeadLetters() {
		if strings.HasPrefix(t.Name, "usage") || strings.HasPrefix(t.Name, "limiter") {
			all = append(all, t)
		}
	}
	if _, err := topics.Apply(ctx, kadm.NewClient(client), all, topics.Options{}); err != nil {
		return err
	}
	serde := codec.For[event.Contract](c, schemas.UsageContracts)
	first := 1 + o.Warm*o.AtOnce // account 0 finds the way
	for i := range first + o.Accounts {
		limit := o.Limit
		if i == 0 {
			limit = 1
		}
		v, err := serde.Encode(ctx, &event.Contract{Account: account(i), Version: 1, TimeZone: "UTC", StartsAt: time.Now().AddDate(0, -1, 0),
			Packs: []event.ContractPack{{Pack: "person", Period: event.PeriodTotal, Limit: limit}}})
		if err != nil {
			return err
		}
		if err := client.ProduceSync(ctx, &kgo.Record{Topic: schemas.UsageContracts, Key: []byte(account(i)), Value: v}).FirstErr(); err != nil {
			return fmt.Errorf("sending a contract: %w", err)
		}
	}
	return nil
}

// call runs an API with guard and meter, and its clients.
func call(ctx context.Context, kafka []kgo.Opt, c *codec.Codec, o Options) (_ *Result, err error) {
	view, err := limits.NewView(ctx, limits.Options{Kafka: kafka, Codec: c})
	if err != nil {
		return nil, err
	}
	defer view.Close()
	metrics := prometheus.NewRegistry()
	producer, err := usage.NewProducer(usage.Options{Kafka: kafka, Codec: c, Metrics: metrics})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, producer.Close(context.WithoutCancel(ctx))) }()
	if err := view.Ready(ctx); err != nil {
		return nil, err
	}
	who := func(r *http.Request) string { return r.PathValue("account") }
	person := func(*http.Request) string { return "person" }
	handler := usage.Meter{Producer: producer, Account: who, Pack: person}.Wrap(
		limits.Guard{View: view, Account: who, Pack: person}.Wrap(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})))
	mux := http.NewServeMux()
	mux.Handle("GET /{account}", handler)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	server := &http.Server{Handler: mux}
	go func() { _ = server.Serve(listener) }() // ends with Close
	defer server.Close()
	api := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: o.InFlight}, Timeout: 30 * time.Second}
	defer api.CloseIdleConnections()
	get := func(account string) (int, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+listener.Addr().String()+"/"+account, nil)
		if err != nil {
			return 0, err
		}
		resp, err := api.Do(req)
		if err != nil {
			return 0, err
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		return resp.StatusCode, resp.Body.Close()
	}
	for { // until everything has been started, restored and found its way once
		status, err := get(account(0))
		if err != nil {
			return nil, err
		}
		if status == http.StatusTooManyRequests {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	var warm limits.Overshoot
	res := &Result{}
	end := 1 + o.Warm*o.AtOnce + o.Accounts
	for first := 1; first < end; first += o.AtOnce {
		if first == 1+o.Warm*o.AtOnce {
			time.Sleep(5 * o.Commit) // counts that are under way
			warm, res = view.Overshoot(), &Result{}
		}
		if err := group(ctx, get, o, first, min(o.AtOnce, end-first), res); err != nil {
			return nil, errors.Join(err, fmt.Errorf("of the API's usage events %d were lost", lost(metrics)))
		}
	}
	time.Sleep(5 * o.Commit) // counts that were under way
	slices.Sort(res.Delays)
	res.View = view.Overshoot()
	res.View.Crossings, res.View.Units = res.View.Crossings-warm.Crossings, res.View.Units-warm.Units
	res.Dropped = lost(metrics)
	return res, nil
}

// lost is how many events the producer took note of and did not send.
func lost(metrics prometheus.Gatherer) (n int64) {
	families, err := metrics.Gather()
	if err != nil {
		return -1
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if f.GetName() == "databus_usage_events_emitted_total" && l.GetName() == "outcome" && l.GetValue() != "sent" {
					n += int64(m.GetCounter().GetValue())
				}
			}
		}
	}
	return n
}

// caller is one account in a run.
type caller struct {
	mu       sync.Mutex
	allowed  int64
	crossed  time.Time // beginning of the call that used up the limit
	refused  time.Time // beginning of the first call that was refused
	nRefused int
}

// patience is how long after its last account has reached its limit a group waits for the refusals.
const patience = time.Minute

// group lets n accounts call in turns until each has been refused for a while.
func group(ctx context.Context, get func(string) (int, error), o Options, first, n int, res *Result) error {
	callers := make([]caller, n)
	var wg sync.WaitGroup
	var failure atomic.Pointer[error] // the first of a call
	began := time.Now()
	due := began
	var crossed time.Time // when all of them had reached their limits
	sent := 0
	free := make(chan struct{}, o.InFlight)
	for done := false; !done; sent++ {
		// Time lost is not made up for: what the machine could not send is missing from the rate that is reported.
		if due = due.Add(time.Second / time.Duration(o.Rate)); time.Since(due) > 100*time.Millisecond {
			due = time.Now()
		}
		time.Sleep(time.Until(due))
		free <- struct{}{}
		i := sent % n
		wg.Go(func() {
			defer func() { <-free }()
			at := time.Now()
			status, err := get(account(first + i))
			if err != nil {
				failure.CompareAndSwap(nil, &err)
				return
			}
			callers[i].answered(status, at, o.Limit)
		})
		if i == n-1 {
			refused, reached := 0, 0
			for i := range callers {
				c := &callers[i]
				c.mu.Lock()
				if c.nRefused > 3 {
					refused++
				}
				if c.allowed >= o.Limit {
					reached++
				}
				c.mu.Unlock()
			}
			if done = refused == n; reached == n && crossed.IsZero() {
				crossed = time.Now()
			}
			if ctx.Err() != nil || failure.Load() != nil || !crossed.IsZero() && time.Since(crossed) > patience {
				break
			}
		}
	}
	wg.Wait()
	res.Seconds += time.Since(began).Seconds()
	res.Requests += int64(sent)
	if err := failure.Load(); err != nil {
		return fmt.Errorf("calling the API: %w", *err)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	rate := float64(sent) / time.Since(began).Seconds() / float64(n)
	for i := range callers {
		c := &callers[i]
		if c.refused.IsZero() || c.crossed.IsZero() {
			return fmt.Errorf("account %s made %d calls with a limit of %d and was not refused within %v", account(first+i), c.allowed, o.Limit, patience)
		}
		res.Delays = append(res.Delays, max(0, c.refused.Sub(c.crossed)))
		res.Overshoot = append(res.Overshoot, c.allowed-o.Limit)
		res.Predicted = append(res.Predicted, rate*c.refused.Sub(c.crossed).Seconds())
	}
	return nil
}

// answered notes the answer to a call that began at a moment.
func (c *caller) answered(status int, at time.Time, limit int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if status == http.StatusTooManyRequests {
		if c.nRefused++; c.refused.IsZero() || at.Before(c.refused) {
			c.refused = at
		}
	} else if c.allowed++; c.allowed == limit {
		c.crossed = at
	}
}
