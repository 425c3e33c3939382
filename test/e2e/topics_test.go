package e2e

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"databus/schemas"
	"databus/schemas/codec"
	"databus/schemas/event"
)

// A cluster is the brokers and the registry of a running Databus, as an operator sees them.
type cluster struct {
	*kadm.Client
	brokers []string
	codec   *codec.Codec
}

// connect opens a cluster; it is closed with the test.
func connect(t testing.TB, brokers []string, registry string) *cluster {
	t.Helper()
	c := &cluster{brokers: brokers, codec: codec.New(codec.NewRegistry(registry), codec.Options{})}
	c.Client = kadm.NewClient(c.client(t))
	return c
}

// client makes a client of its own; records go to the partition that they name.
func (c *cluster) client(t testing.TB, extra ...kgo.Opt) *kgo.Client {
	t.Helper()
	cl, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(c.brokers...), kgo.MetadataMinAge(200 * time.Millisecond),
		kgo.FetchMaxWait(200 * time.Millisecond), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.DisableClientMetrics()}, extra...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return cl
}

// ends are the ends of a topic's partitions.
func (c *cluster) ends(t testing.TB, topic string) map[int32]int64 {
	t.Helper()
	listed, err := c.ListEndOffsets(t.Context(), topic)
	if err == nil {
		err = listed.Error()
	}
	if err != nil {
		t.Fatalf("asking for the ends of %s: %v", topic, err)
	}
	m := map[int32]int64{}
	listed.Each(func(o kadm.ListedOffset) { m[o.Partition] = o.Offset })
	return m
}

// behind says where a group's committed offsets are not at a topic's ends; "" when they are everywhere.
func (c *cluster) behind(t testing.TB, group, topic string) string {
	t.Helper()
	committed, err := c.FetchOffsets(t.Context(), group)
	if err == nil {
		err = committed.Error()
	}
	if err != nil {
		return fmt.Sprintf("asking for the offsets of group %s: %v", group, err)
	}
	for p, end := range c.ends(t, topic) {
		if at, ok := committed.Lookup(topic, p); end > 0 && (!ok || at.At < end) {
			return fmt.Sprintf("group %s is at %d of %d in %s/%d", group, at.At, end, topic, p)
		}
	}
	return ""
}

// read returns the committed data records of a topic from its beginning to its end as it is now.
func (c *cluster) read(t testing.TB, topic string) []*kgo.Record {
	t.Helper()
	ends := c.ends(t, topic)
	from := map[int32]kgo.Offset{}
	for p, end := range ends {
		if end == 0 {
			delete(ends, p)
			continue
		}
		from[p] = kgo.NewOffset().AtStart()
	}
	if len(from) == 0 {
		return nil
	}
	// Control records are kept, because one may be the last of a partition.
	cl := c.client(t, kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: from}), kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.KeepControlRecords())
	defer cl.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var all []*kgo.Record
	for len(ends) > 0 {
		fetches := cl.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			t.Fatalf("reading %s, ends not reached %v: %v", topic, ends, err)
		}
		for _, r := range fetches.Records() {
			if !r.Attrs.IsControl() {
				all = append(all, r)
			}
			if r.Offset+1 >= ends[r.Partition] {
				delete(ends, r.Partition)
			}
		}
	}
	return all
}

// values are a topic's events, decoded as every consumer does.
func values[T any](t testing.TB, c *cluster, topic string) []T {
	t.Helper()
	serde := codec.For[T](c.codec, topic)
	var all []T
	for _, r := range c.read(t, topic) {
		if r.Value == nil {
			continue
		}
		var v T
		if err := serde.Decode(t.Context(), r.Value, &v); err != nil {
			t.Fatalf("%s/%d@%d: %v", topic, r.Partition, r.Offset, err)
		}
		all = append(all, v)
	}
	return all
}

// An archived is what the manifest says about one topic.
type archived struct {
	files      []event.ArchiveFile // partition by partition, in order
	rows, dead int64
	next       map[int32]int64
}

// manifest reads the archive's manifest of a topic, and fails where files leave a gap or overlap.
func (c *cluster) manifest(t testing.TB, topic string) archived {
	t.Helper()
	a := archived{next: map[int32]int64{}}
	for _, f := range values[event.ArchiveFile](t, c, schemas.ArchiveFiles) {
		if f.Topic == topic {
			a.files = append(a.files, f)
		}
	}
	slices.SortStableFunc(a.files, func(x, y event.ArchiveFile) int {
		if x.Partition != y.Partition {
			return int(x.Partition - y.Partition)
		}
		return int(x.First - y.First)
	})
	for _, f := range a.files {
		if f.First != a.next[f.Partition] || f.Next <= f.First {
			t.Fatalf("the archive of %s/%d has a file from %d to %d behind one that ends at %d", topic, f.Partition, f.First, f.Next, a.next[f.Partition])
		}
		a.next[f.Partition] = f.Next
		a.rows += f.Rows
		a.dead += f.DeadLetters
	}
	return a
}

// archivedWhole waits until the archive has all of a topic, which nobody may be writing to, and checks that each data
// record of the topic is one row or one dead letter.
func (c *cluster) archivedWhole(t testing.TB, topic string) archived {
	t.Helper()
	var a archived
	eventually(t, time.Minute, "archiving "+topic, func() string {
		a = c.manifest(t, topic)
		for p, end := range c.ends(t, topic) {
			if a.next[p] != end {
				return fmt.Sprintf("partition %d ends at %d, its archive at %d", p, end, a.next[p])
			}
		}
		return ""
	})
	if n := int64(len(c.read(t, topic))); a.rows+a.dead != n {
		t.Errorf("the archive of %s has %d rows and %d dead letters, the topic %d records", topic, a.rows, a.dead, n)
	}
	return a
}
