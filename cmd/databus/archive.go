package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"time"

	"databus/pkg/blob"
)

type archiveCmd struct {
	Ls       archiveLsCmd       `cmd:"" help:"List the archive's files by partition."`
	Cat      archiveCatCmd      `cmd:"" help:"Print archived rows as JSON, from the bucket alone."`
	Verify   archiveVerifyCmd   `cmd:"" help:"Prove that the archive holds each committed record exactly once."`
	Restore  archiveRestoreCmd  `cmd:"" help:"Replay a topic's archive into another topic."`
	Backfill archiveBackfillCmd `cmd:"" help:"Archive what the archive lacks and Kafka still has."`
	DDL      archiveDDLCmd      `cmd:"" name:"ddl" help:"Print the statements that make Athena, DuckDB or Spark read a topic's archive."`
}

// archiveFlags say where the archive is.
type archiveFlags struct {
	BucketURL string `env:"DATABUS_BUCKET__URL" placeholder:"URL" help:"Bucket, such as s3://bucket/prefix?endpoint=http://127.0.0.1:7070&path_style=true; default: that of the running 'databus dev', else DIR/bucket, where the last one left it."`
	Prefix    string `env:"DATABUS_ARCHIVER__PREFIX" default:"archive" placeholder:"PREFIX" help:"The archiver's setting prefix (default: archive)."`
}

// address is the bucket's URL.
func (f archiveFlags) address(g *Globals) (string, error) {
	if f.BucketURL != "" {
		return f.BucketURL, nil
	}
	dev, running, err := readDev(g.Dir)
	if err != nil {
		return "", err
	}
	if running && dev.Bucket != "" {
		return dev.Bucket, nil
	}
	dir, err := filepath.Abs(filepath.Join(g.Dir, "bucket"))
	if err != nil {
		return "", fmt.Errorf("finding the bucket: %w", err)
	}
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("which bucket holds the archive? There is no %s: start `databus dev`, or name a bucket with --bucket-url", dir)
	}
	return "file://" + dir, nil
}

func (f archiveFlags) open(ctx context.Context, g *Globals) (blob.Bucket, error) {
	address, err := f.address(g)
	if err != nil {
		return nil, err
	}
	return blob.Open(ctx, address)
}

// location is where engines find a topic: a directory, or an s3 URL, with the endpoint of a bucket that is not AWS's.
func (f archiveFlags) location(g *Globals, topic string) (where string, endpoint *url.URL, pathStyle bool, err error) {
	address, err := f.address(g)
	if err != nil {
		return "", nil, false, err
	}
	u, err := url.Parse(address)
	if err != nil {
		return "", nil, false, errors.New("the bucket's URL cannot be parsed")
	}
	if u.Scheme != "s3" {
		return path.Join(u.Path, f.Prefix, topic), nil, false, nil
	}
	if e := u.Query().Get("endpoint"); e != "" {
		if endpoint, err = url.Parse(e); err != nil || endpoint.Host == "" {
			return "", nil, false, fmt.Errorf("the bucket's endpoint %q is no URL", e)
		}
	}
	pathStyle, _ = strconv.ParseBool(u.Query().Get("path_style"))
	return "s3://" + path.Join(u.Host, u.Path, f.Prefix, topic), endpoint, pathStyle, nil
}

// nothingArchived is the error of a topic without objects.
func (f archiveFlags) nothingArchived(topic string, bucket blob.Bucket) error {
	return fmt.Errorf("there is no object of topic %s below %q in %s; `databus archive ls` lists what there is", topic, f.Prefix, bucket)
}

// isoMillis is a time in milliseconds since 1970 as it is printed.
func isoMillis(ms int64) string {
	return time.UnixMilli(ms).UTC().Format("2006-01-02T15:04:05.000Z07:00")
}

// plural counts things.
func plural(n int64, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return strconv.FormatInt(n, 10) + " " + thing + "s"
}
