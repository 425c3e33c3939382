package main

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"databus/pkg/identity"
	"databus/schemas"
	"databus/schemas/event"
)

type databasesServeCmd struct {
	Version string        `arg:"" predictor:"database" help:"Database version to serve from now on."`
	Wait    time.Duration `default:"0s" help:"Wait so long for its applier to be past what was written before."`
	Format  string        `enum:"text,json" default:"text" help:"text or json, one object."`
}

func (databasesServeCmd) Help() string {
	return `Moves the read pointer: announces on databus.databases that a version serves, and that the one before is on standby. The
target must be in state STANDBY, and its applier group past the end that databus.records had when the command began, open
transactions included; otherwise nothing is changed and the error says what is missing. Both versions are kept up to date
afterwards, so that the pointer can be moved back in the same way. Where the version serves already, nothing happens,
except that a cut-over that was interrupted between its two events is completed.

Examples, after a rebuild and a catch-up have made v2:

    databus databases serve v2 --wait 10s

    databus databases serve v1 --wait 10s
`
}

// Run moves the pointer.
func (c databasesServeCmd) Run(ctx context.Context, g *Globals) error {
	all, err := g.databases(ctx)
	if err != nil {
		return err
	}
	defer all.Close()
	target, err := findDatabase(all, c.Version)
	if err != nil {
		return err
	}
	before, _ := all.Serving()
	serves := before.Version == target.Version
	if !serves {
		if err := c.past(ctx, g, target); err != nil {
			return err
		}
	}
	// Somebody else may have moved the pointer meanwhile: look again right before.
	if err := all.CaughtUp(ctx); err != nil {
		return err
	}
	if now, _ := all.Serving(); now.Version != before.Version {
		return fmt.Errorf("version %s began to serve meanwhile: somebody else moves the read pointer; look at `databus databases list` and try again", now.Version)
	}
	if target, _ = all.Get(c.Version); !serves && target.State != event.DatabaseStateStandby {
		return notStandby(target)
	}
	cdc, err := g.codec()
	if err != nil {
		return err
	}
	cl, err := g.kafka(ctx, kgo.RequiredAcks(kgo.AllISRAcks()))
	if err != nil {
		return err
	}
	defer cl.Close()
	if !serves {
		target.State = event.DatabaseStateServing
		if err := identity.Announce(ctx, cl, cdc, target); err != nil {
			return g.registryHint(err)
		}
	}
	// From here on the target serves: the later of two claims counts.
	demoted := []string{}
	for _, v := range all.List() {
		if v.State != event.DatabaseStateServing || v.Version == c.Version {
			continue
		}
		v.State = event.DatabaseStateStandby
		if err := identity.Announce(ctx, cl, cdc, v); err != nil {
			return fmt.Errorf("version %s serves, but version %s was not put on standby; run the same command again: %w", c.Version, v.Version, g.registryHint(err))
		}
		demoted = append(demoted, v.Version)
	}
	switch {
	case c.Format == "json":
		printJSON(g.Out, map[string]any{"serving": c.Version, "before": before.Version, "standby": demoted, "changed": !serves || len(demoted) > 0})
	case serves && len(demoted) == 0:
		fmt.Fprintf(g.Out, "version %s serves already\n", c.Version)
	case serves:
		fmt.Fprintf(g.Out, "version %s serves already; %s put on standby\n", c.Version, strings.Join(demoted, ", "))
	default:
		fmt.Fprintf(g.Out, "version %s serves; before: %s, now on standby\n", c.Version, cmp.Or(strings.Join(demoted, ", "), "none"))
	}
	return nil
}

func notStandby(v event.DatabaseVersion) error {
	next := "wait for its rebuild and ask for a catch-up (`databus produce catchup.requests`)"
	if v.State == event.DatabaseStateFailed || v.State == event.DatabaseStateRetired {
		next = "rebuild another one"
	}
	return fmt.Errorf("version %s cannot serve: its state is %s and must be %s; %s", v.Version, v.State, event.DatabaseStateStandby, next)
}

// past makes sure that a version on standby has applied everything that was on the Databus when the command began.
func (c databasesServeCmd) past(ctx context.Context, g *Globals, v event.DatabaseVersion) error {
	if v.State != event.DatabaseStateStandby {
		return notStandby(v)
	}
	a, err := newApplied(ctx, g)
	if err != nil {
		return err
	}
	defer a.client.Close()
	deadline := time.Now().Add(c.Wait)
	for {
		behind, err := a.behind(ctx, g, v.ApplierGroup)
		if err != nil {
			return err
		}
		if len(behind) == 0 {
			return nil
		}
		if !time.Now().Before(deadline) {
			return fmt.Errorf("version %s cannot serve yet: its applier group %s is behind the end at the trigger in %s; is ingest running? Wait, or give it time with --wait",
				v.Version, v.ApplierGroup, strings.Join(behind, ", "))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// applied knows the ends of databus.records when it was made.
type applied struct {
	client *kgo.Client
	admin  *kadm.Client
	spans  map[int32]span // up to the high watermarks: what open transactions have written counts
}

func newApplied(ctx context.Context, g *Globals) (*applied, error) {
	cl, err := g.kafka(ctx)
	if err != nil {
		return nil, err
	}
	a := &applied{client: cl, admin: kadm.NewClient(cl), spans: map[int32]span{}}
	first, err := offsets(ctx, a.admin, schemas.DatabusRecords, "beginning")
	if err == nil {
		var last positions
		last, err = offsets(ctx, a.admin, schemas.DatabusRecords, "end")
		for p, end := range last {
			a.spans[p] = span{next: first[p], end: end}
		}
	}
	if err == nil && len(a.spans) == 0 {
		err = missingTopic(schemas.DatabusRecords, nil)
	}
	if err != nil {
		cl.Close()
		return nil, err
	}
	return a, nil
}

// left are the offsets of each partition that a group has not committed, before the ends.
func (a *applied) left(ctx context.Context, group string) (map[int32]span, error) {
	at, err := groupProgress(ctx, a.admin, group, schemas.DatabusRecords)
	if err != nil {
		return nil, err
	}
	spans := map[int32]span{}
	for p, s := range a.spans {
		if committed, ok := at.committed[p]; ok {
			s.next = max(s.next, committed)
		}
		if s.next < s.end {
			spans[p] = s
		}
	}
	return spans, nil
}

// offsetsBehind is how many offsets a group has not committed; markers of transactions are among them.
func (a *applied) offsetsBehind(ctx context.Context, group string) (n int64, err error) {
	left, err := a.left(ctx, group)
	for _, s := range left {
		n += s.end - s.next
	}
	return n, err
}

// behind names the partitions in which a group has not applied every record before the ends. Appliers commit behind
// records, so the markers at the end of a transaction stay in front of them for ever: what is left is read to see.
func (a *applied) behind(ctx context.Context, g *Globals, group string) ([]string, error) {
	left, err := a.left(ctx, group)
	if err != nil {
		return nil, err
	}
	records := map[int32]int64{}
	for p, s := range left {
		if n := s.end - s.next; n > maxRead {
			records[p] = n
		}
	}
	if len(records) > 0 { // no need to look
		return behindNames(left, records), nil
	}
	err = g.scan(ctx, schemas.DatabusRecords, left, func(rec *kgo.Record) error { records[rec.Partition]++; return nil })
	if err != nil {
		return nil, err
	}
	return behindNames(left, records), nil
}

// maxRead is how many offsets are read to see whether there are records among them.
const maxRead = 10_000

func behindNames(left map[int32]span, records map[int32]int64) []string {
	var names []string
	for _, p := range slices.Sorted(maps.Keys(records)) {
		names = append(names, fmt.Sprintf("partition %d (%d records, from offset %d)", p, records[p], left[p].next))
	}
	return names
}
