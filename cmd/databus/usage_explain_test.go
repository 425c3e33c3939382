package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"databus/pkg/service"
	"databus/schemas"
	"databus/schemas/codec"
	"databus/schemas/event"
	usageaggregator "databus/services/usage-aggregator"
)

// A counting is a running aggregator and what it is given, all of account acme.
type counting struct {
	*stack
	t    *testing.T
	c    *codec.Codec
	opts []kgo.Opt
	adm  *kadm.Client
	home int32
	n    int
}

func startCounting(t *testing.T, cfg usageaggregator.Config) *counting {
	t.Helper()
	topics := usageaggregator.Topology().Topics()
	names := []string{schemas.UsageCounts, schemas.ArchiveFiles}
	for _, topic := range topics {
		names = append(names, topic.Name)
	}
	s := readyStack(t, names...)
	c := codec.New(codec.NewRegistry(s.Registry.URL()), codec.Options{})
	env := &service.Env{Service: usageaggregator.Name, Instance: "0", StateDir: t.TempDir(), Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry(),
		Health: service.NewHealth(), Brokers: s.Broker.Seeds(), Codec: c, StuckAfter: time.Minute, DrainTimeout: time.Minute}
	r, err := usageaggregator.New(t.Context(), env, cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return &counting{stack: s, t: t, c: c, opts: target{brokers: s.Broker.Seeds()}.options(), adm: kadm.NewClient(s.client(t)),
		home: schemas.Partition(schemas.UsageEvents, []byte("acme"), 8)}
}

// usage sends an event that happened some time ago, and returns its offset.
func (c *counting) usage(id string, ago time.Duration, quantity int64) int64 {
	c.t.Helper()
	c.n++
	return put(c.t, c.opts, c.c, schemas.UsageEvents, "acme", &event.UsageEvent{EventID: id, Account: "acme", Pack: []string{"person", "firm"}[c.n%2],
		OccurredAt: time.Now().Add(-ago), Quantity: quantity, Status: []int32{200, 404}[c.n%3/2], AmountMicros: 7}).Offset
}

// contract puts a contract into force: what comes before and behind it is counted before and behind it.
func (c *counting) contract(version int64, zone string, startedDaysAgo int) {
	c.t.Helper()
	c.counted()
	put(c.t, c.opts, c.c, schemas.UsageContracts, "acme", &event.Contract{Account: "acme", Version: version, TimeZone: zone,
		StartsAt: time.Now().AddDate(0, 0, -startedDaysAgo).Truncate(24 * time.Hour), Packs: []event.ContractPack{
			{Pack: "*", Period: event.PeriodContractMonth, Limit: 1000, Thresholds: []event.Threshold{}}}})
	c.counted()
}

// counted waits until nothing is left to count.
func (c *counting) counted() {
	c.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		behind := int64(0)
		ends, err := c.adm.ListEndOffsets(c.t.Context(), schemas.UsageEvents, schemas.UsageContracts)
		if err != nil {
			c.t.Fatal(err)
		}
		at, err := c.adm.FetchOffsets(c.t.Context(), usageaggregator.Name)
		ends.Each(func(o kadm.ListedOffset) {
			if have, ok := at.Lookup(o.Topic, o.Partition); err == nil && ok {
				behind += o.Offset - have.At
			} else {
				behind += o.Offset
			}
		})
		if behind == 0 {
			return
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("%d records are not counted", behind)
		}
	}
}

func (c *counting) explain(period, pack string, more ...string) (x struct {
	explanation
	Set int64 `json:"bounds"`
}, r result) {
	c.t.Helper()
	r = c.run(c.t, append([]string{"usage", "explain", "acme", "--period", period, "--pack", pack, "--format", "json", "--dedup-window", "200ms", "--keep-ended", "48h"}, more...)...)
	if err := json.Unmarshal([]byte(r.out), &x); err != nil {
		c.t.Fatalf("%v: %s %s", err, r.out, r.err)
	}
	return x, r
}

// Whatever the aggregator has counted is explained: under contracts that begin periods anew, with events that came too
// late to be counted, and where the log's beginning is gone, as far as it can be.
func TestUsageExplainFollowsTheAggregator(t *testing.T) {
	cfg := usageaggregator.Default()
	cfg.CommitInterval, cfg.DedupWindow, cfg.KeepEnded = 10*time.Millisecond, 200*time.Millisecond, 48*time.Hour
	c := startCounting(t, cfg)
	window := func() { time.Sleep(cfg.DedupWindow + 50*time.Millisecond) }
	c.usage("a", 0, 1)
	c.usage("b", 26*time.Hour, 2)
	window()
	c.contract(1, "Pacific/Kiritimati", 40)
	c.usage("c", 0, 4)
	c.usage("d", 30*time.Hour, 8)
	c.usage("late", 49*time.Hour, 1000)
	last := c.usage("e", time.Hour, 16)
	c.usage("e", time.Hour, 16)
	window()
	c.contract(2, "America/New_York", 20)
	c.usage("f", 0, 32)
	c.usage("g", 0, -3)
	c.usage("a", 0, 64) // its window is over
	c.usage("later", 49*time.Hour, 1000)
	c.counted()

	type row struct{ pack, period string }
	var rows []row
	sets := map[string]bool{}
	for _, line := range strings.Split(strings.TrimSpace(c.ok(t, "usage", "counts", "acme", "--format", "json")), "\n") {
		var u struct{ Pack, Period string }
		if err := json.Unmarshal([]byte(line), &u); err != nil {
			t.Fatal(err)
		}
		rows = append(rows, row{u.Pack, u.Period})
		kind, _, _ := strings.Cut(u.Period, ":")
		_, set, _ := strings.Cut(u.Period, "@")
		sets[kind+"@"+set] = true
	}
	for _, want := range []string{"total@", "month@", "month@2", "month@3", "contract-month@2", "contract-month@3"} {
		if !sets[want] {
			t.Errorf("no count of %s among %v", want, sets)
		}
	}
	for _, u := range rows {
		x, r := c.explain(u.period, u.pack)
		if r.code != 0 || x.Verdict != "equal" || len(x.DeadLetters.First) != 2 || !strings.Contains(x.DeadLetters.First[0].Reason, "longer ago than counts are kept") {
			t.Errorf("%+v: %+v, %s", u, x, r.err)
		}
	}
	// Another setting of keep_ended would have counted the events that the aggregator refused.
	if x, r := c.explain("total", "*", "--keep-ended", "0s"); r.code != 1 || x.Verdict != "different" {
		t.Errorf("without keep_ended: %+v, %s", x, r.err)
	}
	if out := c.ok(t, "usage", "explain", "acme", "--period", newest(rows, func(r row) string { return r.period }, "month:", "@3"), "--dedup-window", "200ms", "--keep-ended", "48h"); !strings.Contains(out, "bounds        set 3 of the account") {
		t.Error(out)
	}

	// Retention deletes all but the last event before the second contract: only that one's periods can be checked, though
	// nobody can tell any more that they are the third ones.
	cut := kadm.Offsets{}
	cut.Add(kadm.Offset{Topic: schemas.UsageEvents, Partition: c.home, At: last})
	if _, err := c.adm.DeleteRecords(t.Context(), cut); err != nil {
		t.Fatal(err)
	}
	checked := 0
	for _, u := range rows {
		x, r := c.explain(u.period, u.pack)
		if strings.HasSuffix(u.period, "@3") {
			checked++
			if r.code != 0 || x.Verdict != "equal" {
				t.Errorf("trimmed, %+v: %+v, %s", u, x, r.err)
			}
		} else if r.code != 1 || x.Verdict != "incomplete" {
			t.Errorf("trimmed, %+v: %+v, %s", u, x, r.err)
		}
	}
	if checked < 4 {
		t.Errorf("%d counts were checked behind the cut: %v", checked, rows)
	}
	for _, wrong := range []string{"month:2026-11@1", "month:2026-11@", "total@x", "month:2026-11@02"} {
		c.run(t, "usage", "explain", "acme", "--period", wrong).fails(t, 2, "the number of a set of bounds")
	}
}

// newest returns the last name with a beginning and an end.
func newest[T any](all []T, name func(T) string, begins, ends string) (found string) {
	for _, v := range all {
		if n := name(v); strings.HasPrefix(n, begins) && strings.HasSuffix(n, ends) {
			found = max(found, n)
		}
	}
	return found
}

// Compaction has deleted the contract that a count was counted under: that is said, and nobody is accused.
func TestUsageExplainWithoutTheContract(t *testing.T) {
	s := readyStack(t, schemas.UsageEvents, schemas.UsageContracts, schemas.UsageCounts)
	l := ledger{stack: s, t: t, c: codec.New(codec.NewRegistry(s.Registry.URL()), codec.Options{}), opts: target{brokers: s.Broker.Seeds()}.options(),
		home: schemas.Partition(schemas.UsageEvents, []byte("acme"), 8)}
	l.commit(l.event("a", 1) + 1)
	now := time.Now().UTC()
	period := fmt.Sprintf("month:%d-%02d@2", now.Year()+1, now.Month()) // no event counts to it
	put(t, l.opts, l.c, schemas.UsageCounts, "acme/*/"+period, &event.UsageCount{Account: "acme", Pack: "*", Period: period, PeriodStart: now, Matched: 1, ContractVersion: 7,
		UpdatedAt: now, Providers: []event.ProviderCount{}})
	s.run(t, "usage", "explain", "acme", "--period", period).fails(t, 1, "counted under contract version 7, which usage.contracts does not hold any more")
}
