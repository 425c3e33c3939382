package archive

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"github.com/parquet-go/parquet-go"
)

var errColumns = errors.New("the columns do not fit together")

// rowReader turns one row's column values back into a record, its value into Avro's binary form.
type rowReader struct {
	columns [][]parquet.Value // what is left of the row, by leaf
	value   []byte
}

func (r *rowReader) record(s *Schema, row parquet.Row, partition int32) (Record, error) {
	for i := range r.columns {
		r.columns[i] = nil
	}
	row.Range(func(leaf int, values []parquet.Value) bool {
		r.columns[leaf] = values
		return true
	})
	for i, values := range r.columns {
		if len(values) == 0 {
			return Record{}, fmt.Errorf("column %d is empty: %w", i, errColumns)
		}
	}
	if p := r.take(leafPartition).Int32(); p != partition {
		return Record{}, fmt.Errorf("it is of partition %d", p)
	}
	rec := Record{Offset: r.take(leafOffset).Int64(), Timestamp: r.take(leafTimestamp).Int64()}
	rec.Key = cloneBytes(r.take(leafKey))
	keys, values := r.columns[leafHeaderKey], r.columns[leafHeaderValue]
	if len(keys) != len(values) {
		return Record{}, errColumns
	}
	if keys[0].DefinitionLevel() > 0 {
		rec.Headers = make([]Header, len(keys))
		for i := range keys {
			rec.Headers[i] = Header{Key: string(keys[i].ByteArray()), Value: cloneBytes(values[i])}
		}
	}
	if r.take(leafTombstone).Boolean() {
		return rec, nil
	}
	value, err := s.root.readPresent(r, r.value[:0])
	if err != nil {
		return Record{}, err
	}
	for leaf := metaLeaves; leaf < len(r.columns); leaf++ {
		if len(r.columns[leaf]) > 0 {
			return Record{}, errColumns
		}
	}
	if value == nil {
		value = []byte{}
	}
	r.value, rec.Value = value, value
	return rec, nil
}

func (r *rowReader) take(leaf int) parquet.Value {
	v := r.columns[leaf][0]
	r.columns[leaf] = r.columns[leaf][1:]
	return v
}

// skip drops the null that stands in every leaf of c.
func (c *column) skip(r *rowReader) error {
	for leaf := c.lo; leaf < c.hi; leaf++ {
		if len(r.columns[leaf]) == 0 {
			return errColumns
		}
		r.columns[leaf] = r.columns[leaf][1:]
	}
	return nil
}

func (c *column) read(r *rowReader, dst []byte) ([]byte, error) {
	if len(r.columns[c.lo]) == 0 {
		return nil, c.failed(errColumns)
	}
	if c.optional && r.columns[c.lo][0].DefinitionLevel() < c.def {
		if !c.union || c.nullBranch < 0 {
			return nil, c.failed(errors.New("it is null"))
		}
		return binary.AppendVarint(dst, c.nullBranch), c.skip(r)
	}
	if c.union && c.kind != kindChoice {
		dst = binary.AppendVarint(dst, c.valueBranch)
	}
	return c.readPresent(r, dst)
}

func (c *column) readPresent(r *rowReader, dst []byte) ([]byte, error) {
	switch c.kind {
	case kindRecord:
		var err error
		for _, child := range c.children {
			if dst, err = child.read(r, dst); err != nil {
				return nil, err
			}
		}
		return dst, nil
	case kindList, kindMap:
		return c.readBlocks(r, dst)
	case kindChoice:
		return c.readChoice(r, dst)
	}
	return c.appendLeaf(dst, r.take(c.lo))
}

// readChoice writes the branch that is present: exactly one is.
func (c *column) readChoice(r *rowReader, dst []byte) ([]byte, error) {
	present := -1
	for i, child := range c.children {
		values := r.columns[child.lo]
		if len(values) == 0 || present >= 0 && values[0].DefinitionLevel() >= child.def {
			return nil, c.failed(errColumns)
		}
		if values[0].DefinitionLevel() >= child.def {
			present = i
		}
	}
	if present < 0 {
		return nil, c.failed(errors.New("none of the union's types is there"))
	}
	dst = binary.AppendVarint(dst, c.branches[present])
	var err error
	for i, child := range c.children {
		if i == present {
			dst, err = child.readPresent(r, dst)
		} else {
			err = child.skip(r)
		}
		if err != nil {
			return nil, err
		}
	}
	return dst, nil
}

// readBlocks writes an array or a map as one block. Its elements are the values of the first leaf below up to the
// next one whose repetition level is lower than the list's; deeper ones belong to lists inside.
func (c *column) readBlocks(r *rowReader, dst []byte) ([]byte, error) {
	values := r.columns[c.lo]
	if values[0].DefinitionLevel() <= c.def {
		return append(dst, 0), c.skip(r)
	}
	level := c.rep + 1
	count := int64(1)
	for _, v := range values[1:] {
		if v.RepetitionLevel() < level {
			break
		}
		if v.RepetitionLevel() == level {
			count++
		}
	}
	dst = binary.AppendVarint(dst, count)
	var err error
	for range count {
		for _, child := range c.children {
			if dst, err = child.read(r, dst); err != nil {
				return nil, err
			}
		}
	}
	return append(dst, 0), nil
}

func (c *column) appendLeaf(dst []byte, v parquet.Value) ([]byte, error) {
	if v.IsNull() {
		return nil, c.failed(errors.New("it is null"))
	}
	switch c.kind {
	case kindBoolean:
		if v.Boolean() {
			return append(dst, 1), nil
		}
		return append(dst, 0), nil
	case kindInt:
		return binary.AppendVarint(dst, int64(v.Int32())), nil
	case kindLong:
		return binary.AppendVarint(dst, v.Int64()), nil
	case kindFloat:
		return binary.LittleEndian.AppendUint32(dst, math.Float32bits(v.Float())), nil
	case kindDouble:
		return binary.LittleEndian.AppendUint64(dst, math.Float64bits(v.Double())), nil
	case kindBytes, kindString:
		b := v.ByteArray()
		return append(binary.AppendVarint(dst, int64(len(b))), b...), nil
	case kindFixed:
		return append(dst, v.ByteArray()...), nil
	case kindEnum:
		index, ok := c.indexes[string(v.ByteArray())]
		if !ok {
			return nil, c.failed(errors.New("the enum has no such symbol"))
		}
		return binary.AppendVarint(dst, index), nil
	}
	return nil, c.failed(fmt.Errorf("kind %d is no leaf", c.kind))
}

func cloneBytes(v parquet.Value) []byte {
	if v.IsNull() {
		return nil
	}
	b := v.ByteArray()
	return append(make([]byte, 0, len(b)), b...)
}
