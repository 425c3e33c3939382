package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"

	"golang.org/x/sync/errgroup"

	"databus/pkg/archive"
	"databus/pkg/blob"
	"databus/pkg/history"
	"databus/schemas/event"
)

type archiveLsCmd struct {
	archiveFlags
	Topic    string `arg:"" optional:"" predictor:"topic" help:"Topic; all archived ones by default."`
	Files    bool   `help:"A line per file instead of one per partition."`
	Manifest bool   `help:"Take ranges and counts from archive.files, and say which files only the bucket or only the manifest has; needs Kafka."`
	Format   string `enum:"text,json" default:"text" help:"text or json, one object per line."`
}

func (archiveLsCmd) Help() string {
	return `Lists the archive from the bucket alone: names say topic, partition, first offset and hour, footers the rest. Ranges of
offsets are [first, next). No broker is asked, except with --manifest. Nothing is proven: that is 'databus archive verify'.

Examples:

    databus archive ls

    databus archive ls usage.events --files --format json

    databus archive ls --manifest
`
}

// A lsLine is a file, or the sum of a partition's.
type lsLine struct {
	Topic       string `json:"topic"`
	Partition   int32  `json:"partition"`
	Files       int    `json:"files,omitempty"`
	Object      string `json:"object,omitempty"`
	First       int64  `json:"first"`
	Next        int64  `json:"next"`
	Rows        int64  `json:"rows"`
	DeadLetters int64  `json:"dead_letters"`
	Bytes       int64  `json:"bytes"`
	From        string `json:"from,omitempty"` // least timestamp of the rows
	To          string `json:"to,omitempty"`   // greatest
	// BucketOnly and ManifestOnly count files that the other one lacks; only with --manifest.
	BucketOnly   *int `json:"bucket_only,omitempty"`
	ManifestOnly *int `json:"manifest_only,omitempty"`
}

// Run prints a line for each partition or file.
func (c archiveLsCmd) Run(ctx context.Context, g *Globals) error {
	bucket, err := c.open(ctx, g)
	if err != nil {
		return err
	}
	listing, err := history.List(ctx, bucket, c.Prefix, c.Topic)
	if err != nil {
		return fmt.Errorf("listing the archive: %w", err)
	}
	var lines []lsLine
	if c.Manifest {
		lines, err = c.manifest(ctx, g, listing)
	} else {
		lines, err = footers(ctx, bucket, listing)
	}
	if err != nil {
		return err
	}
	if len(lines) == 0 {
		fmt.Fprintf(g.Err, "databus: nothing is archived below %q in %s\n", c.Prefix, bucket)
	}
	for _, key := range listing.Strays {
		fmt.Fprintf(g.Err, "databus: %s is not named like an object of the archive and is left out\n", key)
	}
	if !c.Files {
		lines = sums(lines)
	}
	if c.Format == "json" {
		for _, l := range lines {
			printJSON(g.Out, l)
		}
		return nil
	}
	return c.table(g, lines)
}

func (c archiveLsCmd) table(g *Globals, lines []lsLine) error {
	if len(lines) == 0 {
		return nil
	}
	w := tabwriter.NewWriter(g.Out, 0, 0, 2, ' ', 0)
	what := "FILES"
	if c.Files {
		what = "OBJECT"
	}
	manifest := ""
	if c.Manifest {
		manifest = "\tBUCKET ONLY\tMANIFEST ONLY"
	}
	fmt.Fprintf(w, "TOPIC\tPARTITION\tFIRST\tNEXT\tROWS\tDEAD\tBYTES\tFROM\tTO\t%s%s\n", what, manifest)
	for _, l := range lines {
		name := l.Object
		if !c.Files {
			name = fmt.Sprint(l.Files)
		}
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d\t%d\t%d\t%s\t%s\t%s", l.Topic, l.Partition, l.First, l.Next, l.Rows, l.DeadLetters, l.Bytes, dash(l.From), dash(l.To), name)
		if l.BucketOnly != nil {
			fmt.Fprintf(w, "\t%d\t%d", *l.BucketOnly, *l.ManifestOnly)
		}
		fmt.Fprintln(w)
	}
	return w.Flush()
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// footers reads what each object says of itself, several at a time.
func footers(ctx context.Context, bucket blob.Bucket, listing *history.Listing) ([]lsLine, error) {
	lines := make([]lsLine, len(listing.Objects))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(8)
	for i, o := range listing.Objects {
		group.Go(func() error {
			f, err := footer(ctx, bucket, o.Key)
			if err != nil {
				return fmt.Errorf("%w; `databus archive verify %s` says what is wrong", err, o.Topic)
			}
			lines[i] = lsLine{
				Topic: o.Topic, Partition: o.Partition, Object: o.Key, First: f.First, Next: f.Next, Rows: f.Rows, DeadLetters: f.DeadLetters, Bytes: o.Size,
			}
			if f.Rows > 0 {
				lines[i].From, lines[i].To = isoMillis(f.MinTimestamp), isoMillis(f.MaxTimestamp)
			}
			return nil
		})
	}
	return lines, group.Wait()
}

func footer(ctx context.Context, bucket blob.Bucket, key string) (archive.Footer, error) {
	r, err := archive.Open(ctx, bucket, key)
	if err != nil {
		return archive.Footer{}, err
	}
	return r.Footer(), r.Close()
}

// manifest merges the listing with archive.files.
func (c archiveLsCmd) manifest(ctx context.Context, g *Globals, listing *history.Listing) ([]lsLine, error) {
	events, err := g.manifest(ctx, c.Topic)
	if err != nil {
		return nil, err
	}
	byKey := map[string]event.ArchiveFile{}
	for _, e := range events {
		byKey[e.Object] = e
	}
	yes, no := 1, 0
	lines := []lsLine{}
	inBucket := map[string]bool{}
	for _, o := range listing.Objects {
		inBucket[o.Key] = true
		if _, ok := byKey[o.Key]; !ok {
			lines = append(lines, lsLine{Topic: o.Topic, Partition: o.Partition, Object: o.Key, First: o.First, Next: o.First, Bytes: o.Size, BucketOnly: &yes, ManifestOnly: &no})
		}
	}
	for _, e := range events {
		l := lsLine{Topic: e.Topic, Partition: e.Partition, Object: e.Object, First: e.First, Next: e.Next, Rows: e.Rows, DeadLetters: e.DeadLetters, Bytes: e.Bytes,
			BucketOnly: &no, ManifestOnly: &no}
		if !inBucket[e.Object] {
			l.ManifestOnly = &yes
		}
		if e.MinTimestamp != nil && e.MaxTimestamp != nil {
			l.From, l.To = isoMillis(e.MinTimestamp.UnixMilli()), isoMillis(e.MaxTimestamp.UnixMilli())
		}
		lines = append(lines, l)
	}
	sortLines(lines)
	return lines, nil
}

// manifest reads archive.files as it is now.
func (g *Globals) manifest(ctx context.Context, topic string) ([]event.ArchiveFile, error) {
	at, err := g.reach(ctx)
	if err != nil {
		return nil, err
	}
	m, err := history.Follow(ctx, at.kafka, at.codec, topic, nil)
	if err != nil {
		return nil, err
	}
	defer m.Close()
	if err := m.Ready(ctx); err != nil {
		return nil, fmt.Errorf("reading the manifest: %w", err)
	}
	return m.Files(), nil
}

func sortLines(lines []lsLine) {
	slices.SortFunc(lines, func(a, b lsLine) int {
		return cmp.Or(strings.Compare(a.Topic, b.Topic), cmp.Compare(a.Partition, b.Partition), cmp.Compare(a.First, b.First), strings.Compare(a.Object, b.Object))
	})
}

// sums adds the files of each partition up.
func sums(files []lsLine) []lsLine {
	var all []lsLine
	for _, f := range files {
		n := len(all)
		if n == 0 || all[n-1].Topic != f.Topic || all[n-1].Partition != f.Partition {
			s := f
			s.Object, s.Files = "", 1
			if f.BucketOnly != nil {
				b, m := *f.BucketOnly, *f.ManifestOnly
				s.BucketOnly, s.ManifestOnly = &b, &m
			}
			all = append(all, s)
			continue
		}
		s := &all[n-1]
		s.Files++
		s.Next = max(s.Next, f.Next)
		s.Rows += f.Rows
		s.DeadLetters += f.DeadLetters
		s.Bytes += f.Bytes
		if f.From != "" && (s.From == "" || f.From < s.From) {
			s.From = f.From
		}
		s.To = max(s.To, f.To)
		if s.BucketOnly != nil {
			*s.BucketOnly += *f.BucketOnly
			*s.ManifestOnly += *f.ManifestOnly
		}
	}
	return all
}
