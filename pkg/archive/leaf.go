package archive

import (
	"fmt"
	"reflect"

	"github.com/parquet-go/parquet-go"
	"github.com/parquet-go/parquet-go/compress"
	"github.com/parquet-go/parquet-go/encoding"
	"github.com/twmb/avro"
)

// compileLeaf gives a column the Parquet type of an Avro type that is no container. Logical types that Avro allows and
// Parquet lacks keep their plain type, as Avro asks of readers that do not know one.
func (c *compiler) compileLeaf(col *column, n *avro.SchemaNode) error {
	switch n.Type {
	case "boolean":
		col.kind, col.leaf = kindBoolean, plain(parquet.Leaf(parquet.BooleanType))
	case "int":
		col.kind, col.leaf = kindInt, parquet.Encoded(intNode(n.LogicalType), &parquet.DeltaBinaryPacked)
	case "long":
		col.kind, col.leaf = kindLong, parquet.Encoded(longNode(n.LogicalType), &parquet.DeltaBinaryPacked)
	case "float":
		col.kind, col.leaf = kindFloat, plain(parquet.Leaf(parquet.FloatType))
	case "double":
		col.kind, col.leaf = kindDouble, plain(parquet.Leaf(parquet.DoubleType))
	case "bytes":
		col.kind, col.leaf = kindBytes, lengths(parquet.Leaf(parquet.ByteArrayType))
		if n.LogicalType == "decimal" {
			col.leaf = plain(parquet.Decimal(n.Scale, n.Precision, parquet.ByteArrayType))
		}
	case "string":
		// Mostly names and codes; where the values are ids, node and, later in a row group, the library leave the dictionary.
		col.kind, col.leaf = kindString, parquet.Encoded(parquet.String(), &parquet.RLEDictionary)
	case "fixed":
		if n.Size <= 0 {
			return fmt.Errorf("field %s: a fixed of %d bytes has no column", col.path, n.Size)
		}
		col.kind, col.size = kindFixed, n.Size
		switch {
		case n.LogicalType == "decimal":
			col.leaf = parquet.Decimal(n.Scale, n.Precision, parquet.FixedLenByteArrayType(n.Size))
		case n.LogicalType == "uuid" && n.Size == 16:
			col.leaf = parquet.UUID()
		default:
			col.leaf = parquet.Leaf(parquet.FixedLenByteArrayType(n.Size))
		}
		col.leaf = plain(col.leaf)
	case "enum":
		// A string to readers: several show Parquet's ENUM as bytes.
		col.kind, col.leaf = kindEnum, parquet.Encoded(parquet.String(), &parquet.RLEDictionary)
		col.indexes, col.fallback = map[string]int64{}, -1
		for i, symbol := range n.Symbols {
			col.symbols = append(col.symbols, parquet.ByteArrayValue([]byte(symbol)))
			col.indexes[symbol] = int64(i)
			if n.HasEnumDefault && symbol == n.EnumDefault {
				col.fallback = int64(i)
			}
		}
	case "null":
		return fmt.Errorf("%s: a value that is always null has no column", named(col.path))
	default:
		return fmt.Errorf("field %s: the type %q has no column", col.path, n.Type)
	}
	return nil
}

// plain is the one encoding that every reader knows for every type: DuckDB refuses the library's choice for decimals.
func plain(node parquet.Node) parquet.Node { return parquet.Encoded(node, &parquet.Plain) }

// lengths puts the lengths of strings or bytes apart from their content, so that what does not shrink is one piece, which
// the compressor passes over.
func lengths(node parquet.Node) parquet.Node {
	return parquet.Encoded(node, &parquet.DeltaLengthByteArray)
}

func intNode(logical string) parquet.Node {
	switch logical {
	case "date":
		return parquet.Date()
	case "time-millis":
		return parquet.TimeAdjusted(parquet.Millisecond, false)
	}
	return parquet.Leaf(parquet.Int32Type)
}

func longNode(logical string) parquet.Node {
	switch logical {
	case "time-micros":
		return parquet.TimeAdjusted(parquet.Microsecond, false)
	case "timestamp-millis":
		return parquet.TimestampAdjusted(parquet.Millisecond, true)
	case "timestamp-micros":
		return parquet.TimestampAdjusted(parquet.Microsecond, true)
	case "timestamp-nanos":
		return parquet.TimestampAdjusted(parquet.Nanosecond, true)
	case "local-timestamp-millis":
		return parquet.TimestampAdjusted(parquet.Millisecond, false)
	case "local-timestamp-micros":
		return parquet.TimestampAdjusted(parquet.Microsecond, false)
	case "local-timestamp-nanos":
		return parquet.TimestampAdjusted(parquet.Nanosecond, false)
	}
	return parquet.Leaf(parquet.Int64Type)
}

// The columns that come before the value's.
const (
	leafPartition = iota
	leafOffset
	leafTimestamp
	leafKey
	leafHeaderKey
	leafHeaderValue
	leafTombstone
	metaLeaves
)

var metaColumns = [...]string{"_partition", "_offset", "_timestamp", "_key", "_headers", "_tombstone"}

func isMetaColumn(name string) bool {
	for _, m := range metaColumns {
		if m == name {
			return true
		}
	}
	return false
}

// parquetSchema is the file's schema: the metadata columns, then the value's in the Avro schema's order. unique names
// the leaves whose strings are not worth a dictionary; nil is none. Readers see no difference.
func (s *Schema) parquetSchema(unique map[int]bool) *parquet.Schema {
	header := group{[]parquet.Field{
		field{parquet.Encoded(parquet.String(), &parquet.RLEDictionary), "key"},
		field{parquet.Optional(lengths(parquet.Leaf(parquet.ByteArrayType))), "value"},
	}}
	fields := []parquet.Field{
		field{parquet.Encoded(parquet.Leaf(parquet.Int32Type), &parquet.RLEDictionary), "_partition"},
		field{parquet.Encoded(parquet.Leaf(parquet.Int64Type), &parquet.DeltaBinaryPacked), "_offset"},
		field{parquet.Encoded(parquet.Timestamp(parquet.Millisecond), &parquet.DeltaBinaryPacked), "_timestamp"},
		field{parquet.Optional(lengths(parquet.Leaf(parquet.ByteArrayType))), "_key"},
		field{parquet.List(header), "_headers"},
		field{plain(parquet.Leaf(parquet.BooleanType)), "_tombstone"},
	}
	return parquet.NewSchema("record", group{append(fields, s.root.fields(unique)...)})
}

func (c *column) fields(unique map[int]bool) []parquet.Field {
	fields := make([]parquet.Field, len(c.children))
	for i, child := range c.children {
		fields[i] = field{child.node(unique), child.name}
	}
	return fields
}

// node is the column in the file's schema.
func (c *column) node(unique map[int]bool) parquet.Node {
	node := c.leaf
	switch {
	case c.kind == kindRecord, c.kind == kindChoice:
		node = group{c.fields(unique)}
	case c.kind == kindList:
		node = parquet.List(c.children[0].node(unique))
	case c.kind == kindMap:
		node = parquet.Map(c.children[0].node(unique), c.children[1].node(unique))
	case c.kind == kindString && unique[c.lo]:
		node = lengths(parquet.String())
	}
	if c.optional {
		node = parquet.Optional(node)
	}
	return node
}

// group is a Parquet group that keeps the order of its fields; parquet.Group sorts them by name.
type group struct{ fields []parquet.Field }

var groupType = parquet.Group{}.Type()

func (g group) ID() int                     { return 0 }
func (g group) String() string              { return "group" }
func (g group) Type() parquet.Type          { return groupType }
func (g group) Optional() bool              { return false }
func (g group) Repeated() bool              { return false }
func (g group) Required() bool              { return true }
func (g group) Leaf() bool                  { return false }
func (g group) Fields() []parquet.Field     { return g.fields }
func (g group) Encoding() encoding.Encoding { return nil }
func (g group) Compression() compress.Codec { return nil }

// GoType stands for Go values, which never pass through this schema: rows are written as columns.
func (g group) GoType() reflect.Type { return reflect.TypeFor[map[string]any]() }

type field struct {
	parquet.Node
	name string
}

func (f field) Name() string { return f.name }

func (f field) Value(base reflect.Value) reflect.Value {
	return base.MapIndex(reflect.ValueOf(f.name))
}
