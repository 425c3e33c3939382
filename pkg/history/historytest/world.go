// Package historytest is a small Databus for tests: the embedded broker and registry, a bucket and an identity store in
// memory, keys, a graph, records on databus.records and, where a test asks for it, their archive. Everything in it is
// what production runs, but the archive, which is cut where the test says.
package historytest

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"databus/pkg/blob"
	"databus/pkg/embedded"
	"databus/pkg/graph"
	"databus/pkg/identity"
	"databus/pkg/resource"
	"databus/pkg/seal"
	"databus/pkg/service"
	"databus/pkg/topics"
	"databus/schemas"
	"databus/schemas/codec"
	"databus/schemas/event"
)

// Live is the version of the database that serves.
const Live = "v1"

// World is a Databus in which services come and go.
type World struct {
	T        testing.TB
	Config   service.Config
	Bucket   blob.Bucket
	Stores   *Stores
	Codec    *codec.Codec
	Keyring  *seal.Keyring
	Resolver *identity.Resolver
	Client   *kgo.Client
	Admin    *kadm.Client
	Cluster  *embedded.Broker

	rng  *rand.Rand
	sent int
	ids  []string
}

// New starts a world that ends with the test. The serving version Live uses the genesis graph and is empty.
func New(t testing.TB, seed uint64) *World {
	t.Helper()
	stack := embedded.ForTest(t)
	w := &World{T: t, Config: service.DefaultConfig(), Bucket: blob.NewMemory(), Cluster: stack.Broker, rng: rand.New(rand.NewPCG(seed, 7))}
	w.Config.Kafka.Brokers = stack.Broker.Seeds()
	w.Config.Registry.URL, w.Config.Registry.RegisterSchemas = stack.Registry.URL(), true
	w.Config.Instance.ID, w.Config.Instance.StateDir = "test", t.TempDir()
	w.Config.Keys.File = filepath.Join(t.TempDir(), "master.json")
	w.Config.HTTP.Listen = ""
	keys, err := seal.Generate(w.Config.Keys.File)
	w.must(err)
	memory, err := identity.OpenStores(t.Context(), "mem://")
	w.must(err)
	t.Cleanup(func() { w.must(memory.Close()) })
	w.Stores = &Stores{Stores: memory}

	w.Client, err = kgo.NewClient(w.kafka(kgo.RecordPartitioner(service.Partitioner()))...)
	w.must(err)
	t.Cleanup(w.Client.Close)
	w.Admin = kadm.NewClient(w.Client)
	_, err = topics.Apply(t.Context(), w.Admin, schemas.WithDeadLetters(), topics.Options{})
	w.must(err)
	w.Codec = codec.New(codec.NewRegistry(stack.Registry.URL()), codec.Options{RegisterSchemas: true})
	w.Keyring, err = seal.OpenKeyring(t.Context(), seal.Options{Kafka: w.kafka(), Codec: w.Codec, Keys: keys})
	w.must(err)
	t.Cleanup(w.Keyring.Close)
	w.Resolver, err = identity.NewResolver(keys, w.Keyring, "US")
	w.must(err)
	_, err = graph.PublishGenesis(t.Context(), w.sink())
	w.must(err)
	w.must(w.Store(Live).Create(t.Context()))
	w.Announce(event.DatabaseVersion{
		Version: Live, Keyspace: Live, GraphVersion: graph.GenesisVersion, ApplierGroup: "ingest.applier." + Live, State: event.DatabaseStateServing,
	})
	return w
}

func (w *World) must(err error) {
	w.T.Helper()
	if err != nil {
		w.T.Fatal(err)
	}
}

func (w *World) kafka(extra ...kgo.Opt) []kgo.Opt {
	return append([]kgo.Opt{
		kgo.SeedBrokers(w.Config.Kafka.Brokers...), kgo.MetadataMinAge(50 * time.Millisecond), kgo.FetchMaxWait(100 * time.Millisecond),
	}, extra...)
}

func (w *World) sink() graph.Sink {
	return graph.Sink{Kafka: w.kafka(), Codec: w.Codec, Bucket: w.Bucket}
}

// Announce says what a database version is.
func (w *World) Announce(v event.DatabaseVersion) {
	w.T.Helper()
	w.must(identity.Announce(w.T.Context(), w.Client, w.Codec, v))
}

// Database returns the newest event of a version.
func (w *World) Database(version string) (event.DatabaseVersion, bool) {
	w.T.Helper()
	d, err := identity.FollowDatabases(w.T.Context(), w.kafka(), w.Codec, nil)
	w.must(err)
	defer d.Close()
	w.must(d.Ready(w.T.Context()))
	return d.Get(version)
}

// Store opens a keyspace.
func (w *World) Store(keyspace string) identity.Store {
	w.T.Helper()
	s, err := w.Stores.Keyspace(keyspace)
	w.must(err)
	return s
}

// Process is what a service needs beside its configuration.
func (w *World) Process() *service.Process {
	w.T.Helper()
	p, err := service.NewProcess(w.T.Context(), "test", w.Config, service.ProcessOptions{
		Log:   slog.New(slog.NewTextHandler(w.T.Output(), &slog.HandlerOptions{Level: slog.LevelWarn})),
		Given: []service.Given{resource.GivenBucket(w.Bucket), resource.GivenStores(w.Stores)},
	})
	w.must(err)
	return p
}

// Running is a service at work.
type Running struct {
	stop func()
}

// Stop ends the service in order and waits for it. It may be called more than once.
func (r *Running) Stop() { r.stop() }

// Start runs a service until Stop or the end of the test, and waits until it is ready.
func (w *World) Start(s service.Service, overrides map[string]any) *Running {
	w.T.Helper()
	p := w.Process()
	ctx, cancel := context.WithCancel(context.WithoutCancel(w.T.Context()))
	runner, err := s.Start(ctx, p.Env(s.Name()), overrides)
	w.must(err)
	done := make(chan error, 1)
	go func() { done <- runner.Run(ctx) }()
	stopped := false
	r := &Running{stop: func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			w.T.Errorf("service %s ended with %v", s.Name(), err)
		}
		if err := p.Close(context.Background()); err != nil {
			w.T.Errorf("closing service %s: %v", s.Name(), err)
		}
	}}
	w.T.Cleanup(r.stop)
	w.Eventually("service "+s.Name()+" is ready", func() bool {
		_, states := p.Health.Ready()
		for _, s := range states {
			if !s.Ready && s.Name != "process" && s.Name != "kafka" && s.Name != "registry" {
				return false
			}
		}
		return len(states) > 1
	})
	return r
}

// Eventually waits for what to hold, 30 s at most.
func (w *World) Eventually(what string, f func() bool) {
	w.T.Helper()
	for end := time.Now().Add(30 * time.Second); !f(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			w.T.Fatalf("it never came to this: %s", what)
		}
	}
}

const (
	accounts = 3
	records  = 12
	persons  = 8
)

// Write puts n random versions on databus.records: upserts that move records between persons, deletes, repeats, every
// tenth batch in a transaction that is aborted, so that offsets have holes.
func (w *World) Write(n int) {
	w.T.Helper()
	ctx := w.T.Context()
	serde := codec.For[event.DatabusRecord](w.Codec, schemas.DatabusRecords)
	var out []*kgo.Record
	for range n {
		w.sent++
		q := identity.Request{Account: fmt.Sprint("account-", w.rng.IntN(accounts)), RequestID: fmt.Sprint("request-", w.sent), Kind: event.RequestKindUpsert}
		q.Record.RecordID = fmt.Sprint("record-", w.rng.IntN(records))
		if len(w.ids) > 0 && w.rng.IntN(6) == 0 {
			q.RequestID = w.ids[max(0, len(w.ids)-1-w.rng.IntN(100))]
		}
		w.ids = append(w.ids, q.RequestID)
		switch {
		case w.rng.IntN(9) == 0:
			q.Kind = event.RequestKindDelete
		case w.rng.IntN(6) > 0:
			p := w.rng.IntN(persons)
			q.Record.Fields = map[string]string{"email": fmt.Sprintf("person-%d@example.org", p), "note": fmt.Sprint("version ", w.sent)}
			if w.rng.IntN(2) == 0 {
				q.Record.Fields["phone"] = fmt.Sprintf("+1202555010%d", p/2)
			}
		}
		res, err := w.Resolver.Resolve(ctx, graph.Genesis(), &q)
		w.must(err)
		value, err := serde.Encode(ctx, &res.Record)
		w.must(err)
		out = append(out, &kgo.Record{Topic: schemas.DatabusRecords, Key: []byte(res.Key()), Value: value})
	}
	for len(out) > 0 {
		size := min(len(out), 1+w.rng.IntN(40))
		if w.rng.IntN(3) == 0 {
			w.transaction(out[:size], w.rng.IntN(2) == 0)
		} else {
			w.must(w.Client.ProduceSync(ctx, out[:size]...).FirstErr())
		}
		out = out[size:]
	}
}

// transaction commits the records, after one that is aborted if so asked.
func (w *World) transaction(batch []*kgo.Record, afterAborted bool) {
	w.T.Helper()
	ctx := w.T.Context()
	client, err := kgo.NewClient(w.kafka(kgo.RecordPartitioner(service.Partitioner()), kgo.TransactionalID(fmt.Sprint("historytest-", w.sent)))...)
	w.must(err)
	defer client.Close()
	run := func(records []*kgo.Record, end kgo.TransactionEndTry) {
		w.must(client.BeginTransaction())
		w.must(client.ProduceSync(ctx, records...).FirstErr())
		w.must(client.EndTransaction(ctx, end))
	}
	if afterAborted {
		var other []*kgo.Record
		for _, r := range batch {
			other = append(other, &kgo.Record{Topic: r.Topic, Key: r.Key, Value: slices.Clone(r.Value)})
		}
		run(other, kgo.TryAbort)
	}
	run(batch, kgo.TryCommit)
}

// Ends are the ends of databus.records, by partition.
func (w *World) Ends() []int64 {
	w.T.Helper()
	listed, err := w.Admin.ListEndOffsets(w.T.Context(), schemas.DatabusRecords)
	w.must(err)
	w.must(listed.Error())
	ends := make([]int64, len(listed[schemas.DatabusRecords]))
	listed.Each(func(o kadm.ListedOffset) { ends[o.Partition] = o.Offset })
	return ends
}

// Log calls fn for the committed records of databus.records below ends, each partition in order.
func (w *World) Log(ends []int64, fn func(*kgo.Record)) {
	w.T.Helper()
	offsets := map[int32]kgo.Offset{}
	left := 0
	for p, end := range ends {
		if end > 0 {
			offsets[int32(p)] = kgo.NewOffset().AtStart()
			left++
		}
	}
	client, err := kgo.NewClient(w.kafka(kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{schemas.DatabusRecords: offsets}),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.KeepControlRecords())...)
	w.must(err)
	defer client.Close()
	done := map[int32]bool{}
	ctx, cancel := context.WithTimeout(w.T.Context(), 30*time.Second)
	defer cancel()
	for len(done) < left {
		fetches := client.PollFetches(ctx)
		w.must(fetches.Err())
		for _, rec := range fetches.Records() {
			if rec.Offset < ends[rec.Partition] && !rec.Attrs.IsControl() {
				fn(rec)
			}
			if rec.Offset >= ends[rec.Partition]-1 {
				done[rec.Partition] = true
			}
		}
	}
}

// Apply brings a keyspace, which is created, to where an applier with a graph brings it that reads the log below ends.
func (w *World) Apply(keyspace string, g *graph.Graph, ends []int64) identity.Store {
	w.T.Helper()
	store := w.Store(keyspace)
	w.must(store.Create(w.T.Context()))
	serde := codec.For[event.DatabusRecord](w.Codec, schemas.DatabusRecords)
	a := identity.Applier{Rows: w.Resolver, Graph: g}
	var batch []identity.Input
	w.Log(ends, func(rec *kgo.Record) {
		value := new(event.DatabusRecord)
		w.must(serde.Decode(w.T.Context(), rec.Value, value))
		batch = append(batch, identity.Input{Record: value, Offset: rec.Offset, AppendTime: rec.Timestamp})
	})
	_, err := a.Apply(w.T.Context(), store, batch)
	w.must(err)
	return store
}

// Graph builds a graph of what is on databus.records up to now, which joins persons, and publishes it.
func (w *World) Graph(version string) *graph.Graph {
	w.T.Helper()
	serde := codec.For[event.DatabusRecord](w.Codec, schemas.DatabusRecords)
	var evidence []graph.Evidence
	w.Log(w.Ends(), func(rec *kgo.Record) {
		value := new(event.DatabusRecord)
		w.must(serde.Decode(w.T.Context(), rec.Value, value))
		o, err := w.Resolver.Observation(w.T.Context(), &identity.Input{Record: value, Offset: rec.Offset, AppendTime: rec.Timestamp}, rec.Timestamp)
		w.must(err)
		e, err := graph.FromObservation(o)
		w.must(err)
		evidence = append(evidence, e)
	})
	built := graph.Build(slices.Values(evidence))
	_, err := graph.Publish(w.T.Context(), w.sink(), version, built, nil)
	w.must(err)
	return built.Graph
}

// Same fails the test if two stores differ in any column of any row.
func (w *World) Same(a, b identity.Store) {
	w.T.Helper()
	c, err := identity.Compare(w.T.Context(), a, b)
	w.must(err)
	if !c.Equal() || c.Rows == 0 {
		w.T.Fatalf("%s and %s: %d of %d rows differ: %v", a.Keyspace(), b.Keyspace(), c.Differences, c.Rows, c.Diffs)
	}
}
