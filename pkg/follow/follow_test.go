package follow_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"databus/pkg/follow"
)

const topic = "things"

type broker struct {
	*kfake.Cluster
	opts []kgo.Opt
	*kgo.Client
}

func start(t *testing.T) *broker {
	t.Helper()
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(3, topic))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	opts := []kgo.Opt{
		kgo.SeedBrokers(cluster.ListenAddrs()...), kgo.MetadataMinAge(50 * time.Millisecond), kgo.FetchMaxWait(100 * time.Millisecond),
	}
	client, err := kgo.NewClient(opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return &broker{Cluster: cluster, opts: opts, Client: client}
}

func (b *broker) put(t *testing.T, key, value string) {
	t.Helper()
	rec := &kgo.Record{Topic: topic, Key: []byte(key), Value: []byte(value)}
	if err := b.ProduceSync(t.Context(), rec).FirstErr(); err != nil {
		t.Fatal(err)
	}
}

// table is what every user of the package builds: the newest value by key.
type table struct {
	mu   sync.Mutex
	rows map[string]string
	seen int
}

func (t *table) handle(rec *kgo.Record) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.seen++
	if t.rows == nil {
		t.rows = map[string]string{}
	}
	t.rows[string(rec.Key)] = string(rec.Value)
}

func (t *table) get(key string) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.rows[key]
}

func TestReadyMeansEverythingThatWasThereIsHandled(t *testing.T) {
	b := start(t)
	for i := range 500 {
		b.put(t, fmt.Sprint(i%50), fmt.Sprint(i))
	}
	var rows table
	f, err := follow.Topic(t.Context(), b.opts, topic, rows.handle)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	for i := range 50 {
		if got, want := rows.get(fmt.Sprint(i)), fmt.Sprint(450+i); got != want {
			t.Errorf("key %d: %q, want %q", i, got, want)
		}
	}
	if f.Partitions() != 3 || !f.IsReady() {
		t.Errorf("partitions %d, ready %v", f.Partitions(), f.IsReady())
	}
}

func TestCaughtUpSeesEveryAcknowledgedRecord(t *testing.T) {
	b := start(t)
	var rows table
	f, err := follow.Topic(t.Context(), b.opts, topic, rows.handle)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Ready(t.Context()); err != nil {
		t.Fatal("an empty topic is ready at once:", err)
	}
	for i := range 20 {
		key, value := fmt.Sprint(i%3), fmt.Sprint(i)
		b.put(t, key, value)
		if err := f.CaughtUp(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := rows.get(key); got != value {
			t.Fatalf("after CaughtUp key %s is %q, want %q", key, got, value)
		}
	}
}

// A transaction ends in a control record that no handler sees, an aborted one in nothing but that: both must count as
// progress, or nobody would ever be ready; and until the end nothing of it may be shown.
func TestTransactions(t *testing.T) {
	b := start(t)
	producer, err := kgo.NewClient(append(b.opts, kgo.TransactionalID("tx"))...)
	if err != nil {
		t.Fatal(err)
	}
	defer producer.Close()
	begin := func(value string) {
		t.Helper()
		if err := producer.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		if err := producer.ProduceSync(t.Context(), &kgo.Record{Topic: topic, Key: []byte("k"), Value: []byte(value)}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	end := func(how kgo.TransactionEndTry) {
		t.Helper()
		if err := producer.EndTransaction(t.Context(), how); err != nil {
			t.Fatal(err)
		}
	}
	begin("one")
	end(kgo.TryCommit)
	begin("two")
	end(kgo.TryAbort)

	var rows table
	f, err := follow.Topic(t.Context(), b.opts, topic, rows.handle)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	if rows.get("k") != "one" || rows.seen != 1 {
		t.Fatalf("value %q after %d records, want the committed one after 1", rows.get("k"), rows.seen)
	}
	begin("three")
	short, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := f.CaughtUp(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("caught up in front of an open transaction: %v", err)
	}
	if rows.get("k") != "one" {
		t.Fatal("an open transaction was shown")
	}
	end(kgo.TryCommit)
	if err := f.CaughtUp(t.Context()); err != nil {
		t.Fatal(err)
	}
	if rows.get("k") != "three" {
		t.Fatalf("value %q, want three", rows.get("k"))
	}
}

func TestDeletedRecordsDoNotBlockReady(t *testing.T) {
	b := start(t)
	for i := range 30 {
		b.put(t, fmt.Sprint(i), "v")
	}
	admin := kadm.NewClient(b.Client)
	ends, err := admin.ListEndOffsets(t.Context(), topic)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := admin.DeleteRecords(t.Context(), ends.Offsets()); err != nil {
		t.Fatal(err)
	}
	var rows table
	f, err := follow.Topic(t.Context(), b.opts, topic, rows.handle)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.put(t, "x", "y")
	if err := f.CaughtUp(t.Context()); err != nil {
		t.Fatal(err)
	}
	if rows.seen != 1 || rows.get("x") != "y" {
		t.Fatalf("%d records seen, x = %q", rows.seen, rows.get("x"))
	}
}

func TestMissingTopicAndClose(t *testing.T) {
	b := start(t)
	short, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if _, err := follow.Topic(short, b.opts, "no.such.topic", func(*kgo.Record) {}); err == nil {
		t.Fatal("a missing topic was followed")
	}
	f, err := follow.Topic(t.Context(), b.opts, topic, func(*kgo.Record) {})
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	f.Close()
	if err := f.WaitFor(t.Context(), 0, 10); !errors.Is(err, follow.ErrClosed) {
		t.Fatalf("waiting on a closed follower: %v", err)
	}
}
