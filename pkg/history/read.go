package history

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/twmb/avro"

	"databus/pkg/archive"
	"databus/pkg/blob"
	"databus/schemas"
	"databus/schemas/event"
)

// Record is an archived record as an event.
type Record[T any] struct {
	Offset int64
	// Time is Kafka's timestamp, UTC, in milliseconds.
	Time time.Time
	Key  []byte
	// Value is nil for a tombstone. It shares no memory with the reader.
	Value *T
}

// Summary counts what Read has gone through.
type Summary struct {
	// Records were given to fn.
	Records int64
	// DeadLetters are records of the files that the archiver could not decode. Of a file that is read in part all count.
	DeadLetters int64
}

// Read calls fn for every record of a chain with an offset in [From, Next), in order. T is the topic's event. An error of
// fn ends it and is returned as it is.
func Read[T any](ctx context.Context, bucket blob.Bucket, c Chain, fn func(Record[T]) error) (Summary, error) {
	return readWanted(ctx, bucket, c, nil, fn)
}

// readWanted is Read that decodes the values of wanted keys only; nil wants all.
func readWanted[T any](ctx context.Context, bucket blob.Bucket, c Chain, wanted func(key []byte) bool, fn func(Record[T]) error) (Summary, error) {
	var sum Summary
	text := schemas.MustLookup(c.Topic).AvroSchema()
	current, err := archive.Compile(text)
	if err != nil {
		return sum, fmt.Errorf("reading the archive of %s: %w", c.Topic, err)
	}
	decoder, err := avro.Parse(text)
	if err != nil {
		return sum, fmt.Errorf("reading the archive of %s: %w", c.Topic, err)
	}
	for _, f := range c.Files {
		sum.DeadLetters += f.DeadLetters
		if err := read(ctx, bucket, c, &f, current, decoder, wanted, &sum, fn); err != nil {
			return sum, err
		}
	}
	return sum, nil
}

func read[T any](ctx context.Context, bucket blob.Bucket, c Chain, f *event.ArchiveFile, current *archive.Schema, decoder *avro.Schema,
	wanted func(key []byte) bool, sum *Summary, fn func(Record[T]) error) (err error) {
	r, err := archive.Open(ctx, bucket, f.Object)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	if is := r.Footer(); is.Topic != f.Topic || is.Partition != f.Partition || is.First != f.First || is.Next != f.Next || is.Rows != f.Rows || is.DeadLetters != f.DeadLetters {
		return fmt.Errorf("archive object %s: %w: it holds %d rows of [%d, %d), the manifest says %d of [%d, %d)",
			f.Object, archive.ErrFormat, is.Rows, is.First, is.Next, f.Rows, f.First, f.Next)
	}
	resolver, err := archive.NewResolver(r.Schema(), current)
	if err != nil {
		return fmt.Errorf("archive object %s: %w", f.Object, err)
	}
	var buffer []byte
	for {
		rec, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("archive object %s: %w", f.Object, err)
		}
		if rec.Offset < c.From {
			continue
		}
		if rec.Offset >= c.Next {
			return nil
		}
		out := Record[T]{Offset: rec.Offset, Time: time.UnixMilli(rec.Timestamp).UTC(), Key: rec.Key}
		if rec.Value != nil && (wanted == nil || wanted(rec.Key)) {
			value, err := resolver.Resolve(buffer[:0], rec.Value)
			if err == nil {
				out.Value = new(T)
				_, err = decoder.Decode(value, out.Value)
			}
			if err != nil {
				return fmt.Errorf("archive object %s, offset %d: %w", f.Object, rec.Offset, err)
			}
			if len(value) > 0 && (len(rec.Value) == 0 || &value[0] != &rec.Value[0]) {
				buffer = value // it grew: keep the larger one
			}
		}
		sum.Records++
		if err := fn(out); err != nil {
			return err
		}
	}
}
