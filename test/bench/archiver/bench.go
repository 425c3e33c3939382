// Package archiver measures databus/services/archiver against the same work on the JVM (databus/test/bench/sinks): `make
// bench-archiver`.
//
// # What is measured
//
// One real Kafka broker holds usage events and Databus records in the registry's wire format; a real S3 server takes what is
// written. The contenders take turns, each run into a bucket of its own:
//
//	databus   the archiver with its defaults: dead letters, manifest and transactions included, each offset once
//	connect   Kafka Connect 4.3.1 with Apache Iceberg's sink 1.12.0, two connectors of a task each: the value's columns alone,
//	          exactly once in its tables, in a listing of the bucket not
//	consumer  a consumer written for this with parquet-java, a thread on each core, at least once: see ParquetConsumer.java
//
// All three write zstd of level 1. CPU time and memory are the process's own, by the kernel, from its start until everything is
// committed. Rows are those that the manifest, the tables' snapshots or the objects' footers say, and a run in which they
// are another number than was sent is an error.
//
//	rows_per_cpu_second_ratio           databus by connect
//	rss_ratio                           largest resident set, databus by connect
//	size_ratio                          bytes of all objects, databus by connect; databus has keys, offsets and times as well
//	rows_per_cpu_second_ratio_consumer  databus from its start, by the consumer when it is warm: it copies everything twice, and the
//	                                    second time counts
//
// Figures are medians over the runs; the load average and the share of time that a host gave to others are printed beside each.
// Memory that the host of a virtual machine took back is touched before each run: who brings more data through files than
// the others would else pay for it, the first run most.
//
// Concurrency: Run is for one goroutine. Failure: what does not work is an error with the end of the process's log. A missed
// goal is printed and is no error.
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
	"os"
	"slices"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"databus/pkg/service"
	"databus/pkg/topics"
	"databus/schemas"
	"databus/schemas/codec"
	"databus/schemas/event"
	"databus/test/measure"
	"databus/test/process"
	"databus/test/servers"
)

// Options are the sizes of a run. The defaults are those of `make bench-archiver`.
type Options struct {
	Events, Records int // usage events and Databus records; default 5,000,000 each
	Runs            int // default 3
	Out             io.Writer
	Only            []string // these contenders alone; ratios to those that did not run are left out
	Set             []string // more settings of the archiver, key=value
	Dir             string   // of the binary, spools and logs; default a new temporary one
}

type bench struct {
	o        Options
	machine  *measure.Machine
	addr     string
	registry string // URL of the Confluent API
	apicurio string // URL of the registry's own API
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
	b := &bench{o: o, machine: measure.Watch()}
	fmt.Fprintf(o.Out, "%d usage events and %d Databus records, %d runs; load average %s before\n", o.Events, o.Records, o.Runs, b.machine.Load())
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
	// A real one, because Connect's converter speaks the registry's own API.
	registry, err := servers.StartRegistry(ctx, servers.Options{})
	if err != nil {
		return err
	}
	defer registry.Close()
	b.registry, b.apicurio = servers.RegistryURL(registry), "http://"+registry.Addr+"/apis/registry/v2"
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
	sides, err := b.sides(ctx)
	if err != nil {
		return err
	}
	began := time.Now()
	if err := b.send(ctx); err != nil {
		return err
	}
	fmt.Fprintf(o.Out, "sent in %.1f s\n", time.Since(began).Seconds())
	for n := range o.Runs {
		for i := range sides {
			s := sides[(i+n)%len(sides)] // who is first changes
			r, err := b.run(ctx, s.contender, n)
			if err != nil {
				return fmt.Errorf("%s, run %d: %w", s.name(), n+1, err)
			}
			s.runs = append(s.runs, r)
			warm := ""
			if r.warm > 0 {
				warm = fmt.Sprintf(" (%.0f k when warm)", r.warm/1000)
			}
			fmt.Fprintf(o.Out, "%s, run %d: %.0f k rows per CPU second%s, %.1f s of CPU in %.1f s, %d MiB at most, %d objects of %.1f MB in all, %.2f of what was sent (load %s)\n",
				s.name(), n+1, r.perSecond()/1000, warm, r.CPU.Seconds(), r.took.Seconds(), r.Peak>>20, r.objects, float64(r.bytes)/1e6, float64(r.bytes)/float64(b.bytes), b.machine.Load())
		}
	}
	fmt.Fprintf(o.Out, "load average %s after\n", b.machine.Load())
	for _, f := range figures(sides) {
		f.Print(o.Out)
	}
	return nil
}

// side is a contender and its runs.
type side struct {
	contender
	runs []result
}

func (s *side) median(of func(result) float64) float64 {
	var v []float64
	for _, r := range s.runs {
		v = append(v, of(r))
	}
	return measure.Median(v)
}

// sides are all contenders, or the one that is asked for.
func (b *bench) sides(ctx context.Context) (sides []*side, err error) {
	for _, of := range []struct {
		name string
		make func(context.Context, *bench) (contender, error)
	}{{"databus", newOurs}, {"connect", newConnect}, {"consumer", newConsumer}} {
		if len(b.o.Only) > 0 && !slices.Contains(b.o.Only, of.name) {
			continue
		}
		c, err := of.make(ctx, b)
		if err != nil {
			return nil, fmt.Errorf("preparing %s: %w", of.name, err)
		}
		sides = append(sides, &side{contender: c})
	}
	if len(sides) == 0 {
		return nil, fmt.Errorf("%q are none of databus, connect and consumer", b.o.Only)
	}
	return sides, nil
}

func figures(sides []*side) (all []measure.Figure) {
	cold := func(r result) float64 { return r.perSecond() }
	warm := func(r result) float64 { return r.warm }
	peak := func(r result) float64 { return float64(r.Peak) / (1 << 20) }
	size := func(r result) float64 { return float64(r.bytes) / 1e6 }
	by := map[string]*side{}
	for _, s := range sides {
		by[s.name()] = s
		all = append(all,
			measure.Figure{Name: s.name() + "_rows_per_cpu_second", Value: s.median(cold), Unit: "rows", None: true},
			measure.Figure{Name: s.name() + "_rss_mb", Value: s.median(peak), Unit: "MiB", None: true},
			measure.Figure{Name: s.name() + "_size_mb", Value: s.median(size), Unit: "MB", None: true})
	}
	us, connect, consumer := by["databus"], by["connect"], by["consumer"]
	if us != nil && connect != nil {
		all = append(all,
			measure.Figure{Name: "rows_per_cpu_second_ratio", Value: us.median(cold) / connect.median(cold), Unit: "x", Goal: 4},
			measure.Figure{Name: "rss_ratio", Value: us.median(peak) / connect.median(peak), Unit: "x", Goal: 0.5, AtMost: true},
			measure.Figure{Name: "size_ratio", Value: us.median(size) / connect.median(size), Unit: "x", None: true})
	}
	if consumer != nil {
		all = append(all, measure.Figure{Name: "consumer_warm_rows_per_cpu_second", Value: consumer.median(warm), Unit: "rows", None: true})
	}
	if us != nil && consumer != nil {
		all = append(all, measure.Figure{Name: "rows_per_cpu_second_ratio_consumer", Value: us.median(cold) / consumer.median(warm), Unit: "x", Goal: 1.5})
	}
	return all
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
	stored
	took time.Duration
	warm float64 // rows per CPU second of a warmer's second time
}

// stored is what a run has brought into the bucket, all of it committed.
type stored struct {
	rows, bytes int64
	objects     int
}

func (r result) perSecond() float64 { return float64(r.rows) / r.CPU.Seconds() }

// run lets a contender copy everything into a bucket of its own.
func (b *bench) run(ctx context.Context, c contender, n int) (r result, err error) {
	bucket := fmt.Sprintf("bench-%s-%d", c.name(), n)
	if _, err := b.store.Client().CreateBucket(ctx, &s3.CreateBucketInput{Bucket: &bucket}); err != nil {
		return r, fmt.Errorf("creating a bucket: %w", err)
	}
	cmd, err := c.prepare(ctx, bucket, n)
	if err != nil {
		return r, err
	}
	defer c.done()
	if err := b.machine.Warm(8 << 30); err != nil {
		return r, err
	}
	p := &process.Program{Name: c.name(), Log: b.path(c.name() + ".log")}
	began := time.Now()
	if err := p.Start(cmd); err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, p.Kill()) }()
	if r.stored, r.Usage, err = b.copied(ctx, c, p); err != nil {
		return r, err
	}
	r.took = time.Since(began)
	if w, ok := c.(warmer); ok {
		if err := w.again(); err != nil {
			return r, err
		}
		s, used, err := b.copied(ctx, c, p)
		if err != nil {
			return r, fmt.Errorf("the second time: %w", err)
		}
		r.warm = float64(s.rows) / (used.CPU - r.CPU).Seconds()
	}
	return r, c.stop(p)
}

// copied waits until everything is in the bucket and committed.
func (b *bench) copied(ctx context.Context, c contender, p *process.Program) (s stored, used process.Usage, err error) {
	want, at := int64(b.o.Events+b.o.Records), int64(0)
	for began := time.Now(); at < want; {
		select {
		case <-ctx.Done():
			return s, used, ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
		if at, err = c.progress(ctx); err != nil {
			return s, used, err
		}
		if used, err = p.Usage(); err != nil {
			return s, used, err
		}
		if time.Since(began) > 30*time.Minute {
			return s, used, fmt.Errorf("it is not through in %v: %d of %d rows\n%s", time.Since(began), at, want, p.Tail())
		}
	}
	if s, err = c.stored(ctx); err == nil && s.rows != want {
		err = fmt.Errorf("%d rows are in the bucket, %d were sent", s.rows, want)
	}
	return s, used, err
}
