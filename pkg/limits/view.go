package limits

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kgo"

	"databus/pkg/follow"
	"databus/schemas"
	"databus/schemas/codec"
	"databus/schemas/event"
)

// Options of a View.
type Options struct {
	// Kafka says where the brokers are; no option of a group.
	Kafka []kgo.Opt
	Codec *codec.Codec
	// Open answers calls with yes until the view is caught up; else with no.
	Open bool
	// Clock is time.Now if nil, as of the last few milliseconds: asking the system takes longer than a decision may.
	Clock   func() time.Time
	Metrics prometheus.Registerer
	Log     *slog.Logger
}

// Reason says why a decision is what it is.
type Reason uint8

const (
	Unlimited   Reason = iota // no limit of the account holds for the pack now
	Within                    // the tightest limit is not reached
	Exceeded                  // a limit is reached
	NotCaughtUp               // the view does not know yet; the options decided
)

func (r Reason) String() string {
	return [...]string{"unlimited", "within", "exceeded", "not caught up"}[r]
}

// Decision is the answer about one call.
type Decision struct {
	Allowed bool
	Reason  Reason
	// Pack and Period name the limit that decided: the one exceeded, else the one with the least remaining. Empty without.
	Pack, Period string
	// Limit and Remaining are in units; Remaining is negative where calls overshot.
	Limit, Remaining int64
	// Reset is the end of the limit's period; the zero time where it has none.
	Reset time.Time
}

// A limit is one LimitState in the form that decisions are made from.
type limit struct {
	*terms    // never changed
	remaining int64
	watched   bool // the view saw the limit being reached, so what is beyond it was admitted meanwhile
}

// terms are what limits of many accounts have in common. Times are microseconds since 1970; ends are exclusive.
type terms struct {
	pack, period string
	start, until int64 // when it holds
	end          int64 // of the period
	limit        int64
	exceeded     bool
}

// never ends.
const never = math.MaxInt64

// excess is how many units were used beyond the limit.
func (l *limit) excess() int64 {
	if !l.exceeded {
		return 0
	}
	return max(0, -l.remaining)
}

// A choice is the limit that decides, of those offered.
type choice struct {
	*terms
	remaining int64
}

// or chooses between c and a limit that may not hold. Among exceeded limits the one that ends last is what the caller has
// to wait for, among others the one with the least remaining is the next to refuse.
func (c choice) or(t *terms, remaining int64, pack string, now int64) choice {
	if t.pack != pack && t.pack != "*" || now < t.start || t.until <= now {
		return c
	}
	switch {
	case c.terms == nil, t.exceeded && !c.exceeded:
	case t.exceeded != c.exceeded, t.exceeded && t.end <= c.end, !t.exceeded && remaining >= c.remaining:
		return c
	}
	return choice{t, remaining}
}

func (c choice) decision() Decision {
	if c.terms == nil {
		return Decision{Allowed: true, Reason: Unlimited}
	}
	d := Decision{Allowed: !c.exceeded, Reason: Within, Pack: c.pack, Period: c.period, Limit: c.limit, Remaining: c.remaining}
	if c.exceeded {
		d.Reason = Exceeded
	}
	if c.end != never {
		d.Reset = time.UnixMicro(c.end)
	}
	return d
}

// View follows usage.limits.
type View struct {
	o        Options
	seeds    seeds
	mu       sync.RWMutex
	accounts map[string][]limit    // under mu
	table    atomic.Pointer[table] // made from accounts, written under mu
	follower *follow.Follower
	serde    *codec.Serde[event.LimitState]
	caughtUp atomic.Bool
	now      atomic.Int64 // microseconds since 1970, kept by tell; 0: ask the clock
	close    sync.Once
	closed   chan struct{}

	unknown struct{ allowed, refused prometheus.Counter }
	states  prometheus.Counter
	bad     prometheus.Counter
	delay   prometheus.Histogram

	overshoot struct{ worst, units, crossings atomic.Int64 }
}

// NewView starts to follow usage.limits; the brokers must answer and the topic must exist. It returns before everything
// is read: [View.Ready] waits for that. Close it, or end ctx.
func NewView(ctx context.Context, o Options) (*View, error) {
	v, err := newView(o)
	if err != nil {
		return nil, err
	}
	v.follower, err = follow.Topic(ctx, o.Kafka, schemas.UsageLimits, func(rec *kgo.Record) { v.take(ctx, rec) })
	if err != nil {
		return nil, fmt.Errorf("limits: %w", err)
	}
	if o.Clock == nil {
		go v.tell(ctx)
	}
	return v, nil
}

// tick is how late a view may notice that a period has ended.
const tick = 5 * time.Millisecond

// tell keeps the time until the view is closed.
func (v *View) tell(ctx context.Context) {
	t := time.NewTicker(tick)
	defer t.Stop()
	defer v.now.Store(0)
	for {
		v.now.Store(v.o.Clock().UnixMicro())
		select {
		case <-t.C:
		case <-v.closed:
			return
		case <-ctx.Done():
			return
		}
	}
}

// micros is the time, in microseconds since 1970.
func (v *View) micros() int64 {
	if now := v.now.Load(); now != 0 {
		return now
	}
	return v.o.Clock().UnixMicro()
}

func newView(o Options) (*View, error) {
	if o.Codec == nil {
		return nil, errors.New("limits: a view needs a codec")
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Metrics == nil {
		o.Metrics = prometheus.NewRegistry()
	}
	v := &View{o: o, seeds: seeds{maphash.MakeSeed(), maphash.MakeSeed()}, accounts: map[string][]limit{}, closed: make(chan struct{}), serde: codec.For[event.LimitState](o.Codec, schemas.UsageLimits)}
	v.table.Store(newTable(v.seeds, nil))
	return v, v.register()
}

func (v *View) register() error {
	vec := prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "databus", Subsystem: "limits", Name: "decisions_not_caught_up_total",
		Help: "Calls that were answered before the view knew the limits, by answer."}, []string{"answer"})
	v.states = prometheus.NewCounter(prometheus.CounterOpts{Namespace: "databus", Subsystem: "limits", Name: "states_total", Help: "Limit states read from the topic."})
	v.bad = prometheus.NewCounter(prometheus.CounterOpts{Namespace: "databus", Subsystem: "limits", Name: "undecodable_states_total", Help: "Records of the topic that could not be read; the limits they meant stay as they were."})
	v.delay = prometheus.NewHistogram(prometheus.HistogramOpts{Namespace: "databus", Subsystem: "limits", Name: "delay_seconds",
		Help: "From the append of the record that caused a limit state to the state in this view; times the request rate it is the overshoot.", Buckets: prometheus.ExponentialBuckets(0.002, 2, 16)})
	worst := prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: "databus", Subsystem: "limits", Name: "overshoot_units_max",
		Help: "Most units that were admitted beyond one limit, of those that this view saw being reached."}, func() float64 { return float64(v.overshoot.worst.Load()) })
	units := prometheus.NewCounterFunc(prometheus.CounterOpts{Namespace: "databus", Subsystem: "limits", Name: "overshoot_units_total",
		Help: "Units that were admitted beyond limits that this view saw being reached."}, func() float64 { return float64(v.overshoot.units.Load()) })
	crossings := prometheus.NewCounterFunc(prometheus.CounterOpts{Namespace: "databus", Subsystem: "limits", Name: "crossings_total",
		Help: "Limits that this view saw being reached."}, func() float64 { return float64(v.overshoot.crossings.Load()) })
	for _, c := range []prometheus.Collector{vec, v.states, v.bad, v.delay, worst, units, crossings} {
		if err := v.o.Metrics.Register(c); err != nil {
			return fmt.Errorf("limits: registering metrics (a process needs one view only): %w", err)
		}
	}
	v.unknown.allowed, v.unknown.refused = vec.WithLabelValues("allowed"), vec.WithLabelValues("refused")
	return nil
}

// take puts a limit state into the view.
func (v *View) take(ctx context.Context, rec *kgo.Record) {
	account, _, _ := cut(rec.Key)
	if rec.Value == nil {
		v.put(account, string(rec.Key), nil)
		return
	}
	var s event.LimitState
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
		err := v.serde.Decode(ctx, rec.Value, &s)
		if err == nil {
			break
		}
		if codec.IsPoison(err) {
			v.bad.Inc()
			v.o.Log.Error("a limit state cannot be read", "partition", rec.Partition, "offset", rec.Offset, "error", err)
			return
		}
		// Registry unreachable, or it does not know the schema yet: later states wait as well.
		v.o.Log.Warn("a limit state waits for the registry", "error", err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
	v.states.Inc()
	v.delay.Observe(max(0, v.o.Clock().Sub(s.UpdatedAt).Seconds()))
	l := limit{remaining: s.Remaining, terms: &terms{pack: s.Pack, period: s.Period, start: s.PeriodStart.UnixMicro(), until: never, end: never, limit: s.Limit,
		exceeded: s.State == event.LimitLevelExceeded}}
	if s.PeriodEnd != nil {
		l.end = s.PeriodEnd.UnixMicro()
	}
	if s.ContractEndsAt != nil {
		l.until = s.ContractEndsAt.UnixMicro()
	}
	l.until = min(l.until, l.end)
	v.put(s.Account, string(rec.Key), &l)
}

// cut splits a key account/pack/period.
func cut(key []byte) (account, pack, period string) {
	parts := [3]string{}
	n := 0
	start := 0
	for i, c := range key {
		if c == '/' && n < 2 {
			parts[n] = string(key[start:i])
			n, start = n+1, i+1
		}
	}
	parts[n] = string(key[start:])
	return parts[0], parts[1], parts[2]
}

// put replaces one limit of an account, or removes it. Periods that ended a day ago go at the same time, so that an
// account does not grow with its history.
func (v *View) put(account, key string, l *limit) {
	_, pack, period := cut([]byte(key))
	old := v.o.Clock().Add(-24 * time.Hour).UnixMicro()
	v.mu.Lock()
	defer v.mu.Unlock()
	limits := slices.DeleteFunc(v.accounts[account], func(have limit) bool {
		same := have.pack == pack && have.period == period
		if same && l != nil {
			v.watch(&have, l)
		}
		return same || have.end < old
	})
	if l != nil && l.end >= old {
		limits = append(limits, *l)
	}
	if v.accounts[account] = limits; len(limits) == 0 {
		delete(v.accounts, account)
	}
	t := v.table.Load()
	if t.write(v.seeds.id(account), limits); t.full() {
		v.table.Store(newTable(v.seeds, v.accounts))
	}
}

// watch measures what was admitted beyond a limit: from the state that says that it is reached to the last count that
// comes in. A limit that a contract lowered was not overshot.
func (v *View) watch(was, is *limit) {
	if !is.exceeded || was.limit != is.limit || !v.caughtUp.Load() && !v.catchUp() {
		return
	}
	if is.watched = was.watched || !was.exceeded; !is.watched {
		return
	}
	if !was.exceeded {
		v.overshoot.crossings.Add(1)
	}
	now := is.excess()
	v.overshoot.units.Add(max(0, now-was.excess()))
	if now > v.overshoot.worst.Load() { // one goroutine writes
		v.overshoot.worst.Store(now)
	}
}

// Overshoot is what was admitted beyond limits since the view was caught up, over all processes that count to them.
type Overshoot struct {
	// Worst is the most units beyond one limit: at a steady rate, what the calls of one account make while a usage event
	// becomes a limit state.
	Worst int64
	// Units is the sum over all limits. It does not go down with corrections.
	Units int64
	// Crossings is how many limits were reached.
	Crossings int64
}

// Overshoot returns what was admitted beyond limits so far. It counts limits that the view itself saw being reached.
func (v *View) Overshoot() Overshoot {
	return Overshoot{Worst: v.overshoot.worst.Load(), Units: v.overshoot.units.Load(), Crossings: v.overshoot.crossings.Load()}
}

// Allow says whether a call of an account to a pack may go on. It does not count the call: usage events do.
func (v *View) Allow(account, pack string) Decision {
	if !v.caughtUp.Load() && !v.catchUp() {
		if v.o.Open {
			v.unknown.allowed.Inc()
		} else {
			v.unknown.refused.Inc()
		}
		return Decision{Allowed: v.o.Open, Reason: NotCaughtUp}
	}
	now := v.micros()
	if c, ok := v.table.Load().choose(v.seeds.id(account), pack, now); ok {
		return c.decision()
	}
	v.mu.RLock()
	defer v.mu.RUnlock()
	var c choice
	for _, l := range v.accounts[account] {
		c = c.or(l.terms, l.remaining, pack, now)
	}
	return c.decision()
}

func (v *View) catchUp() bool {
	if v.follower == nil || !v.follower.IsReady() {
		return false
	}
	v.caughtUp.Store(true)
	return true
}

// CaughtUp says whether the view has read what the topic held when it started.
func (v *View) CaughtUp() bool { return v.caughtUp.Load() || v.catchUp() }

// Ready waits until the view has read what the topic held when it started.
func (v *View) Ready(ctx context.Context) error {
	if err := v.follower.Ready(ctx); err != nil {
		return fmt.Errorf("limits: %w", err)
	}
	return nil
}

// Close stops following. Allow goes on answering with what the view knows.
func (v *View) Close() {
	v.close.Do(func() { close(v.closed) })
	v.follower.Close()
}
