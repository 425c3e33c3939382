package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/twmb/avro"
)

// A fieldCheck finds fields in JSON that a schema does not have. Avro's JSON decoding ignores them, so that a misspelt
// optional field would silently become its default.
type fieldCheck struct {
	root  *avro.SchemaNode
	named map[string]*avro.SchemaNode
}

// newFieldCheck takes a schema of the catalogue.
func newFieldCheck(schema string) *fieldCheck {
	c := &fieldCheck{root: avro.MustParse(schema).Root(), named: map[string]*avro.SchemaNode{}}
	c.collect(c.root)
	return c
}

func (c *fieldCheck) collect(n *avro.SchemaNode) {
	switch n.Type {
	case "record":
		c.named[n.Name] = n
		if n.Namespace != "" {
			c.named[n.Namespace+"."+n.Name] = n
		}
		for i := range n.Fields {
			c.collect(&n.Fields[i].Type)
		}
	case "array":
		c.collect(n.Items)
	case "map":
		c.collect(n.Values)
	case "union":
		for i := range n.Branches {
			c.collect(&n.Branches[i])
		}
	}
}

// check takes JSON that fits the schema and returns an error that names the first field the schema does not have.
func (c *fieldCheck) check(text []byte) error {
	var v any
	if err := json.Unmarshal(text, &v); err != nil {
		return fmt.Errorf("reading JSON: %w", err)
	}
	return c.value(c.root, v, "")
}

func (c *fieldCheck) value(n *avro.SchemaNode, v any, path string) error {
	if named, ok := c.named[n.Type]; ok {
		n = named
	}
	switch v := v.(type) {
	case []any:
		if n.Type == "array" {
			for i, item := range v {
				if err := c.value(n.Items, item, fmt.Sprintf("%s[%d]", path, i)); err != nil {
					return err
				}
			}
		}
	case map[string]any:
		switch n.Type {
		case "record":
			return c.record(n, v, path)
		case "map":
			for k, item := range v {
				if err := c.value(n.Values, item, path+"."+k); err != nil {
					return err
				}
			}
		}
	}
	if n.Type == "union" {
		return c.union(n, v, path)
	}
	return nil
}

func (c *fieldCheck) record(n *avro.SchemaNode, v map[string]any, path string) error {
	var names []string
	for i := range n.Fields {
		names = append(names, n.Fields[i].Name)
		if item, ok := v[n.Fields[i].Name]; ok {
			if err := c.value(&n.Fields[i].Type, item, strings.TrimPrefix(path+"."+n.Fields[i].Name, ".")); err != nil {
				return err
			}
		}
	}
	for k := range v {
		if !slices.Contains(names, k) {
			return fmt.Errorf("field %s is not in schema %s; its fields are %s", strings.TrimPrefix(path+"."+k, "."), n.Name, strings.Join(names, ", "))
		}
	}
	return nil
}

// union tries the branches, bare and wrapped as {"type": value}; one of them must know all fields.
func (c *fieldCheck) union(n *avro.SchemaNode, v any, path string) error {
	if w, ok := v.(map[string]any); ok && len(w) == 1 {
		for i := range n.Branches {
			b := &n.Branches[i]
			full := b.Name
			if b.Namespace != "" {
				full = b.Namespace + "." + b.Name
			}
			for name, inner := range w {
				if name == b.Type || b.Name != "" && (name == b.Name || name == full) {
					return c.value(b, inner, path)
				}
			}
		}
	}
	var first error
	for i := range n.Branches {
		err := c.value(&n.Branches[i], v, path)
		if err == nil && n.Branches[i].Type != "null" {
			return nil
		}
		if first == nil {
			first = err
		}
	}
	return first
}
