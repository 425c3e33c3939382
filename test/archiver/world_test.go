//go:build servers

package archiver

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"databus/pkg/blob"
	"databus/pkg/embedded"
	"databus/pkg/service"
	"databus/pkg/topics"
	"databus/schemas"
	"databus/schemas/codec"
	"databus/schemas/event"
	"databus/services/archiver"
	"databus/test/archiver/verify"
	"databus/test/process"
	"databus/test/servers"
)

// world is where a proof takes place: a broker with the topics of the archive, a registry and an S3 server with a bucket.
type world struct {
	t        testing.TB
	seeds    []string
	registry string
	codec    *codec.Codec
	store    servers.S3Config
	bucket   string
	dir      string
	sortBy   []string // of the archivers
	opts     []kgo.Opt
	admin    *kadm.Client
}

const (
	session = 2 * time.Second
	prefix  = "archive"
	topic   = schemas.UsageEvents
)

// newWorld makes a world on a broker that runs.
func newWorld(t testing.TB, brokers string) *world {
	t.Helper()
	registry, err := embedded.StartRegistry(embedded.RegistryOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = registry.Close() })
	w := &world{t: t, seeds: strings.Split(brokers, ","), registry: registry.URL(), store: servers.S3(t), dir: t.ArtifactDir()}
	w.codec = codec.New(codec.NewRegistry(w.registry), codec.Options{RegisterSchemas: true})
	w.opts = []kgo.Opt{kgo.SeedBrokers(w.seeds...), kgo.MetadataMinAge(100 * time.Millisecond), kgo.FetchMaxWait(200 * time.Millisecond),
		kgo.RecordPartitioner(service.Partitioner()), kgo.UnknownTopicRetries(-1)}
	client, err := kgo.NewClient(w.opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	w.admin = kadm.NewClient(client)
	var own []schemas.Topic
	for _, x := range schemas.WithDeadLetters() {
		// The archiver starts where there are no others than those that it is to archive.
		if slices.Contains([]string{topic, topic + ".dlq", schemas.ArchiveFiles}, x.Name) {
			own = append(own, x)
		}
	}
	if _, err := topics.Apply(t.Context(), w.admin, own, topics.Options{}); err != nil {
		t.Fatal(err)
	}
	t.Setenv("AWS_ACCESS_KEY_ID", w.store.AccessKey)
	t.Setenv("AWS_SECRET_ACCESS_KEY", w.store.SecretKey)
	w.bucket = w.newBucket()
	return w
}

// realKafka is a world on a broker of its own, because the proofs use the catalogue's topics.
func realKafka(t testing.TB) *world {
	t.Helper()
	kafka, err := servers.StartKafka(t.Context(), servers.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(kafka.Close)
	return newWorld(t, kafka.Addr)
}

func (w *world) newBucket() string {
	w.t.Helper()
	name := fmt.Sprintf("archive-%d-%d", os.Getpid(), time.Now().UnixNano()%1e12)
	if _, err := w.store.Client().CreateBucket(w.t.Context(), &s3.CreateBucketInput{Bucket: &name}); err != nil {
		w.t.Fatal(err)
	}
	return name
}

func (w *world) open(bucket string) blob.Bucket {
	w.t.Helper()
	b, err := blob.Open(w.t.Context(), w.store.BucketURL(bucket))
	if err != nil {
		w.t.Fatal(err)
	}
	return b
}

// config is the archiver's, small enough that there is always something to cut.
func (w *world) config(maxRecords int) archiver.Config {
	cfg := archiver.Default()
	cfg.Topics, cfg.Prefix, cfg.MaxRecords, cfg.SortBy = []string{topic}, prefix, maxRecords, w.sortBy
	cfg.Idle, cfg.RetryMax, cfg.SessionTimeout, cfg.TransactionTimeout = 300*time.Millisecond, 500*time.Millisecond, session, 5*time.Second
	return cfg
}

// load produces until stop is called: usage events in transactions, some of which are aborted; tombstones, records without a
// key, and some that are no events.
func (w *world) load(seed, rate int) (stop func()) {
	w.t.Helper()
	client, err := kgo.NewClient(append([]kgo.Opt{kgo.TransactionalID("load"), kgo.ProducerLinger(time.Millisecond)}, w.opts...)...)
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(w.t.Context())
	done := make(chan error, 1)
	go func() {
		defer client.Close()
		done <- func() error {
			for n := 0; ctx.Err() == nil; n++ {
				began := time.Now()
				if err := client.BeginTransaction(); err != nil {
					return err
				}
				records, err := w.events(seed+n*40, 40)
				if err == nil {
					err = client.ProduceSync(w.t.Context(), records...).FirstErr()
				}
				if err == nil {
					err = client.EndTransaction(w.t.Context(), kgo.TransactionEndTry(n%9 != 4))
				}
				if err != nil {
					return fmt.Errorf("producing the load: %w", err)
				}
				time.Sleep(time.Until(began.Add(40 * time.Second / time.Duration(rate))))
			}
			return nil
		}()
	}()
	return sync.OnceFunc(func() {
		w.t.Helper()
		cancel()
		if err := <-done; err != nil {
			w.t.Fatal(err)
		}
	})
}

func (w *world) events(from, n int) ([]*kgo.Record, error) {
	serde := codec.For[event.UsageEvent](w.codec, topic)
	var records []*kgo.Record
	for i := from; i < from+n; i++ {
		account := fmt.Sprintf("account-%d", i%61)
		value, err := serde.Encode(w.t.Context(), &event.UsageEvent{EventID: fmt.Sprintf("event-%d", i), Account: account, Pack: "person",
			OccurredAt: time.UnixMicro(1_767_000_000_000_000 + int64(i)), Quantity: int64(i % 5), Status: 200})
		if err != nil {
			return nil, err
		}
		r := &kgo.Record{Topic: topic, Key: []byte(account), Value: value}
		switch i % 37 {
		case 3:
			r.Value = nil
		case 5:
			r.Key = nil
		case 7:
			r.Value = value[:len(value)/2]
		case 11:
			r.Headers = []kgo.RecordHeader{{Key: "traceparent", Value: []byte("00-1")}, {Key: "empty", Value: []byte{}}, {Key: "none"}}
		}
		records = append(records, r)
	}
	return records, nil
}

// options say what the verifier verifies.
func (w *world) options(bucket string) verify.Options {
	return verify.Options{Kafka: w.opts, Codec: w.codec, S3: w.store, Bucket: bucket, Prefix: prefix, Topic: topic, Group: archiver.Name, Dir: filepath.Join(w.dir, bucket)}
}

// archived waits until everything that was committed is.
func (w *world) archived(within time.Duration, describe func() string) {
	w.t.Helper()
	for end := time.Now().Add(within); ; time.Sleep(200 * time.Millisecond) {
		behind, err := verify.Behind(w.t.Context(), w.options(w.bucket))
		if err == nil && behind == 0 {
			return
		}
		if time.Now().After(end) {
			w.t.Fatalf("%d partitions are behind, %v\n%s", behind, err, describe())
		}
	}
}

// backfill makes all objects of the manifest again, in an empty bucket.
func (w *world) backfill(bucket string) archiver.Backfilled {
	w.t.Helper()
	sum, err := archiver.Backfill{Config: w.config(1000), Topic: topic, Parts: archiver.Parts{
		Client: w.opts, TransactionalID: "backfill", Bucket: w.open(bucket), Codec: w.codec, SpoolDir: w.t.TempDir(), Log: slog.New(slog.DiscardHandler),
	}}.Run(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	return sum
}

// binaries are built once for all tests of the process.
var binaries process.Binaries

// programs returns the directory of the programs.
func programs(t testing.TB) string {
	t.Helper()
	dir, err := binaries.Build("databus/services/archiver/cmd/archiver", "databus/test/archiver/cmd/instance")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}
