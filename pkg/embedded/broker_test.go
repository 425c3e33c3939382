package embedded

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func startBroker(t *testing.T, opts BrokerOptions) *Broker {
	t.Helper()
	b, err := StartBroker(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	return b
}

func client(t *testing.T, seed string, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	opts = append([]kgo.Opt{
		kgo.SeedBrokers(seed), kgo.MetadataMinAge(20 * time.Millisecond), kgo.FetchMaxWait(100 * time.Millisecond),
		kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.DisableClientMetrics(), // their last message would wait for a broker that has gone
	}, opts...)
	cl, err := kgo.NewClient(opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return cl
}

func createTopic(t *testing.T, cl *kgo.Client, topic string, partitions int32, configs map[string]string) {
	t.Helper()
	ptr := make(map[string]*string, len(configs))
	for k, v := range configs {
		ptr[k] = &v
	}
	r, err := kadm.NewClient(cl).CreateTopic(testContext(t), partitions, 1, ptr, topic)
	if err != nil || r.Err != nil {
		t.Fatal(err, r.Err)
	}
}

// committed returns all records that a read_committed reader sees up to the last stable offset, which it fails on
// if it is not the end of the log.
func committed(t *testing.T, addr, topic string) []*kgo.Record {
	t.Helper()
	ctx := testContext(t)
	admin := kadm.NewClient(client(t, addr))
	ends, err := admin.ListEndOffsets(ctx, topic)
	if err != nil {
		t.Fatal(err)
	}
	stable, err := admin.ListCommittedOffsets(ctx, topic)
	if err != nil {
		t.Fatal(err)
	}
	left := make(map[int32]int64)
	ends.Each(func(end kadm.ListedOffset) {
		s, _ := stable.Lookup(topic, end.Partition)
		if s.Offset != end.Offset {
			t.Errorf("partition %d: last stable offset %d, end of log %d", end.Partition, s.Offset, end.Offset)
		}
		if s.Offset > 0 {
			left[end.Partition] = s.Offset
		}
	})
	cl := client(t, addr, kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.KeepControlRecords())
	var out []*kgo.Record
	for len(left) > 0 {
		fs := cl.PollFetches(ctx)
		if err := fs.Err(); err != nil {
			t.Fatalf("reading %s: %v, still to read up to %v", topic, err, left)
		}
		fs.EachRecord(func(r *kgo.Record) {
			if r.Offset+1 >= left[r.Partition] {
				delete(left, r.Partition)
			}
			if !r.Attrs.IsControl() {
				out = append(out, r)
			}
		})
	}
	return out
}

func TestBrokerKeepsItsStateOverRestarts(t *testing.T) {
	ctx, dir := testContext(t), t.TempDir()
	for i := range 3 {
		b := startBroker(t, BrokerOptions{Dir: dir})
		if b.Starts() != i+1 {
			t.Fatalf("start %d is counted as %d", i+1, b.Starts())
		}
		cl := client(t, b.Addr())
		if i == 0 {
			createTopic(t, cl, "events", 2, map[string]string{"cleanup.policy": "compact"})
		}
		for p := range int32(2) {
			r := &kgo.Record{Topic: "events", Partition: p, Key: []byte("k"), Value: fmt.Append(nil, i)}
			if err := cl.ProduceSync(ctx, r).FirstErr(); err != nil {
				t.Fatal(err)
			}
		}
		if got := committed(t, b.Addr(), "events"); len(got) != 2*(i+1) {
			t.Fatalf("start %d: %d records", i+1, len(got))
		}
		configs, err := kadm.NewClient(cl).DescribeTopicConfigs(ctx, "events")
		if err != nil {
			t.Fatal(err)
		}
		policy := ""
		for _, c := range configs[0].Configs {
			if c.Key == "cleanup.policy" {
				policy = c.MaybeValue()
			}
		}
		if policy != "compact" {
			t.Fatalf("start %d: cleanup policy %q", i+1, policy)
		}
		cl.Close()
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestBrokerOwnsItsDirectory(t *testing.T) {
	dir := t.TempDir()
	b := startBroker(t, BrokerOptions{Dir: dir})
	if other, err := StartBroker(BrokerOptions{Dir: dir}); err == nil {
		_ = other.Close()
		t.Fatal("two brokers share a directory")
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if again := startBroker(t, BrokerOptions{Dir: dir}); again.Starts() != 2 {
		t.Fatalf("the refused start was counted: %d", again.Starts())
	}
}

func TestBrokerCreatesNoTopicByItself(t *testing.T) {
	b := startBroker(t, BrokerOptions{})
	cl := client(t, b.Addr(), kgo.AllowAutoTopicCreation(), kgo.UnknownTopicRetries(1))
	err := cl.ProduceSync(testContext(t), &kgo.Record{Topic: "typo", Value: []byte("x")}).FirstErr()
	if err == nil {
		t.Fatal("a record went to a topic that nobody created")
	}
}

func TestLogAppendTime(t *testing.T) {
	codecs := []kgo.CompressionCodec{
		kgo.NoCompression(), kgo.GzipCompression(), kgo.SnappyCompression(), kgo.Lz4Compression(), kgo.ZstdCompression(),
	}
	dir := t.TempDir()
	b := startBroker(t, BrokerOptions{Dir: dir})
	cl := client(t, b.Addr())
	createTopic(t, cl, "appended", 1, map[string]string{"message.timestamp.type": "LogAppendTime"})
	createTopic(t, cl, "created", 1, nil)
	past := time.UnixMilli(1_000_000_000_000)
	before := time.Now().Add(-time.Millisecond)
	for _, topic := range []string{"appended", "created"} {
		for _, codec := range codecs {
			cl := client(t, b.Addr(), kgo.ProducerBatchCompression(codec), kgo.ProducerLinger(50*time.Millisecond))
			var rs []*kgo.Record
			for i := range 10 {
				rs = append(rs, &kgo.Record{
					Topic: topic, Key: fmt.Append(nil, i), Value: make([]byte, 3000),
					Timestamp: past.Add(time.Duration(3-i) * time.Hour), Headers: []kgo.RecordHeader{{Key: "h", Value: []byte{1}}},
				})
			}
			if err := cl.ProduceSync(testContext(t), rs...).FirstErr(); err != nil {
				t.Fatal(err)
			}
		}
	}
	after := time.Now()
	_ = b.Close()
	b = startBroker(t, BrokerOptions{Dir: dir}) // what was written must also be read back as sound
	for _, topic := range []string{"appended", "created"} {
		rs := committed(t, b.Addr(), topic)
		if len(rs) != 10*len(codecs) {
			t.Fatalf("%s: %d records", topic, len(rs))
		}
		for i, r := range rs {
			if string(r.Key) != fmt.Sprint(i%10) || len(r.Value) != 3000 || len(r.Headers) != 1 {
				t.Fatalf("%s: record %d is %q", topic, i, r.Key)
			}
			want := past.Add(time.Duration(3-i%10) * time.Hour)
			if topic == "created" && !r.Timestamp.Equal(want) {
				t.Fatalf("CreateTime: record %d has %s, want %s", i, r.Timestamp, want)
			}
			if topic == "appended" && (r.Timestamp.Before(before) || r.Timestamp.After(after)) {
				t.Fatalf("LogAppendTime: record %d has %s", i, r.Timestamp)
			}
		}
	}
}

func TestStaticMemberReturnsAfterRestart(t *testing.T) {
	ctx, dir := testContext(t), t.TempDir()
	for i := range 3 {
		b := startBroker(t, BrokerOptions{Dir: dir})
		producer := client(t, b.Addr())
		if i == 0 {
			createTopic(t, producer, "in", 2, nil)
		}
		for p := range int32(2) {
			r := &kgo.Record{Topic: "in", Partition: p, Value: fmt.Append(nil, i)}
			if err := producer.ProduceSync(ctx, r).FirstErr(); err != nil {
				t.Fatal(err)
			}
		}
		cl := client(t, b.Addr(), kgo.ConsumerGroup("g"), kgo.InstanceID("one"), kgo.ConsumeTopics("in"),
			kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.DisableAutoCommit())
		began := time.Now()
		for got := 0; got < 2; {
			fs := cl.PollFetches(ctx)
			if err := fs.Err(); err != nil {
				t.Fatal(err)
			}
			fs.EachRecord(func(r *kgo.Record) {
				if string(r.Value) != fmt.Sprint(i) {
					t.Errorf("start %d: read %q again", i+1, r.Value)
				}
				got++
			})
			if err := cl.CommitUncommittedOffsets(ctx); err != nil {
				t.Fatal(err)
			}
		}
		if d := time.Since(began); d > 5*time.Second {
			t.Errorf("start %d: the member waited %s", i+1, d)
		}
		_ = b.Close() // the member stays: a static one does not leave
	}
}
