package verify_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"databus/pkg/embedded"
	"databus/pkg/service"
	"databus/pkg/topics"
	"databus/schemas"
	"databus/schemas/codec"
	"databus/schemas/event"
	"databus/test/usage/verify"
)

// What the services would publish for two events of an account with a limit, written by hand, is right; and whatever is
// done to it is noticed.
func TestVerifyNotices(t *testing.T) {
	for _, c := range []struct {
		name            string
		change          func(*published)
		missing, double int
		problem         string
	}{
		{name: "nothing", change: func(*published) {}},
		{name: "a count less", change: func(p *published) { p.counts = p.counts[:3] }, missing: 1, problem: "count acme/*/month:"},
		{name: "a count twice", change: func(p *published) { p.counts = append(p.counts, p.counts[0]) }, double: 1, problem: "no sum over a longer prefix"},
		{name: "an event counted twice", change: func(p *published) { p.counts[1].Matched++ }, double: 2, problem: "acme/*/total"},
		{name: "an event not counted", change: func(p *published) { p.counts[2].Matched-- }, missing: 1, double: 1, problem: "acme/person/month:"},
		{name: "money forgotten", change: func(p *published) { p.counts[1].AmountMicros = 0 }, missing: 1, double: 1, problem: "acme/*/total"},
		{name: "a provider forgotten", change: func(p *published) { p.counts[1].Providers = nil }, missing: 1, problem: "acme/*/total"},
		{name: "a crossing less", change: func(p *published) { p.thresholds = nil }, missing: 1, problem: "threshold event"},
		{name: "a crossing twice", change: func(p *published) { p.thresholds = append(p.thresholds, p.thresholds[0]) }, double: 1, problem: "threshold event"},
		{name: "no limit state", change: func(p *published) { p.limits = nil }, missing: 1, problem: "limit state"},
		{name: "an old limit state", change: func(p *published) { p.limits[0].Used-- }, missing: 1, problem: "limit state"},
		{name: "a dead letter less", change: func(p *published) { p.dead = 0 }, missing: 1, problem: "dead letter"},
		{name: "a dead letter twice", change: func(p *published) { p.dead = 2 }, double: 1, problem: "dead letter"},
		{name: "an open transaction", change: func(p *published) { p.open = true }, problem: "last stable offset"},
		{name: "input that nobody processed", change: func(p *published) { p.behind = 1 }, problem: "has not processed all"},
	} {
		t.Run(strings.ReplaceAll(c.name, " ", "_"), func(t *testing.T) {
			t.Parallel()
			r := publish(t, c.change)
			open := r.OpenTransactions > 0
			if wantOpen := c.name == "an open transaction"; r.Missing != c.missing || r.Double != c.double && !(c.double > 0 && r.Double > 0) || open != wantOpen {
				t.Errorf("%v", r)
			}
			err := r.Err()
			if (err == nil) != (c.problem == "") || err != nil && !strings.Contains(err.Error(), c.problem) {
				t.Errorf("the error is %v", err)
			}
		})
	}
}

// published is what the services have to publish.
type published struct {
	counts     []event.UsageCount
	thresholds []event.ThresholdEvent
	limits     []event.LimitState
	dead       int
	open       bool
	behind     int64
}

func publish(t *testing.T, change func(*published)) *verify.Report {
	t.Helper()
	ctx := t.Context()
	stack := embedded.ForTest(t)
	opts := []kgo.Opt{kgo.SeedBrokers(stack.Broker.Seeds()...), kgo.RecordPartitioner(service.Partitioner()), kgo.MetadataMinAge(50 * time.Millisecond)}
	client, err := kgo.NewClient(opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	admin := kadm.NewClient(client)
	var all []schemas.Topic
	for _, topic := range schemas.WithDeadLetters() {
		if strings.HasPrefix(topic.Name, "usage") || strings.HasPrefix(topic.Name, "limiter") {
			topic.Partitions = 1
			all = append(all, topic)
		}
	}
	if _, err := topics.Apply(ctx, admin, all, topics.Options{}); err != nil {
		t.Fatal(err)
	}
	c := codec.New(codec.NewRegistry(stack.Registry.URL()), codec.Options{RegisterSchemas: true})
	begin := time.Now().UTC().Truncate(time.Second)
	contract := event.Contract{Account: "acme", Version: 1, TimeZone: "UTC", StartsAt: begin.AddDate(-1, 0, 0),
		Packs: []event.ContractPack{{Pack: "*", Period: event.PeriodTotal, Limit: 2}}}
	produce(t, client, c, schemas.UsageContracts, "acme", &contract)
	provider := "registry"
	e := event.UsageEvent{Account: "acme", EventID: "1", Pack: "person", OccurredAt: begin, Quantity: 1, Status: 200, AmountMicros: 5, Provider: &provider}
	produce(t, client, c, schemas.UsageEvents, "acme", &e)
	e.EventID = "2"
	second := produce(t, client, c, schemas.UsageEvents, "acme", &e)
	produce(t, client, c, schemas.UsageEvents, "acme", &e) // a repeat
	bad := e
	bad.Quantity = 0
	refused := produce(t, client, c, schemas.UsageEvents, "acme", &bad)

	p := &published{dead: 1}
	month := time.Date(begin.Year(), begin.Month(), 1, 0, 0, 0, 0, time.UTC)
	next := month.AddDate(0, 1, 0)
	for _, k := range []struct {
		pack, period string
		start        time.Time
		end          *time.Time
	}{{"person", "total", time.Unix(0, 0).UTC(), nil}, {"*", "total", time.Unix(0, 0).UTC(), nil},
		{"person", "month:" + month.Format("2006-01"), month, &next}, {"*", "month:" + month.Format("2006-01"), month, &next}} {
		p.counts = append(p.counts, event.UsageCount{Account: "acme", Pack: k.pack, Period: k.period, PeriodStart: k.start, PeriodEnd: k.end, ContractVersion: 1,
			Matched: 2, AmountMicros: 10, UpdatedAt: second.Timestamp, Providers: []event.ProviderCount{{Provider: provider, Matched: 2, AmountMicros: 10}}})
	}
	total := p.counts[1]
	p.thresholds = []event.ThresholdEvent{{Account: "acme", Pack: "*", Period: "total", PeriodStart: total.PeriodStart, Kind: event.ThresholdEventKindCrossed,
		ThresholdKind: event.ThresholdMeasurePercent, ThresholdValue: 100, ThresholdUnits: 2, Count: 2, Limit: 2, ContractVersion: 1, CauseTopic: schemas.UsageCounts, CauseOffset: 1}}
	p.limits = []event.LimitState{{Account: "acme", Pack: "*", Period: "total", PeriodStart: total.PeriodStart, Limit: 2, Used: 2, State: event.LimitLevelExceeded, ContractVersion: 1}}
	change(p)

	var cause time.Time
	for i := range p.counts {
		rec := produce(t, client, c, schemas.UsageCounts, "acme/"+p.counts[i].Pack+"/"+p.counts[i].Period, &p.counts[i])
		if i == 1 {
			cause = rec.Timestamp
		}
	}
	if p.counts[1].Matched != 2 { // the limiter says what follows from the counts that there are
		p.thresholds[0].Count, p.limits[0].Used = p.counts[1].Matched, p.counts[1].Matched
		p.limits[0].Remaining = 2 - p.counts[1].Matched
	}
	for i := range p.thresholds {
		p.thresholds[i].At = cause
		produce(t, client, c, schemas.UsageThresholds, "acme", &p.thresholds[i])
	}
	for i := range p.limits {
		p.limits[i].UpdatedAt = cause
		produce(t, client, c, schemas.UsageLimits, "acme/*/total", &p.limits[i])
	}
	for range p.dead {
		h := func(k, v string) kgo.RecordHeader { return kgo.RecordHeader{Key: k, Value: []byte(v)} }
		rec := &kgo.Record{Topic: schemas.UsageEvents + ".dlq", Key: []byte("acme"), Value: refused.Value, Headers: []kgo.RecordHeader{h("databus-dead-service", "usage-aggregator"),
			h("databus-dead-topic", schemas.UsageEvents), h("databus-dead-partition", "0"), h("databus-dead-offset", "3")}}
		if err := client.ProduceSync(ctx, rec).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	for group, inputs := range map[string][]string{"usage-aggregator": {schemas.UsageEvents, schemas.UsageContracts}, "limiter": {schemas.UsageCounts, schemas.UsageContracts}} {
		ends, err := admin.ListEndOffsets(ctx, inputs...)
		offsets := kadm.Offsets{}
		ends.Each(func(o kadm.ListedOffset) { offsets.AddOffset(o.Topic, o.Partition, o.Offset-p.behind, -1) })
		if err := errors.Join(err, admin.CommitAllOffsets(ctx, group, offsets)); err != nil {
			t.Fatal(err)
		}
	}
	if p.open {
		leaveOpen(t, opts)
	}
	r, err := verify.Verify(ctx, verify.Options{Kafka: opts, Registry: stack.Registry.URL(), DedupWindow: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func produce[T any](t *testing.T, client *kgo.Client, c *codec.Codec, topic, key string, v *T) *kgo.Record {
	t.Helper()
	value, err := codec.For[T](c, topic).Encode(t.Context(), v)
	rec := &kgo.Record{Topic: topic, Key: []byte(key), Value: value}
	if err == nil {
		err = client.ProduceSync(t.Context(), rec).FirstErr()
	}
	if err != nil {
		t.Fatal(err)
	}
	// The broker sets the time; read it back.
	return readBack(t, client, rec)
}

func readBack(t *testing.T, client *kgo.Client, rec *kgo.Record) *kgo.Record {
	t.Helper()
	reader, err := kgo.NewClient(append(client.Opts(), kgo.FetchMaxWait(100*time.Millisecond),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{rec.Topic: {rec.Partition: kgo.NewOffset().At(rec.Offset)}}))...)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for {
		fetches := reader.PollRecords(ctx, 1)
		if ctx.Err() != nil {
			t.Fatal("a record cannot be read back")
		}
		if all := fetches.Records(); len(all) > 0 {
			return all[0]
		}
	}
}

// leaveOpen begins a transaction and never ends it.
func leaveOpen(t *testing.T, opts []kgo.Opt) {
	t.Helper()
	client, err := kgo.NewClient(append(append([]kgo.Opt{}, opts...), kgo.TransactionalID("open"))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	if err := errors.Join(client.BeginTransaction(), client.ProduceSync(t.Context(), &kgo.Record{Topic: schemas.UsageLimits, Key: []byte("acme/*/total")}).FirstErr()); err != nil {
		t.Fatal(err)
	}
}
