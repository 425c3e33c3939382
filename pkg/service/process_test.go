package service

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"databus/pkg/seal"
	"databus/pkg/topics"
	"databus/schemas"
)

func runner(f func(ctx context.Context) error) Runner { return RunnerFunc(f) }

func TestSupervise(t *testing.T) {
	boom := errors.New("boom")
	polite := Task{"polite", runner(func(ctx context.Context) error { <-ctx.Done(); return nil })}
	slow := func(d time.Duration) Task {
		return Task{"slow", runner(func(ctx context.Context) error { <-ctx.Done(); time.Sleep(d); return nil })}
	}
	release := make(chan struct{})
	defer close(release)
	deaf := Task{"deaf", runner(func(context.Context) error { <-release; return nil })}
	failing := Task{"failing", runner(func(context.Context) error { return boom })}
	for _, c := range []struct {
		name     string
		tasks    []Task
		cancel   bool
		force    bool
		drain    time.Duration
		want     []string
		wantNone bool
	}{
		{name: "an orderly end", tasks: []Task{polite, slow(20 * time.Millisecond)}, cancel: true, drain: time.Minute, wantNone: true},
		{name: "an end by context error", tasks: []Task{{"c", runner(func(ctx context.Context) error { <-ctx.Done(); return fmt.Errorf("polling: %w", ctx.Err()) })}}, cancel: true, drain: time.Minute, wantNone: true},
		{name: "one fails, the others drain", tasks: []Task{polite, failing, slow(20 * time.Millisecond)}, drain: time.Minute, want: []string{"failing: boom"}},
		{name: "one ends unasked", tasks: []Task{polite, {"early", runner(func(context.Context) error { return nil })}}, drain: time.Minute, want: []string{"early: ended although nobody asked"}},
		{name: "a failure while draining", tasks: []Task{{"late", runner(func(ctx context.Context) error { <-ctx.Done(); return boom })}}, cancel: true, drain: time.Minute, want: []string{"late: boom"}},
		{name: "drain timeout", tasks: []Task{polite, deaf}, cancel: true, drain: 30 * time.Millisecond, want: []string{"drain timeout of 30ms", "still running: deaf"}},
		{name: "second signal", tasks: []Task{deaf}, cancel: true, force: true, drain: time.Minute, want: []string{"second signal", "deaf"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if c.cancel {
				time.AfterFunc(10*time.Millisecond, cancel)
			}
			force := make(chan struct{})
			if c.force {
				time.AfterFunc(30*time.Millisecond, func() { close(force) })
			}
			drains := 0
			err := supervise(ctx, force, c.drain, func() { drains++ }, c.tasks)
			if c.wantNone != (err == nil) {
				t.Fatal(err)
			}
			for _, w := range c.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("missing %q in %v", w, err)
				}
			}
			if drains > 1 {
				t.Errorf("draining was announced %d times", drains)
			}
		})
	}
}

// stack is an in-process broker with the catalogue's topics, and a registry that only answers a ping.
type stack struct {
	broker   *kfake.Cluster
	registry *httptest.Server
	down     *toggle
}

type toggle struct {
	mu   sync.Mutex
	down bool
}

func (t *toggle) set(down bool) { t.mu.Lock(); t.down = down; t.mu.Unlock() }
func (t *toggle) get() bool     { t.mu.Lock(); defer t.mu.Unlock(); return t.down }

func startStack(t *testing.T) stack {
	t.Helper()
	broker, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(broker.Close)
	down := &toggle{}
	registry := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if down.get() || r.URL.Path != "/api/subjects" {
			http.Error(w, "no", http.StatusNotFound)
			return
		}
		fmt.Fprint(w, "[]")
	}))
	t.Cleanup(registry.Close)
	return stack{broker, registry, down}
}

func (s stack) applyTopics(t *testing.T) {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(s.broker.ListenAddrs()...))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if _, err := topics.Apply(t.Context(), kadm.NewClient(client), schemas.Catalogue(), topics.Options{ReplicationFactor: 1}); err != nil {
		t.Fatal(err)
	}
}

func (s stack) args(more ...string) []string {
	return append([]string{
		"--set", "kafka.brokers=" + strings.Join(s.broker.ListenAddrs(), ","),
		"--set", "registry.url=" + s.registry.URL + "/api",
		"--set", "instance.id=one", "--set", "log.level=debug",
	}, more...)
}

func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}
func (b *lockedBuffer) String() string { b.mu.Lock(); defer b.mu.Unlock(); return b.b.String() }

// TestLife follows one process: it waits for its registry, gets ready, drains on the first signal.
func TestLife(t *testing.T) {
	s := startStack(t)
	s.applyTopics(t)
	s.down.set(true)
	addr := freeAddr(t)
	def := probe()
	var env *Env
	finish := make(chan struct{})
	def.New = func(_ context.Context, e *Env, _ probeConfig) (Runner, error) {
		env = e
		e.Health.Register("loop").Set(true, "")
		return runner(func(ctx context.Context) error { <-ctx.Done(); <-finish; return nil }), nil
	}
	signals := make(chan os.Signal, 2)
	var out, logs lockedBuffer
	code := make(chan int)
	go func() { code <- run(def.Service(), s.args("--set", "http.listen="+addr), nil, signals, &out, &logs) }()

	eventually := func(what string, f func() (bool, string)) {
		t.Helper()
		var last string
		for range 400 {
			var ok bool
			if ok, last = f(); ok {
				return
			}
			time.Sleep(25 * time.Millisecond)
		}
		t.Fatalf("%s: %s\n%s", what, last, logs.String())
	}
	readyz := func() (int, string) {
		resp, err := http.Get("http://" + addr + "/readyz")
		if err != nil {
			return 0, err.Error()
		}
		defer resp.Body.Close()
		var b bytes.Buffer
		_, _ = b.ReadFrom(resp.Body)
		return resp.StatusCode, b.String()
	}
	probing := func() (int, string) {
		var out, errs bytes.Buffer
		code := run(def.Service(), []string{"--probe"}, []string{"DATABUS_HTTP__LISTEN=:" + addr[strings.LastIndexByte(addr, ':')+1:]}, nil, &out, &errs)
		return code, out.String() + errs.String()
	}
	if code, text := probing(); code == 0 {
		t.Errorf("a probe before the start: %s", text)
	}
	eventually("waiting for the registry", func() (bool, string) {
		code, body := readyz()
		return code == 503 && strings.Contains(body, "is registry.url the base"), body
	})
	if code, text := probing(); code != 1 || !strings.Contains(text, "not ready: 503") {
		t.Errorf("a probe of a waiting process: %d, %s", code, text)
	}
	s.down.set(false)
	eventually("ready", func() (bool, string) { code, body := readyz(); return code == 200, body })
	if code, text := probing(); code != 0 || !strings.Contains(text, `"ready":true`) {
		t.Errorf("a probe of a ready process: %d, %s", code, text)
	}
	if env.TransactionalID("loop") != "databus.usage-aggregator.loop.one" || env.StateDir != "state/usage-aggregator/one" {
		t.Errorf("%s, %s", env.TransactionalID("loop"), env.StateDir)
	}
	signals <- syscall.SIGTERM
	eventually("draining", func() (bool, string) {
		code, body := readyz()
		return code == 503 && strings.Contains(body, "draining"), body
	})
	close(finish)
	if c := <-code; c != 0 {
		t.Errorf("exit code %d\n%s", c, logs.String())
	}
	for line := range strings.Lines(logs.String()) {
		if !json.Valid([]byte(line)) {
			t.Errorf("not JSON: %s", line)
		}
	}
}

func TestEndings(t *testing.T) {
	s := startStack(t)
	signals := func(n int) chan os.Signal {
		c := make(chan os.Signal, 2)
		for range n {
			c <- syscall.SIGTERM
		}
		return c
	}
	release := make(chan struct{})
	defer close(release)
	end := func(name string, def Definition[probeConfig], signals chan os.Signal, args []string, wantCode int, wants ...string) {
		t.Helper()
		var out, logs lockedBuffer
		code := run(def.Service(), append(args, "--set", "http.listen="), nil, signals, &out, &logs)
		if code != wantCode {
			t.Errorf("%s: exit code %d\n%s", name, code, logs.String())
		}
		for _, w := range wants {
			if !strings.Contains(logs.String(), w) {
				t.Errorf("%s: missing %q in\n%s", name, w, logs.String())
			}
		}
	}
	end("missing topics", probe(), nil, s.args(), 1, "topic usage.events is missing", "databus topics apply")
	s.applyTopics(t)
	failing := probe()
	failing.New = func(context.Context, *Env, probeConfig) (Runner, error) {
		return runner(func(context.Context) error { return hinted{} }), nil
	}
	end("a runner fails", failing, nil, s.args(), 1, "state is ahead", `"hint":"delete it"`)
	broken := probe()
	broken.New = func(context.Context, *Env, probeConfig) (Runner, error) { return nil, errors.New("no disk") }
	end("cannot start", broken, nil, s.args(), 1, "starting usage-aggregator: no disk")
	deaf := probe()
	deaf.New = func(context.Context, *Env, probeConfig) (Runner, error) {
		return runner(func(context.Context) error { <-release; return nil }), nil
	}
	twice := make(chan os.Signal)
	go func() {
		time.Sleep(500 * time.Millisecond) // Prepare is over
		twice <- syscall.SIGTERM
		twice <- syscall.SIGINT
	}()
	end("second signal", deaf, twice, s.args(), 1, "second signal", "still running: usage-aggregator")
	end("asked to stop while waiting for brokers", probe(), signals(1),
		[]string{"--set", "kafka.brokers=" + freeAddr(t), "--set", "instance.id=one"}, 0)
}

type hinted struct{}

func (hinted) Error() string { return "state is ahead" }
func (hinted) Hint() string  { return "delete it" }

// TestKafkaOptions sends a record through the options of two services: the partition is the catalogue's, the trace goes
// on, the bytes are counted.
func TestKafkaOptions(t *testing.T) {
	s := startStack(t)
	s.applyTopics(t)
	c := DefaultConfig()
	c.Instance.ID, c.Kafka.Brokers = "one", s.broker.ListenAddrs()
	p, err := NewProcess(t.Context(), "test", c, ProcessOptions{Log: NewLogger(c.Log, &lockedBuffer{})})
	if err != nil {
		t.Fatal(err)
	}
	spans := tracetest.NewSpanRecorder()
	c.Trace.SampleRatio = 1
	if p.tracing, err = startTracing(t.Context(), c.Trace, "test", "one", "v", sdktrace.WithSpanProcessor(spans)); err != nil {
		t.Fatal(err)
	}
	producer, consumer := p.Env("limiter"), p.Env("archiver")
	out, err := kgo.NewClient(producer.KafkaOpts()...)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	in, err := kgo.NewClient(consumer.KafkaOpts(kgo.ConsumeTopics(schemas.UsageLimits), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))...)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()

	ctx, parent := p.tracing.provider.Tracer("t").Start(t.Context(), "call")
	first := &kgo.Record{Topic: schemas.UsageLimits, Key: []byte("acme/pack-a/2026-11"), Value: []byte("x"), Context: ctx}
	second := &kgo.Record{Topic: schemas.UsageLimits, Key: []byte("acme/pack-b/2026-12"), Value: []byte("x"), Context: ctx}
	if err := out.ProduceSync(ctx, first, second).FirstErr(); err != nil {
		t.Fatal(err)
	}
	if want := schemas.Partition(schemas.UsageLimits, first.Key, 8); first.Partition != want || second.Partition != want {
		t.Errorf("partitions %d and %d of one account, want %d", first.Partition, second.Partition, want)
	}
	bounded, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	r := in.PollRecords(bounded, 1).Records()
	if len(r) == 0 {
		t.Fatal("nothing arrived")
	}
	var traceparent string
	for _, h := range r[0].Headers {
		if h.Key == "traceparent" {
			traceparent = string(h.Value)
		}
	}
	if id := parent.SpanContext().TraceID().String(); !strings.Contains(traceparent, id) {
		t.Errorf("traceparent %q is not of trace %s", traceparent, id)
	}
	metrics, err := p.Metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	if text := fmt.Sprint(metrics); !strings.Contains(text, "databus_kafka_records_total") || !strings.Contains(text, "archiver") {
		t.Error("the clients' counters are missing")
	}
	if err := p.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestTLSFiles(t *testing.T) {
	k := DefaultConfig().Kafka
	k.TLS = TLSConfig{Enabled: true, CAFile: configFile(t, "no certificate")}
	if _, err := securityOpts(k); err == nil || !strings.Contains(err.Error(), "must be PEM") {
		t.Error(err)
	}
	k.TLS = TLSConfig{Enabled: true}
	k.SASL = SASLConfig{Mechanism: "scram-sha-512", User: "u", Password: "p"}
	if opts, err := securityOpts(k); err != nil || len(opts) != 2 {
		t.Error(len(opts), err)
	}
}

// TestSharedParts opens what services share through two of them.
func TestSharedParts(t *testing.T) {
	s := startStack(t)
	s.applyTopics(t)
	c := DefaultConfig()
	c.Instance.ID, c.Kafka.Brokers = "one", s.broker.ListenAddrs()
	log := NewLogger(c.Log, &lockedBuffer{})
	bare, err := NewProcess(t.Context(), "test", c, ProcessOptions{Log: log})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := bare.Env("ingest").Bucket(t.Context()); err == nil || !strings.Contains(err.Error(), "bucket.url is empty") {
		t.Error(err)
	}
	if _, err := bare.Env("ingest").Keyring(t.Context()); err == nil || !strings.Contains(err.Error(), "keys.file is empty") {
		t.Error(err)
	}
	if _, err := bare.Env("ingest").Stores(t.Context()); err == nil || !strings.Contains(err.Error(), "identity.url is empty") {
		t.Error(err)
	}
	bare.Config.Identity.URL = "cassandra://host?replicatoin=3"
	if _, err := bare.Env("ingest").Stores(t.Context()); err == nil || !strings.Contains(err.Error(), "replicatoin") {
		t.Errorf("a wrong URL is waited for: %v", err)
	}
	// A store that is away is waited for, and readiness says so.
	bare.Config.Identity.URL = "cassandra://" + freeAddr(t) + "?timeout=200ms"
	brief, stop := context.WithTimeout(t.Context(), time.Second)
	defer stop()
	if _, err := bare.Env("ingest").Stores(brief); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("an unreachable store: %v", err)
	}
	_, states := bare.Health.Ready()
	if !slices.ContainsFunc(states, func(s State) bool {
		return s.Name == "identity store" && !s.Ready && strings.HasPrefix(s.Reason, "unreachable")
	}) {
		t.Errorf("%+v", states)
	}
	if err := bare.Close(t.Context()); err != nil {
		t.Error(err)
	}

	c.Keys.File, c.Bucket.URL = t.TempDir()+"/keys.json", "mem://"
	c.Identity.URL = "pebble://" + t.TempDir()
	if _, err := seal.Generate(c.Keys.File); err != nil {
		t.Fatal(err)
	}
	p, err := NewProcess(t.Context(), "test", c, ProcessOptions{Log: log})
	if err != nil {
		t.Fatal(err)
	}
	one, two := p.Env("ingest"), p.Env("rebuilder")
	short, cancel := context.WithCancel(t.Context())
	a, err := one.Keyring(short)
	if err != nil {
		t.Fatal(err)
	}
	cancel() // the first service's constructor is over; the other goes on
	b, err := two.Keyring(t.Context())
	if err != nil || a != b {
		t.Errorf("two keyrings, %v", err)
	}
	bounded, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := b.Ready(bounded); err != nil {
		t.Error(err)
	}
	x, errX := one.Bucket(t.Context())
	y, errY := two.Bucket(t.Context())
	if errX != nil || errY != nil || x != y {
		t.Errorf("two buckets, %v, %v", errX, errY)
	}
	u, errU := one.Stores(t.Context())
	v, errV := two.Stores(t.Context())
	if errU != nil || errV != nil || u != v {
		t.Errorf("two identity stores, %v, %v", errU, errV)
	}
	if err := p.Close(t.Context()); err != nil {
		t.Error(err)
	}
}
