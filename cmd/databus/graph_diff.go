package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"databus/pkg/graph"
	"databus/pkg/identity"
	"databus/pkg/seal"
	"databus/schemas"
	"databus/schemas/codec"
	"databus/schemas/event"
)

type graphDiffCmd struct {
	bucketFlag
	secretsFlags
	From   string `arg:"" predictor:"graph" help:"The older version."`
	To     string `arg:"" predictor:"graph" help:"The newer version."`
	Emit   bool   `help:"Announce the changes on identity.changes, with each account's PersonIDs before and after."`
	Show   int    `default:"20" placeholder:"N" help:"Persons of each list in the text; json has all of them."`
	Format string `enum:"text,json" default:"text" help:"text or json, one object."`
}

func (graphDiffCmd) Help() string {
	return `Resolves every record of which there is evidence under both versions, by the newest evidence, and says which persons merge
into others, which split off, and which get another FCID for the same records. It reads all of identity.observations and
loads both graphs. Records that nothing but their own id identifies are persons of their own under any graph; without the file of
the secrets that id is not known, and they are left out.

With --emit callers are told, once: each change is an event on identity.changes with the PersonIDs of the accounts concerned, before
and after. The same command again emits only what is not there yet, such as PersonIDs of an account that came meanwhile.

Examples, after "databus graph build g2":

    databus graph diff g1 g2

    databus graph diff g1 g2 --emit
`
}

// compare reads everything and returns the changes, and with Emit how many events were produced.
func (c graphDiffCmd) compare(ctx context.Context, g *Globals) (changes graph.Changes, emitted int, err error) {
	keys, err := c.secrets(ctx, g)
	if err != nil {
		return changes, 0, err
	}
	bucket, err := c.open(ctx, g)
	if err != nil {
		return changes, 0, err
	}
	all, err := g.graphs(ctx, bucket)
	if err != nil {
		return changes, 0, err
	}
	defer all.Close()
	var loaded [2]*graph.Graph
	for i, version := range []string{c.From, c.To} {
		if _, err := announcedGraph(all, version); err != nil {
			return changes, 0, err
		}
		if loaded[i], err = all.Graph(ctx, version); err != nil {
			return changes, 0, err
		}
	}
	records, err := evidenceOfRecords(ctx, g, keys)
	if err != nil {
		return changes, 0, err
	}
	changes = graph.Diff(loaded[0], loaded[1], func(yield func(string, []graph.Identifier) bool) {
		for key, ids := range records {
			account, _, _ := strings.Cut(key, "/")
			if !yield(account, ids) {
				return
			}
		}
	})
	if !c.Emit {
		return changes, 0, nil
	}
	at, err := g.reach(ctx)
	if err != nil {
		return changes, 0, err
	}
	emitted, err = identity.EmitChanges(ctx, at.kafka, at.codec, identity.Aliases(c.From, c.To, changes, identity.PersonIDs(keys)))
	return changes, emitted, g.registryHint(err)
}

// secrets are needed for PersonIDs; without them, nil, records' own ids are not known.
func (c graphDiffCmd) secrets(ctx context.Context, g *Globals) (*seal.Keys, error) {
	if _, err := os.Stat(c.file(g)); errors.Is(err, fs.ErrNotExist) && c.KeysFile == "" && !c.Emit {
		return nil, nil
	}
	return c.load(ctx, g)
}

// announcedGraph describes a version.
func announcedGraph(all *identity.Graphs, version string) (event.GraphVersion, error) {
	v, ok := all.Version(version)
	if ok {
		return v, nil
	}
	var names []string
	for _, v := range all.List() {
		names = append(names, v.Version)
	}
	return v, fmt.Errorf("%s has no graph version %s: there are %s", schemas.IdentityGraphs, version, cmp.Or(strings.Join(names, ", "), "none"))
}

// Run prints the changes.
func (c graphDiffCmd) Run(ctx context.Context, g *Globals) error {
	changes, emitted, err := c.compare(ctx, g)
	if err != nil {
		return err
	}
	if c.Format == "json" {
		line := map[string]any{"from": c.From, "to": c.To, "records": changes.Records, "moved": changes.Moved, "persons_before": changes.PersonsBefore,
			"persons_after": changes.PersonsAfter, "merged": moves(changes.Merged), "split": moves(changes.Split), "renamed": moves(changes.Renamed)}
		if c.Emit {
			line["emitted"] = emitted
		}
		printJSON(g.Out, line)
		return nil
	}
	fmt.Fprintf(g.Out, "%s to %s: %d records, %d of them under another FCID; %d persons become %d\n", c.From, c.To, changes.Records, changes.Moved, changes.PersonsBefore, changes.PersonsAfter)
	for _, l := range []struct {
		title string
		moves []graph.Move
	}{{"merged into others", changes.Merged}, {"split off", changes.Split}, {"renamed", changes.Renamed}} {
		listItems(g, c.Show, l.title, int64(len(l.moves)), l.moves, func(m graph.Move) string {
			return fmt.Sprintf("%s -> %s  %d records", m.From, m.To, m.Records)
		})
	}
	if c.Emit {
		fmt.Fprintf(g.Out, "%d events on %s\n", emitted, schemas.IdentityChanges)
	}
	return nil
}

func moves(list []graph.Move) []map[string]any {
	all := []map[string]any{}
	for _, m := range list {
		all = append(all, map[string]any{"from_fcid": m.From.String(), "to_fcid": m.To.String(), "records": m.Records})
	}
	return all
}

// evidenceOfRecords are the identifiers of each record, by the newest piece of evidence about it: a record's evidence id is
// its key, which begins with the account that is its source. With the secrets each record has its own identifier, too.
func evidenceOfRecords(ctx context.Context, g *Globals, keys *seal.Keys) (map[string][]graph.Identifier, error) {
	cl, err := g.kafka(ctx)
	if err != nil {
		return nil, err
	}
	defer cl.Close()
	spans, err := stable(ctx, kadm.NewClient(cl), schemas.IdentityObservations)
	if err != nil {
		return nil, err
	}
	cdc, err := g.codec()
	if err != nil {
		return nil, err
	}
	var own func(account, recordKey string) graph.Identifier
	if keys != nil {
		n, err := graph.NewNormaliser(keys.IdentifierPepper(), "US") // no phones are read
		if err != nil {
			return nil, err
		}
		own = n.RecordIdentifier
	}
	serde := codec.For[event.Observation](cdc, schemas.IdentityObservations)
	records := map[string][]graph.Identifier{}
	err = g.scan(ctx, schemas.IdentityObservations, spans, func(rec *kgo.Record) error {
		delete(records, string(rec.Key))
		if rec.Value == nil {
			return nil
		}
		var o event.Observation
		err := serde.Decode(ctx, rec.Value, &o)
		var e graph.Evidence
		if err == nil {
			e, err = graph.FromObservation(&o)
		}
		if err != nil {
			return fmt.Errorf("%s/%d@%d: %w", rec.Topic, rec.Partition, rec.Offset, g.registryHint(err))
		}
		if recordKey, ok := strings.CutPrefix(o.EvidenceID, o.Source+"/"); ok && e.Relation == event.RelationTogether {
			if own != nil {
				e.Identifiers = append(e.Identifiers, own(o.Source, recordKey)) // the last of all kinds
			}
			records[string(rec.Key)] = e.Identifiers
		}
		return nil
	})
	return records, err
}
