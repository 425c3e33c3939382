package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"databus/cmd/databus/internal/recount"
	"databus/pkg/usage"
	"databus/schemas"
	"databus/schemas/codec"
	"databus/schemas/event"
	usageaggregator "databus/services/usage-aggregator"
)

type usageExplainCmd struct {
	Account     string        `arg:"" help:"Account id."`
	Period      string        `required:"" predictor:"period" placeholder:"ID" help:"Period, as usage.counts names it: total, month:2026-11, contract-month:2026-11-15 or contract-year:2026-03-01; behind a change of bounds with a number, such as month:2026-11@2."`
	Pack        string        `default:"*" predictor:"pack" placeholder:"PACK" help:"Data pack; by default * for all packs together."`
	DedupWindow time.Duration `default:"${dedup_window}" help:"The window of the usage-aggregator (its setting dedup_window)."`
	KeepEnded   time.Duration `default:"${keep_ended}" help:"How long ago an event may have happened when it is appended (the usage-aggregator's setting keep_ended); 0 is for ever."`
	Wait        time.Duration `default:"0s" help:"First wait so long for the aggregator to reach the events that are there now."`
	Show        int           `default:"20" placeholder:"N" help:"Lines of each list in the text; json has up to 10000."`
	Format      string        `enum:"text,json" default:"text" help:"text or json, one object."`
}

func (usageExplainCmd) Help() string {
	return `Counts one number again from usage.events by the aggregator's rules and says what it is made of: runs of offsets that
count (between the first and the last offset of a run every event of the account does), duplicates with the offset that
was counted instead, late events, corrections, and events that went to the dead-letter topic, among them those that a
producer put into another partition than the account's, where nobody counts them. Then it compares with
usage.counts and exits with 1 when they differ. What the aggregator has not counted yet is named with its group's lag.

What the history worker has added to a count is named apart, with the offsets that it was counted from, and so are the archive's
files that hold these offsets or those that retention has cut; the events are compared with the rest.

The topic forgets after its retention. Where events of the period may be gone that are in no history, the count cannot be
checked, and that is an error too. Contracts decide about time zones and contract periods: each is taken to be in force from its append time on or,
where that does not give the count, from before the first event, as for an aggregator that started later; the output says
which. Where a contract changed the bounds of periods, they began anew under the account's next set of bounds: month:2026-11
holds what was counted before the change, month:2026-11@2 what came after it.

Examples:

    databus usage explain acme --period total --wait 10s

    databus usage explain acme --period month:$(date -u +%Y-%m) --pack person --wait 10s --format json
`
}

// Validate is called by the parser of the command line.
func (c usageExplainCmd) Validate() error {
	if _, set := usage.Bounds(c.Period); set == 0 {
		return fmt.Errorf("--period %q: behind @ stands the number of a set of bounds, from 2 on, as in month:2026-11@2", c.Period)
	}
	if _, ok := usage.Kind(c.Period); !ok {
		return fmt.Errorf("--period %q is no period: total, month:2026-11, contract-month:2026-11-15 or contract-year:2026-03-01", c.Period)
	}
	if c.Pack != usage.AllPacks && !usage.ValidPack(c.Pack) {
		return fmt.Errorf("--pack %q is no name of a data pack", c.Pack)
	}
	if c.DedupWindow < 0 || c.DedupWindow > 7*24*time.Hour {
		return errors.New("--dedup-window is not between 0 and 168h, which the aggregator takes")
	}
	return nil
}

// explained is what the command found out.
type explained struct {
	Account   string      `json:"account"`
	Pack      string      `json:"pack"`
	Period    string      `json:"period"`
	Verdict   string      `json:"verdict"` // equal, behind, different or incomplete
	Reason    string      `json:"reason,omitempty"`
	Partition int32       `json:"partition"`
	LogStart  int64       `json:"log_start"`
	LogEnd    int64       `json:"log_end"`
	Committed int64       `json:"committed"` // by the aggregator's group; -1 for nothing
	Lag       int64       `json:"lag_records"`
	Members   int         `json:"aggregator_members"`
	InFlight  recount.Sum `json:"in_flight"`
	Contracts []int64     `json:"contract_versions"`
	Under     string      `json:"contract"` // appended or newest
	Set       int64       `json:"bounds"`   // number of the set of bounds
	Began     *time.Time  `json:"bounds_began_at,omitempty"`
	Events    int64       `json:"account_events"`
	*recount.Tally
	DeadLetters any            `json:"dead_letters"`
	Count       map[string]any `json:"usage_count"`
	// History is in the count and not among the events; ArchiveFiles hold what it comes from, and what retention has cut.
	History      *explainedHistory `json:"history,omitempty"`
	ArchiveFiles []explainedFile   `json:"archive_files,omitempty"`

	dead  []recount.DeadLetter
	nDead int64
	// published is the count, have the part of it that events must make.
	published, have recount.Sum
}

// Run explains, prints and compares.
func (c usageExplainCmd) Run(ctx context.Context, g *Globals) error {
	if !schemas.ValidAccount(c.Account) {
		return fmt.Errorf("%q is no account id: 1 to 64 letters, digits, dots, underscores and dashes", c.Account)
	}
	cl, err := g.kafka(ctx)
	if err != nil {
		return err
	}
	defer cl.Close()
	adm := kadm.NewClient(cl)
	if err := c.await(ctx, adm); err != nil {
		return err
	}
	x, err := c.explain(ctx, g, adm)
	if err != nil {
		return err
	}
	if c.Format == "json" {
		printJSON(g.Out, x)
	} else {
		c.text(g, x)
	}
	if x.Verdict != "equal" {
		return fmt.Errorf("the count of %s/%s/%s: %s", c.Account, c.Pack, c.Period, x.Reason)
	}
	return nil
}

// await waits until the aggregator has reached the events that are there now, or the time is over.
func (c usageExplainCmd) await(ctx context.Context, adm *kadm.Client) error {
	if c.Wait <= 0 {
		return nil
	}
	spans, err := stable(ctx, adm, schemas.UsageEvents)
	if err != nil {
		return err
	}
	home := schemas.Partition(schemas.UsageEvents, []byte(c.Account), int32(len(spans)))
	for deadline := time.Now().Add(c.Wait); time.Now().Before(deadline); {
		at, err := groupProgress(ctx, adm, usageaggregator.Name, schemas.UsageEvents)
		if err != nil || at.committed[home] >= spans[home].end {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
	return nil // what is missing is named
}

// explain reads everything. The order matters: a count that was read between two looks at the group's offset stands for
// some offset between them, and all events up to the second one are read after it.
func (c usageExplainCmd) explain(ctx context.Context, g *Globals, adm *kadm.Client) (*explained, error) {
	contracts, err := c.contracts(ctx, g)
	if err != nil {
		return nil, err
	}
	before, err := groupProgress(ctx, adm, usageaggregator.Name, schemas.UsageEvents)
	if err != nil {
		return nil, err
	}
	count, err := c.count(ctx, g)
	if err != nil {
		return nil, err
	}
	after, err := groupProgress(ctx, adm, usageaggregator.Name, schemas.UsageEvents)
	if err != nil {
		return nil, err
	}
	spans, err := stable(ctx, adm, schemas.UsageEvents)
	if err != nil {
		return nil, err
	}
	home := schemas.Partition(schemas.UsageEvents, []byte(c.Account), int32(len(spans)))
	offset := func(p progress) int64 {
		if at, ok := p.committed[home]; ok {
			return at
		}
		return -1
	}
	x := &explained{Account: c.Account, Pack: c.Pack, Period: c.Period, Partition: home, LogStart: spans[home].next, LogEnd: spans[home].end,
		Committed: offset(after), Members: after.members}
	if count != nil {
		x.Count, x.published = countLine(count), recount.Sum{Matched: count.Matched, Unmatched: count.Unmatched, AmountMicros: count.AmountMicros}
		x.have = x.published
	}
	if err := c.history(ctx, g, x, count); err != nil {
		return nil, err
	}
	r := recount.New(recount.Options{Account: c.Account, Pack: c.Pack, Period: c.Period, Window: c.DedupWindow, KeepEnded: c.KeepEnded, Home: home, Contracts: contracts,
		Trimmed: x.LogStart > 0 || unknown(count, contracts)})
	w := &walk{x: x, recount: r, from: max(offset(before), x.LogStart), to: max(x.Committed, x.LogStart)}
	if err := w.read(ctx, g, spans, c.Account); err != nil {
		return nil, err
	}
	w.judge(c, count)
	return x, nil
}

// contracts are the account's contracts, with the times of their append.
func (c usageExplainCmd) contracts(ctx context.Context, g *Globals) ([]recount.Contract, error) {
	var all []recount.Contract
	err := accountEvents(ctx, g, schemas.UsageContracts, c.Account, func(rec *kgo.Record, v *event.Contract) error {
		if v == nil {
			all = append(all, recount.Contract{At: rec.Timestamp})
			return nil
		}
		terms, err := usage.NewTerms(*v)
		if err != nil || v.Account != c.Account {
			return nil // the aggregator refuses it too
		}
		all = append(all, recount.Contract{At: rec.Timestamp, Terms: terms})
		return nil
	})
	return all, err
}

// unknown says that a count names a contract that is not there any more: the topic keeps the newest version of each.
func unknown(count *event.UsageCount, contracts []recount.Contract) bool {
	return count != nil && count.ContractVersion != 0 && !slices.ContainsFunc(contracts, func(c recount.Contract) bool { return c.Terms.Version() == count.ContractVersion })
}

// count is the number to explain; nil where there is none.
func (c usageExplainCmd) count(ctx context.Context, g *Globals) (*event.UsageCount, error) {
	rows, err := accountRows[event.UsageCount](ctx, g, schemas.UsageCounts, c.Account)
	if err != nil {
		return nil, err
	}
	for _, r := range rows {
		if r.key == schemas.JoinKey(c.Account, c.Pack, c.Period) {
			return &r.value, nil
		}
	}
	return nil, nil
}

// A walk reads usage.events and finds the offset that the count stands for.
type walk struct {
	x        *explained
	recount  *recount.Recount
	from, to int64     // the count stands for an offset from from to to
	oldest   time.Time // of the events that are left in the account's partition

	found map[*recount.Reading]*prefix
}

// A prefix is what a reading has in common with the aggregator.
type prefix struct {
	counted recount.Sum // what the aggregator has committed
	agrees  bool        // some prefix from from to to is the count
}

func (w *walk) prefix(r *recount.Reading) *prefix {
	if w.found == nil {
		w.found = map[*recount.Reading]*prefix{}
	}
	if w.found[r] == nil {
		w.found[r] = &prefix{}
	}
	return w.found[r]
}

// look takes the sums that hold for the prefixes of the partition up to an offset from first to last.
func (w *walk) look(first, last int64) {
	for _, r := range w.recount.Readings() {
		sum, p := r.Sum, w.prefix(r)
		if first <= w.to && last >= w.from && sum.Same(w.x.have) {
			p.agrees = true
		}
		if first <= w.to {
			p.counted = sum
		}
	}
}

func (w *walk) read(ctx context.Context, g *Globals, spans map[int32]span, account string) error {
	cdc, err := g.codec()
	if err != nil {
		return err
	}
	serde := codec.For[event.UsageEvent](cdc, schemas.UsageEvents)
	home := w.x.Partition
	at := w.x.LogStart
	err = g.scan(ctx, schemas.UsageEvents, spans, func(rec *kgo.Record) error {
		if rec.Partition == home {
			if w.oldest.IsZero() {
				w.oldest = rec.Timestamp
			}
			if rec.Offset >= w.to {
				w.x.Lag++
			}
			w.look(at, rec.Offset)
			at = rec.Offset + 1
		}
		if string(rec.Key) != account {
			return nil
		}
		var e event.UsageEvent
		switch err := serde.Decode(ctx, rec.Value, &e); {
		case err == nil:
			w.recount.Event(rec.Partition, rec.Offset, rec.Timestamp, &e)
		case codec.IsPoison(err):
			w.recount.Refuse(rec.Partition, rec.Offset, oneLine(err))
		default:
			return fmt.Errorf("%s/%d@%d: %w", rec.Topic, rec.Partition, rec.Offset, g.registryHint(err))
		}
		return nil
	})
	w.look(at, max(at, spans[home].end))
	w.recount.Finish()
	return err
}

// judge chooses the contract under which the events are the count, and says what is wrong otherwise.
func (w *walk) judge(c usageExplainCmd, count *event.UsageCount) {
	x, all := w.x, w.recount.Readings()
	chosen := all[0]
	for _, r := range all {
		if !w.prefix(r).agrees {
			continue
		}
		if incomplete := w.incomplete(r, count); !w.prefix(chosen).agrees || !incomplete {
			if chosen = r; !incomplete {
				break
			}
		}
	}
	x.Tally, x.Under, x.Set = chosen.Tally, chosen.Under, chosen.Set
	if !chosen.Began.IsZero() {
		x.Began = &chosen.Began
	}
	x.Contracts, x.Events = w.recount.Versions(), w.recount.Events
	x.DeadLetters, x.dead, x.nDead = w.recount.DeadLetters, w.recount.DeadLetters.First, w.recount.DeadLetters.Total
	x.InFlight = x.Tally.Sum.Minus(w.prefix(chosen).counted)
	lag := ""
	if x.Lag > 0 {
		lag = fmt.Sprintf("; in flight: %d records of partition %d, from offset %d to %d, %d of them events of this count (group %s, %d members)",
			x.Lag, x.Partition, max(x.Committed, x.LogStart), x.LogEnd-1, x.InFlight.Events, usageaggregator.Name, x.Members)
		if x.Members == 0 {
			lag += "; no aggregator is running"
		}
	}
	switch {
	case w.incomplete(chosen, count):
		x.Verdict = "incomplete"
		x.Reason = fmt.Sprintf("cannot be checked: retention has deleted offsets 0 to %d of partition %d, which may hold events of the period; %d files of the archive hold them", x.LogStart-1, x.Partition, len(x.ArchiveFiles))
	case x.Tally.Sum.Same(x.have):
		x.Verdict = "equal"
	case w.prefix(chosen).agrees:
		x.Verdict, x.Reason = "behind", "the aggregator has not counted everything yet"+lag
	case count != nil && count.ContractVersion != 0 && !slices.Contains(x.Contracts, count.ContractVersion):
		x.Verdict = "incomplete"
		x.Reason = fmt.Sprintf("cannot be checked: it was counted under contract version %d, which %s does not hold any more", count.ContractVersion, schemas.UsageContracts)
	case x.LogStart > 0 && len(x.Contracts) > 0 && c.Period != usage.Total().ID:
		x.Verdict = "incomplete"
		x.Reason = fmt.Sprintf("cannot be checked: retention has deleted offsets 0 to %d of partition %d, and with them how often the account's bounds had changed; what is left gives another count", x.LogStart-1, x.Partition)
	default:
		d := w.prefix(chosen).counted.Minus(x.have)
		x.Verdict = "different"
		x.Reason = fmt.Sprintf("it is not what the events up to the aggregator's offset make: matched differs by %d, not matched by %d, amount by %s%s", d.Matched, d.Unmatched, millionths(d.AmountMicros), lag)
		if len(x.Contracts) > 1 {
			x.Reason += "; the contract has changed meanwhile: near a change, each event counts under the one in force when it was processed"
		}
	}
}

// incomplete says whether events of the period, or the first ones of its duplicates, may have been deleted. An event of a
// period is appended a day before its start at the earliest, and when its bounds were in force.
func (w *walk) incomplete(r *recount.Reading, count *event.UsageCount) bool {
	if w.x.LogStart == 0 || w.x.History != nil && w.x.LogStart <= w.x.History.Seam {
		return false // the topic has all that is not in the history
	}
	start := r.Start
	if start.IsZero() && count != nil {
		start = count.PeriodStart
	}
	if start.IsZero() || w.oldest.IsZero() {
		return true
	}
	earliest := start.Add(-usage.FutureSlack)
	if r.Began.After(earliest) {
		earliest = r.Began
	}
	return w.oldest.After(earliest.Add(-w.recount.Window()))
}

// text prints the explanation for people.
func (c usageExplainCmd) text(g *Globals, x *explained) {
	say := func(format string, args ...any) { fmt.Fprintf(g.Out, format+"\n", args...) }
	say("account %s, pack %s, period %s: %s", c.Account, c.Pack, c.Period, x.Verdict)
	say("  events        matched %d, not matched %d, amount %s, from %d events", x.Sum.Matched, x.Sum.Unmatched, millionths(x.Sum.AmountMicros), x.Sum.Events)
	if x.Count == nil {
		say("  %s  none", schemas.UsageCounts)
	} else {
		say("  %s  matched %d, not matched %d, amount %s", schemas.UsageCounts, x.published.Matched, x.published.Unmatched, millionths(x.published.AmountMicros))
	}
	if x.History != nil {
		say("  without history  matched %d, not matched %d, amount %s: what the events must make", x.have.Matched, x.have.Unmatched, millionths(x.have.AmountMicros))
	}
	say("  partition     %d of %s, offsets %d to %d; group %s has committed %d, lag %d records", x.Partition, schemas.UsageEvents, x.LogStart, x.LogEnd-1,
		usageaggregator.Name, x.Committed, x.Lag)
	say("  account       %d events in all periods and packs", x.Events)
	if len(x.Contracts) > 0 {
		under := "each in force from its append time on"
		if x.Under == "newest" {
			under = "all of them before the first event"
		}
		say("  contract      versions %s, %s", strings.Trim(fmt.Sprint(x.Contracts), "[]"), under)
	}
	if x.Began != nil {
		say("  bounds        set %d of the account, begun by the contract appended %s", x.Set, moment(*x.Began))
	}
	c.historyText(g, x)
	listItems(g, c.Show, "counted", x.Ranges.Total, x.Ranges.First, func(r recount.Range) string {
		return fmt.Sprintf("%d@%d-%d  %d events, matched %d, not matched %d, amount %s", r.Partition, r.First, r.Last, r.Events, r.Matched, r.Unmatched, millionths(r.AmountMicros))
	})
	listItems(g, c.Show, "duplicates, dropped", x.Duplicates.Total, x.Duplicates.First, func(d recount.Duplicate) string {
		return fmt.Sprintf("%d@%d  the first one is at %d", d.Partition, d.Offset, d.FirstOffset)
	})
	listItems(g, c.Show, "late, counted", x.Late.Total, x.Late.First, func(l recount.Late) string {
		return fmt.Sprintf("%d@%d  happened %s, appended %s", l.Partition, l.Offset, moment(l.OccurredAt), moment(l.AppendedAt))
	})
	listItems(g, c.Show, "corrections, counted", x.Corrections.Total, x.Corrections.First, func(k recount.Correction) string {
		return fmt.Sprintf("%d@%d  quantity %d", k.Partition, k.Offset, k.Quantity)
	})
	listItems(g, c.Show, "dead letters of the account", x.nDead, x.dead, func(d recount.DeadLetter) string {
		return fmt.Sprintf("%d@%d  %s", d.Partition, d.Offset, d.Reason)
	})
}

// listItems prints the first lines of a list, and how many there are.
func listItems[T any](g *Globals, show int, title string, total int64, items []T, line func(T) string) {
	if total == 0 {
		return
	}
	fmt.Fprintf(g.Out, "%s: %d\n", title, total)
	for i, it := range items {
		if i == show {
			fmt.Fprintf(g.Out, "  ... and %d more\n", total-int64(show))
			return
		}
		fmt.Fprintf(g.Out, "  %s\n", line(it))
	}
}
