package codec

import (
	"encoding/binary"
	"fmt"

	"github.com/twmb/avro"
)

// Limits bound what a value may hold before anything is allocated for it.
type Limits struct {
	// Bytes is the largest message, in bytes.
	Bytes int
	// Items is the largest sum of all array and map counts in a value.
	Items int
	// Depth is the deepest nesting of records, arrays, maps and unions.
	Depth int
}

// DefaultLimits allows messages of 1 MiB, 100,000 items and 64 levels.
func DefaultLimits() Limits { return Limits{Bytes: 1 << 20, Items: 100_000, Depth: 64} }

// A guard walks a value's bytes along its writer's schema and checks every length, count and the nesting, without
// allocating. A flat record needs none: there the message's size bounds everything.
type guard struct {
	root   *avro.SchemaNode
	named  map[string]*avro.SchemaNode
	limits Limits
}

// newGuard returns nil for a schema whose values are bounded by the message's size alone.
func newGuard(root *avro.SchemaNode, limits Limits) *guard {
	g := &guard{root: root, named: map[string]*avro.SchemaNode{}, limits: limits}
	if !g.collect(root) {
		return nil
	}
	return g
}

// collect gathers the named types and reports whether a value can hold repetition or recursion.
func (g *guard) collect(n *avro.SchemaNode) bool {
	dynamic := false
	switch n.Type {
	case "record", "error":
		g.name(n)
		for i := range n.Fields {
			dynamic = g.collect(&n.Fields[i].Type) || dynamic
		}
	case "enum", "fixed":
		g.name(n)
	case "array":
		g.collect(n.Items)
		dynamic = true
	case "map":
		g.collect(n.Values)
		dynamic = true
	case "union":
		for i := range n.Branches {
			dynamic = g.collect(&n.Branches[i]) || dynamic
		}
	case "null", "boolean", "int", "long", "float", "double", "string", "bytes":
	default: // a reference to a named type: repetition is possible
		dynamic = true
	}
	return dynamic
}

func (g *guard) name(n *avro.SchemaNode) {
	g.named[n.Name] = n
	if n.Namespace != "" {
		g.named[n.Namespace+"."+n.Name] = n
	}
}

// check walks one value and reports what is wrong with it, wrapping ErrTooLarge or ErrUndecodable.
func (g *guard) check(b []byte) error {
	w := walk{guard: g, rest: b, items: g.limits.Items}
	return w.value(g.root, 0)
}

type walk struct {
	*guard
	rest  []byte
	items int
}

func (w *walk) long() (int64, error) {
	v, n := binary.Varint(w.rest)
	if n <= 0 {
		return 0, fmt.Errorf("%w: truncated or oversized number", ErrUndecodable)
	}
	w.rest = w.rest[n:]
	return v, nil
}

func (w *walk) skip(n int64) error {
	if n < 0 || n > int64(len(w.rest)) {
		return fmt.Errorf("%w: a length of %d where %d bytes are left", ErrUndecodable, n, len(w.rest))
	}
	w.rest = w.rest[n:]
	return nil
}

func (w *walk) value(n *avro.SchemaNode, depth int) error {
	if depth > w.limits.Depth {
		return fmt.Errorf("%w: nested deeper than %d levels", ErrTooLarge, w.limits.Depth)
	}
	switch n.Type {
	case "null":
		return nil
	case "boolean":
		return w.skip(1)
	case "int", "long", "enum":
		_, err := w.long()
		return err
	case "float":
		return w.skip(4)
	case "double":
		return w.skip(8)
	case "fixed":
		return w.skip(int64(n.Size))
	case "string", "bytes":
		l, err := w.long()
		if err != nil {
			return err
		}
		return w.skip(l)
	case "record", "error":
		for i := range n.Fields {
			if err := w.value(&n.Fields[i].Type, depth+1); err != nil {
				return err
			}
		}
		return nil
	case "array":
		return w.blocks(n.Items, false, depth)
	case "map":
		return w.blocks(n.Values, true, depth)
	case "union":
		i, err := w.long()
		if err != nil {
			return err
		}
		if i < 0 || i >= int64(len(n.Branches)) {
			return fmt.Errorf("%w: branch %d of a union of %d", ErrUndecodable, i, len(n.Branches))
		}
		return w.value(&n.Branches[i], depth+1)
	}
	named, ok := w.named[n.Type]
	if !ok {
		return fmt.Errorf("%w: type %s is not defined", ErrUndecodable, n.Type)
	}
	return w.value(named, depth+1)
}

func (w *walk) blocks(item *avro.SchemaNode, keyed bool, depth int) error {
	for {
		count, err := w.long()
		if err != nil {
			return err
		}
		if count == 0 {
			return nil
		}
		if count < 0 { // a block that also says its size in bytes
			if count == -count {
				return fmt.Errorf("%w: a block of %d items", ErrTooLarge, count)
			}
			count = -count
			if _, err := w.long(); err != nil {
				return err
			}
		}
		if count > int64(w.items) {
			return fmt.Errorf("%w: more than %d items", ErrTooLarge, w.limits.Items)
		}
		w.items -= int(count)
		for range count {
			if keyed {
				l, err := w.long()
				if err != nil {
					return err
				}
				if err := w.skip(l); err != nil {
					return err
				}
			}
			if err := w.value(item, depth+1); err != nil {
				return err
			}
		}
	}
}
