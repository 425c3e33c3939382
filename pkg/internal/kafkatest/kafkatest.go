// Package kafkatest gives tests an in-process broker with the catalogue's topics and a codec on a registry in memory.
//
// It serves tests that need the log's and the wire format's true behaviour, but neither persistence nor the registry's
// HTTP API.
package kafkatest

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"databus/schemas"
	"databus/schemas/codec"
)

// Bed is a broker, a registry and a producer.
type Bed struct {
	// Opts reach the broker.
	Opts  []kgo.Opt
	Codec *codec.Codec
	// Registry is the one behind Codec; it answers nothing while RegistryDown.
	Registry     codec.Registry
	RegistryDown *atomic.Bool
	// Client produces to the partitions that the catalogue says.
	Client  *kgo.Client
	Cluster *kfake.Cluster
}

// New starts a bed that ends with the test. The topics are those named, or the whole catalogue's.
func New(t testing.TB, topics ...string) *Bed {
	t.Helper()
	if len(topics) == 0 {
		for _, topic := range schemas.Catalogue() {
			topics = append(topics, topic.Name)
		}
	}
	opts := []kfake.Opt{kfake.NumBrokers(1)}
	for _, name := range topics {
		opts = append(opts, kfake.SeedTopics(schemas.MustLookup(name).Partitions, name))
	}
	cluster, err := kfake.NewCluster(opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	reg := &registry{ids: map[string]int{}}
	b := &Bed{Cluster: cluster, Registry: reg, RegistryDown: &reg.down, Codec: codec.New(reg, codec.Options{RegisterSchemas: true})}
	b.Opts = []kgo.Opt{
		kgo.SeedBrokers(cluster.ListenAddrs()...), kgo.MetadataMinAge(50 * time.Millisecond), kgo.FetchMaxWait(100 * time.Millisecond),
	}
	b.Client, err = kgo.NewClient(append(b.Opts, kgo.RecordPartitioner(kgo.ManualPartitioner()))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Client.Close)
	return b
}

// Produce appends a value to a topic of the catalogue and returns where it is.
func Produce[T any](t testing.TB, b *Bed, topic, key string, value *T) *kgo.Record {
	t.Helper()
	data, err := codec.For[T](b.Codec, topic).Encode(t.Context(), value)
	if err != nil {
		t.Fatal(err)
	}
	return b.ProduceBytes(t, topic, key, data)
}

// ProduceBytes appends bytes as they are; nil is a tombstone.
func (b *Bed) ProduceBytes(t testing.TB, topic, key string, value []byte) *kgo.Record {
	t.Helper()
	rec := &kgo.Record{Topic: topic, Key: []byte(key), Value: value}
	rec.Partition = schemas.Partition(topic, rec.Key, schemas.MustLookup(topic).Partitions)
	if err := b.Client.ProduceSync(t.Context(), rec).FirstErr(); err != nil {
		t.Fatal(err)
	}
	return rec
}

// registry is the registry port in memory: ids by schema.
type registry struct {
	mu    sync.Mutex
	ids   map[string]int
	texts []string
	down  atomic.Bool
}

func (r *registry) Schema(_ context.Context, id int) (string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.down.Load() {
		return "", codec.ErrUnavailable
	}
	if id < 1 || id > len(r.texts) {
		return "", fmt.Errorf("schema %d: %w", id, codec.ErrUnknownSchema)
	}
	return r.texts[id-1], nil
}

func (r *registry) ID(_ context.Context, subject, schema string) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if id, ok := r.ids[schema]; ok {
		return id, nil
	}
	return 0, fmt.Errorf("subject %s: %w", subject, codec.ErrUnknownSchema)
}

func (r *registry) Register(_ context.Context, _, schema string) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ids[schema] == 0 {
		r.texts = append(r.texts, schema)
		r.ids[schema] = len(r.texts)
	}
	return r.ids[schema], nil
}

func (r *registry) Compatible(context.Context, string, string) error       { return nil }
func (r *registry) SetCompatibility(context.Context, string, string) error { return nil }
