package service

import (
	"bytes"
	"slices"

	"go.yaml.in/yaml/v3"
)

// yaml prints a configuration in the tree's order, the fields' documentation as comments, secrets redacted.
func (t fieldTree) yaml(values map[string]any) ([]byte, error) {
	var out bytes.Buffer
	enc := yaml.NewEncoder(&out)
	enc.SetIndent(2)
	if err := enc.Encode(t.node(values)); err != nil {
		return nil, err
	}
	if err := enc.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

func (t fieldTree) node(values map[string]any) *yaml.Node {
	m := &yaml.Node{Kind: yaml.MappingNode}
	for _, n := range t.nodes {
		key := &yaml.Node{Kind: yaml.ScalarNode, Value: n.name, HeadComment: n.doc}
		v := values[n.name]
		var value *yaml.Node
		if n.nodes != nil {
			sub, _ := v.(map[string]any)
			value = n.node(sub)
		} else if n.kind == secretType {
			value = scalar(Secret(text(v)))
			if s, ok := v.(string); ok {
				value = scalar(Secret(s))
			}
		} else {
			value = leaf(v)
		}
		m.Content = append(m.Content, key, value)
	}
	if len(m.Content) == 0 {
		m.Style = yaml.FlowStyle
	}
	return m
}

func leaf(v any) *yaml.Node {
	switch v := v.(type) {
	case []any:
		l := &yaml.Node{Kind: yaml.SequenceNode, Style: yaml.FlowStyle}
		for _, e := range v {
			l.Content = append(l.Content, leaf(e))
		}
		return l
	case map[string]any:
		m := &yaml.Node{Kind: yaml.MappingNode}
		keys := make([]string, 0, len(v))
		for k := range v {
			keys = append(keys, k)
		}
		slices.Sort(keys)
		for _, k := range keys {
			m.Content = append(m.Content, scalar(k), leaf(v[k]))
		}
		if len(keys) == 0 {
			m.Style = yaml.FlowStyle
		}
		return m
	}
	return scalar(v)
}

func scalar(v any) *yaml.Node {
	n := &yaml.Node{}
	switch v.(type) {
	case bool, int, int8, int16, int32, int64, uint, uint8, uint16, uint32, uint64, float32, float64:
		if err := n.Encode(v); err == nil {
			return n
		}
	}
	n.SetString(text(v))
	return n
}
