package archive

import (
	"fmt"
	"strings"

	"github.com/parquet-go/parquet-go"
	"github.com/twmb/avro"
)

// Limits of a value schema.
const (
	maxColumns = 4096
	maxNesting = 32
)

// Schema is an Avro schema compiled to columns: a tree whose nodes read Avro's binary form into leaf columns and back,
// without reflection and without a value in between.
type Schema struct {
	text   string
	root   *column   // a record, or the single column "value" of any other type
	leaves []*column // the value's leaves; leaf i is the Parquet column metaLeaves+i
}

// kind is how a node's bytes are read.
type kind uint8

const (
	kindBoolean kind = iota
	kindInt
	kindLong
	kindFloat
	kindDouble
	kindBytes
	kindString
	kindFixed
	kindEnum
	kindRecord
	kindList
	kindMap
	kindChoice // a union of several types but null: a group in which one child is present
)

// column is one node of the tree.
type column struct {
	name string
	path string // for errors: names with dots between
	kind kind

	// A union of null and one other type: branch numbers of both.
	union       bool
	nullBranch  int64
	valueBranch int64
	// Of a choice: the branch number of each child.
	branches []int64

	// optional is Parquet's: a union with null, or any top-level column, which is null in tombstones.
	optional bool
	// def is the definition level at which the node is present, rep the repetition level of its values.
	def, rep int
	// The leaves below are the columns [lo, hi) of the file.
	lo, hi int

	size     int // of a fixed
	symbols  []parquet.Value
	indexes  map[string]int64
	fallback int64     // the enum's default symbol, or -1
	children []*column // fields; element; key and value; a choice's branches
	typeName string    // of a record, enum or fixed, without namespace

	leaf  parquet.Node      // of a leaf, as if it were required
	field *avro.SchemaField // of a record's field: aliases and default
}

// Compile compiles an Avro schema, given as JSON. It refuses with ErrSchema, naming the field, what the format has no
// columns for: recursive types, lone nulls, records without fields.
func Compile(text string) (*Schema, error) {
	parsed, err := avro.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSchema, err)
	}
	c := &compiler{named: map[string]*avro.SchemaNode{}, open: map[string]bool{}, next: metaLeaves}
	root := parsed.Root()
	c.collect(root)
	s := &Schema{text: text, root: &column{kind: kindRecord, lo: c.next}}
	if root.Type == "record" || root.Type == "error" {
		defer c.enter(fullName(root))()
	} else {
		root = &avro.SchemaNode{Type: "record", Fields: []avro.SchemaField{{Name: "value", Type: *root}}}
	}
	err = c.fields(s.root, root, 0)
	s.root.hi = c.next
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSchema, err)
	}
	s.leaves = c.leaves
	return s, nil
}

// String gives the schema's text, as it was compiled.
func (s *Schema) String() string { return s.text }

type compiler struct {
	named  map[string]*avro.SchemaNode
	space  string          // namespace of the record being compiled
	open   map[string]bool // records being compiled: meeting one again is recursion
	leaves []*column
	next   int
}

func fullName(n *avro.SchemaNode) string {
	if n.Namespace == "" || strings.Contains(n.Name, ".") {
		return n.Name
	}
	return n.Namespace + "." + n.Name
}

// lookup finds a named type: a name without a dot is first one of the enclosing namespace.
func (c *compiler) lookup(name string) *avro.SchemaNode {
	if c.space != "" && !strings.Contains(name, ".") {
		if n, ok := c.named[c.space+"."+name]; ok {
			return n
		}
	}
	return c.named[name]
}

// enter makes the namespace of a record the enclosing one, until the function it returns is called.
func (c *compiler) enter(record string) (leave func()) {
	before := c.space
	c.space = ""
	if dot := strings.LastIndexByte(record, '.'); dot >= 0 {
		c.space = record[:dot]
	}
	c.open[record] = true
	return func() {
		c.space = before
		delete(c.open, record)
	}
}

func (c *compiler) collect(n *avro.SchemaNode) {
	if n == nil {
		return
	}
	if n.Name != "" {
		if _, known := c.named[fullName(n)]; !known {
			c.named[fullName(n)] = n
		}
	}
	for i := range n.Fields {
		c.collect(&n.Fields[i].Type)
	}
	for i := range n.Branches {
		c.collect(&n.Branches[i])
	}
	c.collect(n.Items)
	c.collect(n.Values)
}

func (c *compiler) fields(parent *column, n *avro.SchemaNode, depth int) error {
	if len(n.Fields) == 0 {
		return fmt.Errorf("%s: a record without fields has no columns", named(parent.path))
	}
	for i := range n.Fields {
		name := n.Fields[i].Name
		child := &column{name: name, path: join(parent.path, name), optional: depth == 0, field: &n.Fields[i]}
		if depth == 0 && strings.HasPrefix(name, "_") && isMetaColumn(name) {
			return fmt.Errorf("field %s: the name belongs to a column of the archive", name)
		}
		if err := c.compile(child, &n.Fields[i].Type, parent.def, parent.rep, depth+1); err != nil {
			return err
		}
		parent.children = append(parent.children, child)
	}
	return nil
}

// compile fills col from n; def and rep are the levels of what contains it.
func (c *compiler) compile(col *column, n *avro.SchemaNode, def, rep, depth int) error {
	if depth > maxNesting {
		return fmt.Errorf("field %s: nested deeper than %d", col.path, maxNesting)
	}
	if n.Type == "union" {
		var err error
		if n, err = c.union(col, n); err != nil {
			return err
		}
	}
	if def := c.lookup(n.Type); def != nil {
		n = def
	}
	col.typeName = unqualified(n.Name)
	if col.optional {
		def++
	}
	col.def, col.rep, col.lo = def, rep, c.next
	if err := c.compileType(col, n, depth); err != nil {
		return err
	}
	if col.leaf != nil {
		c.leaves = append(c.leaves, col)
		c.next++
		if c.next > maxColumns {
			return fmt.Errorf("field %s: more than %d columns", col.path, maxColumns)
		}
	}
	col.hi = c.next
	return nil
}

// union notes the branches. Of a union of null and one type it returns that type; any other one is a choice.
func (c *compiler) union(col *column, n *avro.SchemaNode) (*avro.SchemaNode, error) {
	col.union, col.nullBranch, col.valueBranch = true, -1, -1
	var value *avro.SchemaNode
	for i := range n.Branches {
		if n.Branches[i].Type == "null" {
			col.nullBranch, col.optional = int64(i), true
			continue
		}
		value = &n.Branches[i]
		col.branches = append(col.branches, int64(i))
	}
	switch len(col.branches) {
	case 0:
		return nil, fmt.Errorf("field %s: a union that is always null has no column", col.path)
	case 1:
		col.valueBranch, col.branches = col.branches[0], nil
		return value, nil
	}
	return n, nil
}

// choice compiles a union of several types to a group with an optional child for each, named by its type.
func (c *compiler) choice(col *column, n *avro.SchemaNode, depth int) error {
	taken := map[string]bool{}
	for _, i := range col.branches {
		branch := &n.Branches[i]
		full := branch.Type
		if branch.Name != "" {
			full = fullName(branch)
		}
		name := unqualified(full)
		if taken[name] {
			name = strings.ReplaceAll(full, ".", "_")
		}
		if taken[name] {
			return fmt.Errorf("field %s: the union has two types that would be the column %s", col.path, name)
		}
		taken[name] = true
		child := &column{name: name, path: join(col.path, name), optional: true}
		if err := c.compile(child, branch, col.def, col.rep, depth+1); err != nil {
			return err
		}
		col.children = append(col.children, child)
	}
	return nil
}

func unqualified(name string) string { return name[strings.LastIndexByte(name, '.')+1:] }

func (c *compiler) compileType(col *column, n *avro.SchemaNode, depth int) error {
	switch n.Type {
	case "union":
		col.kind = kindChoice
		return c.choice(col, n, depth)
	case "record", "error":
		name := fullName(n)
		if c.open[name] {
			return fmt.Errorf("field %s: the recursive type %s has no columns", col.path, name)
		}
		defer c.enter(name)()
		col.kind = kindRecord
		return c.fields(col, n, depth)
	case "array":
		col.kind = kindList
		element := &column{name: "element", path: join(col.path, "element")}
		if err := c.compile(element, n.Items, col.def+1, col.rep+1, depth+1); err != nil {
			return err
		}
		col.children = []*column{element}
		return nil
	case "map":
		col.kind = kindMap
		key := &column{name: "key", path: join(col.path, "key")}
		value := &column{name: "value", path: join(col.path, "value")}
		if err := c.compile(key, &avro.SchemaNode{Type: "string"}, col.def+1, col.rep+1, depth+1); err != nil {
			return err
		}
		if err := c.compile(value, n.Values, col.def+1, col.rep+1, depth+1); err != nil {
			return err
		}
		col.children = []*column{key, value}
		return nil
	}
	return c.compileLeaf(col, n)
}

func named(path string) string {
	if path == "" {
		return "the value"
	}
	return "field " + path
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}
