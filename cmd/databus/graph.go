package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"databus/pkg/blob"
	"databus/pkg/graph"
	"databus/pkg/identity"
	"databus/schemas"
	"databus/schemas/codec"
	"databus/schemas/event"
)

type graphCmd struct {
	Build graphBuildCmd `cmd:"" help:"Build a graph version from the evidence and publish it."`
	Ls    graphLsCmd    `cmd:"" help:"List the graph versions."`
	Diff  graphDiffCmd  `cmd:"" help:"Say which persons merge and split between two versions."`
}

// bucketFlag names the bucket of the graph files.
type bucketFlag struct {
	BucketURL string `env:"DATABUS_BUCKET__URL" placeholder:"URL" help:"Bucket, such as s3://bucket/prefix; default: that of the running 'databus dev'."`
}

func (f bucketFlag) open(ctx context.Context, g *Globals) (blob.Bucket, error) {
	address := f.BucketURL
	if address == "" {
		dev, _, err := g.dev()
		if err != nil {
			return nil, err
		}
		if address = dev.Bucket; address == "" {
			return nil, errors.New("which bucket holds the graphs? Name it with --bucket-url, or start `databus dev`")
		}
	}
	return blob.Open(ctx, address)
}

// graphs reads identity.graphs up to now. Without a bucket they can be listed only.
func (g *Globals) graphs(ctx context.Context, bucket blob.Bucket) (*identity.Graphs, error) {
	at, err := g.reach(ctx)
	if err != nil {
		return nil, err
	}
	var cache *graph.Cache
	if bucket != nil {
		dir, err := os.UserCacheDir()
		if err != nil {
			return nil, fmt.Errorf("where are graph files to be kept? %w; set XDG_CACHE_HOME or HOME", err)
		}
		cache = graph.NewCache(bucket, filepath.Join(dir, "databus", "graphs"), nil)
	}
	all, err := identity.FollowGraphs(ctx, at.kafka, at.codec, cache, nil)
	if err != nil {
		return nil, err
	}
	return all, upToNow(ctx, schemas.IdentityGraphs, all.Ready, all.Close)
}

type graphBuildCmd struct {
	bucketFlag
	Version string `arg:"" help:"Name of the new version: letters, digits, dots, underscores and dashes."`
	Format  string `enum:"text,json" default:"text" help:"text or json, one object."`
}

func (graphBuildCmd) Help() string {
	return `Reads all evidence of identity.observations up to its end now, computes who is whom, puts the graph's file into the bucket
and announces the version on identity.graphs. The live database does not change: a rebuild under the new version makes
another one. Versions are immutable: the same name again is accepted where the evidence gives the same file.

Example, and a rebuild under it:

    databus graph build g2

    databus produce rebuild.requests '{"job_id":"newer-graph","graph_version":"g2"}'
`
}

// Validate is called by the parser of the command line.
func (c graphBuildCmd) Validate() error {
	if !schemas.ValidAccount(c.Version) { // the same form: it is part of an object's name
		return fmt.Errorf("%q is no name of a version: 1 to 64 letters, digits, dots, underscores and dashes", c.Version)
	}
	return nil
}

// Run builds and publishes.
func (c graphBuildCmd) Run(ctx context.Context, g *Globals) error {
	bucket, err := c.open(ctx, g)
	if err != nil {
		return err
	}
	t, err := g.target()
	if err != nil {
		return err
	}
	cdc, err := g.codec()
	if err != nil {
		return err
	}
	a, err := newApplied(ctx, g)
	if err != nil {
		return err
	}
	lag, err := a.offsetsBehind(ctx, "ingest.evidence")
	a.client.Close()
	if err != nil {
		return err
	}
	if lag > 0 {
		fmt.Fprintf(g.Err, "databus: the evidence of up to %d records is not there yet (group ingest.evidence); the graph is built without it\n", lag)
	}
	_, v, err := graph.BuildFromTopic(ctx, graph.Sink{Kafka: t.options(), Codec: cdc, Bucket: bucket}, c.Version)
	if err != nil {
		return g.registryHint(err)
	}
	if c.Format == "json" {
		printJSON(g.Out, graphLine(v))
		return nil
	}
	fmt.Fprintf(g.Out, "graph %s: %d persons, %d identifiers, %d of them shared by too many; %s\n", v.Version, v.Persons, v.Identifiers, v.Shared, v.Object)
	return nil
}

func graphLine(v *event.GraphVersion) map[string]any {
	return map[string]any{"version": v.Version, "object": v.Object, "sha256": fmt.Sprintf("%x", v.Sha256), "identifiers": v.Identifiers, "persons": v.Persons,
		"shared": v.Shared, "built_at": v.BuiltAt.UTC()}
}

type graphLsCmd struct {
	Format string `enum:"text,json" default:"text" help:"text: a table; json: one object per line."`
}

func (graphLsCmd) Help() string {
	return `Lists the graph versions of identity.graphs in the order in which they were announced. g1 knows nobody: under it each record
is a person of its own identifiers.

Examples:

    databus graph ls

    databus graph ls --format json
`
}

// Run prints a line for each version.
func (c graphLsCmd) Run(ctx context.Context, g *Globals) error {
	all, err := g.graphs(ctx, nil)
	if err != nil {
		return err
	}
	defer all.Close()
	w := tabwriter.NewWriter(g.Out, 0, 0, 2, ' ', 0)
	if c.Format == "text" {
		fmt.Fprintln(w, "VERSION\tPERSONS\tIDENTIFIERS\tSHARED\tBUILT\tOBJECT")
	}
	for _, v := range all.List() {
		if c.Format == "json" {
			printJSON(g.Out, graphLine(&v))
			continue
		}
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%s\t%s\n", v.Version, v.Persons, v.Identifiers, v.Shared, moment(v.BuiltAt), v.Object)
	}
	return w.Flush()
}

type graphDiffCmd struct {
	bucketFlag
	From   string `arg:"" predictor:"graph" help:"The older version."`
	To     string `arg:"" predictor:"graph" help:"The newer version."`
	Show   int    `default:"20" placeholder:"N" help:"Persons of each list in the text; json has all of them."`
	Format string `enum:"text,json" default:"text" help:"text or json, one object."`
}

func (graphDiffCmd) Help() string {
	return `Resolves every record of which there is evidence under both versions, by the newest evidence, and says which persons merge
into others, which split off, and which get another FCID for the same records. It reads all of identity.observations and
loads both graphs. Records that nothing but their own id identifies are persons of their own under any graph; the evidence
does not hold that id, so they are left out.

Example, after "databus graph build g2":

    databus graph diff g1 g2
`
}

// Run prints the changes.
func (c graphDiffCmd) Run(ctx context.Context, g *Globals) error {
	bucket, err := c.open(ctx, g)
	if err != nil {
		return err
	}
	all, err := g.graphs(ctx, bucket)
	if err != nil {
		return err
	}
	defer all.Close()
	var loaded [2]*graph.Graph
	for i, version := range []string{c.From, c.To} {
		if _, ok := all.Version(version); !ok {
			var names []string
			for _, v := range all.List() {
				names = append(names, v.Version)
			}
			return fmt.Errorf("%s has no graph version %s: there are %s", schemas.IdentityGraphs, version, cmp.Or(strings.Join(names, ", "), "none"))
		}
		if loaded[i], err = all.Graph(ctx, version); err != nil {
			return err
		}
	}
	records, err := evidenceOfRecords(ctx, g)
	if err != nil {
		return err
	}
	changes := graph.Diff(loaded[0], loaded[1], func(yield func([]graph.Identifier) bool) {
		for _, ids := range records {
			if !yield(ids) {
				return
			}
		}
	})
	if c.Format == "json" {
		printJSON(g.Out, map[string]any{"from": c.From, "to": c.To, "records": changes.Records, "moved": changes.Moved, "persons_before": changes.PersonsBefore,
			"persons_after": changes.PersonsAfter, "merged": moves(changes.Merged), "split": moves(changes.Split), "renamed": moves(changes.Renamed)})
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
// its key, which begins with the account that is its source.
func evidenceOfRecords(ctx context.Context, g *Globals) (map[string][]graph.Identifier, error) {
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
		if e.Relation == event.RelationTogether && strings.HasPrefix(o.EvidenceID, o.Source+"/") {
			records[string(rec.Key)] = e.Identifiers
		}
		return nil
	})
	return records, err
}
