package aggregator

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/sync/errgroup"

	"databus/schemas"
	"databus/schemas/codec"
	"databus/schemas/event"
	"databus/test/servers/fetch"
)

// Consume reads all of usage.events and decodes every event into a struct, partitions in parallel as the service does it,
// with no state and no output: the ceiling of any consumer with this client and this codec. It runs in a process of its own,
// whose CPU time is the measure, and returns the number of events.
func Consume(ctx context.Context, brokers, registry string) (int64, error) {
	c, err := kgo.NewClient(kgo.SeedBrokers(strings.Split(brokers, ",")...), kgo.ConsumeTopics(schemas.UsageEvents),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.FetchMaxWait(500*time.Millisecond))
	if err != nil {
		return 0, fmt.Errorf("making a client: %w", err)
	}
	defer c.Close()
	ends, err := kadm.NewClient(c).ListEndOffsets(ctx, schemas.UsageEvents)
	if err != nil {
		return 0, fmt.Errorf("asking for the end of %s: %w", schemas.UsageEvents, err)
	}
	total := int64(0)
	ends.Each(func(o kadm.ListedOffset) { total += o.Offset })
	serde := codec.For[event.UsageEvent](codec.New(codec.NewRegistry(registry), codec.Options{}), schemas.UsageEvents)
	events := sync.Pool{New: func() any { return new(event.UsageEvent) }}
	var n atomic.Int64
	for n.Load() < total {
		fetches := c.PollRecords(ctx, 20_000)
		if err := fetches.Err(); err != nil {
			return n.Load(), fmt.Errorf("consuming %s: %w", schemas.UsageEvents, err)
		}
		var g errgroup.Group
		fetches.EachPartition(func(p kgo.FetchTopicPartition) {
			g.Go(func() error {
				e := events.Get().(*event.UsageEvent)
				defer events.Put(e)
				for _, rec := range p.Records {
					*e = event.UsageEvent{}
					if err := serde.Decode(ctx, rec.Value, e); err != nil {
						return err
					}
				}
				n.Add(int64(len(p.Records)))
				return nil
			})
		})
		if err := g.Wait(); err != nil {
			return n.Load(), err
		}
	}
	return n.Load(), nil
}

// ceiling returns the events per CPU second of Consume.
func (b *bench) ceiling(ctx context.Context) (float64, error) {
	total, err := b.total(ctx)
	if err != nil {
		return 0, err
	}
	cmd := exec.CommandContext(ctx, b.tool, "--consume", "--brokers", b.addr, "--registry", b.registry)
	if out, err := cmd.CombinedOutput(); err != nil {
		return 0, fmt.Errorf("running the ceiling: %w\n%s", err, fetch.Tail(out, 25))
	}
	cpu := cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	return float64(total) / max(0.01, cpu.Seconds()), nil
}
