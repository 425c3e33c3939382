package limiter

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
	"databus/pkg/usage"
	"databus/schemas"
	"databus/schemas/codec"
	"databus/schemas/event"
)

// TestScripts runs testdata/*.txt. A script's directives, each followed by what came out because of it:
//
//	at TIME                                        the append time of what follows
//	contract ACCOUNT version=N [zone=Z] [starts=T] [ends=T]
//	PACK PERIOD LIMIT [THRESHOLD ...]              a threshold is "80%" or "30"
//	no-contract ACCOUNT                            a tombstone
//	count [version=N]                              lines ACCOUNT/PACK/PERIOD MATCHED [UNMATCHED], sent together; counted under the
//	                                               account's contract, or under version N
//	no-count ACCOUNT/PACK/PERIOD                   a tombstone
//	bad TOPIC KEY VALUE                            a record of raw bytes
//	restart [crash=POINT] [empty]                  crash at the next transaction; without local state
//
// `go test ./services/limiter -run TestScripts -rewrite` writes what comes out into the files: read the difference.
func TestScripts(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		t.Parallel()
		s := &script{bench: newBench(t), dir: t.TempDir(), at: time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC), seen: map[string]int{}, version: map[string]int64{}}
		s.stop = s.start(s.dir, nil)
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
	// version of each account's contract, under which the aggregator counts.
	version map[string]int64
	stop    func() error
}

func (s *script) run(t *testing.T, d *datadriven.TestData) string {
	arg := func(name string) string {
		if a, ok := d.Arg(name); ok && len(a.Vals) > 0 {
			return strings.Join(a.Vals, ",")
		}
		return ""
	}
	when := func(text string) time.Time {
		v, err := time.Parse(time.RFC3339, text)
		if err != nil {
			d.Fatalf(t, "%v", err)
		}
		return v
	}
	number := func(text string) int64 {
		v, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			d.Fatalf(t, "%v", err)
		}
		return v
	}
	lines := strings.FieldsFunc(d.Input, func(r rune) bool { return r == '\n' })
	word := func(i int) string { return d.CmdArgs[i].Key }
	send := func(topic, key string, value []byte) {
		s.send(&kgo.Record{Topic: topic, Key: []byte(key), Value: value, Timestamp: s.at})
	}
	switch d.Cmd {
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
		for _, l := range lines {
			f := strings.Fields(l)
			p := event.ContractPack{Pack: f[0], Period: event.Period(f[1]), Limit: number(f[2])}
			for _, th := range f[3:] {
				kind := event.ThresholdKindAbsolute
				if strings.HasSuffix(th, "%") {
					kind = event.ThresholdKindPercent
				}
				p.Thresholds = append(p.Thresholds, event.Threshold{Kind: kind, Value: number(strings.TrimSuffix(th, "%"))})
			}
			c.Packs = append(c.Packs, p)
		}
		v, err := s.contracts.Encode(context.Background(), &c)
		if err != nil {
			d.Fatalf(t, "%v", err)
		}
		send(schemas.UsageContracts, c.Account, v)
		if _, err := usage.NewTerms(c); err == nil {
			s.version[c.Account] = max(s.version[c.Account], c.Version)
		}
	case "no-contract":
		delete(s.version, word(0))
		send(schemas.UsageContracts, word(0), nil)
	case "no-count":
		send(schemas.UsageCounts, word(0), nil)
	case "bad":
		send(word(0), word(1), []byte(word(2)))
	case "count":
		for _, l := range lines {
			f := strings.Fields(l)
			key := strings.SplitN(f[0], "/", 3)
			c := event.UsageCount{Account: key[0], Pack: key[1], Period: key[2], Matched: number(f[1]), UpdatedAt: s.at, ContractVersion: s.version[key[0]]}
			if v := arg("version"); v != "" {
				c.ContractVersion = number(v)
			}
			if len(f) > 2 {
				c.Unmatched = number(f[2])
			}
			c.PeriodStart, c.PeriodEnd = bounds(key[2])
			v, err := s.counts.Encode(context.Background(), &c)
			if err != nil {
				d.Fatalf(t, "%v", err)
			}
			send(schemas.UsageCounts, f[0], v)
		}
	case "restart":
		if err := s.stop(); err != nil {
			d.Fatalf(t, "stopping: %v", err)
		}
		if d.HasArg("empty") {
			s.dir = t.TempDir()
		}
		s.stop = s.start(s.dir, nil)
	case "crash": // the records of the next directive are in the topic already when it starts again
		if err := s.stop(); err != nil {
			d.Fatalf(t, "stopping: %v", err)
		}
		point := stream.Point(strings.ReplaceAll(word(0), "-", " "))
		s.run(t, &datadriven.TestData{Pos: d.Pos, Cmd: "count", Input: d.Input, CmdArgs: []datadriven.CmdArg{{Key: "quiet"}}})
		if err := s.start(s.dir, func(p stream.Point) error {
			if p == point {
				return errCrash
			}
			return nil
		})(); err == nil {
			d.Fatalf(t, "it did not crash")
		}
		s.stop = s.start(s.dir, nil)
	default:
		d.Fatalf(t, "unknown directive")
	}
	if d.HasArg("quiet") {
		return ""
	}
	s.caughtUp()
	return s.news()
}

// bounds of a period, in UTC.
func bounds(id string) (time.Time, *time.Time) {
	base, _ := usage.Bounds(id)
	kind, day, _ := strings.Cut(base, ":")
	if kind == "total" {
		return time.Unix(0, 0).UTC(), nil
	}
	if len(day) == 7 {
		day += "-01"
	}
	start, err := time.Parse("2006-01-02", day)
	if err != nil {
		return time.Unix(0, 0).UTC(), nil
	}
	end := start.AddDate(0, 1, 0)
	if kind == "contract-year" {
		end = start.AddDate(1, 0, 0)
	}
	return start, &end
}

// news is what the service has emitted since the last look.
func (s *script) news() string {
	var out []string
	for _, topic := range []string{schemas.UsageThresholds, schemas.UsageLimits, schemas.UsageCounts + ".dlq", schemas.UsageContracts + ".dlq"} {
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
	switch rec.Topic {
	case schemas.UsageThresholds:
		var e event.ThresholdEvent
		if err := codec.For[event.ThresholdEvent](s.codec, rec.Topic).Decode(ctx, rec.Value, &e); err != nil {
			return err.Error()
		}
		unit := ""
		if e.ThresholdKind == event.ThresholdMeasurePercent {
			unit = "%"
		}
		return fmt.Sprintf("%s %s/%s/%s %d%s: %d of %d, threshold at %d, because of %s", strings.ToLower(string(e.Kind)), e.Account, e.Pack, e.Period,
			e.ThresholdValue, unit, e.Count, e.Limit, e.ThresholdUnits, e.CauseTopic)
	case schemas.UsageLimits:
		if rec.Value == nil {
			return fmt.Sprintf("limit %s: none", rec.Key)
		}
		var l event.LimitState
		if err := codec.For[event.LimitState](s.codec, rec.Topic).Decode(ctx, rec.Value, &l); err != nil {
			return err.Error()
		}
		return fmt.Sprintf("limit %s: %d of %d, %d remaining, %s", rec.Key, l.Used, l.Limit, l.Remaining, l.State)
	}
	for _, h := range rec.Headers {
		if h.Key == stream.HeaderReason {
			return fmt.Sprintf("dead letter of %s: %s", strings.TrimSuffix(rec.Topic, ".dlq"), h.Value)
		}
	}
	return "dead letter without reason"
}
