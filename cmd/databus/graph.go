package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"text/tabwriter"

	"databus/pkg/blob"
	"databus/pkg/graph"
	"databus/pkg/identity"
	"databus/schemas"
	"databus/schemas/event"
)

type graphCmd struct {
	Build   graphBuildCmd   `cmd:"" help:"Build a graph version from the evidence and publish it."`
	Ls      graphLsCmd      `cmd:"" help:"List the graph versions."`
	Diff    graphDiffCmd    `cmd:"" help:"Say which persons merge and split between two versions, and tell callers."`
	Explain graphExplainCmd `cmd:"" help:"Say why identifiers belong to one person."`
	Load    graphLoadCmd    `cmd:"" help:"Load evidence of another source from a file."`
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
	secretsFlags
	Version string `arg:"" help:"Name of the new version: letters, digits, dots, underscores and dashes."`
	Since   string `predictor:"graph" placeholder:"VERSION" help:"Announce on identity.changes who merges and splits since this version, as 'graph diff --emit' does."`
	Format  string `enum:"text,json" default:"text" help:"text or json, one object."`
}

func (graphBuildCmd) Help() string {
	return `Reads all evidence of identity.observations up to its end now, computes who is whom, puts the graph's file into the bucket
and announces the version on identity.graphs. The live database does not change: a rebuild under the new version makes
another one. Versions are immutable: the same name again is accepted where the evidence gives the same file. With --since
callers learn which of their PersonIDs become which, before any database has them.

Example, and a rebuild under it:

    databus graph build g2 --since g1

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
	line := graphLine(v)
	emitted := 0
	if c.Since != "" {
		diff := graphDiffCmd{bucketFlag: c.bucketFlag, secretsFlags: c.secretsFlags, From: c.Since, To: c.Version, Emit: true}
		if _, emitted, err = diff.compare(ctx, g); err != nil {
			return fmt.Errorf("graph %s is published; %w; go on with `databus graph diff %s %s --emit`", c.Version, err, c.Since, c.Version)
		}
		line["changes_emitted"] = emitted
	}
	if c.Format == "json" {
		printJSON(g.Out, line)
		return nil
	}
	fmt.Fprintf(g.Out, "graph %s: %d persons, %d identifiers, %d of them shared by too many; %s\n", v.Version, v.Persons, v.Identifiers, v.Shared, v.Object)
	if c.Since != "" {
		fmt.Fprintf(g.Out, "%d changes since %s are on %s\n", emitted, c.Since, schemas.IdentityChanges)
	}
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
