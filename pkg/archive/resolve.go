package archive

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/parquet-go/parquet-go"
	"github.com/twmb/avro"
)

// Resolver turns values written under one schema into values of another by Avro's rules of schema resolution: added
// fields get their defaults, dropped ones go, numbers are promoted. It works on the bytes alone, so logical types keep
// every bit and maps their order, which the object's bytes depend on.
type Resolver struct {
	writer *Schema
	root   *step
	same   bool
}

// step is how one writer's node becomes the reader's.
type step struct {
	w, r *column
	// Of a record: per writer's field its place in the reader's record, or -1; per reader's field the step, or the
	// default's bytes where the writer has none.
	targets  []int
	children []*step
	defaults [][]byte
	// Where either is a union of several types: per writer's type but null, the reader's.
	options []option
	// Of an enum: the reader's symbol per writer's, or -1.
	symbols []int64
}

// option is one of the writer's types: the step to the reader's, and its branch number there, or -1.
type option struct {
	step   *step
	branch int64
}

// NewResolver prepares the resolution from writer to reader. It fails with ErrSchema where the two are incompatible.
func NewResolver(writer, reader *Schema) (*Resolver, error) {
	if writer.text == reader.text {
		return &Resolver{writer: writer, same: true}, nil
	}
	w, err := avro.Parse(writer.text)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSchema, err)
	}
	r, err := avro.Parse(reader.text)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSchema, err)
	}
	// Decides names and all else that the steps below take for granted.
	if _, err := avro.Resolve(w, r); err != nil {
		return nil, fmt.Errorf("%w: resolving it: %w", ErrSchema, err)
	}
	root, err := newStep(writer.root, reader.root)
	if err != nil {
		return nil, fmt.Errorf("%w: resolving it: %w", ErrSchema, err)
	}
	return &Resolver{writer: writer, root: root}, nil
}

// Resolve appends value, resolved, to dst; with equal schemas it returns value itself, unchecked. A value that breaks
// the writer's schema, or cannot be expressed in the reader's, is ErrValue.
func (r *Resolver) Resolve(dst, value []byte) ([]byte, error) {
	if r.same {
		return value, nil
	}
	if err := r.writer.Check(value); err != nil {
		return nil, err
	}
	dst, _, err := r.root.present(dst, value)
	if err != nil {
		return nil, fmt.Errorf("%w: resolving it: %w", ErrValue, err)
	}
	return dst, nil
}

func newStep(w, r *column) (*step, error) {
	s := &step{w: w, r: r}
	if w.kind == kindChoice || r.kind == kindChoice {
		return s, s.choose()
	}
	switch {
	case w.kind == kindRecord && r.kind == kindRecord:
		return s, s.fields()
	case w.kind == r.kind && (w.kind == kindList || w.kind == kindMap):
		for i := range w.children {
			child, err := newStep(w.children[i], r.children[i])
			if err != nil {
				return nil, err
			}
			s.children = append(s.children, child)
		}
	case w.kind == kindEnum && r.kind == kindEnum:
		for _, symbol := range w.symbols {
			index, ok := r.indexes[string(symbol.ByteArray())]
			if !ok {
				index = r.fallback
			}
			s.symbols = append(s.symbols, index)
		}
	case w.kind == r.kind && w.size == r.size, w.kind == kindString && r.kind == kindBytes,
		w.kind == kindBytes && r.kind == kindString, w.kind <= kindDouble && r.kind <= kindDouble && w.kind < r.kind && w.kind > kindBoolean:
	default:
		return nil, fmt.Errorf("%s: its type changed beyond resolution", named(r.path))
	}
	return s, nil
}

// choose finds for each of the writer's types the reader's: the same one, or else the first that it resolves to.
func (s *step) choose() error {
	from, to := s.w.alternatives(), s.r.alternatives()
	for _, w := range from {
		found := option{branch: -1}
		for _, same := range []bool{true, false} {
			for i, r := range to {
				if found.step != nil || same && w.kind != r.kind || w.typeName != r.typeName && len(to) > 1 {
					continue
				}
				child, err := newStep(w, r)
				if err != nil {
					continue
				}
				if found.step = child; s.r.kind == kindChoice {
					found.branch = s.r.branches[i]
				} else if s.r.union {
					found.branch = s.r.valueBranch
				}
			}
		}
		if found.step == nil {
			return fmt.Errorf("%s: its type %s can no longer be expressed", named(s.r.path), w.name)
		}
		s.options = append(s.options, found)
	}
	return nil
}

// alternatives are the types but null that a value can have.
func (c *column) alternatives() []*column {
	if c.kind == kindChoice {
		return c.children
	}
	return []*column{c}
}

func (s *step) fields() error {
	s.targets = slices.Repeat([]int{-1}, len(s.w.children))
	s.children = make([]*step, len(s.r.children))
	s.defaults = make([][]byte, len(s.r.children))
	for i, r := range s.r.children {
		from := slices.IndexFunc(s.w.children, func(w *column) bool { return w.name == r.name })
		if from < 0 {
			from = slices.IndexFunc(s.w.children, func(w *column) bool { return slices.Contains(r.field.Aliases, w.name) })
		}
		var err error
		if from >= 0 {
			s.targets[from] = i
			s.children[i], err = newStep(s.w.children[from], r)
		} else {
			s.defaults[i], err = defaultBytes(r)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// defaultBytes encodes a field's default, by resolving a record without fields into one with this field.
func defaultBytes(c *column) ([]byte, error) {
	empty, err := avro.Parse(`{"type":"record","name":"Default","fields":[]}`)
	if err != nil {
		return nil, err
	}
	only := avro.SchemaNode{Type: "record", Name: "Default", Fields: []avro.SchemaField{*c.field}}
	schema, err := only.Schema()
	if err != nil {
		// Its type is defined elsewhere in the schema.
		only.Fields[0].Type = *c.field.Type.ExpandReferences()
		if schema, err = only.Schema(); err != nil {
			return nil, fmt.Errorf("%s: its default: %w", named(c.path), err)
		}
	}
	resolved, err := avro.Resolve(empty, schema)
	if err != nil {
		return nil, fmt.Errorf("%s: its default: %w", named(c.path), err)
	}
	var native any
	if _, err := resolved.Decode(nil, &native); err != nil {
		return nil, fmt.Errorf("%s: its default: %w", named(c.path), err)
	}
	b, err := schema.Encode(native)
	if err != nil {
		return nil, fmt.Errorf("%s: its default: %w", named(c.path), err)
	}
	return b, nil
}

func (s *step) resolve(dst, src []byte) (_, rest []byte, err error) {
	null := false
	var branch int64
	if s.w.union {
		if branch, src, err = readLong(src); err != nil {
			return nil, nil, s.r.failed(err)
		}
		null = branch == s.w.nullBranch
	}
	if null {
		if !s.r.union || s.r.nullBranch < 0 {
			return nil, nil, s.r.failed(errors.New("it is null, and may no longer be"))
		}
		return binary.AppendVarint(dst, s.r.nullBranch), src, nil
	}
	if s.options != nil {
		o := s.options[0]
		if s.w.kind == kindChoice {
			o = s.options[slices.Index(s.w.branches, branch)] // checked before
		}
		if o.branch >= 0 {
			dst = binary.AppendVarint(dst, o.branch)
		}
		return o.step.present(dst, src)
	}
	if s.r.union {
		dst = binary.AppendVarint(dst, s.r.valueBranch)
	}
	return s.present(dst, src)
}

func (s *step) present(dst, src []byte) (_, rest []byte, err error) {
	switch s.w.kind {
	case kindRecord:
		return s.record(dst, src)
	case kindList, kindMap:
		return s.blocks(dst, src)
	}
	var v parquet.Value
	rest, err = s.w.leafValue(&v, src)
	if err != nil {
		return nil, nil, s.r.failed(err)
	}
	same := src[:len(src)-len(rest)]
	switch {
	case s.w.kind == kindEnum:
		n, _, _ := readLong(src)
		if s.symbols[n] < 0 {
			return nil, nil, s.r.failed(errors.New("the enum no longer has the symbol, and no default"))
		}
		return binary.AppendVarint(dst, s.symbols[n]), rest, nil
	case s.w.kind == s.r.kind, s.r.kind == kindLong, s.r.kind == kindBytes, s.r.kind == kindString:
		return append(dst, same...), rest, nil
	}
	var f float64
	switch s.w.kind {
	case kindInt:
		f = float64(v.Int32())
	case kindLong:
		f = float64(v.Int64())
	case kindFloat:
		f = float64(v.Float())
	}
	if s.r.kind == kindFloat {
		return binary.LittleEndian.AppendUint32(dst, math.Float32bits(float32(f))), rest, nil
	}
	return binary.LittleEndian.AppendUint64(dst, math.Float64bits(f)), rest, nil
}

func (s *step) record(dst, src []byte) (_, rest []byte, err error) {
	fields := make([][]byte, len(s.children))
	for i, w := range s.w.children {
		start := src
		if src, err = w.write(&rows{}, src, 0); err != nil {
			return nil, nil, err
		}
		if s.targets[i] >= 0 {
			fields[s.targets[i]] = start[:len(start)-len(src)]
		}
	}
	for i, child := range s.children {
		if child == nil {
			dst = append(dst, s.defaults[i]...)
			continue
		}
		if dst, _, err = child.resolve(dst, fields[i]); err != nil {
			return nil, nil, err
		}
	}
	return dst, src, nil
}

func (s *step) blocks(dst, src []byte) (_, rest []byte, err error) {
	for {
		count, rest, err := readLong(src)
		if err != nil {
			return nil, nil, s.r.failed(err)
		}
		src = rest
		if count < 0 {
			count = -count
			if _, src, err = readLong(src); err != nil {
				return nil, nil, s.r.failed(err)
			}
		}
		dst = binary.AppendVarint(dst, count)
		if count == 0 {
			return dst, src, nil
		}
		for range count {
			for _, child := range s.children {
				if dst, src, err = child.resolve(dst, src); err != nil {
					return nil, nil, err
				}
			}
		}
	}
}
