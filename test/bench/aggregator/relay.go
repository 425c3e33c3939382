package aggregator

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"databus/pkg/service"
	"databus/schemas"
	"databus/test/measure"
)

const (
	relayGroup  = "bench-relay"
	relayOutput = "bench.relay"
)

// Relay copies usage.events to another topic until ctx ends, exactly once, with transactions that end an interval apart. It
// decodes and keeps nothing: the least that an answer in such transactions takes with this client.
func Relay(ctx context.Context, brokers string, interval time.Duration) error {
	s, err := kgo.NewGroupTransactSession(kgo.SeedBrokers(strings.Split(brokers, ",")...), kgo.ConsumerGroup(relayGroup), kgo.ConsumeTopics(schemas.UsageEvents),
		kgo.TransactionalID(relayGroup), kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.RecordPartitioner(service.Partitioner()),
		kgo.ProducerLinger(0))
	if err != nil {
		return fmt.Errorf("making a client: %w", err)
	}
	defer s.Close()
	for next := time.Now(); ctx.Err() == nil; { // when a transaction may end
		fetches := s.PollFetches(ctx)
		if fetches.NumRecords() == 0 {
			continue
		}
		if err := s.Begin(); err != nil {
			return fmt.Errorf("beginning a transaction: %w", err)
		}
		for {
			fetches.EachRecord(func(rec *kgo.Record) {
				s.Produce(ctx, &kgo.Record{Topic: relayOutput, Key: rec.Key, Value: rec.Value}, nil)
			})
			left := time.Until(next)
			if left <= 0 {
				break
			}
			pctx, cancel := context.WithTimeout(ctx, left)
			fetches = s.PollFetches(pctx)
			cancel()
		}
		if now := time.Now(); now.Sub(next) > interval { // it was quiet
			next = now
		}
		next = next.Add(interval)
		if committed, err := s.End(ctx, kgo.TryCommit); ctx.Err() == nil && (err != nil || !committed) {
			return fmt.Errorf("ending a transaction: committed %v: %w", committed, err)
		}
	}
	return nil
}

// relays measures Relay with the contenders' interval, and with transactions that follow each other at once.
func (b *bench) relays(ctx context.Context) (figures []measure.Figure, err error) {
	for _, r := range []struct {
		suffix   string
		interval time.Duration
	}{{"", commitForLatency}, {"_at_once", time.Millisecond}} {
		ms, err := b.relay(ctx, r.interval)
		if err != nil {
			return nil, fmt.Errorf("relay: %w", err)
		}
		p50, p99 := measure.Quantile(ms, 0.5), measure.Quantile(ms, 0.99)
		fmt.Fprintf(b.o.Out, "relay: produce to copy at %d events/s, commit %v: p50 %.1f ms, p99 %.1f ms\n", b.o.Rate, r.interval, p50, p99)
		figures = append(figures, measure.Figure{Name: "relay_latency_p50" + r.suffix, Value: p50, Unit: "ms", None: true},
			measure.Figure{Name: "relay_latency_p99" + r.suffix, Value: p99, Unit: "ms", None: true})
	}
	return figures, nil
}

// relay measures the latency of Relay as that of a contender.
func (b *bench) relay(ctx context.Context, interval time.Duration) (ms []float64, err error) {
	t := schemas.MustLookup(schemas.UsageCounts)
	t.Name = relayOutput
	if err := b.recreate(ctx, relayGroup, []schemas.Topic{t}); err != nil {
		return nil, err
	}
	ends, err := b.ends(ctx, schemas.UsageEvents)
	if err != nil {
		return nil, err
	}
	at := kadm.Offsets{}
	for p, end := range ends {
		at.AddOffset(schemas.UsageEvents, p, end, -1)
	}
	if err := b.admin.CommitAllOffsets(ctx, relayGroup, at); err != nil {
		return nil, fmt.Errorf("setting the offsets of %s: %w", relayGroup, err)
	}
	p, err := b.program("relay", "relay.log", exec.Command(b.tool, "--relay", interval.String(), "--brokers", b.addr))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, p.Stop()) }()
	return b.turnaround(ctx, "probe-relay-"+interval.String()+"-", relayOutput, p)
}
