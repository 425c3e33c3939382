package main

import (
	"context"
	"fmt"
	"text/tabwriter"
	"time"

	"databus/schemas"
	"databus/schemas/event"
)

type usageCmd struct {
	Produce usageProduceCmd `cmd:"" help:"Produce generated usage events at a chosen rate."`
	Counts  usageCountsCmd  `cmd:"" help:"Print the latest counts of an account."`
	Explain usageExplainCmd `cmd:"" help:"Count an account's usage again from the events, and say which offsets make it up."`
}

type usageCountsCmd struct {
	Account string `arg:"" help:"Account id."`
	Pack    string `predictor:"pack" placeholder:"PACK" help:"Only this data pack; * is all packs together."`
	Period  string `predictor:"period" placeholder:"ID" help:"Only this period, such as total or month:2026-11."`
	Format  string `enum:"text,json" default:"text" help:"text: a table; json: one object per line."`
}

func (usageCountsCmd) Help() string {
	return `Prints the newest count of each pack and period of an account, as usage.counts has them: matched (status 200), not matched,
and the amount owed to providers, in millionths. A provisional count waits for history, an estimated one includes history
that was counted by time. Exits with 1 if the account has no count.

Examples:

    databus usage counts acme

    databus usage counts acme --period total --format json
`
}

// Run prints a line for each count.
func (c usageCountsCmd) Run(ctx context.Context, g *Globals) error {
	rows, err := accountRows[event.UsageCount](ctx, g, schemas.UsageCounts, c.Account)
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(g.Out, 0, 0, 2, ' ', 0)
	printed := 0
	for _, r := range rows {
		u := r.value
		if c.Pack != "" && u.Pack != c.Pack || c.Period != "" && u.Period != c.Period {
			continue
		}
		if printed++; c.Format == "json" {
			printJSON(g.Out, countLine(&u))
			continue
		}
		if printed == 1 {
			fmt.Fprintln(w, "PACK\tPERIOD\tMATCHED\tNOT MATCHED\tAMOUNT\tCONTRACT\tUPDATED\t")
		}
		fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%s\t%s\t%s\t%s\n", u.Pack, u.Period, u.Matched, u.Unmatched, millionths(u.AmountMicros), contractVersion(u.ContractVersion),
			moment(u.UpdatedAt), countNote(&u))
	}
	if printed == 0 {
		return fmt.Errorf("%s has no such count of account %s; `databus groups usage-aggregator` says whether events wait to be counted", schemas.UsageCounts, c.Account)
	}
	return w.Flush()
}

// countLine is a count as JSON; times are in RFC 3339.
func countLine(u *event.UsageCount) map[string]any {
	providers := []map[string]any{}
	for _, p := range u.Providers {
		providers = append(providers, map[string]any{"provider": p.Provider, "matched": p.Matched, "unmatched": p.Unmatched, "amount_micros": p.AmountMicros})
	}
	return map[string]any{
		"account": u.Account, "pack": u.Pack, "period": u.Period, "period_start": u.PeriodStart.UTC(), "period_end": u.PeriodEnd,
		"contract_version": u.ContractVersion, "matched": u.Matched, "unmatched": u.Unmatched, "amount_micros": u.AmountMicros,
		"provisional": u.Provisional, "estimated": u.Estimated, "providers": providers, "updated_at": u.UpdatedAt.UTC(),
	}
}

func countNote(u *event.UsageCount) string {
	switch {
	case u.Provisional:
		return "provisional"
	case u.Estimated:
		return "estimated"
	}
	return ""
}

func contractVersion(v int64) string {
	if v == 0 {
		return "-"
	}
	return fmt.Sprint(v)
}

// millionths prints an amount without its trailing zeros.
func millionths(n int64) string {
	sign := ""
	if n < 0 {
		sign = "-"
	}
	whole, part := n/1_000_000, n%1_000_000
	if whole < 0 || part < 0 {
		whole, part = -whole, -part
	}
	if part == 0 {
		return fmt.Sprintf("%s%d", sign, whole)
	}
	text := fmt.Sprintf("%06d", part)
	for text[len(text)-1] == '0' {
		text = text[:len(text)-1]
	}
	return fmt.Sprintf("%s%d.%s", sign, whole, text)
}

// moment prints a time for people, to the second.
func moment(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05Z") }
