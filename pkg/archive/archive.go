// Package archive is the Parquet object of the archive: its name, its columns, its footer, a writer and a reader. FORMAT.md
// beside this file describes the format for those who read it with other tools.
//
// Promise: one object holds one contiguous range [first, next) of one partition, each record once, with its key, headers,
// timestamp and value. The object's bytes are a function of the records, the dead letters, the range, the value schema,
// the topic's Layout and EncoderVersion, and of nothing else: no clock, no host, no map order. What Reader gives back are the records that
// were appended, values re-encoded under the object's own schema.
//
// Concurrency: a Schema may be shared; a Writer, a Resolver and a Reader belong to one goroutine each.
//
// Failure: a value that breaks its schema gives ErrValue and leaves the Writer as it was; any other error of a Writer
// makes the object worthless. A Reader gives ErrFormat for whatever is no complete, consistent object of this format.
// Memory: a Writer holds one row group, encoded, a Reader a page per column. Where rows are sorted, both hold the records of one
// row group beside that: 32 MiB and one record at most.
package archive

import (
	"errors"
	"fmt"
)

// EncoderVersion names the encoder. Whatever changes the bytes of any object needs a new one: the mapping of types, the
// settings of pages and row groups, or the version of the Parquet library, where it writes other bytes.
const EncoderVersion = "databus-archive/3"

// Errors that callers tell apart, with errors.Is.
var (
	// ErrValue: a record's bytes do not follow their schema: the material of a dead letter.
	ErrValue = errors.New("value does not follow its schema")
	// ErrSchema: a value schema has no columns in this format.
	ErrSchema = errors.New("schema cannot be archived")
	// ErrOrder: an object's rows cannot be sorted by a column: its schema has none of this name, or no order of it.
	ErrOrder = errors.New("rows cannot be sorted by this column")
	// ErrFormat: an object is not what this package writes, or is damaged.
	ErrFormat = errors.New("not a valid archive object")
)

// Record is one Kafka record.
type Record struct {
	Offset int64
	// Timestamp is Kafka's, in milliseconds since 1970 UTC.
	Timestamp int64
	// Key is nil when the record has none.
	Key     []byte
	Headers []Header
	// Value is the Avro binary under the object's schema, without the registry's prefix; nil is a tombstone.
	Value []byte
}

// Header is one Kafka header; a nil Value is not the same as an empty one.
type Header struct {
	Key   string
	Value []byte
}

// Footer is what an object says about itself.
type Footer struct {
	Topic     string
	Partition int32
	// First and Next bound the range of offsets: First is in it, Next is not.
	First, Next int64
	// Rows and DeadLetters together are the data records that were committed in the range; the other offsets are
	// control records, aborted records or compacted away.
	Rows, DeadLetters int64
	// Schema is the Avro schema of the value's columns, as JSON; SchemaID is its id in the registry.
	Schema   string
	SchemaID int
	// EncoderVersion is the writer's.
	EncoderVersion string
	// MinTimestamp and MaxTimestamp are those of the rows, in milliseconds since 1970 UTC; zero when Rows is zero.
	MinTimestamp, MaxTimestamp int64
	// SortedBy names the column by which the rows of each row group are sorted, then by offset; empty: by offset alone.
	SortedBy string
}

func (f *Footer) check() error {
	switch {
	case CheckTopic(f.Topic) != nil:
		return fmt.Errorf("topic %q is no topic's name", f.Topic)
	case f.Partition < 0:
		return fmt.Errorf("partition %d is negative", f.Partition)
	case f.First < 0 || f.Next <= f.First:
		return fmt.Errorf("[%d, %d) is no range of offsets", f.First, f.Next)
	case f.Rows < 0 || f.DeadLetters < 0 || f.Rows+f.DeadLetters > f.Next-f.First || f.Rows+f.DeadLetters == 0:
		return fmt.Errorf("%d rows and %d dead letters do not fit the range [%d, %d)", f.Rows, f.DeadLetters, f.First, f.Next)
	case f.Rows > 0 && f.MinTimestamp > f.MaxTimestamp:
		return fmt.Errorf("the least timestamp %d is above the greatest, %d", f.MinTimestamp, f.MaxTimestamp)
	case f.EncoderVersion == "":
		return fmt.Errorf("it names no encoder version")
	}
	return nil
}
