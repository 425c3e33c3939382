package history

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"

	"databus/pkg/archive"
	"databus/pkg/blob"
)

// Bounds are the part of a partition that Scan reads. The zero value is all of it.
type Bounds struct {
	// From is the first offset, To the first that is not read; To 0 means no end.
	From, To int64
	// Since and Before bound by time, in milliseconds since 1970: reading begins with the first row at or after Since, in
	// order of offsets, and ends before the first at or after Before, as it does where a topic is read by time. Nil means
	// no bound.
	Since, Before *int64
}

// Scan reads the objects of one partition, in the order of a Listing, by what bucket and footers say: neither the manifest
// nor the registry is asked. fn may keep the footer, but neither record nor value. A *Gap, or an error that names two objects,
// ends it where objects do not follow each other; so does an error of fn, which is returned as it is.
func Scan(ctx context.Context, bucket blob.Bucket, objects []Object, b Bounds, fn func(*archive.Footer, *archive.Record) error) error {
	if b.To == 0 {
		b.To = math.MaxInt64
	}
	begun := b.Since == nil
	var last *archive.Footer
	for i, o := range objects {
		if i+1 < len(objects) && objects[i+1].First <= b.From {
			continue
		}
		if o.First >= b.To {
			return nil
		}
		footer, done, err := scan(ctx, bucket, o, b, &begun, last, fn)
		if done || err != nil {
			return err
		}
		last = footer
	}
	return nil
}

func scan(ctx context.Context, bucket blob.Bucket, o Object, b Bounds, begun *bool, last *archive.Footer,
	fn func(*archive.Footer, *archive.Record) error) (_ *archive.Footer, done bool, err error) {
	r, err := archive.Open(ctx, bucket, o.Key)
	if err != nil {
		return nil, false, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	f := r.Footer()
	if last != nil && last.Next != f.First {
		return nil, false, follows(last, &f)
	}
	if f.Next <= b.From || !*begun && (f.Rows == 0 || f.MaxTimestamp < *b.Since) {
		return &f, false, nil
	}
	for {
		rec, err := r.Next()
		if errors.Is(err, io.EOF) {
			return &f, false, nil
		}
		if err != nil {
			return nil, false, fmt.Errorf("archive object %s: %w", o.Key, err)
		}
		if rec.Offset >= b.To {
			return nil, true, nil
		}
		if rec.Offset < b.From {
			continue
		}
		*begun = *begun || rec.Timestamp >= *b.Since
		if !*begun {
			continue
		}
		if b.Before != nil && rec.Timestamp >= *b.Before {
			return nil, true, nil
		}
		if err := fn(&f, &rec); err != nil {
			return nil, false, err
		}
	}
}

// follows says what is wrong with two objects of which the second does not begin where the first ends.
func follows(a, b *archive.Footer) error {
	if a.Next < b.First {
		return &Gap{Topic: a.Topic, Partition: a.Partition, From: a.Next, To: b.First}
	}
	return fmt.Errorf("archive of %s, partition %d: the objects of [%d, %d) and [%d, %d) overlap; `databus archive verify %s` says which one is to be moved away",
		a.Topic, a.Partition, a.First, a.Next, b.First, b.Next, a.Topic)
}
