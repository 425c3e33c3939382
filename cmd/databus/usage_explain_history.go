package main

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"databus/cmd/databus/internal/recount"
	"databus/pkg/usage"
	"databus/schemas"
	"databus/schemas/event"
)

// explainedHistory is the part of a count that the history worker has added.
type explainedHistory struct {
	Request string `json:"request"`
	// Offsets FirstOffset to Seam-1 were counted; -1 by time.
	FirstOffset int64 `json:"first_offset"`
	Seam        int64 `json:"seam"`
	recount.Sum
	Repeats   int64 `json:"repeats"`
	TakenBack int64 `json:"taken_back"`
	Estimated bool  `json:"estimated"`
}

// explainedFile is a file of the archive that may hold events of the count.
type explainedFile struct {
	Object string `json:"object"`
	First  int64  `json:"first"`
	Next   int64  `json:"next"`
	Rows   int64  `json:"rows"`
}

// history finds out what was added to a count, takes it off, and names the archive's files for the offsets that it comes from, or
// that retention has cut. All answers to a request are the same, so any one will do.
func (c usageExplainCmd) history(ctx context.Context, g *Globals, x *explained, count *event.UsageCount) error {
	if count != nil && !count.Provisional {
		err := accountEvents(ctx, g, schemas.UsageBaselines, c.Account, func(_ *kgo.Record, b *event.Baseline) error {
			if b != nil && b.Pack == c.Pack && b.Period == c.Period {
				x.History = &explainedHistory{Request: b.RequestID, FirstOffset: b.FirstOffset, Seam: b.SeamOffset, Repeats: b.Repeats, TakenBack: b.TakenBack, Estimated: b.Estimated,
					Sum: recount.Sum{Events: b.Events, Matched: b.Matched, Unmatched: b.Unmatched, AmountMicros: b.AmountMicros}}
			}
			return nil
		})
		if err != nil && !errors.Is(err, kerr.UnknownTopicOrPartition) { // nobody asks for history
			return err
		}
	}
	from, until := int64(0), x.LogStart
	if h := x.History; h != nil {
		x.have = x.have.Minus(recount.Sum{Matched: h.Matched, Unmatched: h.Unmatched, AmountMicros: h.AmountMicros})
		from, until = h.FirstOffset, max(until, h.Seam)
	}
	if until <= max(from, 0) {
		return nil
	}
	files, err := g.manifest(ctx, schemas.UsageEvents)
	if errors.Is(err, kerr.UnknownTopicOrPartition) {
		return nil // nothing is archived
	}
	if err != nil {
		return err
	}
	for _, f := range files {
		old := count != nil && f.MaxTimestamp != nil && f.MaxTimestamp.Before(count.PeriodStart.Add(-usage.FutureSlack-c.DedupWindow))
		if f.Partition == x.Partition && f.Next > from && f.First < until && !old {
			x.ArchiveFiles = append(x.ArchiveFiles, explainedFile{f.Object, f.First, f.Next, f.Rows})
		}
	}
	return nil
}

// historyText prints the part that was added, and the files.
func (c usageExplainCmd) historyText(g *Globals, x *explained) {
	if h := x.History; h != nil {
		how := fmt.Sprintf("offsets %d to %d", h.FirstOffset, h.Seam-1)
		if h.FirstOffset < 0 {
			how = "by time"
		}
		if h.Estimated {
			how += ", estimated"
		}
		fmt.Fprintf(g.Out, "  history       matched %d, not matched %d, amount %s, from %d events, %s; %d duplicates, %d taken back behind it\n",
			h.Matched, h.Unmatched, millionths(h.AmountMicros), h.Events, how, h.Repeats, h.TakenBack)
	}
	if n := len(x.ArchiveFiles); n > 0 {
		listItems(g, c.Show, "archive files that may hold events of the count", int64(n), slices.Clone(x.ArchiveFiles), func(f explainedFile) string {
			return fmt.Sprintf("%d@%d-%d  %s", x.Partition, f.First, f.Next-1, f.Object)
		})
	}
}
