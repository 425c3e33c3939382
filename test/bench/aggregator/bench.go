package aggregator

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"databus/pkg/embedded"
	"databus/schemas"
	"databus/schemas/codec"
	"databus/test/measure"
	"databus/test/process"
	"databus/test/servers"
)

// Options are the sizes of a run. The defaults are those of `make bench-aggregator`.
type Options struct {
	Events  int           // default 3,000,000
	Keys    int           // rows of account, pack and period; default 90,000
	Pairs   int           // runs of each contender; default 3
	Rate    int           // events per second while latency is measured; default 500
	Warm    time.Duration // of the latency run, not measured; default 10 s
	Latency time.Duration // measured; default 20 s
	Variant string        // "plain", "dedup" or "" for both
	Only    string        // "databus" or "streams" alone, for profiling; ratios are left out then
	Quick   bool          // throughput only
	Listen  string        // of databus's operators' port while it runs; empty for none
	Set     []string      // more settings of databus, key=value
	Dir     string        // of binaries, state and logs; default a new temporary one, removed at the end
	Out     io.Writer     // default standard output
}

func (o *Options) complete() {
	def := func(v *int, d int) {
		if *v == 0 {
			*v = d
		}
	}
	def(&o.Events, 3_000_000)
	def(&o.Keys, 90_000)
	def(&o.Pairs, 3)
	def(&o.Rate, 500)
	if o.Warm == 0 {
		o.Warm = 10 * time.Second
	}
	if o.Latency == 0 {
		o.Latency = 20 * time.Second
	}
	if o.Out == nil {
		o.Out = os.Stdout
	}
}

// bench is what all runs share: the broker, the registry and the input.
type bench struct {
	o        Options
	machine  *measure.Machine
	addr     string
	broker   *servers.Process
	registry string
	admin    *kadm.Client
	codec    *codec.Codec
	in       *input
	tool     string // this bench's own command
}

// Run measures and prints. It returns an error where something did not work or an output was not exact; a goal that
// was missed is printed and is no error.
func Run(ctx context.Context, o Options) (err error) {
	o.complete()
	if o.Dir == "" {
		if o.Dir, err = os.MkdirTemp("", "bench-aggregator-"); err != nil {
			return fmt.Errorf("making a directory: %w", err)
		}
		defer func() {
			if err == nil {
				err = os.RemoveAll(o.Dir)
			}
		}()
	}
	b := &bench{o: o, tool: filepath.Join(o.Dir, "bench-aggregator"), machine: measure.Watch()}
	fmt.Fprintf(o.Out, "%d events, %d rows, %d pairs; load average %s before\n", o.Events, o.Keys, o.Pairs, b.machine.Load())
	if b.broker, err = servers.StartKafka(ctx, servers.Options{Heap: "1g"}); err != nil {
		return err
	}
	defer b.broker.Close()
	b.addr = b.broker.Addr
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
	client, err := b.newClient()
	if err != nil {
		return err
	}
	defer client.Close()
	b.admin = kadm.NewClient(client)
	defer func() {
		if b.in != nil {
			b.in.client.Close()
		}
	}()
	return b.compare(ctx)
}

// load fills the input anew, which all runs of a variant read: without what measuring the latency of another one has left.
func (b *bench) load(ctx context.Context) error {
	if err := b.recreate(ctx, "bench-load", []schemas.Topic{schemas.MustLookup(schemas.UsageEvents)}); err != nil {
		return err
	}
	if b.in != nil {
		b.in.client.Close() // it knows the topic that is gone
	}
	client, err := b.newClient(kgo.ProducerLinger(5*time.Millisecond), kgo.MaxBufferedRecords(100_000))
	if err != nil {
		return err
	}
	b.in = newInput(client, b.codec, b.o.Keys, 1)
	began := time.Now()
	if err := b.in.send(ctx, b.o.Events, true); err != nil {
		return err
	}
	fmt.Fprintf(b.o.Out, "loaded %d events in %.1f s\n", b.o.Events, time.Since(began).Seconds())
	return nil
}

// result of one throughput run.
type result struct {
	perCPU  float64 // events per CPU second of the process, from its start to its last commit
	late    float64 // the same over the last two thirds, where a JVM has compiled what is hot
	peak    int64   // bytes
	broker  time.Duration
	wall    time.Duration
	cpu     time.Duration
	outputs int
}

// throughput lets a fresh contender count everything. It still runs when this returns.
func (b *bench) throughput(ctx context.Context, c contender, dedup bool) (r result, p *process.Program, err error) {
	if err := c.fresh(ctx); err != nil {
		return r, nil, err
	}
	if err := b.machine.Warm(2 << 30); err != nil {
		return r, nil, err
	}
	brokerBefore, err := process.UsageOf(b.broker.PID())
	if err != nil {
		return r, nil, err
	}
	began := time.Now()
	if p, err = c.start(100*time.Millisecond, dedup); err != nil {
		return r, nil, err
	}
	total, err := b.total(ctx)
	if err != nil {
		return r, p, err
	}
	var early process.Usage
	var earlyAt int64
	at := int64(0)
	for at < total {
		time.Sleep(50 * time.Millisecond)
		if at, err = b.progress(ctx, c, p); err != nil {
			return r, p, err
		}
		if earlyAt == 0 && at >= total/3 {
			earlyAt = at
			if early, err = p.Usage(); err != nil {
				return r, p, err
			}
		}
		if time.Since(began) > 20*time.Minute {
			return r, p, fmt.Errorf("%s is not through in %v: %d of %d events", c.name(), time.Since(began), at, total)
		}
	}
	r.wall = time.Since(began)
	used, err := p.Usage()
	if err != nil {
		return r, p, err
	}
	brokerAfter, err := process.UsageOf(b.broker.PID())
	if err != nil {
		return r, p, err
	}
	r.cpu, r.peak, r.broker = used.CPU, used.Peak, brokerAfter.CPU-brokerBefore.CPU
	r.perCPU = float64(total) / max(0.01, used.CPU.Seconds())
	r.late = float64(total-earlyAt) / max(0.01, (used.CPU-early.CPU).Seconds())
	if r.outputs, err = b.verify(ctx, c.output(), dedup); err != nil {
		return r, p, err
	}
	return r, p, nil
}

// progress is the number of events that a contender has committed.
func (b *bench) progress(ctx context.Context, c contender, p *process.Program) (int64, error) {
	if err := p.Alive(); err != nil {
		return 0, err
	}
	return b.committed(ctx, c.group())
}

func (b *bench) total(ctx context.Context) (int64, error) {
	ends, err := b.ends(ctx, schemas.UsageEvents)
	n := int64(0)
	for _, end := range ends {
		n += end
	}
	return n, err
}

// caughtUp waits until a contender has committed everything.
func (b *bench) caughtUp(ctx context.Context, c contender, p *process.Program) error {
	total, err := b.total(ctx)
	if err != nil {
		return err
	}
	for began := time.Now(); ; time.Sleep(50 * time.Millisecond) {
		at, err := b.progress(ctx, c, p)
		if err != nil || at == total {
			return err
		}
		if time.Since(began) > 20*time.Minute {
			return fmt.Errorf("%s is not through in %v: %d of %d events", c.name(), time.Since(began), at, total)
		}
	}
}
