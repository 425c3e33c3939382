package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"databus/pkg/archive"
	"databus/pkg/blob"
	"databus/pkg/history"
	"databus/schemas"
)

type archiveDDLCmd struct {
	archiveFlags
	Topic    string `arg:"" predictor:"topic" help:"Topic to query."`
	Engine   string `enum:"athena,duckdb,spark" required:"" help:"athena, duckdb or spark."`
	Table    string `placeholder:"NAME" help:"Name of the table or view (default: the topic's, with underscores)."`
	Location string `placeholder:"URL" help:"Where the engine finds the topic's folders (default: as the bucket's URL says)."`
}

func (archiveDDLCmd) Help() string {
	return `Prints statements that make an engine read the archive in place; nothing is run. Athena finds new hours by partition projection, so
no crawler and no loading of partitions is needed; DuckDB lists the bucket; Spark is told of new hours by MSCK REPAIR TABLE.
Filters on dt and hr, the day and hour (UTC) of a file's first record, decide which files are read.

Columns are those of the newest schema among the files: print the statements again after a schema has got new fields.

Examples:

    databus archive ddl usage.events --engine duckdb

    databus archive ddl usage.events --engine athena --location s3://bucket/archive/usage.events

    databus archive ddl usage.events --engine spark --table usage
`
}

// Run prints the statements.
func (c archiveDDLCmd) Run(ctx context.Context, g *Globals) error {
	bucket, err := c.open(ctx, g)
	if err != nil {
		return err
	}
	table, err := c.columns(ctx, g, bucket)
	if err != nil {
		return err
	}
	where, endpoint, pathStyle, err := c.location(g, c.Topic)
	if err != nil {
		return err
	}
	before := ""
	if c.Location != "" {
		where, endpoint = strings.TrimRight(c.Location, "/"), nil
	}
	switch s3, ok := strings.CutPrefix(where, "s3://"); {
	case !ok && c.Engine == archive.Athena:
		return errors.New("athena reads from S3 only: name the topic's folder there with --location s3://bucket/prefix/topic")
	case ok && c.Engine == archive.Spark:
		where = "s3a://" + s3
	case ok && c.Engine == archive.DuckDB:
		before = secret(endpoint, pathStyle)
	}
	table.Location, table.Name = where, c.Table
	if table.Name == "" {
		table.Name = strings.NewReplacer(".", "_", "-", "_").Replace(c.Topic)
	}
	text, err := archive.DDL(c.Engine, table)
	if err != nil {
		return err
	}
	_, err = fmt.Fprint(g.Out, before+text)
	return err
}

// secret lets DuckDB reach S3 with the credentials that the AWS tools find.
func secret(endpoint *url.URL, pathStyle bool) string {
	more := ""
	if endpoint != nil {
		more = fmt.Sprintf(", ENDPOINT '%s', USE_SSL %t", endpoint.Host, endpoint.Scheme == "https")
	}
	if pathStyle {
		more += ", URL_STYLE 'path'"
	}
	return "INSTALL httpfs; LOAD httpfs; INSTALL aws; LOAD aws;\nCREATE OR REPLACE SECRET (TYPE s3, PROVIDER credential_chain" + more + ");\n"
}

// columns takes the newest schema of the archive, or the catalogue's where there is no file yet, and the days.
func (c archiveDDLCmd) columns(ctx context.Context, g *Globals, bucket blob.Bucket) (archive.Table, error) {
	var t archive.Table
	listing, err := history.List(ctx, bucket, c.Prefix, c.Topic)
	if err != nil {
		return t, fmt.Errorf("listing the archive: %w", err)
	}
	today := time.Now().UTC().Format(time.DateOnly)
	first, last := today, today
	newest := archive.Footer{}
	for _, objects := range listing.Partitions() {
		for _, o := range objects {
			day := o.Hour[len("dt="):len("dt=2006-01-02")]
			first, last = min(first, day), max(last, day)
		}
		// A partition's schema only moves forward.
		f, err := footer(ctx, bucket, objects[len(objects)-1].Key)
		if err != nil {
			return t, err
		}
		if f.SchemaID >= newest.SchemaID {
			newest = f
		}
	}
	if newest.SchemaID == 0 {
		topic, ok := schemas.Lookup(c.Topic)
		switch {
		case ok && topic.Schema != "":
			fmt.Fprintf(g.Err, "databus: no file of %s has a value yet: these are the columns of the catalogue's schema\n", c.Topic)
			newest.Schema = topic.AvroSchema()
		case newest.Schema == "":
			return t, c.nothingArchived(c.Topic, bucket)
		}
	}
	t.From = first
	if last > today { // producers' clocks may be ahead
		t.Until = last
	}
	t.Schema, err = archive.Compile(newest.Schema)
	return t, err
}
