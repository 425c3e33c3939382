package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"text/tabwriter"

	"databus/pkg/identity"
	"databus/schemas"
	"databus/schemas/event"
)

type databasesCmd struct {
	List  databasesListCmd  `cmd:"" help:"List the versions of the serving database."`
	Diff  databasesDiffCmd  `cmd:"" help:"Compare every row of two versions."`
	Serve databasesServeCmd `cmd:"" help:"Move the read pointer to another version."`
}

// databases reads databus.databases up to now.
func (g *Globals) databases(ctx context.Context) (*identity.Databases, error) {
	at, err := g.reach(ctx)
	if err != nil {
		return nil, err
	}
	all, err := identity.FollowDatabases(ctx, at.kafka, at.codec, nil)
	if err != nil {
		return nil, err
	}
	return all, upToNow(ctx, schemas.DatabusDatabases, all.Ready, all.Close)
}

// findDatabase returns a version, or an error that names those that there are.
func findDatabase(all *identity.Databases, version string) (event.DatabaseVersion, error) {
	v, ok := all.Get(version)
	if ok {
		return v, nil
	}
	var names []string
	for _, v := range all.List() {
		names = append(names, v.Version)
	}
	return v, fmt.Errorf("%s has no database version %s: there are %s", schemas.DatabusDatabases, version, cmp.Or(strings.Join(names, ", "), "none"))
}

type databasesListCmd struct {
	Format string `enum:"text,json" default:"text" help:"text: a table; json: one object per line."`
}

func (databasesListCmd) Help() string {
	return `Lists the database versions of databus.databases, the one that changed last at the end: state, keyspace, graph version,
the consumer group that applies the Databus to it, and how many records that group has not applied yet. Of two versions
in state SERVING, which a cut-over that was interrupted leaves, the later one serves.

Examples:

    databus databases list

    databus databases list --format json
`
}

// Run prints a line for each version.
func (c databasesListCmd) Run(ctx context.Context, g *Globals) error {
	all, err := g.databases(ctx)
	if err != nil {
		return err
	}
	defer all.Close()
	serving, _ := all.Serving()
	a, err := newApplied(ctx, g)
	if err != nil {
		return err
	}
	defer a.client.Close()
	w := tabwriter.NewWriter(g.Out, 0, 0, 2, ' ', 0)
	if c.Format == "text" {
		fmt.Fprintln(w, "VERSION\tSTATE\tSERVES\tKEYSPACE\tGRAPH\tAPPLIER GROUP\tLAG\tCHANGED")
	}
	for _, v := range all.List() {
		lag, err := a.offsetsBehind(ctx, v.ApplierGroup)
		if err != nil {
			return err
		}
		serves := v.Version == serving.Version
		if c.Format == "json" {
			printJSON(g.Out, map[string]any{"version": v.Version, "state": v.State, "serves": serves, "keyspace": v.Keyspace, "graph_version": v.GraphVersion,
				"applier_group": v.ApplierGroup, "applier_lag_records": lag, "epoch": v.Epoch, "job_id": v.JobID, "changed_at": v.ChangedAt.UTC()})
			continue
		}
		mark := "-"
		if serves {
			mark = "yes"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%d\t%s\n", v.Version, v.State, mark, v.Keyspace, v.GraphVersion, v.ApplierGroup, lag, moment(v.ChangedAt))
	}
	return w.Flush()
}

type databasesDiffCmd struct {
	From        string `arg:"" predictor:"database" help:"A database version."`
	To          string `arg:"" predictor:"database" help:"Another one."`
	IdentityURL string `env:"DATABUS_IDENTITY__URL" placeholder:"URL" help:"Identity store, such as cassandra://127.0.0.1:9042; default: that of the running 'databus dev'."`
	Format      string `enum:"text,json" default:"text" help:"text or json, one object."`
}

func (databasesDiffCmd) Help() string {
	return `Compares all columns of all rows of all three look-up tables of two database versions, and exits with 1 if they differ. It
takes about 100 bytes of memory for each row of a table. While records are written, versions differ in those that one of
the appliers has not applied yet; the error says how many. Nothing that was sealed is printed, and record keys are cut.

Example, after a rebuild under the live graph has made v2:

    databus databases diff v1 v2
`
}

// Run prints the differences.
func (c databasesDiffCmd) Run(ctx context.Context, g *Globals) error {
	all, err := g.databases(ctx)
	if err != nil {
		return err
	}
	defer all.Close()
	from, err := findDatabase(all, c.From)
	if err != nil {
		return err
	}
	to, err := findDatabase(all, c.To)
	if err != nil {
		return err
	}
	compared, err := c.compare(ctx, g, from.Keyspace, to.Keyspace)
	if err != nil {
		return err
	}
	if c.Format == "json" {
		printJSON(g.Out, map[string]any{"from": c.From, "to": c.To, "rows": compared.Rows, "differences": compared.Differences, "first": diffLines(compared)})
	} else {
		fmt.Fprintf(g.Out, "%s and %s: %d rows, %d differences\n", c.From, c.To, compared.Rows, compared.Differences)
		for _, line := range diffLines(compared) {
			fmt.Fprintln(g.Out, " ", line)
		}
		if more := compared.Differences - int64(len(compared.Diffs)); more > 0 {
			fmt.Fprintf(g.Out, "  ... and %d more\n", more)
		}
	}
	if compared.Equal() {
		return nil
	}
	a, err := newApplied(ctx, g)
	if err != nil {
		return err
	}
	defer a.client.Close()
	var waiting []string
	for _, v := range []event.DatabaseVersion{from, to} {
		if lag, err := a.offsetsBehind(ctx, v.ApplierGroup); err == nil && lag > 0 {
			waiting = append(waiting, fmt.Sprintf("%s has %d records to apply", v.Version, lag))
		}
	}
	text := fmt.Sprintf("%d of %d rows differ", compared.Differences, compared.Rows)
	if from.GraphVersion != to.GraphVersion {
		text += fmt.Sprintf("; the versions were built under different graphs, %s and %s", from.GraphVersion, to.GraphVersion)
	}
	if len(waiting) > 0 {
		text += "; " + strings.Join(waiting, ", ")
	}
	return errors.New(text)
}

func diffLines(c *identity.Comparison) []string {
	lines := []string{}
	for _, d := range c.Diffs {
		lines = append(lines, strings.NewReplacer("only in a", "only in the first", "only in b", "only in the second").Replace(d.String()))
	}
	return lines
}

// compare opens the identity store, or asks the `databus dev` that holds it.
func (c databasesDiffCmd) compare(ctx context.Context, g *Globals, a, b string) (*identity.Comparison, error) {
	if c.IdentityURL == "" {
		dev, ok, err := g.dev()
		if err != nil {
			return nil, err
		}
		if !ok || dev.Tools == "" {
			return nil, errors.New("which identity store holds the databases? Name it with --identity-url, or start `databus dev`")
		}
		return askCompare(ctx, dev.Tools, a, b)
	}
	stores, err := identity.OpenStores(ctx, c.IdentityURL)
	if err != nil {
		return nil, err
	}
	defer stores.Close() //nolint:errcheck // it was only read
	return compareKeyspaces(ctx, stores, a, b)
}

func compareKeyspaces(ctx context.Context, stores identity.Stores, a, b string) (*identity.Comparison, error) {
	var opened [2]identity.Store
	for i, name := range []string{a, b} {
		var err error
		if opened[i], err = stores.Keyspace(name); err != nil {
			return nil, err
		}
	}
	return identity.Compare(ctx, opened[0], opened[1])
}
