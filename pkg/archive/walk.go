package archive

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"unicode/utf8"

	"github.com/parquet-go/parquet-go"
)

// Avro's binary form, read into leaf columns. Every length and count is checked against the bytes that are left before
// it is used, so a value costs no more than its own size.

var (
	errShort  = errors.New("it ends too early")
	errVarint = errors.New("a number is longer than its type")
)

// maxValues is the most column values of one record. A null takes one byte of Avro and a value in each column below it,
// so the size of a record alone does not bound them.
const maxValues = 4 << 20

// rows collects values by leaf column; without columns it only counts and checks, and notes the value of one leaf.
type rows struct {
	columns [][]parquet.Value
	count   int // of the current record's values
	leaf    int
	value   parquet.Value // of the leaf
	other   parquet.Value // of any other
}

// next is where the leaf's next value goes, to be filled there, levels too: copying a value behind the writes of its single
// bytes costs more than reading it.
func (r *rows) next(leaf int) *parquet.Value {
	r.count++
	if r.columns == nil {
		if leaf == r.leaf {
			return &r.value
		}
		return &r.other
	}
	column := append(r.columns[leaf], parquet.Value{})
	r.columns[leaf] = column
	return &column[len(column)-1]
}

// put adds a value that has its levels.
func (r *rows) put(leaf int, v parquet.Value) { *r.next(leaf) = v }

func setLevels(v *parquet.Value, rep, def, leaf int) {
	v.SetRepetitionLevel(rep)
	v.SetDefinitionLevel(def)
	v.SetColumnIndex(leaf)
}

// Check tells whether value follows the schema in full, with ErrValue when it does not.
func (s *Schema) Check(value []byte) error { return s.write(&rows{}, value) }

func (s *Schema) write(r *rows, value []byte) error {
	r.count = 0
	rest, err := s.root.writePresent(r, value, 0)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrValue, err)
	}
	if len(rest) > 0 {
		return fmt.Errorf("%w: %d bytes follow it", ErrValue, len(rest))
	}
	return nil
}

// writeNull writes that nothing is there at definition level def, into every leaf below.
func (c *column) writeNull(r *rows, def, rep int) {
	for leaf := c.lo; leaf < c.hi; leaf++ {
		v := r.next(leaf)
		*v = parquet.NullValue()
		setLevels(v, rep, def, leaf)
	}
}

func (c *column) write(r *rows, src []byte, rep int) ([]byte, error) {
	if c.union {
		branch, rest, err := readLong(src)
		if err != nil {
			return nil, c.failed(err)
		}
		src = rest
		switch {
		case branch >= 0 && branch == c.nullBranch:
			c.writeNull(r, c.def-1, rep)
			return src, nil
		case c.kind == kindChoice:
			return c.writeChoice(r, branch, src, rep)
		case branch != c.valueBranch:
			return nil, c.failed(fmt.Errorf("the union has no branch %d", branch))
		}
	}
	return c.writePresent(r, src, rep)
}

// writeChoice writes the value into the branch's column, and that nothing is there into the others.
func (c *column) writeChoice(r *rows, branch int64, src []byte, rep int) ([]byte, error) {
	if !slices.Contains(c.branches, branch) {
		return nil, c.failed(fmt.Errorf("the union has no branch %d", branch))
	}
	for i, child := range c.children {
		if c.branches[i] != branch {
			child.writeNull(r, c.def, rep)
			continue
		}
		var err error
		if src, err = child.writePresent(r, src, rep); err != nil {
			return nil, err
		}
	}
	return src, nil
}

func (c *column) writePresent(r *rows, src []byte, rep int) ([]byte, error) {
	switch c.kind {
	case kindRecord:
		var err error
		for _, child := range c.children {
			if src, err = child.write(r, src, rep); err != nil {
				return nil, err
			}
		}
		return src, nil
	case kindList, kindMap:
		return c.writeBlocks(r, src, rep)
	}
	v := r.next(c.lo)
	rest, err := c.leafValue(v, src)
	if err != nil {
		return nil, c.failed(err)
	}
	setLevels(v, rep, c.def, c.lo)
	return rest, nil
}

// writeBlocks reads an array or a map: blocks of a count and as many elements, the last with count 0.
func (c *column) writeBlocks(r *rows, src []byte, rep int) ([]byte, error) {
	empty := true
	var keys keySet
	for {
		count, rest, err := readLong(src)
		if err != nil {
			return nil, c.failed(err)
		}
		src = rest
		if count < 0 {
			if count == math.MinInt64 {
				return nil, c.failed(errVarint)
			}
			count = -count
			var size int64
			if size, src, err = readLong(src); err != nil {
				return nil, c.failed(err)
			}
			if size < 0 || size > int64(len(src)) {
				return nil, c.failed(errShort)
			}
		}
		if count == 0 {
			break
		}
		// Every type with a column takes a byte at least.
		if count > int64(len(src)) {
			return nil, c.failed(errShort)
		}
		for range count {
			if c.kind == kindMap {
				var key parquet.Value
				if _, err := c.children[0].leafValue(&key, src); err != nil {
					return nil, c.failed(err)
				}
				if !keys.add(key.ByteArray()) {
					return nil, c.failed(errors.New("a key of the map occurs twice"))
				}
			}
			for _, child := range c.children {
				if src, err = child.write(r, src, rep); err != nil {
					return nil, err
				}
			}
			empty, rep = false, c.rep+1
			if r.count > maxValues {
				return nil, c.failed(fmt.Errorf("more than %d values in one record", maxValues))
			}
		}
	}
	if empty {
		c.writeNull(r, c.def, rep)
	}
	return src, nil
}

// keySet tells whether a map's key is new. Readers refuse a whole file in which one map has a key twice.
type keySet struct {
	few  [][]byte
	many map[string]struct{}
}

func (s *keySet) add(key []byte) bool {
	if s.many == nil && len(s.few) < 16 {
		for _, k := range s.few {
			if bytes.Equal(k, key) {
				return false
			}
		}
		s.few = append(s.few, key)
		return true
	}
	if s.many == nil {
		s.many = map[string]struct{}{}
		for _, k := range s.few {
			s.many[string(k)] = struct{}{}
		}
	}
	if _, known := s.many[string(key)]; known {
		return false
	}
	s.many[string(key)] = struct{}{}
	return true
}

// leafValue reads a value into v, without its levels, and gives what follows it.
func (c *column) leafValue(v *parquet.Value, src []byte) ([]byte, error) {
	switch c.kind {
	case kindBoolean:
		if len(src) < 1 {
			return nil, errShort
		}
		if src[0] > 1 {
			return nil, fmt.Errorf("%d is no boolean", src[0])
		}
		*v = parquet.BooleanValue(src[0] == 1)
		return src[1:], nil
	case kindInt:
		n, rest, err := readLong(src)
		if err == nil && (n > math.MaxInt32 || n < math.MinInt32) {
			err = errVarint
		}
		*v = parquet.Int32Value(int32(n))
		return rest, err
	case kindLong:
		n, rest, err := readLong(src)
		*v = parquet.Int64Value(n)
		return rest, err
	case kindFloat:
		if len(src) < 4 {
			return nil, errShort
		}
		*v = parquet.FloatValue(math.Float32frombits(binary.LittleEndian.Uint32(src)))
		return src[4:], nil
	case kindDouble:
		if len(src) < 8 {
			return nil, errShort
		}
		*v = parquet.DoubleValue(math.Float64frombits(binary.LittleEndian.Uint64(src)))
		return src[8:], nil
	case kindBytes, kindString:
		n, rest, err := readLong(src)
		if err != nil {
			return nil, err
		}
		if n < 0 || n > int64(len(rest)) {
			return nil, errShort
		}
		if c.kind == kindString && !utf8.Valid(rest[:n]) {
			return nil, errors.New("a string is not UTF-8")
		}
		*v = parquet.ByteArrayValue(rest[:n:n])
		return rest[n:], nil
	case kindFixed:
		if len(src) < c.size {
			return nil, errShort
		}
		*v = parquet.FixedLenByteArrayValue(src[:c.size:c.size])
		return src[c.size:], nil
	case kindEnum:
		n, rest, err := readLong(src)
		if err != nil {
			return nil, err
		}
		if n < 0 || n >= int64(len(c.symbols)) {
			return nil, fmt.Errorf("the enum has no symbol %d", n)
		}
		*v = c.symbols[n]
		return rest, nil
	}
	return nil, fmt.Errorf("kind %d is no leaf", c.kind)
}

func (c *column) failed(err error) error { return fmt.Errorf("%s: %w", named(c.path), err) }

func readLong(src []byte) (int64, []byte, error) {
	n, size := binary.Varint(src)
	if size > 0 {
		return n, src[size:], nil
	}
	if size == 0 && len(src) < binary.MaxVarintLen64 {
		return 0, nil, errShort
	}
	return 0, nil, errVarint
}
