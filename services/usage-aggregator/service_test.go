package usageaggregator

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"databus/pkg/embedded"
	"databus/pkg/service"
	"databus/pkg/stream"
	"databus/schemas"
	"databus/schemas/codec"
	"databus/schemas/event"
)

type bench struct {
	t         *testing.T
	opts      []kgo.Opt
	client    *kgo.Client
	admin     *kadm.Client
	codec     *codec.Codec
	events    *codec.Serde[event.UsageEvent]
	contracts *codec.Serde[event.Contract]
	counts    *codec.Serde[event.UsageCount]
	terms     map[string]event.Contract

	history   bool
	keepEnded time.Duration // 0: the default
}

func newBench(t *testing.T) *bench {
	t.Helper()
	stack := embedded.ForTest(t)
	b := &bench{t: t, terms: map[string]event.Contract{}}
	b.opts = []kgo.Opt{kgo.SeedBrokers(stack.Broker.Seeds()...), kgo.MetadataMinAge(50 * time.Millisecond), kgo.FetchMaxWait(100 * time.Millisecond),
		kgo.RecordPartitioner(service.Partitioner()), kgo.ProducerLinger(0)}
	b.codec = codec.New(codec.NewRegistry(stack.Registry.URL()), codec.Options{RegisterSchemas: true})
	b.events = codec.For[event.UsageEvent](b.codec, schemas.UsageEvents)
	b.contracts = codec.For[event.Contract](b.codec, schemas.UsageContracts)
	b.counts = codec.For[event.UsageCount](b.codec, schemas.UsageCounts)
	var err error
	if b.client, err = kgo.NewClient(b.opts...); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.client.Close)
	b.admin = kadm.NewClient(b.client)
	// Created here and not from the catalogue, so that producers choose the append time.
	for _, topic := range Topology().Topics() {
		resp, err := b.admin.CreateTopics(context.Background(), 4, 1, nil, topic.Name)
		if err := errors.Join(err, resp.Error()); err != nil {
			t.Fatal(err)
		}
	}
	return b
}

func (b *bench) send(recs ...*kgo.Record) {
	b.t.Helper()
	if err := b.client.ProduceSync(context.Background(), recs...).FirstErr(); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) record(e event.UsageEvent, appended time.Time) *kgo.Record {
	b.t.Helper()
	v, err := b.events.Encode(context.Background(), &e)
	if err != nil {
		b.t.Fatal(err)
	}
	return &kgo.Record{Topic: schemas.UsageEvents, Key: []byte(e.Account), Value: v, Timestamp: appended}
}

func (b *bench) contract(c event.Contract) {
	b.t.Helper()
	v, err := b.contracts.Encode(context.Background(), &c)
	if err != nil {
		b.t.Fatal(err)
	}
	b.send(&kgo.Record{Topic: schemas.UsageContracts, Key: []byte(c.Account), Value: v})
	b.terms[c.Account] = c
}

func (b *bench) start(dir string, crash func(stream.Point) error) (stop func() error) {
	b.t.Helper()
	cfg := Default()
	cfg.CommitInterval, cfg.SessionTimeout = 10*time.Millisecond, 2*time.Second
	cfg.History.Enabled = b.history
	if b.keepEnded != 0 {
		cfg.KeepEnded = b.keepEnded
	}
	s, err := newService(b.codec, prometheus.NewRegistry(), cfg)
	if err != nil {
		b.t.Fatal(err)
	}
	if err := s.build(stream.Options{Instance: "0", Kafka: b.opts, StateDir: dir, Crash: crash}); err != nil {
		b.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	b.t.Cleanup(cancel)
	return func() error {
		if crash == nil {
			b.caughtUp()
			cancel()
		}
		select {
		case err := <-done:
			return err
		case <-time.After(time.Minute):
			b.t.Fatal("the service does not end")
			return nil
		}
	}
}

func (b *bench) caughtUp() {
	b.t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		ends, err := b.admin.ListEndOffsets(context.Background(), schemas.UsageEvents, schemas.UsageContracts, schemas.UsageBaselines)
		if err != nil {
			b.t.Fatal(err)
		}
		commits, err := b.admin.FetchOffsets(context.Background(), Name)
		if err != nil && !errors.Is(err, kerr.GroupIDNotFound) {
			b.t.Fatal(err)
		}
		starts, err := b.admin.ListStartOffsets(context.Background(), schemas.UsageEvents, schemas.UsageContracts, schemas.UsageBaselines)
		if err != nil {
			b.t.Fatal(err)
		}
		behind := int64(0)
		ends.Each(func(o kadm.ListedOffset) {
			c, _ := commits.Lookup(o.Topic, o.Partition)
			start, _ := starts.Lookup(o.Topic, o.Partition)
			behind += o.Offset - max(0, c.At, start.Offset)
		})
		if behind == 0 {
			return
		}
		if time.Now().After(deadline) {
			b.t.Fatalf("%d records are not processed", behind)
		}
	}
}

func (b *bench) read(topic string) (recs []*kgo.Record) {
	b.t.Helper()
	ends, err := b.admin.ListEndOffsets(context.Background(), topic)
	if err != nil {
		b.t.Fatal(err)
	}
	left := map[int32]int64{}
	ends.Each(func(o kadm.ListedOffset) {
		if o.Offset > 0 {
			left[o.Partition] = o.Offset
		}
	})
	c, err := kgo.NewClient(append(b.opts, kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.KeepControlRecords())...)
	if err != nil {
		b.t.Fatal(err)
	}
	defer c.Close()
	for len(left) > 0 {
		c.PollFetches(context.Background()).EachRecord(func(rec *kgo.Record) {
			if rec.Offset+1 >= left[rec.Partition] {
				delete(left, rec.Partition)
			}
			if !rec.Attrs.IsControl() {
				recs = append(recs, rec)
			}
		})
	}
	return recs
}

// line is a count as text, so that a difference can be read.
func line(matched, unmatched, amount int64) string {
	return fmt.Sprintf("%d matched, %d unmatched, %d micros", matched, unmatched, amount)
}

// recount computes the counts from usage.events in its own way.
func (b *bench) recount(window time.Duration) map[string]string {
	b.t.Helper()
	type sums struct{ matched, unmatched, amount int64 }
	all := map[string]*sums{}
	last := map[string]time.Time{}
	for _, rec := range b.read(schemas.UsageEvents) {
		var e event.UsageEvent
		if err := b.events.Decode(context.Background(), rec.Value, &e); err != nil {
			continue
		}
		if strings.HasPrefix(e.EventID, "bad") {
			continue
		}
		id := e.Account + " " + e.EventID
		at, ok := last[id]
		if last[id] = rec.Timestamp; ok && rec.Timestamp.Sub(at) < window {
			continue
		}
		zone := time.UTC
		c, ok := b.terms[e.Account]
		if ok {
			zone, _ = time.LoadLocation(c.TimeZone)
		}
		local := e.OccurredAt.In(zone)
		keys := map[string]bool{}
		for _, pack := range []string{e.Pack, "*"} {
			keys[pack+"/total"] = true
			keys[fmt.Sprintf("%s/month:%04d-%02d", pack, local.Year(), local.Month())] = true
		}
		for _, l := range c.Packs {
			if l.Pack != e.Pack && l.Pack != "*" || e.OccurredAt.Before(c.StartsAt) {
				continue
			}
			step, name := 1, "contract-month"
			if l.Period == event.PeriodContractYear {
				step, name = 12, "contract-year"
			} else if l.Period != event.PeriodContractMonth {
				continue
			}
			start := c.StartsAt.In(zone)
			for { // day 5: no month is too short
				next := start.AddDate(0, step, 0)
				if next.After(e.OccurredAt) {
					break
				}
				start = next
			}
			keys[l.Pack+"/"+name+":"+start.Format("2006-01-02")] = true
		}
		for k := range keys {
			k = e.Account + "/" + k
			if all[k] == nil {
				all[k] = &sums{}
			}
			if e.Status == 200 {
				all[k].matched += e.Quantity
			} else {
				all[k].unmatched += e.Quantity
			}
			all[k].amount += e.AmountMicros
		}
	}
	out := map[string]string{}
	for k, s := range all {
		out[k] = line(s.matched, s.unmatched, s.amount)
	}
	return out
}

func (b *bench) check(window time.Duration) {
	b.t.Helper()
	got := map[string]string{}
	for _, rec := range b.read(schemas.UsageCounts) {
		var c event.UsageCount
		if err := b.counts.Decode(context.Background(), rec.Value, &c); err != nil {
			b.t.Fatal(err)
		}
		if key := c.Account + "/" + c.Pack + "/" + c.Period; key != string(rec.Key) {
			b.t.Errorf("the key is %s and the count %s", rec.Key, key)
		}
		got[string(rec.Key)] = line(c.Matched, c.Unmatched, c.AmountMicros)
	}
	want := b.recount(window)
	if maps.Equal(got, want) {
		return
	}
	for _, k := range slices.Sorted(maps.Keys(want)) {
		if got[k] != want[k] {
			b.t.Errorf("%s: %q, want %q", k, got[k], want[k])
		}
	}
	for k := range got {
		if want[k] == "" {
			b.t.Errorf("%s: %q, want none", k, got[k])
		}
	}
}

var zones = []string{"UTC", "America/New_York", "Asia/Kolkata", "Pacific/Auckland"}

// events produces n events, among them repeats, corrections, late ones and invalid ones, and returns the number of the
// last.
func (b *bench) produce(rng *rand.Rand, n int) (bad int) {
	b.t.Helper()
	now := time.Now()
	var recs []*kgo.Record
	for i := range n {
		e := event.UsageEvent{EventID: fmt.Sprintf("e/%d", rng.IntN(n*10)), Account: fmt.Sprintf("acct-%d", rng.IntN(6)), Pack: []string{"person", "company"}[rng.IntN(2)],
			OccurredAt: now.Add(-time.Duration(rng.IntN(120*24)) * time.Hour), Quantity: 1 + rng.Int64N(3), Status: []int32{200, 200, 404}[rng.IntN(3)], AmountMicros: rng.Int64N(100)}
		if i%10 == 0 {
			e.Quantity = -1
		}
		switch i % 40 {
		case 7:
			e.Quantity = 0
		case 8:
			e.Account = "no such/account"
		case 9:
			e.EventID = strings.Repeat("x", 129)
		case 10:
			e.OccurredAt = time.Unix(0, 0)
		case 11:
			e.OccurredAt = now.Add(25 * time.Hour)
		case 12:
			e.Pack = "*"
		default:
			recs = append(recs, b.record(e, now))
			continue
		}
		e.EventID = "bad" + e.EventID
		bad++
		recs = append(recs, b.record(e, now))
	}
	recs = append(recs, &kgo.Record{Topic: schemas.UsageEvents, Key: []byte("acct-1"), Value: []byte("not avro")})
	b.send(recs...)
	return bad + 1
}

func (b *bench) someContracts() {
	for i := range 4 {
		b.contract(event.Contract{Account: fmt.Sprintf("acct-%d", i), Version: 1, TimeZone: zones[i], StartsAt: time.Now().AddDate(0, -3, 0).Truncate(24*time.Hour).AddDate(0, 0, 5-time.Now().AddDate(0, -3, 0).Day()),
			Packs: []event.ContractPack{{Pack: "person", Period: event.PeriodContractMonth, Limit: 1000}, {Pack: "*", Period: event.PeriodContractYear, Limit: 5000}, {Pack: "company", Period: event.PeriodCalendarMonth, Limit: 9}}})
	}
}

var errCrash = errors.New("injected crash")

func TestExactThroughCrashes(t *testing.T) {
	for _, empty := range []bool{false, true} {
		t.Run(fmt.Sprintf("empty=%v", empty), func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			b.someContracts()
			rng := rand.New(rand.NewPCG(1, 2))
			dir, bad := t.TempDir(), 0
			for _, point := range []stream.Point{stream.AfterFlush, stream.AfterEnd, stream.BeforeState, stream.InsideRestore} {
				bad += b.produce(rng, 400)
				if point == stream.InsideRestore || empty {
					dir = t.TempDir()
				}
				if err := b.start(dir, func(p stream.Point) error {
					if p == point {
						return errCrash
					}
					return nil
				})(); !errors.Is(err, errCrash) {
					t.Fatalf("crash %s: ended with %v", point, err)
				}
			}
			if err := b.start(dir, nil)(); err != nil {
				t.Fatal(err)
			}
			b.check(24 * time.Hour)
			if dead := len(b.read(schemas.UsageEvents + ".dlq")); dead != bad {
				t.Errorf("%d dead letters, want %d", dead, bad)
			}
		})
	}
}

// Ids expire with append time, also behind a restart and behind the deletion of expired ones.
func TestDedupWindow(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	dir := t.TempDir()
	begin := time.Now().Add(-20 * 24 * time.Hour)
	at := func(h float64) time.Time { return begin.Add(time.Duration(h * float64(time.Hour))) }
	e := event.UsageEvent{Account: "a", Pack: "p", Quantity: 1, Status: 200, OccurredAt: begin, EventID: "x"}
	round := func(hours ...float64) {
		for _, h := range hours {
			b.send(b.record(e, at(h)))
		}
		if err := b.start(dir, nil)(); err != nil {
			t.Fatal(err)
		}
		b.check(24 * time.Hour)
	}
	round(0, 1, 23.9)
	round(24, 47.8)   // repeats, each within 24 h of the one before
	dir = t.TempDir() // all that another instance knows it reads again
	round(71.7)
	round(95.7) // 24 h later: a new one
	var many []*kgo.Record
	for i := range 2000 { // push the ids out
		m := e
		m.EventID = fmt.Sprint("m", i)
		many = append(many, b.record(m, at(100+float64(i)/10)))
	}
	b.send(many...)
	round(300.1)
	dir = t.TempDir()
	round(300.2)
}

// An account with more rows, and more slots, than are kept in memory, whatever the order of its events.
func TestAccountWithManyRows(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	rng := rand.New(rand.NewPCG(4, 2))
	now := time.Now()
	n := 0
	for _, sent := range []int{1, 900, 3, 900} {
		var recs []*kgo.Record
		for range sent {
			n++
			recs = append(recs, b.record(event.UsageEvent{EventID: fmt.Sprint(n), Account: "a", Pack: fmt.Sprint("pack-", rng.IntN(60)), Quantity: 1, Status: 200,
				OccurredAt: now.Add(-time.Duration(rng.IntN(390*24)) * time.Hour)}, now))
		}
		b.send(recs...)
	}
	if err := b.start(t.TempDir(), nil)(); err != nil {
		t.Fatal(err)
	}
	b.check(24 * time.Hour)
}

func TestContracts(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	good := event.Contract{Account: "a", Version: 5, TimeZone: "UTC", StartsAt: time.Now().AddDate(0, -1, 0), Packs: []event.ContractPack{{Pack: "p", Period: event.PeriodTotal, Limit: 1}}}
	b.contract(good)
	older := good
	older.Version, older.TimeZone = 4, "Asia/Tokyo"
	b.contract(older) // ignored
	for _, bad := range []func(*event.Contract){
		func(c *event.Contract) { c.TimeZone = "Nowhere/Land" },
		func(c *event.Contract) { c.Packs = []event.ContractPack{{Pack: "p", Period: event.PeriodTotal}} },
		func(c *event.Contract) {
			c.Packs = []event.ContractPack{{Pack: "p", Period: event.PeriodTotal, Limit: 1}, {Pack: "p", Period: event.PeriodTotal, Limit: 2}}
		},
		func(c *event.Contract) { end := c.StartsAt; c.EndsAt = &end },
	} {
		c := good
		c.Version = 9
		bad(&c)
		b.contract(c)
	}
	b.terms["a"] = good
	b.send(b.record(event.UsageEvent{EventID: "1", Account: "a", Pack: "p", Quantity: 1, Status: 200, OccurredAt: time.Now()}, time.Now()))
	if err := b.start(t.TempDir(), nil)(); err != nil {
		t.Fatal(err)
	}
	b.check(24 * time.Hour)
	if dead := b.read(schemas.UsageContracts + ".dlq"); len(dead) != 4 {
		t.Errorf("%d dead letters, want 4", len(dead))
	}
}
