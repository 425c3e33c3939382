package main

import (
	"context"
	"fmt"
	"time"

	"databus/pkg/history"
)

type archiveVerifyCmd struct {
	archiveFlags
	Topic      string        `arg:"" optional:"" predictor:"topic" help:"Topic; all archived ones by default."`
	Deep       bool          `help:"Read every row: offsets, counts, times and values, and compare the offsets with the topic's one by one."`
	BucketOnly bool          `help:"Look at the bucket alone: neither manifest, nor checksums, nor the topic's records."`
	Group      string        `default:"archiver" hidden:""`
	Patience   time.Duration `default:"15s" placeholder:"TIME" help:"How long an object may lack its manifest event, and the topic may be silent (default: 15s)."`
	Workers    int           `default:"2" placeholder:"N" help:"Partitions that are verified at the same time (default: 2)."`
	Format     string        `enum:"text,json" default:"text" help:"text or json, one object per line."`
}

func (archiveVerifyCmd) Help() string {
	return `Proves for each partition:

 - each file begins where the one before ends, and the first one misses no record that the topic still has;
 - names agree with footers;
 - bucket and archive.files agree both ways, in ranges, counts, sizes and SHA-256;
 - rows and dead letters of a file are as many as the committed records of its range, as long as the topic has them: a file whose
   records retention has deleted cannot be compared, and "counted" says how many were;
 - what the archiver has committed is in files.

Where the archiver's keep_for lets old objects go, what is below the last mark (_left+<partition>+<first> beside them) is no gap: the
partition's line says up to which offset. Between the mark and the first object nothing may be missing.

Objects are read whole, one per worker at a time, into a temporary file. Nothing is changed; the archiver may run. Each
problem is a line that names the place, what is wrong and what to do; any problem makes the exit code 1.

Examples:

    databus archive verify

    databus archive verify usage.events --deep

    databus archive verify --bucket-only --format json
`
}

// Run prints a line for each partition and each problem, and the sum.
func (c archiveVerifyCmd) Run(ctx context.Context, g *Globals) error {
	bucket, err := c.open(ctx, g)
	if err != nil {
		return err
	}
	v := history.Verifier{Bucket: bucket, Prefix: c.Prefix, Topic: c.Topic, Deep: c.Deep, Group: c.Group, Patience: c.Patience, Workers: c.Workers}
	if !c.BucketOnly {
		at, err := g.reach(ctx)
		if err != nil {
			return err
		}
		v.Kafka, v.Codec = at.kafka, at.codec
	}
	var files, rows, problems int64
	err = v.Run(ctx, func(p *history.Verified) error {
		files += int64(p.Files)
		rows += p.Rows
		problems += int64(len(p.Problems))
		c.print(g, p)
		return nil
	})
	if err != nil {
		return g.registryHint(err)
	}
	if c.Format == "json" {
		printJSON(g.Out, map[string]any{"files": files, "rows": rows, "problems": problems})
	} else {
		fmt.Fprintf(g.Out, "verified: %s, %s, %s\n", plural(files, "file"), plural(rows, "row"), plural(problems, "problem"))
	}
	switch {
	case problems > 0:
		return fmt.Errorf("%s in the archive; each is listed with what to do", plural(problems, "problem"))
	case files == 0 && c.Topic != "":
		return c.nothingArchived(c.Topic, bucket)
	}
	return nil
}

func (c archiveVerifyCmd) print(g *Globals, p *history.Verified) {
	if c.Format == "json" {
		type problem struct {
			Offset *int64 `json:"offset,omitempty"`
			Object string `json:"object,omitempty"`
			What   string `json:"what"`
			Next   string `json:"next"`
		}
		problems := []problem{}
		for _, x := range p.Problems {
			one := problem{Object: x.Object, What: x.What, Next: x.Next}
			if x.Offset >= 0 {
				one.Offset = &x.Offset
			}
			problems = append(problems, one)
		}
		printJSON(g.Out, map[string]any{
			"topic": p.Topic, "partition": p.Partition, "files": p.Files, "first": p.First, "next": p.Next, "rows": p.Rows, "dead_letters": p.DeadLetters,
			"bytes": p.Size, "counted": p.Counted, "left": p.Left, "leaving": p.Leaving, "behind": p.Behind, "problems": problems,
		})
		return
	}
	if p.Partition >= 0 && (p.Files > 0 || len(p.Problems) > 0) {
		counted, left := "", ""
		if p.Left > 0 {
			left = fmt.Sprintf(", retention let go what is below %d", p.Left)
			if p.Leaving > 0 {
				left += fmt.Sprintf(" (%s still there)", plural(int64(p.Leaving), "file"))
			}
		}
		if !c.BucketOnly {
			counted = fmt.Sprintf(", %d counted in the topic", p.Counted)
			if p.Behind > 0 {
				counted += fmt.Sprintf(", %d offsets not archived yet", p.Behind)
			}
		}
		fmt.Fprintf(g.Out, "%s/%d: %s, [%d, %d), %s, %s%s%s, %s\n", p.Topic, p.Partition, plural(int64(p.Files), "file"), p.First, p.Next,
			plural(p.Rows, "row"), plural(p.DeadLetters, "dead letter"), left, counted, plural(int64(len(p.Problems)), "problem"))
	}
	for _, x := range p.Problems {
		fmt.Fprintf(g.Out, "problem: %s\n", x)
	}
}
