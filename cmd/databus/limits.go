package main

import (
	"context"
	"fmt"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"databus/schemas"
	"databus/schemas/event"
)

type limitsCmd struct {
	Get limitsGetCmd `cmd:"" help:"Print where an account stands: limits and crossed thresholds."`
}

type limitsGetCmd struct {
	Account string `arg:"" help:"Account id."`
	Ended   bool   `help:"Also periods that have ended."`
	Format  string `enum:"text,json" default:"text" help:"text: a table; json: one object per line."`
}

func (limitsGetCmd) Help() string {
	return `Prints the newest state of every limit of an account (usage.limits, which API layers follow) with the thresholds that were
announced as crossed and not reset since (usage.thresholds). A threshold that was crossed longer ago than that topic's
retention is not listed any more; the state stays. Periods that have ended, by this machine's clock, are left out unless
--ended is given. Exits with 1 if the account has no limit.

Examples:

    databus limits get acme

    databus limits get acme --ended --format json
`
}

// A crossing is a threshold that counts as crossed.
type crossing struct {
	Kind  event.ThresholdMeasure `json:"kind"`
	Value int64                  `json:"value"`
	Units int64                  `json:"units"`
	Count int64                  `json:"count"` // when it was crossed
	At    time.Time              `json:"at"`
}

func (c crossing) String() string {
	if c.Kind == event.ThresholdMeasurePercent {
		return fmt.Sprintf("%d %%", c.Value)
	}
	return fmt.Sprint(c.Value)
}

// Run prints a line for each limit.
func (c limitsGetCmd) Run(ctx context.Context, g *Globals) error {
	rows, err := accountRows[event.LimitState](ctx, g, schemas.UsageLimits, c.Account)
	if err != nil {
		return err
	}
	now := time.Now()
	rows = slices.DeleteFunc(rows, func(r row[event.LimitState]) bool {
		return !c.Ended && r.value.PeriodEnd != nil && !r.value.PeriodEnd.After(now)
	})
	if len(rows) == 0 {
		return fmt.Errorf("%s has no limit of account %s: it has no contract with limits, or used nothing of it yet; see `databus consume %s`",
			schemas.UsageLimits, c.Account, schemas.UsageContracts)
	}
	crossed, err := c.crossed(ctx, g)
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(g.Out, 0, 0, 2, ' ', 0)
	if c.Format == "text" {
		fmt.Fprintln(w, "PACK\tPERIOD\tSTATE\tUSED\tLIMIT\tREMAINING\tENDS\tCONTRACT\tCROSSED")
	}
	for _, r := range rows {
		l, list := r.value, crossed[r.key]
		if c.Format == "json" {
			if list == nil {
				list = []crossing{}
			}
			printJSON(g.Out, map[string]any{
				"account": l.Account, "pack": l.Pack, "period": l.Period, "period_start": l.PeriodStart.UTC(), "period_end": l.PeriodEnd,
				"state": l.State, "used": l.Used, "limit": l.Limit, "remaining": l.Remaining, "contract_version": l.ContractVersion,
				"contract_ends_at": l.ContractEndsAt, "updated_at": l.UpdatedAt.UTC(), "crossed": list,
			})
			continue
		}
		ends := "-"
		if l.PeriodEnd != nil {
			ends = moment(*l.PeriodEnd)
		}
		text := "-"
		for i, t := range list {
			if i == 0 {
				text = t.String()
			} else {
				text += ", " + t.String()
			}
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%d\t%d\t%s\t%d\t%s\n", l.Pack, l.Period, l.State, l.Used, l.Limit, l.Remaining, ends, l.ContractVersion, text)
	}
	return w.Flush()
}

// crossed are the thresholds of each limit whose last announcement is a crossing, in the order of their units.
func (c limitsGetCmd) crossed(ctx context.Context, g *Globals) (map[string][]crossing, error) {
	all := map[string][]crossing{}
	err := accountEvents(ctx, g, schemas.UsageThresholds, c.Account, func(_ *kgo.Record, e *event.ThresholdEvent) error {
		if e == nil {
			return nil
		}
		key := schemas.JoinKey(e.Account, e.Pack, e.Period)
		all[key] = slices.DeleteFunc(all[key], func(t crossing) bool { return t.Kind == e.ThresholdKind && t.Value == e.ThresholdValue })
		if e.Kind == event.ThresholdEventKindCrossed {
			all[key] = append(all[key], crossing{e.ThresholdKind, e.ThresholdValue, e.ThresholdUnits, e.Count, e.At.UTC()})
		}
		return nil
	})
	for _, list := range all {
		slices.SortStableFunc(list, func(a, b crossing) int { return int(min(max(a.Units-b.Units, -1), 1)) })
	}
	return all, err
}
