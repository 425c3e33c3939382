package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"databus/pkg/archive"
	"databus/pkg/history"
	"databus/schemas/codec"
)

type archiveCatCmd struct {
	archiveFlags
	Topic     string `arg:"" predictor:"topic" help:"Topic to print."`
	From      string `default:"beginning" placeholder:"WHERE" help:"Where to begin: beginning, an offset, or a time such as 2026-01-31T12:00:00Z (default: beginning)."`
	To        string `default:"end" placeholder:"WHERE" help:"Where to stop, exclusive: end, an offset or a time (default: end)."`
	Partition int32  `short:"p" default:"-1" placeholder:"N" help:"Print this partition only."`
	Max       int    `short:"n" placeholder:"N" help:"Stop after N rows."`
	Format    string `enum:"json,text" default:"json" help:"json: one object per line; text: partition@offset, time, key and value."`
}

func (archiveCatCmd) Help() string {
	return `Prints archived rows in the form of 'databus consume', one partition after the other, from the bucket alone: neither Kafka nor
the registry is asked. Values have the version of the schema that their file has. Dead letters are not in the archive.

A time means the first row at or after it, in order of offsets. A range of offsets that no file holds ends it with an error.

Examples:

    databus archive cat usage.events

    databus archive cat usage.events --partition 0 --from 0 --to 10 --format text

    databus archive cat usage.events --from 2026-01-31T12:00:00Z --max 1
`
}

var errEnough = errors.New("enough rows")

// Run prints the rows.
func (c archiveCatCmd) Run(ctx context.Context, g *Globals) error {
	bounds, err := c.bounds()
	if err != nil {
		return err
	}
	bucket, err := c.open(ctx, g)
	if err != nil {
		return err
	}
	listing, err := history.List(ctx, bucket, c.Prefix, c.Topic)
	if err != nil {
		return fmt.Errorf("listing the archive: %w", err)
	}
	if len(listing.Objects) == 0 {
		return c.nothingArchived(c.Topic, bucket)
	}
	parts := slices.DeleteFunc(listing.Partitions(), func(objects []history.Object) bool {
		return c.Partition >= 0 && objects[0].Partition != c.Partition
	})
	known := footerSchemas{}
	p := newPrinter(c.Topic, codec.New(known, codec.Options{}))
	out := bufio.NewWriter(g.Out)
	printed := 0
	for _, objects := range parts {
		err = history.Scan(ctx, bucket, objects, bounds, func(f *archive.Footer, rec *archive.Record) error {
			known[f.SchemaID] = f.Schema
			if err := p.print(ctx, out, kafkaRecord(f, rec, f.SchemaID), c.Format); err != nil {
				return err
			}
			if printed++; printed == c.Max {
				return errEnough
			}
			return nil
		})
		if err != nil {
			break
		}
	}
	if errors.Is(err, errEnough) {
		err = nil
	}
	if flushed := out.Flush(); err == nil && flushed != nil {
		err = fmt.Errorf("printing: %w", flushed)
	}
	if err == nil && p.undecodable > 0 {
		err = fmt.Errorf("%d values could not be printed; their reasons are in the field error", p.undecodable)
	}
	return err
}

func (c archiveCatCmd) bounds() (history.Bounds, error) {
	var b history.Bounds
	if c.From != "beginning" {
		offset, at, err := where(c.From)
		if err != nil {
			return b, fmt.Errorf("--from: %w", err)
		}
		b.From, b.Since = offset, at
	}
	if c.To != "end" {
		offset, at, err := where(c.To)
		if err != nil {
			return b, fmt.Errorf("--to: %w", err)
		}
		if at == nil && offset == 0 {
			return b, errors.New("--to: nothing comes before offset 0")
		}
		b.To, b.Before = offset, at
	}
	return b, nil
}

// where reads an offset or a time, in whole milliseconds, upwards.
func where(text string) (offset int64, ms *int64, err error) {
	if o, err := strconv.ParseInt(text, 10, 64); err == nil && o >= 0 {
		return o, nil, nil
	}
	at, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		return 0, nil, fmt.Errorf("%q is neither an offset nor a time such as 2026-01-31T12:00:00Z", text)
	}
	n := at.UnixMilli()
	if at.Nanosecond()%int(time.Millisecond) != 0 {
		n++
	}
	return 0, &n, nil
}

// kafkaRecord is a row as it was on the topic, its value in the registry's wire format.
func kafkaRecord(f *archive.Footer, rec *archive.Record, schema int) *kgo.Record {
	out := &kgo.Record{Topic: f.Topic, Partition: f.Partition, Offset: rec.Offset, Timestamp: time.UnixMilli(rec.Timestamp), Key: rec.Key}
	for _, h := range rec.Headers {
		out.Headers = append(out.Headers, kgo.RecordHeader{Key: h.Key, Value: h.Value})
	}
	if rec.Value != nil {
		out.Value = append(binary.BigEndian.AppendUint32([]byte{0}, uint32(schema)), rec.Value...)
	}
	return out
}

// footerSchemas is a registry that knows what the footers that were read say.
type footerSchemas map[int]string

func (s footerSchemas) Schema(_ context.Context, id int) (string, error) {
	if text, ok := s[id]; ok {
		return text, nil
	}
	return "", fmt.Errorf("%w: %d", codec.ErrUnknownSchema, id)
}

var errReadOnly = fmt.Errorf("%w: the archive's footers are only read", codec.ErrUnknownSchema)

func (footerSchemas) ID(context.Context, string, string) (int, error)        { return 0, errReadOnly }
func (footerSchemas) Register(context.Context, string, string) (int, error)  { return 0, errReadOnly }
func (footerSchemas) Compatible(context.Context, string, string) error       { return errReadOnly }
func (footerSchemas) SetCompatibility(context.Context, string, string) error { return errReadOnly }
