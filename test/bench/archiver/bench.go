// Package archiver measures the archiver: usage events and Databus records from one real broker to a real S3 server, dead
// letters, manifest and transactions included.
//
// Promise: CPU time and memory are the archiver's own process's, by the kernel; rows are those that the manifest names, and a run in
// which it names another number than was sent is an error.
//
// Failure: what does not work is an error with the end of the process's log. A missed goal is printed and is no error.
package archiver

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"databus/pkg/embedded"
	"databus/pkg/history"
	"databus/pkg/service"
	"databus/pkg/topics"
	"databus/schemas"
	"databus/schemas/codec"
	"databus/schemas/event"
	"databus/test/measure"
	"databus/test/process"
	"databus/test/servers"
	"databus/test/servers/fetch"
)

// Options are the sizes of a run. The defaults are those of `make bench-archiver`.
type Options struct {
	Events, Records int // usage events and Databus records; default 5,000,000 each
	Runs            int // default 3
	Out             io.Writer
	Set             []string // more settings of the archiver, key=value
	Dir             string   // of the binary, the spool and logs; default a new temporary one
}

type bench struct {
	o        Options
	addr     string
	registry string
	store    *servers.S3Server
	codec    *codec.Codec
	client   *kgo.Client
	admin    *kadm.Client
	bytes    int64 // of keys and values that were sent
}

// Run measures and prints.
func Run(ctx context.Context, o Options) (err error) {
	if o.Out == nil {
		o.Out = os.Stdout
	}
	if o.Dir == "" {
		if o.Dir, err = os.MkdirTemp("", "bench-archiver-"); err != nil {
			return fmt.Errorf("making a directory: %w", err)
		}
		defer func() { _ = os.RemoveAll(o.Dir) }()
	}
	b := &bench{o: o}
	fmt.Fprintf(o.Out, "%d usage events and %d Databus records, %d runs; load average %s before\n", o.Events, o.Records, o.Runs, measure.Load())
	broker, err := servers.StartKafka(ctx, servers.Options{Heap: "1g"})
	if err != nil {
		return err
	}
	defer broker.Close()
	b.addr = broker.Addr
	if b.store, err = servers.StartS3(ctx, servers.Options{}); err != nil {
		return err
	}
	defer b.store.Close()
	registry, err := embedded.StartRegistry(embedded.RegistryOptions{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, registry.Close()) }()
	b.registry = registry.URL()
	known := codec.NewRegistry(b.registry)
	if err := codec.RegisterCatalogue(ctx, known, nil); err != nil {
		return err
	}
	b.codec = codec.New(known, codec.Options{})
	b.client, err = kgo.NewClient(kgo.SeedBrokers(b.addr), kgo.RecordPartitioner(service.Partitioner()), kgo.MetadataMinAge(200*time.Millisecond),
		kgo.ProducerLinger(5*time.Millisecond), kgo.MaxBufferedRecords(100_000), kgo.ProducerBatchCompression(kgo.ZstdCompression()))
	if err != nil {
		return err
	}
	defer b.client.Close()
	b.admin = kadm.NewClient(b.client)
	if _, err := topics.Apply(ctx, b.admin, schemas.WithDeadLetters(), topics.Options{}); err != nil {
		return err
	}
	if err := b.send(ctx); err != nil {
		return err
	}
	program := filepath.Join(o.Dir, "archiver")
	if err := fetch.Run(ctx, ".", nil, "go", "build", "-o", program, "databus/services/archiver/cmd/archiver"); err != nil {
		return err
	}
	var rows, peaks, sizes []float64
	for n := range o.Runs {
		r, err := b.archive(ctx, program, n)
		if err != nil {
			return err
		}
		fmt.Fprintf(o.Out, "run %d: %.0f k rows per CPU second, %.1f s of CPU in %.1f s, %d MiB at most, %d objects of %.1f MB in all, %.2f of what was sent\n",
			n+1, r.perSecond()/1000, r.CPU.Seconds(), r.took.Seconds(), r.Peak>>20, r.objects, float64(r.bytes)/1e6, float64(r.bytes)/float64(b.bytes))
		rows, peaks, sizes = append(rows, r.perSecond()), append(peaks, float64(r.Peak)/(1<<20)), append(sizes, float64(r.bytes)/1e6)
	}
	fmt.Fprintf(o.Out, "load average %s after\n", measure.Load())
	for _, f := range []measure.Figure{
		{Name: "rows_per_cpu_second", Value: measure.Median(rows), Unit: "rows", None: true},
		{Name: "rss_mb", Value: measure.Median(peaks), Unit: "MiB", None: true},
		{Name: "size_mb", Value: measure.Median(sizes), Unit: "MB", None: true},
	} {
		f.Print(o.Out)
	}
	return nil
}

// send fills the topics, which all runs read.
func (b *bench) send(ctx context.Context) error {
	rng := rand.New(rand.NewPCG(5, 5))
	usage := codec.For[event.UsageEvent](b.codec, schemas.UsageEvents)
	records := codec.For[event.DatabusRecord](b.codec, schemas.DatabusRecords)
	failed := make(chan error, 1)
	produce := func(topic, key string, value []byte, err error) error {
		if err != nil {
			return fmt.Errorf("making a record of %s: %w", topic, err)
		}
		b.bytes += int64(len(key) + len(value))
		b.client.Produce(ctx, &kgo.Record{Topic: topic, Key: []byte(key), Value: value}, func(_ *kgo.Record, err error) {
			if err != nil {
				select {
				case failed <- err:
				default:
				}
			}
		})
		return nil
	}
	month := time.Now().UTC().AddDate(0, -1, 0)
	for i := range b.o.Events {
		e := event.UsageEvent{EventID: fmt.Sprintf("%08x-%012x", rng.Uint32(), i), Account: fmt.Sprintf("acct-%05d", rng.IntN(15_000)), Pack: "person",
			OccurredAt: month.Add(time.Duration(rng.Int64N(int64(28 * 24 * time.Hour)))).Truncate(time.Microsecond), Quantity: 1 + rng.Int64N(3), Status: 200,
			Endpoint: "/v1/person/enrich", AmountMicros: rng.Int64N(50_000)}
		value, err := usage.Encode(ctx, &e)
		if err := produce(schemas.UsageEvents, e.Account, value, err); err != nil {
			return err
		}
	}
	payload := make([]byte, 300) // sealed, so it does not shrink
	for i := range b.o.Records {
		for n := 0; n+8 <= len(payload); n += 8 {
			binary.LittleEndian.PutUint64(payload[n:], rng.Uint64())
		}
		sum := sha256.Sum256(binary.LittleEndian.AppendUint64(nil, uint64(i)))
		r := &event.DatabusRecord{Account: fmt.Sprintf("acct-%05d", i%15_000), RecordKey: hex.EncodeToString(sum[:16]), Kind: event.RecordKindUpsert,
			RequestID: fmt.Sprintf("request-%012x", i), KeyID: "key-1", PayloadSchema: sum[16:24], Sealed: payload[:200+rng.IntN(100)]}
		value, err := records.Encode(ctx, r)
		if err := produce(schemas.DatabusRecords, schemas.JoinKey(r.Account, r.RecordKey), value, err); err != nil {
			return err
		}
	}
	if err := b.client.Flush(ctx); err != nil {
		return fmt.Errorf("sending: %w", err)
	}
	select {
	case err := <-failed:
		return fmt.Errorf("sending: %w", err)
	default:
		return nil
	}
}

// result is one run.
type result struct {
	process.Usage
	rows, bytes int64
	objects     int
	took        time.Duration
}

func (r result) perSecond() float64 { return float64(r.rows) / r.CPU.Seconds() }

// archive runs the archiver on everything, into a bucket of its own.
func (b *bench) archive(ctx context.Context, program string, n int) (r result, err error) {
	bucket, dir := fmt.Sprintf("bench-%d", n), filepath.Join(b.o.Dir, fmt.Sprint("state-", n))
	if _, err := b.store.Client().CreateBucket(ctx, &s3.CreateBucketInput{Bucket: &bucket}); err != nil {
		return r, fmt.Errorf("creating a bucket: %w", err)
	}
	if err := b.fresh(ctx); err != nil {
		return r, err
	}
	var args []string
	for _, s := range append([]string{
		"kafka.brokers=" + b.addr, "registry.url=" + b.registry, "instance.id=bench", "instance.state_dir=" + dir, "http.listen=", "log.level=warn",
		fmt.Sprintf("bucket.url=s3://%s?path_style=true&region=%s&endpoint=%s", bucket, b.store.Region, url.QueryEscape(b.store.Endpoint)),
		"archiver.idle=5s",
	}, b.o.Set...) {
		args = append(args, "--set", s)
	}
	manifest, err := history.Follow(ctx, []kgo.Opt{kgo.SeedBrokers(b.addr), kgo.FetchMaxWait(100 * time.Millisecond)}, b.codec, "", nil)
	if err != nil {
		return r, err
	}
	defer manifest.Close()
	began := time.Now()
	p := &process.Program{Name: "archiver", Log: filepath.Join(b.o.Dir, "archiver.log")}
	cmd := exec.Command(program, args...)
	cmd.Env = append(cmd.Environ(), "AWS_ACCESS_KEY_ID="+b.store.AccessKey, "AWS_SECRET_ACCESS_KEY="+b.store.SecretKey)
	if err := p.Start(cmd); err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, p.Kill()) }()
	want := int64(b.o.Events + b.o.Records)
	for deadline := began.Add(30 * time.Minute); r.rows < want; time.Sleep(50 * time.Millisecond) {
		if r.Usage, err = p.Usage(); err != nil {
			return r, err
		}
		r.rows, r.bytes, r.objects = 0, 0, 0
		for _, f := range manifest.Files() {
			r.rows, r.bytes, r.objects = r.rows+f.Rows+f.DeadLetters, r.bytes+f.Bytes, r.objects+1
		}
		if ctx.Err() != nil || time.Now().After(deadline) {
			return r, fmt.Errorf("%d of %d rows are archived", r.rows, want)
		}
	}
	r.took = time.Since(began)
	if r.rows != want {
		return r, fmt.Errorf("%d rows are archived, %d were sent", r.rows, want)
	}
	if r.Usage, err = p.Usage(); err != nil {
		return r, err
	}
	return r, p.Stop()
}

// fresh forgets what the run before committed.
func (b *bench) fresh(ctx context.Context) error {
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(200 * time.Millisecond) {
		_, _ = b.admin.LeaveGroup(ctx, kadm.LeaveGroup("archiver").InstanceIDs("archiver.archiver.bench"))
		_, _ = b.admin.DeleteGroups(ctx, "archiver")
		_, _ = b.admin.DeleteTopics(ctx, schemas.ArchiveFiles)
		groups, err := b.admin.ListGroups(ctx)
		listed, err2 := b.admin.ListTopics(ctx, schemas.ArchiveFiles)
		_, there := groups["archiver"]
		if err == nil && err2 == nil && !there && !listed.Has(schemas.ArchiveFiles) {
			break
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the run before does not go away: %w", errors.Join(err, err2))
		}
	}
	_, err := topics.Apply(ctx, b.admin, schemas.WithDeadLetters(), topics.Options{})
	return err
}
