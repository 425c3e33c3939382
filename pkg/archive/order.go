package archive

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/parquet-go/parquet-go"
	"github.com/parquet-go/parquet-go/format"
)

// order is how rows follow each other inside a row group of a sorted object: ascending by one column, nulls behind all
// values, and by offset where the column is the same.
type order struct {
	column string // names with dots between
	leaf   int
	typ    parquet.Type
}

// Sortable tells whether the rows of an object with this schema can be sorted by a column: _key, _timestamp, or a field of the
// value, with dots before the fields of records in it. ErrOrder says why not, and which ones there are.
func (s *Schema) Sortable(name string) error {
	_, err := s.order(name)
	return err
}

func (s *Schema) order(name string) (*order, error) {
	switch name {
	case metaColumns[leafKey]:
		return &order{name, leafKey, parquet.ByteArrayType}, nil
	case metaColumns[leafTimestamp]:
		return &order{name, leafTimestamp, parquet.Int64Type}, nil
	}
	refuse := func(why string) (*order, error) {
		names := s.SortColumns()
		const most = 24 // in a message
		if len(names) > most {
			names = append(names[:most], "more")
		}
		return nil, fmt.Errorf("%w: %s %s; there are %s and %s", ErrOrder, name, why, strings.Join(names[:len(names)-1], ", "), names[len(names)-1])
	}
	at := s.root
	for part := range strings.SplitSeq(name, ".") {
		i := -1
		if at.kind == kindRecord {
			i = slices.IndexFunc(at.children, func(c *column) bool { return c.name == part })
		}
		if i < 0 {
			return refuse("is not there")
		}
		at = at.children[i]
	}
	switch {
	case at.leaf == nil:
		return refuse("has no single value in each row")
	case !at.ordered():
		return refuse("is of a type that readers do not order alike")
	}
	return &order{name, at.lo, at.leaf.Type()}, nil
}

// ordered: floating-point numbers have NaN, and of decimals readers compare the bytes in several ways.
func (c *column) ordered() bool {
	if c.leaf == nil || c.kind == kindFloat || c.kind == kindDouble {
		return false
	}
	logical := c.leaf.Type().LogicalType()
	if logical == nil {
		return true
	}
	_, decimal := logical.Value.(*format.DecimalType)
	return !decimal
}

// SortColumns lists the columns that the rows of an object with this schema can be sorted by.
func (s *Schema) SortColumns() []string {
	names := []string{metaColumns[leafKey], metaColumns[leafTimestamp]}
	var add func(c *column)
	add = func(c *column) {
		for _, child := range c.children {
			switch {
			case child.kind == kindRecord:
				add(child)
			case child.ordered():
				names = append(names, child.path)
			}
		}
	}
	add(s.root)
	return names
}

// compare orders two values of the column.
func (o *order) compare(a, b parquet.Value) int {
	switch {
	case a.IsNull() && b.IsNull():
		return 0
	case a.IsNull():
		return 1
	case b.IsNull():
		return -1
	}
	return o.typ.Compare(a, b)
}

// sortingColumn is the order in the row groups' metadata.
func (o *order) sortingColumn() parquet.SortingColumn {
	return parquet.Ascending(strings.Split(o.column, ".")...)
}

// chunkBytes is the size of one piece of a sorter's memory.
const chunkBytes = 1 << 20

// sorter holds the records of one row group, as frames, to give them back in another order.
type sorter struct {
	rows   []held
	frame  []byte
	chunks [][]byte // they never move: keys point into them
	used   int
	common map[string]parquet.Value
}

// held is one record of a sorter: 32 bytes beside its frame, which is recordOverhead.
type held struct {
	key       parquet.Value
	chunk, at uint32
}

// keep copies a record and says where it is; it is one of the sorter's only when its place is added to the rows.
func (s *sorter) keep(r *Record) held {
	s.frame = AppendFrame(s.frame[:0], r)
	if s.used == 0 || len(s.chunks[s.used-1])+len(s.frame) > cap(s.chunks[s.used-1]) {
		if s.used++; s.used > len(s.chunks) {
			s.chunks = append(s.chunks, nil)
		}
		if cap(s.chunks[s.used-1]) < len(s.frame) {
			s.chunks[s.used-1] = make([]byte, 0, max(chunkBytes, len(s.frame)))
		}
	}
	chunk := &s.chunks[s.used-1]
	place := held{chunk: uint32(s.used - 1), at: uint32(len(*chunk))}
	*chunk = append(*chunk, s.frame...)
	if cap(s.frame) > 4*chunkBytes { // one huge record must not stay for the rest of the file
		s.frame = nil
	}
	return place
}

// commonKeys is how many different keys are kept as one value each, commonSize the longest of them in bytes: comparing such a value with
// itself takes no look at its bytes, of which each row has its own elsewhere.
const (
	commonKeys = 4096
	commonSize = 256
)

// add adds a kept record to the rows.
func (s *sorter) add(place held) {
	if kind := place.key.Kind(); kind == parquet.ByteArray || kind == parquet.FixedLenByteArray {
		if b := place.key.ByteArray(); len(b) <= commonSize {
			if known, ok := s.common[string(b)]; ok {
				place.key = known
			} else if len(s.common) < commonKeys {
				if s.common == nil {
					s.common = map[string]parquet.Value{}
				}
				s.common[string(b)] = place.key
			}
		}
	}
	s.rows = append(s.rows, place)
}

// forget takes a kept record back.
func (s *sorter) forget(place held) { s.chunks[place.chunk] = s.chunks[place.chunk][:place.at] }

func (s *sorter) read(place held, r *Record) { ReadFrame(s.chunks[place.chunk][place.at:], r) }

// sort orders the rows by their keys, and those of one key as they came.
func (s *sorter) sort(compare func(a, b parquet.Value) int) {
	slices.SortFunc(s.rows, func(a, b held) int {
		if c := compare(a.key, b.key); c != 0 {
			return c
		}
		return cmp.Or(cmp.Compare(a.chunk, b.chunk), cmp.Compare(a.at, b.at))
	})
}

// reset empties the sorter; pieces of the usual size are used again.
func (s *sorter) reset() {
	clear(s.rows)
	clear(s.common)
	s.rows, s.used = s.rows[:0], 0
	for i := range s.chunks {
		if s.chunks[i] = s.chunks[i][:0]; cap(s.chunks[i]) > chunkBytes {
			s.chunks[i] = nil
		}
	}
}
