package limiter

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

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
	contracts *codec.Serde[event.Contract]
	counts    *codec.Serde[event.UsageCount]
	model     *model
}

func newBench(t *testing.T) *bench {
	t.Helper()
	stack := embedded.ForTest(t)
	b := &bench{t: t, model: newModel()}
	b.opts = []kgo.Opt{kgo.SeedBrokers(stack.Broker.Seeds()...), kgo.MetadataMinAge(50 * time.Millisecond), kgo.FetchMaxWait(100 * time.Millisecond),
		kgo.RecordPartitioner(service.Partitioner()), kgo.ProducerLinger(0)}
	b.codec = codec.New(codec.NewRegistry(stack.Registry.URL()), codec.Options{RegisterSchemas: true})
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

func (b *bench) contract(c event.Contract) {
	b.t.Helper()
	v, err := b.contracts.Encode(context.Background(), &c)
	if err != nil {
		b.t.Fatal(err)
	}
	b.send(&kgo.Record{Topic: schemas.UsageContracts, Key: []byte(c.Account), Value: v})
	b.model.contracts[c.Account] = c
}

func (b *bench) start(dir string, crash func(stream.Point) error) (stop func() error) {
	b.t.Helper()
	cfg := Default()
	cfg.CommitInterval, cfg.SessionTimeout = 10*time.Millisecond, 2*time.Second
	s := newService(b.codec, cfg)
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
		ends, err := b.admin.ListEndOffsets(context.Background(), schemas.UsageCounts, schemas.UsageContracts)
		if err != nil {
			b.t.Fatal(err)
		}
		commits, err := b.admin.FetchOffsets(context.Background(), Name)
		if err != nil && !errors.Is(err, kerr.GroupIDNotFound) {
			b.t.Fatal(err)
		}
		behind := int64(0)
		ends.Each(func(o kadm.ListedOffset) {
			c, _ := commits.Lookup(o.Topic, o.Partition)
			behind += o.Offset - max(0, c.At)
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

// model announces thresholds in its own way: it looks at all counts of an account again and again.
type model struct {
	contracts map[string]event.Contract
	counts    map[string]int64
	crossed   map[string]bool // key, kind and value
	want      []string
	limits    map[string]string
}

func newModel() *model {
	return &model{contracts: map[string]event.Contract{}, counts: map[string]int64{}, crossed: map[string]bool{}, limits: map[string]string{}}
}

func (m *model) look(key, account, pack string, period event.Period) {
	n := m.counts[key]
	delete(m.limits, key)
	named := map[string]bool{}
	for _, l := range m.contracts[account].Packs {
		if l.Pack != pack || l.Period != period {
			continue
		}
		level := event.LimitLevelOk
		for _, t := range append(l.Thresholds, event.Threshold{Kind: event.ThresholdKindPercent, Value: 100}) {
			units := t.Value
			if t.Kind == event.ThresholdKindPercent {
				units = int64(math.Ceil(float64(l.Limit) * float64(t.Value) / 100))
			}
			id := fmt.Sprintf("%s %s %d", key, t.Kind, t.Value)
			if named[id] {
				continue
			}
			named[id] = true
			if n >= units && !m.crossed[id] {
				m.crossed[id] = true
				m.want = append(m.want, id+" CROSSED")
			} else if n < units && m.crossed[id] {
				delete(m.crossed, id)
				m.want = append(m.want, id+" RESET")
			}
			if n >= units && level == event.LimitLevelOk {
				level = event.LimitLevelWarned
			}
		}
		if n >= l.Limit {
			level = event.LimitLevelExceeded
		}
		m.limits[key] = fmt.Sprintf("%d of %d, %s", n, l.Limit, level)
	}
	for id := range m.crossed {
		if len(id) > len(key) && id[:len(key)+1] == key+" " && !named[id] {
			delete(m.crossed, id)
			m.want = append(m.want, id+" RESET")
		}
	}
}

// count sends a count and tells the model.
func (b *bench) count(account, pack string, matched, unmatched int64) {
	b.t.Helper()
	c := event.UsageCount{Account: account, Pack: pack, Period: "total", PeriodStart: time.Unix(0, 0), Matched: matched, Unmatched: unmatched, UpdatedAt: time.Now()}
	key := account + "/" + pack + "/total"
	v, err := b.counts.Encode(context.Background(), &c)
	if err != nil {
		b.t.Fatal(err)
	}
	b.send(&kgo.Record{Topic: schemas.UsageCounts, Key: []byte(key), Value: v})
	b.model.counts[key] = matched + unmatched
	b.model.look(key, account, pack, event.PeriodTotal)
}

func (b *bench) newContract(version int64, limit int64, thresholds ...event.Threshold) {
	b.t.Helper()
	for i := range 3 {
		account := fmt.Sprint("acct-", i)
		b.contract(event.Contract{Account: account, Version: version, TimeZone: "UTC", StartsAt: time.Now().AddDate(-1, 0, 0),
			Packs: []event.ContractPack{{Pack: "p", Period: event.PeriodTotal, Limit: limit, Thresholds: thresholds}, {Pack: "*", Period: event.PeriodTotal, Limit: 2 * limit}}})
		for _, pack := range []string{"p", "*"} {
			if key := account + "/" + pack + "/total"; b.model.counts[key] != 0 {
				b.model.look(key, account, pack, event.PeriodTotal)
			}
		}
	}
}

func (b *bench) check() {
	b.t.Helper()
	var got []string
	for _, rec := range b.read(schemas.UsageThresholds) {
		var e event.ThresholdEvent
		if err := codec.For[event.ThresholdEvent](b.codec, schemas.UsageThresholds).Decode(context.Background(), rec.Value, &e); err != nil {
			b.t.Fatal(err)
		}
		if crossed := e.Count >= e.ThresholdUnits; crossed != (e.Kind == event.ThresholdEventKindCrossed) && e.CauseTopic == schemas.UsageCounts || e.CauseTopic == "" {
			b.t.Errorf("%+v", e)
		}
		got = append(got, fmt.Sprintf("%s/%s/%s %s %d %s", e.Account, e.Pack, e.Period, e.ThresholdKind, e.ThresholdValue, e.Kind))
	}
	want := slices.Clone(b.model.want)
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(got, want) {
		b.t.Errorf("threshold events\n got %q\nwant %q", got, want)
	}
	states := map[string]string{}
	for _, rec := range b.read(schemas.UsageLimits) {
		if rec.Value == nil {
			delete(states, string(rec.Key))
			continue
		}
		var l event.LimitState
		if err := codec.For[event.LimitState](b.codec, schemas.UsageLimits).Decode(context.Background(), rec.Value, &l); err != nil {
			b.t.Fatal(err)
		}
		if l.Remaining != l.Limit-l.Used {
			b.t.Errorf("%+v", l)
		}
		states[string(rec.Key)] = fmt.Sprintf("%d of %d, %s", l.Used, l.Limit, l.State)
	}
	if !maps.Equal(states, b.model.limits) {
		b.t.Errorf("limits\n got %v\nwant %v", states, b.model.limits)
	}
}

var (
	errCrash = errors.New("injected crash")
	eighty   = event.Threshold{Kind: event.ThresholdKindPercent, Value: 80}
	thirty   = event.Threshold{Kind: event.ThresholdKindAbsolute, Value: 30}
	hundred  = event.Threshold{Kind: event.ThresholdKindPercent, Value: 100}
)

func TestThresholdsOnceThroughCrashes(t *testing.T) {
	for _, empty := range []bool{false, true} {
		t.Run(fmt.Sprintf("empty=%v", empty), func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			rng := rand.New(rand.NewPCG(3, 4))
			dir := t.TempDir()
			counts := func(n int) {
				for range n {
					k := rng.Int64N(130)
					b.count(fmt.Sprint("acct-", rng.IntN(3)), []string{"p", "*", "unlimited"}[rng.IntN(3)], k/2, k-k/2)
				}
			}
			b.newContract(1, 77, eighty, thirty, hundred)
			for round, point := range []stream.Point{stream.AfterFlush, stream.AfterEnd, stream.BeforeState, stream.InsideRestore} {
				counts(60)
				if point == stream.InsideRestore || empty {
					dir = t.TempDir()
				}
				crash := func(p stream.Point) error {
					if p == point {
						return errCrash
					}
					return nil
				}
				if err := b.start(dir, crash)(); !errors.Is(err, errCrash) {
					t.Fatalf("crash %s: ended with %v", point, err)
				}
				counts(30)
				if err := b.start(dir, nil)(); err != nil {
					t.Fatal(err)
				}
				b.check()
				// Lower, raise, drop thresholds, and drop the limit on p.
				switch round {
				case 0:
					b.newContract(2, 20, eighty)
				case 1:
					b.older()
				case 2:
					b.newContract(3, 1000, thirty)
				}
				if err := b.start(dir, nil)(); err != nil {
					t.Fatal(err)
				}
				b.check()
			}
		})
	}
}

// older sends contracts that are older than those in force. The model does not hear of them.
func (b *bench) older() {
	b.t.Helper()
	kept := b.model
	b.model = newModel()
	b.newContract(1, 5, thirty)
	b.model = kept
}

func TestDroppedLimitAndTombstone(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	dir := t.TempDir()
	b.newContract(1, 10, eighty)
	b.count("acct-0", "p", 9, 3)
	b.count("acct-0", "*", 9, 3)
	b.count("acct-1", "p", 9, 3)
	if err := b.start(dir, nil)(); err != nil {
		t.Fatal(err)
	}
	b.check()
	b.contract(event.Contract{Account: "acct-0", Version: 2, StartsAt: time.Now(), Packs: []event.ContractPack{{Pack: "*", Period: event.PeriodTotal, Limit: 12}}})
	b.model.look("acct-0/p/total", "acct-0", "p", event.PeriodTotal)
	b.model.look("acct-0/*/total", "acct-0", "*", event.PeriodTotal)
	b.send(&kgo.Record{Topic: schemas.UsageContracts, Key: []byte("acct-1")})
	delete(b.model.contracts, "acct-1")
	b.model.look("acct-1/p/total", "acct-1", "p", event.PeriodTotal)
	b.send(&kgo.Record{Topic: schemas.UsageCounts, Key: []byte("acct-1/p/total"), Value: []byte("not avro")})
	if err := b.start(dir, nil)(); err != nil {
		t.Fatal(err)
	}
	b.check()
	if dead := b.read(schemas.UsageCounts + ".dlq"); len(dead) != 1 {
		t.Errorf("%d dead letters, want 1", len(dead))
	}
	if len(b.model.limits) != 1 {
		t.Errorf("the model has limits %v, want one", b.model.limits)
	}
}
