package verify

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"databus/schemas"
	"databus/schemas/codec"
)

// Options say what to verify.
type Options struct {
	Kafka    []kgo.Opt // where the brokers are
	Registry string    // base URL of the registry
	// DedupWindow of the aggregator.
	DedupWindow time.Duration
	// History: the aggregator asks for what happened before. Deleted are the records of usage.events that the services had no
	// chance to read, by partition in the order of offsets.
	History bool
	Deleted []*kgo.Record
	// Instances are the state directories of all instances of both services (the directories with the file STATE).
	Instances []string
}

// Report is what was read, and what is wrong with it.
type Report struct {
	Events, Repeats, Contracts, Counts, DeadLetters, Thresholds, Limits, Rows int

	// Of history: requests, answers, and events that answers took back, once for each answer.
	Asked, Answers, TakenBack int

	Missing, Double, OpenTransactions int
	// Problems describes everything that is wrong, the first ones in full.
	Problems []string

	finalCounts map[string]string
	finalLimits map[string]string
	crossings   map[string]int
}

// maxProblems bounds the descriptions.
const maxProblems = 40

// Err is nil if nothing is wrong.
func (r *Report) Err() error {
	if r.Missing == 0 && r.Double == 0 && r.OpenTransactions == 0 && len(r.Problems) == 0 {
		return nil
	}
	return fmt.Errorf("%d missing, %d double, %d open transactions:\n  %s", r.Missing, r.Double, r.OpenTransactions, strings.Join(r.Problems, "\n  "))
}

func (r *Report) String() string {
	return fmt.Sprintf("%d events (%d repeats), %d contracts, %d dead letters, %d counts published, %d threshold events, %d limit states published, %d rows of state: "+
		"%d missing, %d double, %d open transactions", r.Events, r.Repeats, r.Contracts, r.DeadLetters, r.Counts, r.Thresholds, r.Limits, r.Rows, r.Missing, r.Double, r.OpenTransactions)
}

// FinalCounts are the units, by status, and amounts of every count, as text by key.
func (r *Report) FinalCounts() map[string]string { return r.finalCounts }

// FinalLimits are use, limit and level of every limit, as text by key.
func (r *Report) FinalLimits() map[string]string { return r.finalLimits }

// Crossings says how often each threshold was announced as crossed.
func (r *Report) Crossings() map[string]int { return r.crossings }

type verifier struct {
	o      Options
	admin  *kadm.Client
	codec  *codec.Codec
	report *Report

	accounts   map[string]*account
	counts     map[string]*count
	limits     map[string]string
	crossed    map[string]crossed
	dead       map[string]int // wanted less seen
	thresholds map[string]int // wanted less seen
}

// Verify reads everything and compares. It takes a whole run in memory.
func Verify(ctx context.Context, o Options) (*Report, error) {
	client, err := kgo.NewClient(o.Kafka...)
	if err != nil {
		return nil, fmt.Errorf("verifying: %w", err)
	}
	defer client.Close()
	v := &verifier{o: o, admin: kadm.NewClient(client), codec: codec.New(codec.NewRegistry(o.Registry), codec.Options{}),
		report:   &Report{finalCounts: map[string]string{}, finalLimits: map[string]string{}, crossings: map[string]int{}},
		accounts: map[string]*account{}, counts: map[string]*count{}, limits: map[string]string{}, crossed: map[string]crossed{},
		dead: map[string]int{}, thresholds: map[string]int{}}
	for _, step := range []func(context.Context) error{v.transactions, v.readInputs, v.readCounts, v.compute, v.baselines, v.readDead, v.readThresholds, v.readLimits, v.state} {
		if err := step(ctx); err != nil {
			return v.report, fmt.Errorf("verifying: %w", err)
		}
		if v.report.OpenTransactions > 0 {
			break // they hide what is behind them
		}
	}
	return v.report, nil
}

// compute runs the model and compares the published counts with it.
func (v *verifier) compute(context.Context) error {
	for _, name := range slices.Sorted(maps.Keys(v.accounts)) {
		a := v.accounts[name]
		counts, repeats := a.recount(v.o.DedupWindow, v.o.History)
		v.report.Repeats += repeats
		last := map[string]*count{}
		for i := range a.published {
			p := &a.published[i]
			want := counts[p.key()]
			if want == nil {
				continue // told below
			}
			if !v.o.History && !want.follows(p.sums) {
				v.double("count %s in %s: %v is no sum over a longer prefix of its events than the one before", p.key(), p.cause, p.sums)
			}
			last[p.key()] = &p.count
		}
		for key, want := range counts {
			have := last[key]
			switch {
			case have == nil:
				v.missing("count %s: none, want %v", key, want)
			case have.sums != want.sums && have.matched+have.unmatched > want.matched+want.unmatched:
				v.double("count %s: %v, want %v", key, have, want)
			case have.String() != want.String():
				v.missing("count %s: %v, want %v", key, have, want)
			}
			v.report.finalCounts[key] = fmt.Sprint(want.sums, want.byProvider())
		}
		for i := range a.published {
			if key := a.published[i].key(); counts[key] == nil {
				v.double("count %s: %v, want none", key, &a.published[i].count)
			}
		}
		maps.Copy(v.counts, counts)

		out := a.announce()
		for _, t := range out.thresholds {
			v.thresholds[t]++
		}
		maps.Copy(v.limits, out.states)
		maps.Copy(v.crossed, out.crossed)
	}
	return nil
}

// groups are the consumer groups of the usage half and their inputs.
var groups = map[string][]string{
	"usage-aggregator": {schemas.UsageEvents, schemas.UsageContracts, schemas.UsageBaselines},
	"limiter":          {schemas.UsageCounts, schemas.UsageContracts},
}

// transactions counts what is left open, and looks for input that was not processed.
func (v *verifier) transactions(ctx context.Context) error {
	listed, err := v.ended(ctx)
	if err != nil {
		return fmt.Errorf("listing transactions: %w", err)
	}
	for _, t := range listed {
		switch t.State {
		case "Empty", "CompleteCommit", "CompleteAbort", "Dead":
		default:
			v.report.OpenTransactions++
			v.problem("transaction of %s is %s", t.TxnID, t.State)
		}
	}
	topics := []string{schemas.UsageCounts, schemas.UsageThresholds, schemas.UsageLimits, schemas.UsageAggregatorChangelog, schemas.LimiterChangelog}
	for _, topic := range []string{schemas.UsageEvents, schemas.UsageContracts, schemas.UsageCounts} {
		topics = append(topics, topic+".dlq")
	}
	stable, err1 := v.admin.ListCommittedOffsets(ctx, topics...)
	ends, err2 := v.admin.ListEndOffsets(ctx, topics...)
	if err := errors.Join(err1, err2); err != nil {
		return fmt.Errorf("asking for offsets: %w", err)
	}
	ends.Each(func(end kadm.ListedOffset) {
		if s, ok := stable.Lookup(end.Topic, end.Partition); !ok || s.Err != nil || s.Offset != end.Offset {
			v.report.OpenTransactions++
			v.problem("%s, partition %d: the last stable offset is %d and the log ends at %d", end.Topic, end.Partition, s.Offset, end.Offset)
		}
	})
	for group, inputs := range groups {
		have, err := v.admin.FetchOffsets(ctx, group)
		if err != nil {
			return fmt.Errorf("asking for offsets of group %s: %w", group, err)
		}
		ends, err := v.admin.ListEndOffsets(ctx, inputs...)
		if err != nil {
			return fmt.Errorf("asking for offsets: %w", err)
		}
		ends.Each(func(end kadm.ListedOffset) {
			if o, ok := have.Lookup(end.Topic, end.Partition); end.Offset > 0 && (!ok || o.At != end.Offset) {
				v.problem("%s has not processed all of %s, partition %d: it is at %d of %d", group, end.Topic, end.Partition, o.At, end.Offset)
			}
		})
	}
	return nil
}

// ended lists the transactions once those that have been decided are complete: brokers write the markers behind the answer
// to the producer.
func (v *verifier) ended(ctx context.Context) (kadm.ListedTransactions, error) {
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		listed, err := v.admin.ListTransactions(ctx, nil, nil)
		deciding := false
		for _, t := range listed {
			deciding = deciding || t.State == "PrepareCommit" || t.State == "PrepareAbort" || t.State == "PrepareEpochFence"
		}
		if err != nil || !deciding || time.Now().After(deadline) {
			return listed, err
		}
	}
}

func (v *verifier) problem(format string, args ...any) {
	if len(v.report.Problems) < maxProblems {
		v.report.Problems = append(v.report.Problems, fmt.Sprintf(format, args...))
	}
}

func (v *verifier) missing(format string, args ...any) {
	v.report.Missing++
	v.problem("missing: "+format, args...)
}

func (v *verifier) double(format string, args ...any) {
	v.report.Double++
	v.problem("double: "+format, args...)
}

// balance tells of everything that was seen less or more often than wanted.
func (v *verifier) balance(what string, left map[string]int) {
	for _, text := range slices.Sorted(maps.Keys(left)) {
		for n := left[text]; n > 0; n-- {
			v.missing("%s: %s", what, text)
		}
		for n := left[text]; n < 0; n++ {
			v.double("%s: %s", what, text)
		}
	}
}
