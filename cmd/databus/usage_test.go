package main

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"databus/schemas"
	"databus/schemas/codec"
	"databus/schemas/event"
)

func TestUsageProduce(t *testing.T) {
	s := readyStack(t, schemas.UsageEvents)
	var sum produced
	if err := json.Unmarshal([]byte(s.ok(t, "usage", "produce", "-n", "2000", "--accounts", "50", "--duplicates", "0.1", "--seed", "3", "--run", "one", "--format", "json")), &sum); err != nil {
		t.Fatal(err)
	}
	if sum.Sent != 2000 || sum.Acknowledged != 2000 || sum.Duplicates < 120 || sum.Duplicates > 280 {
		t.Errorf("%+v", sum)
	}
	type summary struct {
		events, ids map[string]int
		packs       map[string]bool
	}
	read := func() summary {
		all := summary{map[string]int{}, map[string]int{}, map[string]bool{}}
		for _, l := range s.consume(t, schemas.UsageEvents) {
			var e struct {
				EventID string `json:"event_id"`
				Account string `json:"account"`
				Pack    string `json:"pack"`
			}
			if err := json.Unmarshal(l.Value, &e); err != nil {
				t.Fatal(err)
			}
			all.events[e.Account]++
			all.ids[e.EventID]++
			all.packs[e.Pack] = true
		}
		return all
	}
	first := read()
	if got := 2000 - len(first.ids); int64(got) != sum.Duplicates {
		t.Errorf("%d ids are missing, %d duplicates were counted", got, sum.Duplicates)
	}
	if a, b := first.events["load-1"], first.events["load-40"]; a < 200 || b > a/5 || len(first.packs) != 3 || len(first.events) > 50 {
		t.Errorf("busiest %d, 40th %d, %d accounts, packs %v", a, b, len(first.events), first.packs)
	}
	// The same seed and name again: nothing new. Another name: as many new ids.
	s.ok(t, "usage", "produce", "-n", "2000", "--accounts", "50", "--duplicates", "0.1", "--seed", "3", "--run", "one")
	if again := read(); len(again.ids) != len(first.ids) {
		t.Errorf("%d ids, then %d", len(first.ids), len(again.ids))
	}
	begin := time.Now()
	s.ok(t, "usage", "produce", "-n", "100", "--rate", "200", "--account", "acme")
	if took := time.Since(begin); took < 400*time.Millisecond {
		t.Errorf("100 events at 200 a second took %v", took)
	}
	if all := read(); len(all.ids) != len(first.ids)+100 || all.events["acme"] != 100 {
		t.Errorf("%d ids, %d of acme", len(all.ids), all.events["acme"])
	}
	for _, args := range []string{"-n 0", "--skew 1", "--duplicates 1", "--account a/b", "--pack *", "--rate -1"} {
		s.run(t, append([]string{"usage", "produce"}, strings.Fields(args)...)...).fails(t, 2, "see `databus usage produce --help`")
	}
}

func TestUsageCounts(t *testing.T) {
	s := readyStack(t, schemas.UsageCounts)
	c := codec.New(codec.NewRegistry(s.Registry.URL()), codec.Options{})
	opts := target{brokers: s.Broker.Seeds()}.options()
	count := func(account, pack, period string, matched int64) {
		put(t, opts, c, schemas.UsageCounts, schemas.JoinKey(account, pack, period), &event.UsageCount{Account: account, Pack: pack, Period: period,
			PeriodStart: time.Unix(0, 0), Matched: matched, AmountMicros: -1_500_000, UpdatedAt: time.Unix(1, 0), Providers: []event.ProviderCount{}})
	}
	count("acme", "person", "total", 1)
	count("acme", "person", "total", 2)
	count("acme", "*", "total", 3)
	count("acme-2", "person", "total", 9)
	if out := s.ok(t, "usage", "counts", "acme"); strings.Count(out, "\n") != 3 || !strings.Contains(out, "person  total   2        0            -1.5    -         1970-01-01 00:00:01Z") {
		t.Errorf("%s", out)
	}
	if out := s.ok(t, "usage", "counts", "acme", "--pack", "*", "--format", "json"); strings.Count(out, "\n") != 1 || !strings.Contains(out, `"matched":3,`) {
		t.Errorf("%s", out)
	}
	putBytes(t, opts, schemas.UsageCounts, "acme/*/total", nil)
	if out := s.ok(t, "usage", "counts", "acme"); strings.Count(out, "\n") != 2 {
		t.Errorf("after a tombstone: %s", out)
	}
	s.run(t, "usage", "counts", "nobody").fails(t, 1, "no such count of account nobody")
	s.run(t, "usage", "counts", "a/b").fails(t, 1, "no account id")
}

// explanation is the part of the JSON that tests look at.
type explanation struct {
	Verdict  string
	Lag      int64                           `json:"lag_records"`
	InFlight struct{ Events, Matched int64 } `json:"in_flight"`
	Sum      struct{ Events, Matched, Unmatched int64 }
	Ranges   struct {
		First []struct{ First, Last, Events int64 }
	}
	Duplicates struct {
		First []struct {
			Offset      int64
			FirstOffset int64 `json:"first_offset"`
		}
	}
	Corrections struct{ Total int64 }
	Late        struct{ Total int64 }
	DeadLetters struct{ First []deadLetter } `json:"dead_letters"`
}

type deadLetter struct {
	Partition int32
	Offset    int64
	Reason    string
}

// A ledger writes what the explanation reads: events, counts, and the aggregator's offsets.
type ledger struct {
	*stack
	t    *testing.T
	c    *codec.Codec
	opts []kgo.Opt
	home int32
}

func (l ledger) event(id string, quantity int64) int64 {
	now := time.Now()
	return put(l.t, l.opts, l.c, schemas.UsageEvents, "acme", &event.UsageEvent{EventID: id, Account: "acme", Pack: "person", OccurredAt: now, Quantity: quantity, Status: 200}).Offset
}

func (l ledger) count(matched int64) {
	put(l.t, l.opts, l.c, schemas.UsageCounts, "acme/*/total", &event.UsageCount{Account: "acme", Pack: "*", Period: "total", PeriodStart: time.Unix(0, 0), Matched: matched,
		UpdatedAt: time.Unix(1, 0), Providers: []event.ProviderCount{}})
}

func (l ledger) commit(offset int64) {
	l.t.Helper()
	offsets := kadm.Offsets{}
	offsets.Add(kadm.Offset{Topic: schemas.UsageEvents, Partition: l.home, At: offset, LeaderEpoch: -1})
	if err := kadm.NewClient(l.client(l.t)).CommitAllOffsets(l.t.Context(), "usage-aggregator", offsets); err != nil {
		l.t.Fatal(err)
	}
}

func (l ledger) explain(code int, texts ...string) explanation {
	l.t.Helper()
	r := l.run(l.t, "usage", "explain", "acme", "--period", "total", "--format", "json")
	if code == 0 && r.code == 0 {
		r.err = "\n"
	}
	r.fails(l.t, code, texts...)
	var x explanation
	if err := json.Unmarshal([]byte(r.out), &x); err != nil {
		l.t.Fatalf("%v: %s", err, r.out)
	}
	return x
}

func TestUsageExplain(t *testing.T) {
	s := readyStack(t, schemas.UsageEvents, schemas.UsageContracts, schemas.UsageCounts)
	l := ledger{stack: s, t: t, c: codec.New(codec.NewRegistry(s.Registry.URL()), codec.Options{}), opts: target{brokers: s.Broker.Seeds()}.options(),
		home: schemas.Partition(schemas.UsageEvents, []byte("acme"), 8)}
	if x := l.explain(0); x.Verdict != "equal" || x.Sum.Events != 0 {
		t.Errorf("nothing at all: %+v", x)
	}
	for i := range int64(3) {
		l.event(fmt.Sprint("e", i), 2)
	}
	if x := l.explain(1, "in flight: 3 records of partition", "from offset 0 to 2, 3 of them events of this count", "no aggregator is running"); x.Verdict != "behind" || x.Lag != 3 || x.InFlight.Matched != 6 {
		t.Errorf("nothing counted: %+v", x)
	}
	l.count(4)
	l.commit(2)
	if x := l.explain(1, "in flight: 1 records"); x.Verdict != "behind" || x.InFlight.Events != 1 {
		t.Errorf("two counted: %+v", x)
	}
	l.count(6)
	l.commit(3)
	if x := l.explain(0); x.Verdict != "equal" || len(x.Ranges.First) != 1 || x.Ranges.First[0].Last != 2 || x.Ranges.First[0].Events != 3 {
		t.Errorf("all counted: %+v", x)
	}
	l.event("e1", 2)
	l.event("c", -1)
	l.event("zero", 0)
	putBytes(t, l.opts, schemas.UsageEvents, "acme", []byte("no event"))
	l.count(5)
	l.commit(7)
	x := l.explain(0)
	if len(x.Duplicates.First) != 1 || x.Duplicates.First[0].Offset != 3 || x.Duplicates.First[0].FirstOffset != 1 || x.Corrections.Total != 1 || x.Late.Total != 0 {
		t.Errorf("%+v", x)
	}
	if len(x.DeadLetters.First) != 2 || x.DeadLetters.First[0].Offset != 5 || !strings.Contains(x.DeadLetters.First[0].Reason, "the quantity is zero") {
		t.Errorf("dead letters %+v", x.DeadLetters.First)
	}
	text := s.ok(t, "usage", "explain", "acme", "--period", "total")
	for _, want := range []string{": equal\n", "duplicates, dropped: 1\n", fmt.Sprintf("%d@3  the first one is at 1", l.home), "corrections, counted: 1\n", "dead letters of the account: 2\n"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in %s", want, text)
		}
	}
	// Another partitioner: the aggregator does not count it, and says so in a dead letter.
	away := &kgo.Record{Topic: schemas.UsageEvents, Partition: (l.home + 1) % 8, Key: []byte("acme"), Value: s.fetchFrom(t, l.home)}
	if err := s.client(t, kgo.RecordPartitioner(kgo.ManualPartitioner())).ProduceSync(t.Context(), away).FirstErr(); err != nil {
		t.Fatal(err)
	}
	if x := l.explain(0); x.Verdict != "equal" || x.Sum.Matched != 5 || len(x.DeadLetters.First) != 3 ||
		!slices.ContainsFunc(x.DeadLetters.First, func(d deadLetter) bool {
			return d.Partition == away.Partition && strings.Contains(d.Reason, "another partition is its account's")
		}) {
		t.Errorf("misplaced: %+v", x)
	}
	// A wrong count is found, whichever way it is wrong.
	for _, wrong := range []int64{4, 6} {
		l.count(wrong)
		if x := l.explain(1, fmt.Sprintf("matched differs by %d,", 5-wrong)); x.Verdict != "different" {
			t.Errorf("count %d: %+v", wrong, x)
		}
	}
	l.count(5)
	// Retention has deleted what may have counted.
	cut := kadm.Offsets{}
	cut.Add(kadm.Offset{Topic: schemas.UsageEvents, Partition: l.home, At: 1})
	if _, err := kadm.NewClient(s.client(t)).DeleteRecords(t.Context(), cut); err != nil {
		t.Fatal(err)
	}
	if x := l.explain(1, "cannot be checked: retention has deleted offsets 0 to 0"); x.Verdict != "incomplete" {
		t.Errorf("after retention: %+v", x)
	}
	s.run(t, "usage", "explain", "acme", "--period", "november").fails(t, 2, "is no period")
}

// fetchFrom returns the first value of a partition of usage.events.
func (s *stack) fetchFrom(t *testing.T, partition int32) []byte {
	t.Helper()
	cl := s.client(t, kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{schemas.UsageEvents: {partition: kgo.NewOffset().AtStart()}}))
	fetches := cl.PollRecords(t.Context(), 1)
	if err := fetches.Err(); err != nil {
		t.Fatal(err)
	}
	return fetches.Records()[0].Value
}

// Interrupting says what is there, and leaves nothing unsaid.
func TestUsageProduceInterrupted(t *testing.T) {
	s := readyStack(t, schemas.UsageEvents)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	r := invoke(ctx, strings.NewReader(""), "--dir", s.dir, "usage", "produce", "-n", "100000000", "--rate", "500", "--format", "json")
	r.fails(t, 130, "of 100000000 events; all of them are acknowledged")
	var sum produced
	if err := json.Unmarshal([]byte(r.out), &sum); err != nil {
		t.Fatal(err)
	}
	if there := len(s.consume(t, schemas.UsageEvents)); sum.Sent == 0 || sum.Acknowledged != sum.Sent || int64(there) != sum.Sent {
		t.Errorf("%+v, %d are there", sum, there)
	}
}
