package usage

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"databus/pkg/embedded"
	"databus/schemas"
	"databus/schemas/codec"
	"databus/schemas/event"
)

func at(t *testing.T, s string) time.Time {
	t.Helper()
	v, err := time.Parse(time.RFC3339, s)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestPeriods(t *testing.T) {
	for _, c := range []struct {
		zone, starts string
		kind         event.Period
		at           string
		id           string
		start, end   string
	}{
		{"UTC", "2026-01-15T10:00:00Z", event.PeriodCalendarMonth, "2026-11-30T23:59:59Z", "month:2026-11", "2026-11-01T00:00:00Z", "2026-12-01T00:00:00Z"},
		{"America/New_York", "2026-01-15T10:00:00Z", event.PeriodCalendarMonth, "2026-11-01T03:59:59Z", "month:2026-10", "2026-10-01T04:00:00Z", "2026-11-01T04:00:00Z"},
		{"America/New_York", "2026-01-15T10:00:00Z", event.PeriodCalendarMonth, "2026-11-01T04:00:00Z", "month:2026-11", "2026-11-01T04:00:00Z", "2026-12-01T05:00:00Z"}, // summer time ends
		{"UTC", "2026-01-15T10:00:00Z", event.PeriodContractMonth, "2026-02-15T09:59:59Z", "contract-month:2026-01-15", "2026-01-15T10:00:00Z", "2026-02-15T10:00:00Z"},
		{"UTC", "2026-01-15T10:00:00Z", event.PeriodContractMonth, "2026-02-15T10:00:00Z", "contract-month:2026-02-15", "2026-02-15T10:00:00Z", "2026-03-15T10:00:00Z"},
		{"UTC", "2026-01-31T00:00:00Z", event.PeriodContractMonth, "2026-02-28T00:00:00Z", "contract-month:2026-02-28", "2026-02-28T00:00:00Z", "2026-03-31T00:00:00Z"}, // a short month
		{"UTC", "2026-01-31T00:00:00Z", event.PeriodContractMonth, "2026-03-30T23:00:00Z", "contract-month:2026-02-28", "2026-02-28T00:00:00Z", "2026-03-31T00:00:00Z"},
		{"UTC", "2024-02-29T00:00:00Z", event.PeriodContractYear, "2026-02-28T00:00:00Z", "contract-year:2026-02-28", "2026-02-28T00:00:00Z", "2027-02-28T00:00:00Z"}, // a leap day
		{"Asia/Kolkata", "2026-03-31T18:30:00Z", event.PeriodContractYear, "2027-03-31T18:29:59Z", "contract-year:2026-04-01", "2026-03-31T18:30:00Z", "2027-03-31T18:30:00Z"},
		{"UTC", "2026-01-15T10:00:00Z", event.PeriodContractMonth, "2026-01-15T09:59:59Z", "", "", ""}, // before the contract
		{"UTC", "2026-01-15T10:00:00Z", event.PeriodContractMonth, "2031-01-15T10:00:00Z", "", "", ""}, // behind it
		{"UTC", "2026-01-15T10:00:00Z", event.PeriodTotal, "1999-01-01T00:00:00Z", "total", "1970-01-01T00:00:00Z", ""},
	} {
		end := at(t, "2030-01-01T00:00:00Z")
		terms, err := NewTerms(event.Contract{Account: "a", Version: 1, TimeZone: c.zone, StartsAt: at(t, c.starts), EndsAt: &end})
		if err != nil {
			t.Fatal(err)
		}
		p, ok := terms.Period(c.kind, at(t, c.at))
		if !ok {
			if c.id != "" {
				t.Errorf("%s at %s: none, want %s", c.kind, c.at, c.id)
			}
			continue
		}
		if p.ID != c.id || !p.Start.Equal(at(t, c.start)) || c.end != "" && !p.End.Equal(at(t, c.end)) || c.end == "" && !p.End.IsZero() {
			t.Errorf("%s at %s: %s from %s to %s, want %s from %s to %s", c.kind, c.at, p.ID, p.Start, p.End, c.id, c.start, c.end)
		}
		if kind, ok := Kind(p.ID); !ok || kind != c.kind {
			t.Errorf("%s is of kind %s", p.ID, kind)
		}
	}
}

// Whatever the anchor and the zone, periods follow each other without gap or overlap.
func TestPeriodsAreSeamless(t *testing.T) {
	for _, zone := range []string{"UTC", "America/Sao_Paulo", "Pacific/Apia", "Europe/London"} {
		for day := 1; day <= 31; day += 3 {
			loc, err := time.LoadLocation(zone)
			if err != nil {
				t.Fatal(err)
			}
			start := time.Date(2011, 1, day, 2, 30, 0, 0, loc)
			terms, err := NewTerms(event.Contract{Account: "a", Version: 1, TimeZone: zone, StartsAt: start})
			if err != nil {
				t.Fatal(err)
			}
			moment := start
			for range 60 {
				p, ok := terms.Period(event.PeriodContractMonth, moment)
				if !ok || !p.Start.Equal(moment) {
					t.Fatalf("%s from %s: the period of %s starts at %s", zone, start, moment, p.Start)
				}
				if last, _ := terms.Period(event.PeriodContractMonth, p.End.Add(-time.Microsecond)); last != p {
					t.Fatalf("%s from %s: the end of %s belongs to %s", zone, start, p.ID, last.ID)
				}
				moment = p.End
			}
		}
	}
}

func TestEvents(t *testing.T) {
	now := at(t, "2026-11-10T12:00:00Z")
	good := event.UsageEvent{EventID: "1", Account: "a", Pack: "p", Quantity: 1, OccurredAt: now}
	if err := CheckEvent(&good, now); err != nil {
		t.Error(err)
	}
	for name, change := range map[string]func(*event.UsageEvent){
		"no id":         func(e *event.UsageEvent) { e.EventID = "" },
		"10 MB id":      func(e *event.UsageEvent) { e.EventID = strings.Repeat("x", 10<<20) },
		"account":       func(e *event.UsageEvent) { e.Account = "a/b" },
		"pack":          func(e *event.UsageEvent) { e.Pack = "*" },
		"zero":          func(e *event.UsageEvent) { e.Quantity = 0 },
		"huge":          func(e *event.UsageEvent) { e.Quantity = -MaxQuantity - 1 },
		"amount":        func(e *event.UsageEvent) { e.AmountMicros = MaxAmount + 1 },
		"the year 1970": func(e *event.UsageEvent) { e.OccurredAt = time.Unix(0, 0) },
		"the year 2100": func(e *event.UsageEvent) { e.OccurredAt = now.AddDate(74, 0, 0) },
	} {
		e := good
		change(&e)
		if err := CheckEvent(&e, now); err == nil || strings.Contains(err.Error(), "xxx") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Whatever fits can be added up with what fits, and compared with any limit.
func TestSumsThatFit(t *testing.T) {
	for sum, want := range map[int64]bool{0: true, -1: true, 1 << 61: true, 1<<61 + 1: false, -1 << 61: true, -1<<61 - 1: false, math.MaxInt64: false, math.MinInt64: false} {
		if SumFits(sum) != want {
			t.Errorf("%d: %v", sum, !want)
		}
		if !want {
			continue
		}
		both := new(big.Int).Add(big.NewInt(sum), big.NewInt(sum))
		for _, more := range []int64{MaxQuantity, MaxAmount, -MaxQuantity, -MaxAmount} {
			if !new(big.Int).Add(both, big.NewInt(more)).IsInt64() {
				t.Errorf("%d overflows", sum)
			}
		}
	}
}

func TestProducer(t *testing.T) {
	stack := embedded.ForTest(t)
	opts := []kgo.Opt{kgo.SeedBrokers(stack.Broker.Seeds()...)}
	client, err := kgo.NewClient(append(opts, kgo.ConsumeTopics(schemas.UsageEvents), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))...)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	resp, err := kadm.NewClient(client).CreateTopics(context.Background(), 4, 1, nil, schemas.UsageEvents)
	if err := errors.Join(err, resp.Error()); err != nil {
		t.Fatal(err)
	}
	c := codec.New(codec.NewRegistry(stack.Registry.URL()), codec.Options{RegisterSchemas: true})
	p, err := NewProducer(Options{Kafka: opts, Codec: c, Buffer: 500})
	if err != nil {
		t.Fatal(err)
	}
	taken := map[string]bool{}
	for i := range 2000 {
		e := event.UsageEvent{EventID: fmt.Sprint(i), Account: fmt.Sprint("a", i%7), Pack: "p", Quantity: 1, Status: 200, OccurredAt: time.Now()}
		if p.Emit(e) {
			taken[e.EventID] = true
		}
	}
	if len(taken) < 500 {
		t.Errorf("only %d events were taken", len(taken))
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := p.Close(ctx); err != nil {
		t.Fatal(err)
	}
	if p.Emit(event.UsageEvent{}) {
		t.Error("a closed producer took an event")
	}
	serde := codec.For[event.UsageEvent](c, schemas.UsageEvents)
	for n := 0; n < len(taken); {
		fetches := client.PollFetches(ctx)
		if ctx.Err() != nil {
			t.Fatalf("%d events of %d arrived", n, len(taken))
		}
		fetches.EachRecord(func(rec *kgo.Record) {
			var e event.UsageEvent
			if err := serde.Decode(ctx, rec.Value, &e); err != nil || !taken[e.EventID] || string(rec.Key) != e.Account || rec.Partition != schemas.Partition(rec.Topic, rec.Key, 4) {
				t.Errorf("%v at partition %d: %v", e, rec.Partition, err)
			}
			n++
		})
	}
}

// outcomes are what became of a producer's events.
func outcomes(t *testing.T, p *Producer) (sent, dropped, failed int) {
	t.Helper()
	return int(testutil.ToFloat64(p.sent)), int(testutil.ToFloat64(p.dropped)), int(testutil.ToFloat64(p.failed))
}

// Without a registry nothing blocks: the buffer fills and the rest is dropped. Each event is counted as one thing or
// another.
func TestProducerNeverBlocks(t *testing.T) {
	c := codec.New(codec.NewRegistry("http://127.0.0.1:1"), codec.Options{})
	p, err := NewProducer(Options{Kafka: []kgo.Opt{kgo.SeedBrokers("127.0.0.1:1")}, Codec: c, Buffer: 10})
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	taken := 0
	for range 100 {
		if p.Emit(event.UsageEvent{Account: "a"}) {
			taken++
		}
	}
	if took := time.Since(began); took > time.Second {
		t.Errorf("100 events took %v", took)
	}
	if taken < 10 || taken > 11 {
		t.Errorf("%d events were taken into a buffer of 10", taken)
	}
	if sent, dropped, failed := outcomes(t, p); sent != 0 || dropped != 100-taken || failed != 0 {
		t.Errorf("%d sent, %d dropped, %d failed, with %d taken", sent, dropped, failed, taken)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	if err := p.Close(ctx); err == nil || !strings.Contains(err.Error(), "not sent") {
		t.Errorf("closing: %v", err)
	}
	<-p.done
	if sent, dropped, failed := outcomes(t, p); sent != 0 || dropped != 100-taken || failed != taken {
		t.Errorf("closed: %d sent, %d dropped, %d failed, with %d taken", sent, dropped, failed, taken)
	}
}

// A broker that is away: the client's buffer and the queue fill, the rest is dropped, and closing says what is lost.
func TestProducerWithoutBroker(t *testing.T) {
	stack := embedded.ForTest(t)
	c := codec.New(codec.NewRegistry(stack.Registry.URL()), codec.Options{RegisterSchemas: true})
	p, err := NewProducer(Options{Kafka: []kgo.Opt{kgo.SeedBrokers("127.0.0.1:1")}, Codec: c, Buffer: 10})
	if err != nil {
		t.Fatal(err)
	}
	taken, offered := 0, 0
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		offered++
		if p.Emit(event.UsageEvent{EventID: "1", Account: "a", Pack: "p", Quantity: 1}) {
			taken++
		} else if _, dropped, _ := outcomes(t, p); dropped > 20 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d events were taken and none dropped", taken, offered)
		}
	}
	if taken < 20 || taken > 22 { // both buffers, and one on the way
		t.Errorf("%d events were taken", taken)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	if err := p.Close(ctx); err == nil || !strings.Contains(err.Error(), "not sent") {
		t.Errorf("closing: %v", err)
	}
	<-p.done
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		sent, dropped, failed := outcomes(t, p)
		if sent == 0 && dropped == offered-taken && failed == taken {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d sent, %d dropped, %d failed of %d taken", sent, dropped, failed, taken)
		}
	}
}

// An event that is too large for the topic is lost alone, and counted.
func TestProducerTooLarge(t *testing.T) {
	stack := embedded.ForTest(t)
	opts := []kgo.Opt{kgo.SeedBrokers(stack.Broker.Seeds()...)}
	client, err := kgo.NewClient(opts...)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	resp, err := kadm.NewClient(client).CreateTopics(context.Background(), 4, 1, nil, schemas.UsageEvents)
	if err := errors.Join(err, resp.Error()); err != nil {
		t.Fatal(err)
	}
	p, err := NewProducer(Options{Kafka: opts, Codec: codec.New(codec.NewRegistry(stack.Registry.URL()), codec.Options{RegisterSchemas: true})})
	if err != nil {
		t.Fatal(err)
	}
	good := event.UsageEvent{EventID: "1", Account: "a", Pack: "p", Quantity: 1, Status: 200, OccurredAt: time.Now()}
	large := good
	large.EventID = strings.Repeat("x", 10<<20)
	for _, e := range []event.UsageEvent{good, large, good} {
		if !p.Emit(e) {
			t.Error("an event was dropped")
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := p.Close(ctx); err != nil {
		t.Fatal(err)
	}
	if sent, dropped, failed := outcomes(t, p); sent != 2 || dropped != 0 || failed != 1 {
		t.Errorf("%d sent, %d dropped, %d failed", sent, dropped, failed)
	}
}

// What a contract may not be, each with the reason.
func TestContractsThatAreRefused(t *testing.T) {
	pack := func(period event.Period, limit int64, thresholds ...event.Threshold) event.ContractPack {
		return event.ContractPack{Pack: "person", Period: period, Limit: limit, Thresholds: thresholds}
	}
	start := at(t, "2026-01-15T10:00:00Z")
	good := event.Contract{Account: "a", Version: 1, TimeZone: "Europe/Vienna", StartsAt: start, Packs: []event.ContractPack{
		pack(event.PeriodCalendarMonth, MaxQuantity, event.Threshold{Kind: event.ThresholdKindPercent, Value: 1000}), pack(event.PeriodTotal, 1)}}
	if _, err := NewTerms(good); err != nil {
		t.Error(err)
	}
	for why, change := range map[string]func(*event.Contract){
		"the account id is not valid":                   func(c *event.Contract) { c.Account = "a/b" },
		"the version is below 1":                        func(c *event.Contract) { c.Version = 0 },
		"the time zone is no IANA time zone name":       func(c *event.Contract) { c.TimeZone = "Local" },
		"the contract ends before it starts":            func(c *event.Contract) { c.EndsAt = &start },
		"more than 256 limits":                          func(c *event.Contract) { c.Packs = make([]event.ContractPack, 257) },
		"limit 2: the pack's name is not valid":         func(c *event.Contract) { c.Packs = append(c.Packs, event.ContractPack{Pack: "a/b"}) },
		"limit 2: the limit is not between":             func(c *event.Contract) { c.Packs = append(c.Packs, pack(event.PeriodContractYear, 0)) },
		"limit 0: the limit is not between":             func(c *event.Contract) { c.Packs = []event.ContractPack{pack(event.PeriodTotal, MaxQuantity+1)} },
		"limit 2: the pack has a limit for that period": func(c *event.Contract) { c.Packs = append(c.Packs, pack(event.PeriodCalendarMonth, 5)) },
		"limit 0: a threshold is not between 1 and 1000 perc": func(c *event.Contract) {
			c.Packs = []event.ContractPack{pack(event.PeriodTotal, 5, event.Threshold{Kind: event.ThresholdKindPercent, Value: 1001})}
		},
		"limit 0: a threshold is not between 1 and 1000000000000 units": func(c *event.Contract) {
			c.Packs = []event.ContractPack{pack(event.PeriodTotal, 5, event.Threshold{Kind: event.ThresholdKindAbsolute, Value: -1})}
		},
		"limit 0: there are more than 64 thresholds": func(c *event.Contract) {
			c.Packs = []event.ContractPack{pack(event.PeriodTotal, 5, make([]event.Threshold, 65)...)}
		},
	} {
		c := good
		c.Packs = slices.Clone(good.Packs)
		change(&c)
		if _, err := NewTerms(c); err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("want %q, got %v", why, err)
		}
	}
}
