//go:build servers

package archiver

import (
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"databus/services/archiver"
	"databus/test/archiver/verify"
)

// TestMemoryOf500Partitions: one archiver has 500 partitions open, none of which is ever full. Its memory has a bound, and
// three times the data take hardly more of it.
func TestMemoryOf500Partitions(t *testing.T) {
	const partitions = 500
	w := realKafka(t)
	for _, name := range []string{"wide", "wide.dlq"} {
		if _, err := w.admin.CreateTopic(t.Context(), partitions, -1, nil, name); err != nil {
			t.Fatal(err)
		}
	}
	client, err := kgo.NewClient(append([]kgo.Opt{kgo.ProducerBatchCompression(kgo.ZstdCompression())}, append(w.opts, kgo.RecordPartitioner(kgo.ManualPartitioner()))...)...)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	produced := 0
	produce := func(perPartition int) {
		t.Helper()
		events, err := w.events(0, 1000)
		if err != nil {
			t.Fatal(err)
		}
		var failed error
		for i := range perPartition * partitions {
			r := *events[(i*7)%len(events)]
			r.Topic, r.Partition = "wide", int32(i%partitions)
			client.Produce(t.Context(), &r, func(_ *kgo.Record, err error) {
				if err != nil {
					failed = err
				}
			})
			produced++
		}
		if err := client.Flush(t.Context()); err != nil || failed != nil {
			t.Fatal(err, failed)
		}
	}
	i := w.newInstance("wide", 1_000_000)
	if err := i.start("archiver.patterns=wide*", "archiver.idle=4s"); err != nil {
		t.Fatal(err)
	}
	archived := func() int64 {
		t.Helper()
		for end := time.Now().Add(4 * time.Minute); ; time.Sleep(500 * time.Millisecond) {
			if err := i.Alive(); err != nil {
				t.Fatal(err)
			}
			behind, err := verify.BehindEnds(t.Context(), verify.Options{Kafka: w.opts, Topic: "wide", Group: archiver.Name})
			if err == nil && behind == 0 {
				used, err := i.Usage()
				if err != nil {
					t.Fatal(err)
				}
				return used.Peak
			}
			if time.Now().After(end) {
				t.Fatalf("%d partitions are behind, %v\n%s", behind, err, i.Tail())
			}
		}
	}
	produce(100)
	archived()
	produce(400) // more than what is fetched ahead
	first := archived()
	produce(1000)
	second := archived()
	if err := i.Stop(); err != nil {
		t.Fatal(err)
	}
	const bound = 400 << 20
	t.Logf("%d partitions: %d MiB with 500 records in each, %d MiB with 1,500", partitions, first>>20, second>>20)
	if second > bound || second > first+first/3 {
		t.Errorf("%d MiB after %d MiB; the bound is %d", second>>20, first>>20, bound>>20)
	}
}
