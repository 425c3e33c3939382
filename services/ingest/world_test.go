package ingest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"databus/pkg/graph"
	"databus/pkg/history/historytest"
	"databus/pkg/identity"
	"databus/pkg/seal"
	"databus/pkg/service"
	"databus/schemas"
	"databus/schemas/codec"
	"databus/schemas/event"
)

// rig is a small Databus with an ingest in it.
type rig struct {
	*historytest.World
	t       *testing.T
	store   *storeFaults
	kafka   atomic.Bool // whether Kafka is away
	process *service.Process
	service *Service
	running bool
	stop    func()
	changed map[string]any
	seen    sync.Map // operations and statuses that were answered
}

// newRig starts a world and, with start, an ingest. settings are configuration keys such as "api.max_batch".
func newRig(t *testing.T, settings map[string]any) *rig {
	t.Helper()
	t.Parallel()
	r := &rig{World: historytest.New(t, 1), t: t, changed: settings, stop: func() {}}
	r.store = &storeFaults{Stores: r.Stores.Stores}
	r.Stores.Stores = r.store
	r.Cluster.Cluster().Control(func(kmsg.Request) (kmsg.Response, error, bool) {
		r.Cluster.Cluster().KeepControl()
		return nil, errors.New("Kafka is away"), r.kafka.Load()
	})
	return r
}

// launch starts the service; whether it becomes ready is the test's concern.
func (r *rig) launch() {
	r.t.Helper()
	d := Definition()
	construct := d.New
	d.New = func(ctx context.Context, env *service.Env, cfg Config) (service.Runner, error) {
		runner, err := construct(ctx, env, cfg)
		if err == nil {
			r.service = runner.(*Service)
		}
		return runner, err
	}
	overrides := map[string]any{}
	for key, value := range r.changed {
		section, name, _ := strings.Cut(key, ".")
		if overrides[section] == nil {
			overrides[section] = map[string]any{}
		}
		overrides[section].(map[string]any)[name] = value
	}
	for section, defaults := range map[string]map[string]any{
		"api": {"listen": "127.0.0.1:0"}, "requests": {"commit_interval": "20ms"}, "evidence": {"commit_interval": "20ms"}, "applier": {"retry": "50ms"},
	} {
		if overrides[section] == nil {
			overrides[section] = map[string]any{}
		}
		for name, value := range defaults {
			if _, ok := overrides[section].(map[string]any)[name]; !ok {
				overrides[section].(map[string]any)[name] = value
			}
		}
	}
	p := r.Process()
	ctx, cancel := context.WithCancel(context.WithoutCancel(r.t.Context()))
	runner, err := d.Service().Start(ctx, p.Env(Name), overrides)
	if err != nil {
		cancel()
		r.t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- runner.Run(ctx) }()
	r.process, r.running = p, true
	r.stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				r.t.Errorf("the service ended with %v", err)
			}
		case <-time.After(time.Minute):
			r.t.Error("the service does not end")
		}
		if err := p.Close(context.Background()); err != nil {
			r.t.Errorf("closing: %v", err)
		}
	})
	r.t.Cleanup(r.stop)
}

func (r *rig) start() {
	r.t.Helper()
	r.launch()
	r.Eventually("ingest is ready", func() bool { return len(r.unready()) == 0 })
}

// unready are the service's checks that are not ready, with their reasons.
func (r *rig) unready() map[string]string {
	_, states := r.process.Health.Ready()
	bad := map[string]string{}
	for _, s := range states {
		if name, ok := strings.CutPrefix(s.Name, Name+"/"); ok && !s.Ready {
			bad[name] = s.Reason
		}
	}
	if len(states) < 5 {
		bad["few"] = "checks are missing"
	}
	return bad
}

// storeFaults is the store with faults: every operation fails while err is set.
type storeFaults struct {
	identity.Stores
	err atomic.Pointer[error]
}

func (f *storeFaults) fail(err error) {
	if err == nil {
		f.err.Store(nil)
	} else {
		f.err.Store(&err)
	}
}

func (f *storeFaults) fault() error {
	if err := f.err.Load(); err != nil {
		return *err
	}
	return nil
}

func (f *storeFaults) Keyspace(name string) (identity.Store, error) {
	s, err := f.Stores.Keyspace(name)
	return &faultyStore{s, f}, err
}

type faultyStore struct {
	identity.Store
	faults *storeFaults
}

func (s *faultyStore) Get(ctx context.Context, account, key string) (identity.Row, bool, error) {
	if err := s.faults.fault(); err != nil {
		return identity.Row{}, false, err
	}
	return s.Store.Get(ctx, account, key)
}

func (s *faultyStore) ByPerson(ctx context.Context, account, person string, limit int) ([]identity.Row, error) {
	if err := s.faults.fault(); err != nil {
		return nil, err
	}
	return s.Store.ByPerson(ctx, account, person, limit)
}

func (s *faultyStore) Apply(ctx context.Context, changes []identity.Change) error {
	if err := s.faults.fault(); err != nil {
		return err
	}
	return s.Store.Apply(ctx, changes)
}

// revokeKeys shreds an account.
func (r *rig) revokeKeys(account string) {
	r.t.Helper()
	if _, err := r.Keyring.Shred(r.t.Context(), seal.Shred{Account: account}); err != nil {
		r.t.Fatal(err)
	}
}

// reply is an answer of the API.
type reply struct {
	status int
	header http.Header
	body   string
}

func (p reply) problem(t *testing.T) problem {
	t.Helper()
	var out problem
	if got := p.header.Get("Content-Type"); got != "application/problem+json" {
		t.Errorf("%d with content type %q: %s", p.status, got, p.body)
	}
	if err := json.Unmarshal([]byte(p.body), &out); err != nil || out.Status != p.status || out.Title == "" {
		t.Errorf("%d with %q: %v", p.status, p.body, err)
	}
	return out
}

func (p reply) result(t *testing.T) putResult {
	t.Helper()
	return decode[putResult](t, p.body)
}

func decode[T any](t *testing.T, body string) (out T) {
	t.Helper()
	if err := json.Unmarshal([]byte(body), &out); err != nil {
		t.Fatalf("%q: %v", body, err)
	}
	return out
}

// call sends a request; headers are name, value.
func (r *rig) call(method, path, body string, headers ...string) reply {
	r.t.Helper()
	req, err := http.NewRequestWithContext(r.t.Context(), method, "http://"+r.service.listener.Addr().String()+path, strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	var b bytes.Buffer
	if _, err := io.Copy(&b, resp.Body); err != nil {
		r.t.Fatal(err)
	}
	p := reply{resp.StatusCode, resp.Header, b.String()}
	r.documented(method, path, p)
	return p
}

// put sets a record and waits until it is applied: on a busy machine by asking again, which is a repeat.
func (r *rig) put(account, requestID, recordID, email string) (out putResult) {
	r.t.Helper()
	body := fmt.Sprintf(`{"request_id":%q,"record_id":%q,"fields":{"email":%q}}`, requestID, recordID, email)
	r.Eventually("a record is applied", func() bool {
		p := r.call("POST", "/v1/accounts/"+account+"/records?wait=applied", body)
		if p.status != http.StatusOK && p.status != http.StatusAccepted {
			r.t.Fatalf("%d: %s", p.status, p.body)
		}
		out = p.result(r.t)
		return out.Applied
	})
	return out
}

// events reads a topic's committed events, in order within partitions.
func events[T any](r *rig, topic string) []T {
	r.t.Helper()
	serde := codec.For[T](r.Codec, topic)
	var out []T
	for _, rec := range r.read(topic) {
		var v T
		if err := serde.Decode(r.t.Context(), rec.Value, &v); err != nil {
			r.t.Fatal(err)
		}
		out = append(out, v)
	}
	return out
}

// read gives a topic's committed records.
func (r *rig) read(topic string) (out []*kgo.Record) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), 20*time.Second)
	defer cancel()
	ends, err := r.Admin.ListEndOffsets(ctx, topic)
	if err = errors.Join(err, ends.Error()); err != nil {
		r.t.Fatal(err)
	}
	left := map[int32]int64{}
	ends.Each(func(o kadm.ListedOffset) {
		if o.Offset > 0 {
			left[o.Partition] = o.Offset
		}
	})
	client, err := kgo.NewClient(kgo.SeedBrokers(r.Config.Kafka.Brokers...), kgo.ConsumeTopics(topic), kgo.FetchMaxWait(100*time.Millisecond),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.KeepControlRecords())
	if err != nil {
		r.t.Fatal(err)
	}
	defer client.Close()
	for len(left) > 0 {
		fetches := client.PollFetches(ctx)
		if ctx.Err() != nil {
			r.t.Fatalf("reading %s: %v left", topic, left)
		}
		fetches.EachRecord(func(rec *kgo.Record) {
			if !rec.Attrs.IsControl() {
				out = append(out, rec)
			}
			if rec.Offset+1 >= left[rec.Partition] {
				delete(left, rec.Partition)
			}
		})
	}
	return out
}

// groupAtEnd waits until a group has consumed a topic to its end, markers included.
func (r *rig) groupAtEnd(group, topic string) {
	r.t.Helper()
	r.Eventually(group+" has read "+topic, func() bool {
		ends, err := r.Admin.ListEndOffsets(r.t.Context(), topic)
		if err != nil {
			return false
		}
		at, err := r.Admin.FetchOffsetsForTopics(r.t.Context(), group, topic)
		if err != nil {
			return false
		}
		all := true
		ends.Each(func(o kadm.ListedOffset) {
			if c, _ := at.Lookup(topic, o.Partition); o.Offset > 0 && c.At < o.Offset {
				all = false
			}
		})
		return all
	})
}

// modelled compares a database with what a model makes of the log.
func (r *rig) modelled(keyspace, model string) {
	r.t.Helper()
	r.Same(r.Apply(model, graph.Genesis(), r.Ends()), r.Store(keyspace))
}

// records are those on the Databus.
func (r *rig) records() []event.DatabusRecord {
	return events[event.DatabusRecord](r, schemas.DatabusRecords)
}

// newSlowBody is a request body that is sent piece by piece, until the channel is closed.
func newSlowBody() (io.Reader, chan<- string) {
	in, out := io.Pipe()
	pieces := make(chan string)
	go func() {
		for piece := range pieces {
			if _, err := io.WriteString(out, piece); err != nil {
				break // nobody reads any more
			}
		}
		_ = out.Close() // a pipe's does not fail
	}()
	return in, pieces
}

// send posts a body and returns as much of the answer as comes.
func (r *rig) send(path string, body io.Reader) string {
	resp, err := http.Post("http://"+r.service.listener.Addr().String()+path, "application/x-ndjson", body)
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	return string(b)
}
