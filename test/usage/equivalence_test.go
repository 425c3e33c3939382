package usage

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kgo"

	"databus/pkg/embedded"
	"databus/pkg/service"
	"databus/schemas"
	"databus/schemas/codec"
	"databus/schemas/event"
	limiterservice "databus/services/limiter"
	usageaggregator "databus/services/usage-aggregator"
	"databus/test/prove"
	"databus/test/usage/verify"
)

// setting is how the services run; none of it may change a result.
type setting struct {
	name       string
	partitions int32
	records    int // of a transaction at most
	commit     time.Duration
	instances  int
	restarts   int // every other one is a crash
	cache      int // bytes
}

var settings = []setting{
	{"plain", 8, 20_000, 100 * time.Millisecond, 1, 0, 8 << 20},
	{"one partition", 1, 2_000, 100 * time.Millisecond, 1, 0, 8 << 20},
	{"three partitions", 3, 3_000, 100 * time.Millisecond, 1, 0, 8 << 20},
	{"sixteen partitions", 16, 2_500, 100 * time.Millisecond, 1, 0, 8 << 20},
	{"small transactions", 8, 100, 100 * time.Millisecond, 1, 0, 8 << 20},
	{"short transactions", 8, 1_000, 10 * time.Millisecond, 1, 0, 8 << 20},
	{"long transactions", 8, 1_000_000, time.Second, 1, 0, 8 << 20},
	{"two instances", 8, 1_500, 100 * time.Millisecond, 2, 0, 8 << 20},
	{"three instances", 12, 5_000, 50 * time.Millisecond, 3, 0, 8 << 20},
	{"restarts", 8, 2_000, 20 * time.Millisecond, 1, 6, 8 << 20},
	{"no cache to speak of", 8, 2_000, 100 * time.Millisecond, 1, 0, 1 << 10},
	{"all of it", 5, 500, 20 * time.Millisecond, 2, 6, 64 << 10},
}

// The same events under the same contracts give the same results, however the services run. Half of the accounts have
// corrections: for them the final limits are the same, while what was crossed on the way follows from the sequence of
// counts, which the verifier checks. Accounts without have the same set of crossed thresholds as well.
func TestProveEquivalence(t *testing.T) {
	base := time.Now().UTC().Truncate(24*time.Hour).AddDate(0, 0, -100)
	n := prove.Size(10_000, 100_000)
	var first *verify.Report
	for _, s := range settings {
		t.Run(strings.ReplaceAll(s.name, " ", "_"), func(t *testing.T) {
			r := equivalent(t, s, base, n)
			if first == nil {
				first = r
				return
			}
			same(t, "final counts", first.FinalCounts(), r.FinalCounts())
			same(t, "final limits", first.FinalLimits(), r.FinalLimits())
			same(t, "crossed thresholds", adding(first.Crossings()), adding(r.Crossings()))
		})
	}
	if first != nil {
		t.Logf("%d counts, %d limits, %d crossings of accounts without corrections", len(first.FinalCounts()), len(first.FinalLimits()), len(adding(first.Crossings())))
	}
}

// adding are the crossings of the accounts without corrections.
func adding(all map[string]int) map[string]int {
	all = maps.Clone(all)
	maps.DeleteFunc(all, func(key string, _ int) bool { return !strings.HasPrefix(key, "adds-") })
	return all
}

func same[V comparable](t *testing.T, what string, want, have map[string]V) {
	t.Helper()
	if maps.Equal(want, have) && len(want) > 0 {
		return
	}
	shown := 0
	for _, key := range slices.Sorted(maps.Keys(want)) {
		if h, ok := have[key]; (!ok || h != want[key]) && shown < 10 {
			t.Errorf("%s: %s is %v, want %v", what, key, h, want[key])
			shown++
		}
	}
	t.Errorf("%s: %d, want %d, and they are not the same", what, len(have), len(want))
}

func equivalent(t *testing.T, s setting, base time.Time, n int) *verify.Report {
	stack := embedded.ForTest(t)
	all := usageTopics()
	for i := range all {
		all[i].Partitions = s.partitions
	}
	w := newWorld(t, "", stack.Broker.Seeds(), stack.Registry.URL(), all)
	ctx := t.Context()
	c := codec.New(codec.NewRegistry(w.registry), codec.Options{RegisterSchemas: true})
	rng := rand.New(rand.NewPCG(8, 8))
	zipf := rand.NewZipf(rng, 1.1, 4, 99)
	l := &load{w: w}
	name := func(i int) string { return fmt.Sprintf("%s-%02d", []string{"adds", "corrects"}[i%2], i/2) }
	contracts := codec.For[event.Contract](c, schemas.UsageContracts)
	for i := range 80 {
		contract := l.contract(rng, name(i), 1)
		contract.StartsAt = base.Add(-time.Duration(rng.IntN(300*24)) * time.Hour)
		contract.EndsAt = nil
		v, err := contracts.Encode(ctx, &contract)
		if err != nil {
			t.Fatal(err)
		}
		if err := w.client.ProduceSync(ctx, &kgo.Record{Topic: schemas.UsageContracts, Key: []byte(name(i)), Value: v}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	var members []*member
	for i := range s.instances {
		for _, service := range services {
			m := &member{t: t, w: w, s: s, codec: c, service: service, id: fmt.Sprint(i), dir: filepath.Join(t.TempDir(), service)}
			m.start("")
			members = append(members, m)
		}
	}
	events := codec.For[event.UsageEvent](c, schemas.UsageEvents)
	for i := range n {
		who := int(zipf.Uint64())
		e := event.UsageEvent{EventID: fmt.Sprint(i), Account: name(who), Pack: packs[rng.IntN(3)], Status: []int32{200, 200, 404}[rng.IntN(3)],
			OccurredAt: base.Add(time.Duration(rng.IntN(99*24*3600)) * time.Second), Quantity: 1 + rng.Int64N(3), AmountMicros: rng.Int64N(1000)}
		if correct := rng.IntN(5) == 0; correct && who%2 == 1 {
			e.Quantity = -e.Quantity
		}
		v, err := events.Encode(ctx, &e)
		if err != nil {
			t.Fatal(err)
		}
		w.client.Produce(ctx, &kgo.Record{Topic: schemas.UsageEvents, Key: []byte(e.Account), Value: v}, func(_ *kgo.Record, err error) {
			if err != nil {
				t.Error(err)
			}
		})
		if s.restarts > 0 && i%(n/(s.restarts+1)) == 0 && i > 0 {
			k := i / (n / (s.restarts + 1))
			for _, m := range members {
				// The last start must not crash.
				m.stop()
				crash := ""
				if k%2 == 0 && k < s.restarts {
					crash = points[k/2%3]
				}
				m.start(crash)
			}
		}
	}
	if err := errors.Join(w.client.Flush(ctx), w.caughtUp(ctx)); err != nil {
		t.Fatal(err)
	}
	var dirs []string
	for _, m := range members {
		m.stop()
		dirs = append(dirs, filepath.Join(m.dir, "stream"))
	}
	r, err := verify.Verify(ctx, verify.Options{Kafka: w.opts, Registry: w.registry, DedupWindow: usageaggregator.Default().DedupWindow, Instances: dirs})
	if err != nil {
		t.Fatal(err)
	}
	figures.add(r)
	t.Log(r)
	if err := r.Err(); err != nil {
		t.Error(err)
	}
	return r
}

// member is an instance in this process, where partitions may have other numbers than the catalogue's.
type member struct {
	t           *testing.T
	w           *world
	s           setting
	codec       *codec.Codec
	service, id string
	dir         string
	cancel      context.CancelFunc
	done        chan error
}

var errCrash = errors.New("a crash for the test")

// start runs the service; a crashing one ends at that point of its first transaction.
func (m *member) start(crash string) {
	m.t.Helper()
	env := &service.Env{Service: m.service, Instance: m.id, StateDir: m.dir, Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry(),
		Health: service.NewHealth(), Brokers: m.w.brokers, Codec: m.codec}
	if crash != "" {
		env.Crash = func(point string) error {
			if point == crash {
				return errCrash
			}
			return nil
		}
	}
	var runner service.Runner
	var err error
	if m.service == aggregator {
		cfg := usageaggregator.Default()
		cfg.CommitInterval, cfg.MaxRecords, cfg.CacheBytes, cfg.SessionTimeout, cfg.LeaveOnStop = m.s.commit, m.s.records, m.s.cache, m.w.session, true
		runner, err = usageaggregator.New(m.t.Context(), env, cfg)
	} else {
		cfg := limiterservice.Default()
		cfg.CommitInterval, cfg.MaxRecords, cfg.CacheBytes, cfg.SessionTimeout, cfg.LeaveOnStop = m.s.commit, m.s.records, m.s.cache, m.w.session, true
		runner, err = limiterservice.New(m.t.Context(), env, cfg)
	}
	if err != nil {
		m.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(m.t.Context())
	m.cancel, m.done = cancel, make(chan error, 1)
	go func() { m.done <- runner.Run(ctx) }()
}

func (m *member) stop() {
	m.t.Helper()
	m.cancel()
	select {
	case err := <-m.done:
		if err != nil && !errors.Is(err, errCrash) {
			m.t.Fatal(err)
		}
	case <-time.After(time.Minute):
		m.t.Fatal("the service does not end")
	}
}
