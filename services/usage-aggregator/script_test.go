package usageaggregator

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	"github.com/twmb/franz-go/pkg/kgo"

	"databus/pkg/stream"
	"databus/schemas"
	"databus/schemas/codec"
	"databus/schemas/event"
)

// TestScripts runs testdata/*.txt. A script's directives, each followed by what came out because of it:
//
//	start [history] [keep-ended=D] [from=TIME]     comes first; from: the topic begins with an event that nobody counted
//	at TIME                                        the append time of what follows
//	contract ACCOUNT version=N [zone=Z] [starts=T] [ends=T]
//	PACK PERIOD LIMIT
//	no-contract ACCOUNT                            a tombstone
//	event                                          lines ID ACCOUNT/PACK TIME [QUANTITY] [404] [provider=P] [amount=N], sent together
//	flood N ACCOUNT/PACK TIME AMOUNT               that many events of the amount; what comes out is not shown
//	bad TOPIC KEY VALUE                            a record of raw bytes
//	baseline REQUEST-ID seam=N [matched=N] [unmatched=N] [amount=N] [estimated] [provider=P,N]   an answer of the history worker
//	restart [empty]                                without local state
//
// `go test ./services/usage-aggregator -run TestScripts -rewrite` writes what comes out into the files: read the difference.
func TestScripts(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		t.Parallel()
		s := &script{bench: newBench(t), dir: t.TempDir(), at: time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC), seen: map[string]int{}}
		datadriven.RunTest(t, path, s.run)
		if err := s.stop(); err != nil {
			t.Fatal(err)
		}
	})
}

type script struct {
	*bench
	dir  string
	at   time.Time
	seen map[string]int // records read, by topic and partition
	stop func() error
}

func (s *script) run(t *testing.T, d *datadriven.TestData) string {
	arg := func(name string) string {
		if a, ok := d.Arg(name); ok && len(a.Vals) > 0 {
			return a.Vals[0]
		}
		return ""
	}
	check := func(err error) {
		if err != nil {
			d.Fatalf(t, "%v", err)
		}
	}
	when := func(text string) time.Time {
		v, err := time.Parse(time.RFC3339, text)
		check(err)
		return v
	}
	number := func(text string) int64 {
		v, err := strconv.ParseInt(text, 10, 64)
		check(err)
		return v
	}
	word := func(i int) string { return d.CmdArgs[i].Key }
	send := func(topic, key string, value []byte) {
		s.send(&kgo.Record{Topic: topic, Key: []byte(key), Value: value, Timestamp: s.at})
	}
	switch d.Cmd {
	case "start":
		s.history = d.HasArg("history")
		if v := arg("keep-ended"); v != "" {
			keep, err := time.ParseDuration(v)
			check(err)
			s.keepEnded = keep
		}
		if v := arg("from"); v != "" {
			s.behind(when(v))
		}
		s.stop = s.start(s.dir, nil)
		return ""
	case "at":
		s.at = when(word(0))
		return ""
	case "contract":
		c := event.Contract{Account: word(0), Version: number(arg("version")), TimeZone: "UTC", StartsAt: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
		if v := arg("zone"); v != "" {
			c.TimeZone = v
		}
		if v := arg("starts"); v != "" {
			c.StartsAt = when(v)
		}
		if v := arg("ends"); v != "" {
			ends := when(v)
			c.EndsAt = &ends
		}
		for _, l := range strings.Split(d.Input, "\n") {
			if f := strings.Fields(l); len(f) > 0 {
				c.Packs = append(c.Packs, event.ContractPack{Pack: f[0], Period: event.Period(f[1]), Limit: number(f[2])})
			}
		}
		v, err := s.contracts.Encode(context.Background(), &c)
		check(err)
		send(schemas.UsageContracts, c.Account, v)
	case "no-contract":
		send(schemas.UsageContracts, word(0), nil)
	case "baseline":
		parts := strings.Split(word(0), "/")
		b := event.Baseline{RequestID: word(0), Account: parts[0], Pack: parts[1], Period: parts[2], SeamOffset: number(arg("seam")), Estimated: d.HasArg("estimated"),
			SeamPartition: schemas.Partition(schemas.UsageEvents, []byte(parts[0]), 4)}
		for name, sum := range map[string]*int64{"matched": &b.Matched, "unmatched": &b.Unmatched, "amount": &b.AmountMicros} {
			if v := arg(name); v != "" {
				*sum = number(v)
			}
		}
		if provider, n, ok := strings.Cut(arg("provider"), ","); ok {
			b.Providers = []event.ProviderBaseline{{Provider: provider, Matched: number(n)}}
		}
		v, err := codec.For[event.Baseline](s.codec, schemas.UsageBaselines).Encode(context.Background(), &b)
		check(err)
		send(schemas.UsageBaselines, b.Account, v)
	case "bad":
		send(word(0), word(1), []byte(word(2)))
	case "event":
		var recs []*kgo.Record
		for _, l := range strings.Split(d.Input, "\n") {
			f := strings.Fields(l)
			account, pack, _ := strings.Cut(f[1], "/")
			e := event.UsageEvent{EventID: f[0], Account: account, Pack: pack, OccurredAt: when(f[2]), Quantity: 1, Status: 200}
			for _, w := range f[3:] {
				name, value, _ := strings.Cut(w, "=")
				switch {
				case name == "provider":
					e.Provider = &value
				case name == "amount":
					e.AmountMicros = number(value)
				case w == "404":
					e.Status = 404
				default:
					e.Quantity = number(w)
				}
			}
			if strings.HasPrefix(e.EventID, "bytes:") {
				e.EventID = strings.Repeat("x", int(number(e.EventID[6:])))
			}
			recs = append(recs, s.record(e, s.at))
		}
		s.send(recs...)
	case "flood":
		account, pack, _ := strings.Cut(word(1), "/")
		var recs []*kgo.Record
		for i := range int(number(word(0))) {
			recs = append(recs, s.record(event.UsageEvent{EventID: fmt.Sprint("flood-", i), Account: account, Pack: pack, OccurredAt: when(word(2)), Quantity: 1, Status: 200,
				AmountMicros: number(word(3))}, s.at))
		}
		s.send(recs...)
		s.caughtUp()
		s.news()
		return ""
	case "restart":
		check(s.stop())
		if d.HasArg("empty") {
			s.dir = t.TempDir()
		}
		s.stop = s.start(s.dir, nil)
	default:
		d.Fatalf(t, "unknown directive")
	}
	s.caughtUp()
	return s.news()
}

// behind lets every partition begin with an event that retention has deleted.
func (s *script) behind(at time.Time) {
	s.t.Helper()
	var recs []*kgo.Record
	for i := range 200 { // accounts in all partitions
		recs = append(recs, s.record(event.UsageEvent{EventID: "gone", Account: fmt.Sprint("gone-", i), Pack: "p", OccurredAt: at, Quantity: 1, Status: 200}, at))
	}
	s.send(recs...)
	ends, err := s.admin.ListEndOffsets(context.Background(), schemas.UsageEvents)
	if err != nil {
		s.t.Fatal(err)
	}
	if _, err := s.admin.DeleteRecords(context.Background(), ends.Offsets()); err != nil {
		s.t.Fatal(err)
	}
}

// news is what the service has emitted since the last look.
func (s *script) news() string {
	var out []string
	for _, topic := range []string{schemas.UsageCounts, schemas.UsageBaselineRequests, schemas.UsageEvents + ".dlq", schemas.UsageContracts + ".dlq", schemas.UsageBaselines + ".dlq"} {
		recs := s.read(topic)
		slices.SortStableFunc(recs, func(a, b *kgo.Record) int { return int(a.Partition - b.Partition) })
		read := map[string]int{}
		for _, rec := range recs {
			id := fmt.Sprint(topic, rec.Partition)
			if read[id]++; read[id] > s.seen[id] {
				out = append(out, s.line(rec))
			}
		}
		for id, n := range read {
			s.seen[id] = n
		}
	}
	return strings.Join(append(out, ""), "\n")
}

func (s *script) line(rec *kgo.Record) string {
	ctx := context.Background()
	switch {
	case rec.Topic == schemas.UsageCounts && rec.Value == nil:
		return fmt.Sprintf("%s: none", rec.Key)
	case rec.Topic == schemas.UsageCounts:
		var c event.UsageCount
		if err := s.counts.Decode(ctx, rec.Value, &c); err != nil {
			return err.Error()
		}
		text := fmt.Sprintf("%s: %d matched, %d unmatched, %d micros, contract %d", rec.Key, c.Matched, c.Unmatched, c.AmountMicros, c.ContractVersion)
		if c.Provisional {
			text += ", provisional"
		}
		if c.Estimated {
			text += ", estimated"
		}
		for _, p := range c.Providers {
			text += fmt.Sprintf("; %s %d/%d/%d", p.Provider, p.Matched, p.Unmatched, p.AmountMicros)
		}
		return text
	case rec.Topic == schemas.UsageBaselineRequests:
		var r event.BaselineRequest
		if err := codec.For[event.BaselineRequest](s.codec, rec.Topic).Decode(ctx, rec.Value, &r); err != nil {
			return err.Error()
		}
		end := "open"
		if r.PeriodEnd != nil {
			end = r.PeriodEnd.Format(time.RFC3339)
		}
		return fmt.Sprintf("baseline request %s: %s to %s below offset %d, ids known from %d", r.RequestID, r.PeriodStart.Format(time.RFC3339), end, r.SeamOffset, r.KnownFrom)
	}
	for _, h := range rec.Headers {
		if h.Key == stream.HeaderReason {
			return fmt.Sprintf("dead letter of %s: %s", strings.TrimSuffix(rec.Topic, ".dlq"), h.Value)
		}
	}
	return "dead letter without reason"
}
