package usage

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"databus/schemas"
	"databus/schemas/codec"
	"databus/schemas/event"
)

// load sends events and contracts. The same seed gives the same events in the same order; when they are sent depends on
// the machine.
type load struct {
	w         *world
	rng       *rand.Rand // of events
	zipf      *rand.Zipf
	accounts  []string
	events    *codec.Serde[event.UsageEvent]
	contracts *codec.Serde[event.Contract]
	producer  *kgo.Client
	sent      []event.UsageEvent // the last ones, to repeat
	n         int

	mu      sync.Mutex
	held    map[string]bool // accounts whose contract is being changed
	failed  atomic.Pointer[error]
	changes atomic.Int64
}

var (
	packs = []string{"person", "company", "household"}
	zones = []string{"UTC", "America/New_York", "Asia/Kolkata", "Pacific/Auckland", "America/Sao_Paulo", "Europe/London"}
)

const (
	accounts = 200
	repeated = 20_000 // events that may be repeated
)

func newLoad(w *world, seed uint64) *load {
	w.t.Helper()
	c := codec.New(codec.NewRegistry(w.registry), codec.Options{RegisterSchemas: true})
	rng := rand.New(rand.NewPCG(seed, 1))
	l := &load{w: w, rng: rng, zipf: rand.NewZipf(rng, 1.1, 4, accounts-1), held: map[string]bool{},
		events: codec.For[event.UsageEvent](c, schemas.UsageEvents), contracts: codec.For[event.Contract](c, schemas.UsageContracts)}
	for i := range accounts {
		l.accounts = append(l.accounts, fmt.Sprintf("account-%03d", i))
	}
	var err error
	// A client of its own: the wait for its buffer must not wait for others.
	if l.producer, err = kgo.NewClient(w.opts...); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(l.producer.Close)
	return l
}

// contract makes a random contract of an account.
func (l *load) contract(rng *rand.Rand, account string, version int64) event.Contract {
	now := time.Now().UTC().Truncate(time.Second)
	c := event.Contract{Account: account, Version: version, TimeZone: zones[rng.IntN(len(zones))],
		StartsAt: now.Add(-time.Duration(rng.IntN(800*24*3600)) * time.Second)}
	if rng.IntN(10) == 0 {
		end := now.Add(time.Duration(rng.IntN(90)-30) * 24 * time.Hour)
		if end.After(c.StartsAt) {
			c.EndsAt = &end
		}
	}
	periods := []event.Period{event.PeriodTotal, event.PeriodCalendarMonth, event.PeriodContractMonth, event.PeriodContractYear}
	seen := map[string]bool{}
	for range 1 + rng.IntN(5) {
		p := event.ContractPack{Pack: append(packs, "*")[rng.IntN(4)], Period: periods[rng.IntN(4)], Limit: int64(math.Exp(1 + rng.Float64()*7))}
		if id := p.Pack + string(p.Period); seen[id] {
			continue
		} else {
			seen[id] = true
		}
		for range rng.IntN(4) {
			t := event.Threshold{Kind: event.ThresholdKindPercent, Value: []int64{50, 80, 90, 95, 100, 150}[rng.IntN(6)]}
			if rng.IntN(3) == 0 {
				t = event.Threshold{Kind: event.ThresholdKindAbsolute, Value: 1 + rng.Int64N(2000)}
			}
			p.Thresholds = append(p.Thresholds, t)
		}
		c.Packs = append(c.Packs, p)
	}
	return c
}

func (l *load) sendContract(ctx context.Context, account string, c *event.Contract) (*kgo.Record, error) {
	rec := &kgo.Record{Topic: schemas.UsageContracts, Key: []byte(account)}
	if c != nil {
		v, err := l.contracts.Encode(ctx, c)
		if err != nil {
			return nil, err
		}
		rec.Value = v
	}
	return rec, l.w.client.ProduceSync(ctx, rec).FirstErr()
}

// firstContracts gives most accounts a contract. Call it before anything is sent and any service is started.
func (l *load) firstContracts(ctx context.Context) error {
	rng := rand.New(rand.NewPCG(77, 3))
	for i, a := range l.accounts {
		if i%4 == 3 {
			continue
		}
		c := l.contract(rng, a, 1)
		if _, err := l.sendContract(ctx, a, &c); err != nil {
			return fmt.Errorf("sending a contract: %w", err)
		}
	}
	return nil
}

// next makes the next event, or none for a held account: some are late, some correct earlier ones, some repeat an earlier one, some break a rule.
func (l *load) next() *kgo.Record {
	l.n++
	now := time.Now()
	e := event.UsageEvent{EventID: fmt.Sprintf("event-%d", l.n), Account: l.accounts[l.zipf.Uint64()], Pack: packs[l.rng.IntN(3)],
		OccurredAt: now, Quantity: 1, Status: 200, AmountMicros: l.rng.Int64N(1000), Endpoint: "/v1/match"}
	kind, part := l.rng.IntN(1000), l.rng.IntN(1<<30)
	if l.rng.IntN(10) < 3 {
		e.Status = 404
	}
	if l.rng.IntN(5) == 0 {
		e.Quantity = 1 + l.rng.Int64N(9)
	}
	if l.rng.IntN(3) == 0 {
		provider := fmt.Sprintf("provider-%d", l.rng.IntN(40))
		e.Provider = &provider
	}
	late := time.Duration(l.rng.IntN(100*24*3600)) * time.Second
	if part%10 == 0 {
		e.OccurredAt = now.Add(-late)
	}
	key := e.Account
	switch {
	case kind < 40 && len(l.sent) > 0: // sent again, soon or late
		e = l.sent[part%len(l.sent)]
		key = e.Account
	case kind < 80:
		e.Quantity = -1 - l.rng.Int64N(6)
	case kind < 90:
		switch part % 7 {
		case 0:
			e.Quantity = 0
		case 1:
			e.OccurredAt = time.Unix(0, 0)
		case 2:
			e.OccurredAt = now.AddDate(74, 0, 0)
		case 3:
			e.EventID = strings.Repeat("x", 10_000)
		case 4:
			e.Account = "no/such account"
		case 5:
			e.Pack = "*"
		default:
			return &kgo.Record{Topic: schemas.UsageEvents, Key: []byte(key), Value: []byte("no event")}
		}
	default:
		if len(l.sent) < repeated {
			l.sent = append(l.sent, e)
		} else {
			l.sent[l.n%repeated] = e
		}
	}
	if l.held[key] || l.held[e.Account] {
		return nil // later ones will come
	}
	v, err := l.events.Encode(context.Background(), &e)
	if err != nil {
		l.fail(err)
		return nil
	}
	return &kgo.Record{Topic: schemas.UsageEvents, Key: []byte(key), Value: v}
}

func (l *load) fail(err error) { l.failed.CompareAndSwap(nil, &err) }

// send sends the next n events.
func (l *load) send(ctx context.Context, n int) {
	for range n {
		// Making the record and handing it over is one step for whoever holds the account.
		l.mu.Lock()
		if rec := l.next(); rec != nil {
			l.producer.Produce(ctx, rec, func(_ *kgo.Record, err error) {
				if err != nil {
					l.fail(fmt.Errorf("sending an event: %w", err))
				}
			})
		}
		l.mu.Unlock()
	}
}

// run sends events at a rate and changes contracts, until ctx is done; then everything sent has been acknowledged.
func (l *load) run(ctx context.Context, rate int) error {
	var wg sync.WaitGroup
	outer := context.WithoutCancel(ctx)
	wg.Add(1)
	go func() {
		defer wg.Done()
		rng := rand.New(rand.NewPCG(uint64(l.n), 5))
		versions, known := map[string]int64{}, map[string]event.Contract{}
		for ctx.Err() == nil {
			if err := l.change(ctx, rng, versions, known); err != nil && ctx.Err() == nil {
				l.fail(fmt.Errorf("changing a contract: %w", err))
				return
			}
			select {
			case <-ctx.Done():
			case <-time.After(200 * time.Millisecond):
			}
		}
	}()
	const tick = 10 * time.Millisecond
	began, done := time.Now(), 0
	for ctx.Err() == nil {
		if p := l.failed.Load(); p != nil {
			break
		}
		// Never more than a tenth of a second at once, if the machine stood still.
		n := min(int(time.Since(began).Seconds()*float64(rate))-done, rate/10)
		l.send(outer, n)
		done += n
		if behind := int(time.Since(began).Seconds() * float64(rate)); behind-done > rate {
			done = behind
		}
		time.Sleep(tick)
	}
	wg.Wait()
	flush, cancel := context.WithTimeout(outer, patience)
	defer cancel()
	if err := l.producer.Flush(flush); err != nil {
		l.fail(fmt.Errorf("waiting for what was sent: %w", err))
	}
	if p := l.failed.Load(); p != nil {
		return *p
	}
	return nil
}

// change sends one contract. One that changes something is sent behind everything of its account, and the account goes
// on behind it, so that there is one order of events and contracts.
func (l *load) change(ctx context.Context, rng *rand.Rand, versions map[string]int64, known map[string]event.Contract) error {
	account := l.accounts[int(math.Abs(rng.NormFloat64())*30)%len(l.accounts)]
	version := max(versions[account], 1)
	c := l.contract(rng, account, version+1)
	if last, ok := known[account]; ok && rng.IntN(2) == 0 {
		// Most contracts in life change a limit and no bounds of a period.
		c.TimeZone, c.StartsAt = last.TimeZone, last.StartsAt
	}
	switch rng.IntN(12) {
	case 0: // older: ignored
		c.Version = version
		if versions[account] > 0 {
			_, err := l.sendContract(ctx, account, &c)
			return err
		}
		return nil
	case 1: // refused
		c.TimeZone = "Nowhere/Land"
		_, err := l.sendContract(ctx, account, &c)
		return err
	case 2: // refused
		if len(c.Packs) > 0 {
			c.Packs[0].Limit = 0
		}
		_, err := l.sendContract(ctx, account, &c)
		return err
	}
	l.mu.Lock()
	l.held[account] = true
	l.mu.Unlock()
	defer func() {
		l.mu.Lock()
		delete(l.held, account)
		l.mu.Unlock()
	}()
	if err := l.settled(ctx, account); err != nil {
		return err
	}
	next := &c
	if rng.IntN(12) == 0 {
		next = nil // the end of the contract; a version starts over
	}
	rec, err := l.sendContract(ctx, account, next)
	if err != nil {
		return err
	}
	if known[account] = c; next == nil {
		delete(versions, account) // no version is older now, so that none is sent as one that is ignored
	} else {
		versions[account] = c.Version
	}
	seen := kadm.ListedOffsets{rec.Topic: {rec.Partition: {Topic: rec.Topic, Partition: rec.Partition, Offset: rec.Offset + 1}}}
	// Also when the load ends: a contract whose order is not known yet must not be overtaken.
	for _, s := range services {
		if err := l.w.passed(ctx, s, seen); err != nil {
			return err
		}
	}
	time.Sleep(3 * time.Millisecond) // append times are in milliseconds
	l.changes.Add(1)
	return nil
}

// settled waits until everything sent for a held account has been counted and compared.
func (l *load) settled(ctx context.Context, account string) error {
	if err := l.producer.Flush(ctx); err != nil {
		return err
	}
	partition := schemas.Partition(schemas.UsageEvents, []byte(account), schemas.MustLookup(schemas.UsageEvents).Partitions)
	for _, s := range services {
		topic := inputs[s][0]
		ends, err := l.w.endsOf(ctx, topic)
		if err != nil {
			return err
		}
		end, ok := ends.Lookup(topic, partition)
		if !ok {
			return errors.New("the account's partition does not answer")
		}
		if err := l.w.passed(ctx, s, kadm.ListedOffsets{topic: {partition: end}}); err != nil {
			return err
		}
	}
	time.Sleep(3 * time.Millisecond)
	return nil
}
