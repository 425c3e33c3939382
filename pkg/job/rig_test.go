package job

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/sasl"

	"databus/pkg/embedded"
	"databus/schemas"
	"databus/schemas/codec"
)

// rig is a broker and everything that runs on it in a test: coordinators and workers come and go, the broker stays.
type rig struct {
	t       *testing.T
	cluster *kfake.Cluster // nil on real Kafka
	brokers []string
	topics  Topics
	rows    Codec
	kind    Kind
	admin   *kadm.Client
	session time.Duration // of group members; short only where a member is killed, or a slow machine would lose others
	client  *kgo.Client
	view    *View
	tls     *tls.Config    // nil: the broker is reached in plain
	sasl    sasl.Mechanism // nil: without a user

	mu      sync.Mutex
	refused map[string]bool // topics whose produce requests the broker does not take
	lost    int             // batches that the broker did not take
	runs    map[string]int  // "job/number" -> how often a task ran
	plans   int             // calls of Plan
	hold    chan struct{}   // tasks wait for it, unless nil
	planErr func(call int) error
	runErr  func(t Task) error
	planned func(ctx context.Context) // is called by Plan
}

// The test's kind adds up the numbers from 1 to N, one task a number.
type sumRequest struct {
	N      int
	Cancel bool
}
type sumPlan struct {
	N    int
	Made int // which call made it
}
type sumResult struct {
	Number, Value int
	Error         string
}
type sumEvent struct {
	Job   string
	What  Event
	Sum   int
	Error string
}

// newRig makes a rig on the embedded broker or, if DATABUS_TEST_KAFKA names one, on a real Kafka.
func newRig(t *testing.T) *rig {
	t.Helper()
	if brokers := os.Getenv("DATABUS_TEST_KAFKA"); brokers != "" {
		return wire(&rig{t: t, brokers: strings.Split(brokers, ",")})
	}
	return newFaultyRig(t)
}

// newFaultyRig makes a rig whose broker can be told to lose things.
func newFaultyRig(t *testing.T) *rig {
	t.Helper()
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.GroupMinSessionTimeout(100*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	r := &rig{t: t, cluster: cluster, brokers: cluster.ListenAddrs()}
	cluster.ControlKey(int16(kmsg.Produce), r.control)
	return wire(r)
}

// wire makes the topics, the registry and the clients of a rig.
func wire(r *rig) *rig {
	t := r.t
	t.Helper()
	name := fmt.Sprintf("t%d", time.Now().UnixNano())
	r.topics = Topics{
		Requests: name + ".requests", Tasks: name + ".tasks", Results: name + ".results", Events: name + ".events",
		Table: name + "-table", DeadLetters: true,
	}
	r.refused, r.runs = map[string]bool{}, map[string]int{}
	r.kind, r.session = r.sum(), 10*time.Second
	var err error
	if r.client, err = kgo.NewClient(append(r.options().kafkaSecurity(), kgo.SeedBrokers(r.brokers...), kgo.MetadataMinAge(200*time.Millisecond),
		kgo.UnknownTopicRetries(100))...); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.client.Close)
	r.admin = kadm.NewClient(r.client)
	compact := "compact"
	for _, c := range []struct {
		config map[string]*string
		topics []string
	}{
		{map[string]*string{"cleanup.policy": &compact}, []string{r.topics.Table}},
		{nil, []string{r.topics.Requests, r.topics.Tasks, r.topics.Results, r.topics.Events,
			deadLetters(r.topics.Requests), deadLetters(r.topics.Results)}},
	} {
		made, err := r.admin.CreateTopics(context.Background(), 4, 1, c.config, c.topics...)
		if err == nil {
			err = made.Error()
		}
		if err != nil {
			t.Fatal(err)
		}
	}

	registry, err := embedded.StartRegistry(embedded.RegistryOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { registry.Close() })
	values := codec.New(codec.NewRegistry(registry.URL()), codec.Options{RegisterSchemas: true})
	r.rows = NewRows(context.Background(), codec.For[State](values, schemas.RebuilderTable))

	if r.view, err = NewView(r.topics, r.options()); err != nil {
		t.Fatal(err)
	}
	r.background(func(ctx context.Context) { r.view.Run(ctx) })
	return r
}

// background runs f until the test ends.
func (r *rig) background(f func(context.Context)) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); f(ctx) }()
	r.t.Cleanup(func() { cancel(); <-done })
}

func (r *rig) control(req kmsg.Request) (kmsg.Response, error, bool) {
	r.cluster.KeepControl()
	p := req.(*kmsg.ProduceRequest)
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.refused) == 0 {
		return nil, nil, false
	}
	var taken []kmsg.ProduceRequestTopic
	for _, topic := range p.Topics {
		name := topic.Topic
		if name == "" { // by id, from franz-go
			name = r.cluster.TopicIDInfo(topic.TopicID).Topic
		}
		if r.refused[name] {
			r.lost++
			continue
		}
		taken = append(taken, topic)
	}
	if len(taken) == 0 {
		return nil, errors.New("the test refuses it"), true
	}
	p.Topics = taken
	return nil, nil, false
}

// refuse makes the broker lose everything that is produced to these topics from now on.
func (r *rig) refuse(topics ...string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.refused = map[string]bool{}
	for _, t := range topics {
		r.refused[t] = true
	}
}

func (r *rig) sum() Kind {
	return Kind{
		Name: "sum", Topics: r.topics,
		Request: func(_ string, v []byte) (Request, error) {
			var q sumRequest
			err := json.Unmarshal(v, &q)
			return Request{Cancel: q.Cancel}, err
		},
		Plan: func(ctx context.Context, s State) ([]byte, error) {
			var q sumRequest
			if err := json.Unmarshal(s.Request, &q); err != nil {
				return nil, err
			}
			r.mu.Lock()
			r.plans++
			made, planErr, planned := r.plans, r.planErr, r.planned
			r.mu.Unlock()
			if planned != nil {
				planned(ctx)
			}
			if planErr != nil {
				if err := planErr(made); err != nil {
					return nil, err
				}
			}
			return json.Marshal(sumPlan{q.N, made})
		},
		Tasks: func(s State) ([][]byte, error) {
			var p sumPlan
			err := json.Unmarshal(s.Plan, &p)
			tasks := make([][]byte, p.N)
			for i := range tasks {
				tasks[i], _ = json.Marshal(p.Made*1000 + i + 1)
			}
			return tasks, err
		},
		Result: func(v []byte) (Result, error) {
			var s sumResult
			err := json.Unmarshal(v, &s)
			return Result{Number: s.Number, Error: s.Error}, err
		},
		Event: func(s State, what Event, _ int) ([]byte, error) {
			e := sumEvent{Job: s.JobID, What: what, Error: s.Error}
			if what == Completed {
				for _, t := range s.Tasks {
					var v sumResult
					if err := json.Unmarshal(t.Result, &v); err != nil {
						return nil, err
					}
					e.Sum += v.Value
				}
			}
			return json.Marshal(e)
		},
		Run: func(ctx context.Context, t Task) ([]byte, error) {
			r.mu.Lock()
			r.runs[fmt.Sprintf("%s/%d", t.JobID, t.Number)]++
			hold, runErr := r.hold, r.runErr
			r.mu.Unlock()
			if hold != nil {
				select {
				case <-hold:
				case <-ctx.Done():
					return nil, context.Cause(ctx)
				}
			}
			if runErr != nil {
				if err := runErr(t); err != nil {
					return nil, err
				}
			}
			var v int
			if err := json.Unmarshal(t.Value, &v); err != nil {
				return nil, Permanent(err)
			}
			return json.Marshal(sumResult{Number: t.Number, Value: v})
		},
		Failure: func(t Task, reason error) ([]byte, error) {
			return json.Marshal(sumResult{Number: t.Number, Error: reason.Error()})
		},
	}
}

func (r *rig) options() Options {
	level := slog.LevelError + 4
	if os.Getenv("JOB_TEST_LOG") != "" {
		level = slog.LevelDebug
	}
	return Options{
		Brokers: r.brokers, Codec: r.rows, SessionTimeout: r.session,
		Log:          slog.New(slog.NewTextHandler(r.t.Output(), &slog.HandlerOptions{Level: level})),
		RetryBackoff: 10 * time.Millisecond, TLS: r.tls, SASL: r.sasl,
	}
}

// process is a coordinator or a worker that can be stopped, or cut off like a process that is killed.
type process struct {
	cancel func()
	done   chan struct{}
	err    error
	cable  *cable
	ready  func() bool
}

func (r *rig) start(run func(context.Context) error, ready func() bool, c *cable) *process {
	ctx, cancel := context.WithCancel(context.Background())
	p := &process{cancel: cancel, done: make(chan struct{}), cable: c, ready: ready}
	go func() { defer close(p.done); p.err = run(ctx) }()
	r.t.Cleanup(cancel)
	return p
}

func (r *rig) coordinator(change ...func(*Options)) *process {
	r.t.Helper()
	c := newCable()
	o := r.options()
	o.Sarama = func(s *sarama.Config) {
		s.Net.Proxy.Enable = true
		s.Net.Proxy.Dialer = c
		s.Consumer.Group.Rebalance.Timeout = 5 * time.Second
	}
	for _, f := range change {
		f(&o)
	}
	k, err := NewCoordinator(r.kind, o)
	if err != nil {
		r.t.Fatal(err)
	}
	return r.start(k.Run, k.Ready, c)
}

func (r *rig) worker(change ...func(*Options)) *process {
	r.t.Helper()
	c := newCable()
	o := r.options()
	if r.tls == nil { // a client's dialer is either
		o.Kafka = []kgo.Opt{kgo.Dialer(c.DialContext)}
	}
	for _, f := range change {
		f(&o)
	}
	w, err := NewWorker(r.kind, o, r.view)
	if err != nil {
		r.t.Fatal(err)
	}
	return r.start(w.Run, w.Ready, c)
}

// stop ends a process in order.
func (r *rig) stop(p *process) {
	r.t.Helper()
	p.cancel()
	select {
	case <-p.done:
		if p.err != nil {
			r.t.Fatalf("a process ended with %v", p.err)
		}
	case <-time.After(30 * time.Second):
		r.t.Fatal("a process does not stop")
	}
}

// kill cuts all connections of a process at once: it says no goodbye to the group and commits nothing more.
func (r *rig) kill(p *process) {
	p.cable.cut()
	p.cancel()
}

func (r *rig) request(id string, q sumRequest) {
	r.t.Helper()
	v, _ := json.Marshal(q)
	r.produce(&kgo.Record{Topic: r.topics.Requests, Key: []byte(id), Value: v})
}

func (r *rig) produce(rec *kgo.Record) {
	r.t.Helper()
	if err := r.client.ProduceSync(context.Background(), rec).FirstErr(); err != nil {
		r.t.Fatal(err)
	}
}

// eventually waits for what to hold.
func (r *rig) eventually(what string, f func() bool) {
	r.t.Helper()
	for end := time.Now().Add(60 * time.Second); !f(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			jobs, err := r.view.List()
			r.t.Fatalf("it never came to this: %s\njobs: %+v %v", what, jobs, err)
		}
	}
}

// phase waits until a job is in a phase and returns its row.
func (r *rig) phase(id string, phase string) State {
	r.t.Helper()
	var s State
	r.eventually("job "+id+" "+phase, func() bool {
		var found bool
		var err error
		s, found, err = r.view.Get(id)
		return err == nil && found && string(s.Phase) == phase
	})
	return s
}

// records reads a whole topic.
func (r *rig) records(topic string) []*kgo.Record {
	r.t.Helper()
	var want int64
	ends, err := r.admin.ListEndOffsets(context.Background(), topic)
	if err != nil {
		r.t.Fatal(err)
	}
	ends.Each(func(o kadm.ListedOffset) { want += o.Offset })
	c, err := kgo.NewClient(append(r.options().kafkaSecurity(), kgo.SeedBrokers(r.brokers...), kgo.ConsumeTopics(topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchMaxWait(100*time.Millisecond))...)
	if err != nil {
		r.t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	var all []*kgo.Record
	for int64(len(all)) < want {
		f := c.PollFetches(ctx)
		if ctx.Err() != nil {
			r.t.Fatalf("read %d of %d records of %s", len(all), want, topic)
		}
		all = append(all, f.Records()...)
	}
	return all
}

// events returns how often each event of a job was said, by "EVENT/number", and the last value of each.
func (r *rig) events(id string) (map[string]int, map[string]sumEvent) {
	r.t.Helper()
	count, last := map[string]int{}, map[string]sumEvent{}
	for _, rec := range r.records(r.topics.Events) {
		if string(rec.Key) != id {
			continue
		}
		var e sumEvent
		if err := json.Unmarshal(rec.Value, &e); err != nil {
			r.t.Fatal(err)
		}
		name := string(e.What) + "/" + header(rec, headerNumber)
		count[name]++
		last[name] = e
	}
	return count, last
}

func header(rec *kgo.Record, key string) string {
	for _, h := range rec.Headers {
		if h.Key == key {
			return string(h.Value)
		}
	}
	return ""
}

func (r *rig) ran(task string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.runs[task]
}

func (r *rig) set(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f()
}

// cable is the network of one process.
type cable struct {
	mu    sync.Mutex
	off   bool
	conns []net.Conn
}

func newCable() *cable { return &cable{} }

func (c *cable) Dial(network, addr string) (net.Conn, error) {
	return c.DialContext(context.Background(), network, addr)
}

func (c *cable) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.off {
		conn.Close()
		return nil, errors.New("the cable is cut")
	}
	c.conns = append(c.conns, conn)
	return conn, nil
}

func (c *cable) cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.off = true
	for _, conn := range c.conns {
		conn.Close()
	}
}
