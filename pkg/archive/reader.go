package archive

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/parquet-go/parquet-go"

	"databus/pkg/blob"
)

// readBuffer is the size of one read of a column's pages, in bytes: one request to a bucket each.
const readBuffer = 256 << 10

// Reader reads one object's records in the order of their offsets.
type Reader struct {
	file   *parquet.File
	schema *Schema
	footer Footer

	groups []parquet.RowGroup
	rows   parquet.Rows
	buffer []parquet.Row
	at, n  int
	row    rowReader
	last   int64
	read   int64

	order  *order // of a sorted object, whose row groups come in order of offsets only as a whole
	sorter sorter // the current row group's records
	sorted int    // rows of the sorter that Next has given
}

// Open opens the object under key and checks that its footer agrees with its name and its columns.
func Open(ctx context.Context, bucket blob.Bucket, key string) (*Reader, error) {
	info, err := bucket.Head(ctx, key)
	if err != nil {
		return nil, fmt.Errorf("opening archive object: %w", err)
	}
	r, err := NewReader(blob.NewReaderAt(ctx, bucket, info), info.Size)
	if err != nil {
		return nil, fmt.Errorf("opening archive object %q: %w", key, err)
	}
	name, ok := ParseName(key)
	if !ok || name.Topic != r.footer.Topic || name.Partition != r.footer.Partition || name.First != r.footer.First {
		return nil, fmt.Errorf("opening archive object %q: %w: its footer says topic %s, partition %d, first offset %d",
			key, ErrFormat, r.footer.Topic, r.footer.Partition, r.footer.First)
	}
	return r, nil
}

// NewReader reads an object of size bytes from r. Errors of r stay what they are; what is wrong with the object is
// ErrFormat.
func NewReader(r io.ReaderAt, size int64) (_ *Reader, err error) {
	source := &source{ReaderAt: r}
	defer recovered(&err)
	file, err := parquet.OpenFile(source, size,
		parquet.SkipPageIndex(true), parquet.SkipBloomFilters(true), parquet.ReadBufferSize(readBuffer))
	if err != nil {
		return nil, source.explain(err)
	}
	footer, err := parseFooter(file.Lookup)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	schema, err := Compile(footer.Schema)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	if file.NumRows() != footer.Rows {
		return nil, fmt.Errorf("%w: its footer says %d rows, its row groups have %d", ErrFormat, footer.Rows, file.NumRows())
	}
	if want := schema.parquetSchema(nil); !parquet.EqualNodes(want, file.Schema()) {
		return nil, fmt.Errorf("%w: its columns are not those of its value schema", ErrFormat)
	}
	by, err := sortedBy(file, schema, footer.SortedBy)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	return &Reader{
		file: file, schema: schema, footer: footer, groups: file.RowGroups(), buffer: make([]parquet.Row, 64),
		row: rowReader{columns: make([][]parquet.Value, metaLeaves+len(schema.leaves))}, last: footer.First - 1, order: by,
	}, nil
}

// Footer returns the object's footer.
func (r *Reader) Footer() Footer { return r.footer }

// Schema returns the value schema, compiled.
func (r *Reader) Schema() *Schema { return r.schema }

// Next returns the next record, and io.EOF after the last. The record and its memory are valid until the following
// Next, except the header values and the key, which may be kept.
func (r *Reader) Next() (rec Record, err error) {
	defer recovered(&err)
	if r.order != nil {
		rec, err = r.nextSorted()
	} else {
		rec, _, err = r.nextRow()
	}
	if err != nil {
		return Record{}, err
	}
	if rec.Offset <= r.last || rec.Offset >= r.footer.Next {
		return Record{}, fmt.Errorf("%w: row %d has offset %d after %d in the range [%d, %d)",
			ErrFormat, r.read, rec.Offset, r.last, r.footer.First, r.footer.Next)
	}
	r.last = rec.Offset
	r.read++
	return rec, nil
}

// nextRow gives the row that follows in the file.
func (r *Reader) nextRow() (rec Record, row parquet.Row, err error) {
	for r.at == r.n {
		if err := r.fill(); err != nil {
			return Record{}, nil, err
		}
	}
	row = r.buffer[r.at]
	r.at++
	if rec, err = r.row.record(r.schema, row, r.footer.Partition); err != nil {
		return Record{}, nil, fmt.Errorf("%w: row %d: %w", ErrFormat, r.read, err)
	}
	return rec, row, nil
}

func (r *Reader) fill() error {
	r.at, r.n = 0, 0
	if r.rows == nil {
		if len(r.groups) == 0 {
			if r.read != r.footer.Rows {
				return fmt.Errorf("%w: %d rows of %d", ErrFormat, r.read, r.footer.Rows)
			}
			return io.EOF
		}
		r.rows, r.groups = r.groups[0].Rows(), r.groups[1:]
	}
	n, err := r.rows.ReadRows(r.buffer)
	r.n = n
	switch {
	case errors.Is(err, io.EOF) || (err == nil && n == 0):
		err = r.rows.Close()
		r.rows = nil
	}
	if err != nil {
		return fmt.Errorf("reading archive object after %d rows: %w", r.read, err)
	}
	return nil
}

// Close frees the reader's buffers.
func (r *Reader) Close() error {
	r.groups, r.sorter = nil, sorter{}
	if r.rows == nil {
		return nil
	}
	err := r.rows.Close()
	r.rows, r.at, r.n = nil, 0, 0
	return err
}

// source remembers an error of the underlying reader, to tell it from a damaged object.
type source struct {
	io.ReaderAt
	err error
}

func (s *source) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 { // a damaged footer's length leads here
		return 0, errors.New("an offset before the file")
	}
	n, err := s.ReaderAt.ReadAt(p, off)
	if err != nil && !errors.Is(err, io.EOF) {
		s.err = err
	}
	return n, err
}

func (s *source) explain(err error) error {
	if s.err != nil {
		return s.err
	}
	return fmt.Errorf("%w: %w", ErrFormat, err)
}

// recovered turns the library's panics on damaged files into ErrFormat.
func recovered(err *error) {
	if p := recover(); p != nil {
		*err = fmt.Errorf("%w: %v", ErrFormat, p)
	}
}
