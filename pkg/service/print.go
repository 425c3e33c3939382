package service

import (
	"bytes"
	"slices"

	"go.yaml.in/yaml/v3"
)

// yaml prints the tree's values in its order, the fields' documentation as comments, secrets redacted.
func (t fieldTree) yaml() ([]byte, error) {
	var out bytes.Buffer
	enc := yaml.NewEncoder(&out)
	enc.SetIndent(2)
	if err := enc.Encode(t.node()); err != nil {
		return nil, err
	}
	if err := enc.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

func (t fieldTree) node() *yaml.Node {
	m := &yaml.Node{Kind: yaml.MappingNode}
	for _, n := range t.nodes {
		value := leaf(n.value)
		if n.nodes != nil {
			value = n.node()
		}
		m.Content = append(m.Content, &yaml.Node{Kind: yaml.ScalarNode, Value: n.name, HeadComment: n.doc}, value)
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
