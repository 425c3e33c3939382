package archive

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/parquet-go/parquet-go"
	"github.com/parquet-go/parquet-go/format"
)

// sortedBy is the order that a footer names, which the metadata of all row groups has to name as well.
func sortedBy(file *parquet.File, schema *Schema, name string) (*order, error) {
	if name == "" {
		return nil, nil
	}
	by, err := schema.order(name)
	if err != nil {
		return nil, err
	}
	for i, group := range file.Metadata().RowGroups {
		if is := group.SortingColumns; len(is) != 1 || is[0] != (format.SortingColumn{ColumnIdx: int32(by.leaf)}) {
			return nil, fmt.Errorf("its footer says that it is sorted by %s, row group %d does not", name, i)
		}
	}
	return by, nil
}

// nextSorted gives the record of a sorted object with the next higher offset.
func (r *Reader) nextSorted() (rec Record, err error) {
	for r.sorted == len(r.sorter.rows) {
		r.sorter.reset()
		r.sorted = 0
		if err := r.fillSorter(); err != nil {
			r.sorter.reset()
			return Record{}, err
		}
	}
	r.sorter.read(r.sorter.rows[r.sorted], &rec)
	r.sorted++
	// They may be kept, and the sorter's memory is used again.
	rec.Key = bytes.Clone(rec.Key)
	for i := range rec.Headers {
		rec.Headers[i].Value = bytes.Clone(rec.Headers[i].Value)
	}
	return rec, nil
}

// fillSorter reads a row group, checks that it is sorted as it should be, and orders its rows by offset.
func (r *Reader) fillSorter() error {
	if len(r.groups) == 0 {
		return r.fill() // the end
	}
	rows := r.groups[0].NumRows()
	if rows <= 0 {
		return fmt.Errorf("%w: a row group has %d rows", ErrFormat, rows)
	}
	var before sortedRow
	size, most := 0, 0
	for range rows {
		rec, row, err := r.nextRow()
		if errors.Is(err, io.EOF) {
			return fmt.Errorf("%w: a row group has less rows than its metadata says", ErrFormat)
		}
		if err != nil {
			return err
		}
		at := r.read + int64(len(r.sorter.rows))
		if err := before.follow(r.order, row, rec.Offset, len(r.sorter.rows) == 0); err != nil {
			return fmt.Errorf("%w: row %d: %w", ErrFormat, at, err)
		}
		size, most = size+rec.size(), max(most, rec.size())
		if size-most >= 2*rowGroupBytes { // what this package writes is half of it
			return fmt.Errorf("%w: row %d: the row group is too large to be sorted", ErrFormat, at)
		}
		place := r.sorter.keep(&rec)
		place.key = parquet.Int64Value(rec.Offset)
		r.sorter.rows = append(r.sorter.rows, place)
	}
	r.sorter.sort(parquet.Int64Type.Compare)
	return nil
}

// sortedRow is the row before, in a row group that is sorted.
type sortedRow struct {
	key    parquet.Value
	bytes  []byte // of the key
	offset int64
}

// follow makes sure that a row comes behind the one before.
func (s *sortedRow) follow(o *order, row parquet.Row, offset int64, first bool) error {
	var key parquet.Value
	for _, v := range row {
		if v.Column() == o.leaf {
			key = v
			break
		}
	}
	if !first {
		switch c := o.compare(s.key, key); {
		case c > 0:
			return fmt.Errorf("it is not sorted by %s", o.column)
		case c == 0 && s.offset >= offset:
			return fmt.Errorf("offset %d comes behind %d, and %s is the same", offset, s.offset, o.column)
		}
	}
	s.offset = offset
	switch s.key = key; key.Kind() { // the page's memory does not stay
	case parquet.ByteArray:
		s.bytes = append(s.bytes[:0], key.ByteArray()...)
		s.key = parquet.ByteArrayValue(s.bytes)
	case parquet.FixedLenByteArray:
		s.bytes = append(s.bytes[:0], key.ByteArray()...)
		s.key = parquet.FixedLenByteArrayValue(s.bytes)
	}
	return nil
}
