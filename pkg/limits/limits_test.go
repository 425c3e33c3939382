package limits

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"databus/pkg/embedded"
	"databus/schemas"
	"databus/schemas/codec"
	"databus/schemas/event"
)

var noon = time.Date(2026, 11, 10, 12, 0, 0, 0, time.UTC)

type bench struct {
	t      *testing.T
	opts   []kgo.Opt
	client *kgo.Client
	codec  *codec.Codec
	now    time.Time
}

func newBench(t *testing.T) *bench {
	t.Helper()
	stack := embedded.ForTest(t)
	b := &bench{t: t, now: noon, opts: []kgo.Opt{kgo.SeedBrokers(stack.Broker.Seeds()...), kgo.FetchMaxWait(100 * time.Millisecond)}}
	b.codec = codec.New(codec.NewRegistry(stack.Registry.URL()), codec.Options{RegisterSchemas: true})
	var err error
	if b.client, err = kgo.NewClient(b.opts...); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.client.Close)
	resp, err := kadm.NewClient(b.client).CreateTopics(context.Background(), 4, 1, nil, schemas.UsageLimits)
	if err := errors.Join(err, resp.Error()); err != nil {
		t.Fatal(err)
	}
	return b
}

func (b *bench) view(open bool) *View {
	b.t.Helper()
	v, err := NewView(context.Background(), Options{Kafka: b.opts, Codec: b.codec, Open: open, Clock: func() time.Time { return b.now }})
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(v.Close)
	if err := v.Ready(context.Background()); err != nil {
		b.t.Fatal(err)
	}
	return v
}

// send produces the state of a monthly limit, or of a total for month 0.
func (b *bench) send(account, pack string, month time.Month, limit, used int64) {
	b.t.Helper()
	period := "total"
	if month != 0 {
		period = fmt.Sprintf("month:2026-%02d", month)
	}
	b.state(account, pack, period, month, limit, used)
}

// state is send for a period of any name.
func (b *bench) state(account, pack, period string, month time.Month, limit, used int64) {
	b.t.Helper()
	s := event.LimitState{Account: account, Pack: pack, Period: period, PeriodStart: time.Unix(0, 0), Limit: limit, Used: used, Remaining: limit - used, State: event.LimitLevelOk, UpdatedAt: b.now}
	if month != 0 {
		end := time.Date(2026, month+1, 1, 0, 0, 0, 0, time.UTC)
		s.PeriodStart, s.PeriodEnd = time.Date(2026, month, 1, 0, 0, 0, 0, time.UTC), &end
	}
	if used >= limit {
		s.State = event.LimitLevelExceeded
	}
	v, err := codec.For[event.LimitState](b.codec, schemas.UsageLimits).Encode(context.Background(), &s)
	if err != nil {
		b.t.Fatal(err)
	}
	b.raw(account+"/"+pack+"/"+s.Period, v)
}

func (b *bench) raw(key string, value []byte) {
	b.t.Helper()
	if err := b.client.ProduceSync(context.Background(), &kgo.Record{Topic: schemas.UsageLimits, Key: []byte(key), Value: value}).FirstErr(); err != nil {
		b.t.Fatal(err)
	}
}

func TestDecisions(t *testing.T) {
	b := newBench(t)
	b.send("a", "person", 11, 100, 20)
	b.send("a", "*", 11, 1000, 990)
	b.send("a", "company", 11, 50, 50)
	b.send("a", "company", 10, 50, 0)
	b.send("b", "*", 0, 10, 10)
	b.send("c", "person", 11, 10, 10)
	b.raw("c/person/month:2026-11", nil)
	b.raw("d/person/total", []byte("not avro"))
	v := b.view(false)
	for _, c := range []struct {
		account, pack string
		at            time.Time
		want          Decision
	}{
		{"a", "person", noon, Decision{Allowed: true, Reason: Within, Pack: "*", Period: "month:2026-11", Limit: 1000, Remaining: 10, Reset: time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC)}},
		{"a", "company", noon, Decision{Reason: Exceeded, Pack: "company", Period: "month:2026-11", Limit: 50, Reset: time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC)}},
		{"a", "company", noon.AddDate(0, 1, 0), Decision{Allowed: true, Reason: Unlimited}}, // the period ended by the clock
		{"b", "any", noon, Decision{Reason: Exceeded, Pack: "*", Period: "total", Limit: 10}},
		{"c", "person", noon, Decision{Allowed: true, Reason: Unlimited}}, // the limit was dropped
		{"d", "person", noon, Decision{Allowed: true, Reason: Unlimited}},
		{"nobody", "person", noon, Decision{Allowed: true, Reason: Unlimited}},
	} {
		b.now = c.at
		got := v.Allow(c.account, c.pack)
		if !got.Reset.Equal(c.want.Reset) {
			t.Errorf("%s %s: reset %v, want %v", c.account, c.pack, got.Reset, c.want.Reset)
		}
		got.Reset, c.want.Reset = time.Time{}, time.Time{}
		if got != c.want {
			t.Errorf("%s %s: %+v, want %+v", c.account, c.pack, got, c.want)
		}
	}
	b.now = noon
	b.send("a", "company", 11, 60, 50) // the limit was raised
	for deadline := time.Now().Add(10 * time.Second); !v.Allow("a", "company").Allowed; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the raised limit does not arrive")
		}
	}
	if n := testing.AllocsPerRun(1000, func() { v.Allow("a", "person") }); n != 0 {
		t.Errorf("%v allocations a decision", n)
	}
}

func TestNotCaughtUp(t *testing.T) {
	for _, open := range []bool{true, false} {
		b := newBench(t)
		reg := prometheus.NewRegistry()
		v, err := newView(Options{Codec: b.codec, Open: open, Metrics: reg}) // follows nothing
		if err != nil {
			t.Fatal(err)
		}
		if d := v.Allow("a", "p"); d.Allowed != open || d.Reason != NotCaughtUp {
			t.Errorf("open=%v: %+v", open, d)
		}
		if n := testutil.ToFloat64(v.unknown.allowed) - testutil.ToFloat64(v.unknown.refused); (n > 0) != open {
			t.Errorf("open=%v: not counted", open)
		}
	}
}

func TestOvershoot(t *testing.T) {
	b := newBench(t)
	b.send("before", "p", 11, 100, 150) // reached before the view came: nobody knows who admitted it
	reg := prometheus.NewRegistry()
	v, err := NewView(context.Background(), Options{Kafka: b.opts, Codec: b.codec, Clock: func() time.Time { return b.now }, Metrics: reg})
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	if err := v.Ready(context.Background()); err != nil {
		t.Fatal(err)
	}
	b.send("before", "p", 11, 100, 170)
	b.send("a", "p", 11, 100, 99)
	b.send("a", "p", 11, 100, 103)
	b.send("a", "p", 11, 100, 107) // events under way when the first refusal came
	b.send("a", "p", 11, 100, 105) // a correction does not undo it
	b.send("b", "p", 11, 100, 50)
	b.send("b", "p", 11, 100, 100) // exactly
	b.send("c", "p", 11, 100, 90)
	b.send("c", "p", 11, 50, 90) // a lowered limit
	b.send("c", "p", 11, 50, 91)
	b.send("end", "p", 11, 100, 0)
	for deadline := time.Now().Add(10 * time.Second); v.Allow("end", "p").Reason != Within; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the states do not arrive")
		}
	}
	if got := v.Overshoot(); got != (Overshoot{Worst: 7, Units: 7, Crossings: 2}) {
		t.Errorf("%+v", got)
	}
	if n, err := testutil.GatherAndCount(reg, "databus_limits_overshoot_units_max", "databus_limits_overshoot_units_total", "databus_limits_crossings_total"); n != 3 || err != nil {
		t.Errorf("%d metrics, %v", n, err)
	}
}

func TestMiddleware(t *testing.T) {
	b := newBench(t)
	b.send("rich", "person", 11, 100, 60)
	b.send("poor", "person", 11, 100, 101)
	b.send("total", "*", 0, 5, 6)
	guard := Guard{View: b.view(false), Account: func(r *http.Request) string { return r.Header.Get("Account") }, Pack: func(*http.Request) string { return "person" }}
	h := guard.Wrap(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }))
	call := func(account string) *http.Response {
		req := httptest.NewRequest("GET", "/", nil)
		req.Header.Set("Account", account)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, req)
		return w.Result()
	}
	toDecember := fmt.Sprint(int((20*24 + 12) * 3600))
	if r := call("rich"); r.StatusCode != 204 || r.Header.Get("RateLimit-Limit") != "100" || r.Header.Get("RateLimit-Remaining") != "40" || r.Header.Get("RateLimit-Reset") != toDecember || r.Header.Get("Retry-After") != "" {
		t.Errorf("rich: %d %v", r.StatusCode, r.Header)
	}
	r := call("poor")
	if r.StatusCode != 429 || r.Header.Get("RateLimit-Remaining") != "0" || r.Header.Get("Retry-After") != toDecember || r.Header.Get("Content-Type") != "application/problem+json" {
		t.Errorf("poor: %d %v", r.StatusCode, r.Header)
	}
	if policy, now := r.Header.Get("RateLimit-Policy"), r.Header.Get("RateLimit"); policy != `"person/month:2026-11";q=100` || now != `"person/month:2026-11";r=0;t=`+toDecember {
		t.Errorf("poor: %s, %s", policy, now)
	}
	var p Problem
	if err := json.NewDecoder(r.Body).Decode(&p); err != nil || p.Status != 429 || p.Period != "month:2026-11" || p.ResetsAt != "2026-12-01T00:00:00Z" ||
		p.Type != "https://iana.org/assignments/http-problem-types#quota-exceeded" || !slices.Equal(p.Violated, []string{"person/month:2026-11"}) {
		t.Errorf("problem %+v, %v", p, err)
	}
	// A limit without an end says nothing of one.
	if r := call("total"); r.StatusCode != 429 || r.Header.Get("RateLimit") != `"*/total";r=0` || r.Header.Get("RateLimit-Reset") != "" || r.Header.Get("Retry-After") != "" {
		t.Errorf("total: %d %v", r.StatusCode, r.Header)
	}
	if r := call(""); r.StatusCode != 204 || r.Header.Get("RateLimit-Limit") != "" || r.Header.Get("RateLimit-Policy") != "" {
		t.Errorf("nobody: %d %v", r.StatusCode, r.Header)
	}
	// Nothing is known yet: that is the server's fault, and no policy's.
	unknown, err := newView(Options{Codec: b.codec})
	if err != nil {
		t.Fatal(err)
	}
	guard.View = unknown
	h = guard.Wrap(http.NotFoundHandler())
	r = call("poor")
	p = Problem{}
	if err := json.NewDecoder(r.Body).Decode(&p); err != nil || r.StatusCode != 503 || r.Header.Get("Retry-After") != "1" || r.Header.Get("RateLimit-Policy") != "" || p.Type != "about:blank" || p.Status != 503 || p.Violated != nil {
		t.Errorf("unknown: %d %v %+v, %v", r.StatusCode, r.Header, p, err)
	}
}

// Where a contract moves the bounds of periods, the old limit goes with it, and until the first count under the new bounds
// nothing limits the account. Then the new one holds, whatever the old one was.
func TestChangedBounds(t *testing.T) {
	b := newBench(t)
	b.send("a", "person", 11, 100, 120)
	v := b.view(false)
	decided := func(want string) {
		t.Helper()
		for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
			d := v.Allow("a", "person")
			got := fmt.Sprintf("%v %s %d", d.Reason, d.Period, d.Remaining)
			if got == want {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s, want %s", got, want)
			}
		}
	}
	decided("exceeded month:2026-11 -20")
	b.raw("a/person/month:2026-11", nil)
	decided("unlimited  0")
	b.state("a", "person", "month:2026-11@2", 11, 100, 1)
	decided("within month:2026-11@2 99")
	b.state("a", "person", "month:2026-11@2", 11, 100, 100)
	decided("exceeded month:2026-11@2 0")
}

func BenchmarkAllow(b *testing.B) {
	v := unfollowed(b)
	const accounts = 100_000
	names := make([]string, accounts)
	for i := range names {
		names[i] = fmt.Sprint("acct-", i)
		for _, pack := range []string{"person", "*"} {
			v.put(names[i], names[i]+"/"+pack+"/total", &limit{terms: &terms{pack: pack, period: "total", until: never, end: never, limit: 100}, remaining: 50})
		}
	}
	b.ReportAllocs()
	b.ResetTimer()
	for i := 0; b.Loop(); i++ {
		v.Allow(names[i*7919%accounts], "person")
	}
}
