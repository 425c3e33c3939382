package service

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/knadh/koanf/providers/confmap"
	"github.com/knadh/koanf/v2"

	"databus/schemas"
)

// A fieldTree describes a configuration struct: its keys in order, their documentation and their default values. It is
// what unknown keys are compared with and what environment variables are named after.
type fieldTree struct {
	name  string
	doc   string
	value any         // default of a leaf
	nodes []fieldTree // of a struct
	open  bool        // a map: any key is known
}

// describe walks a struct value.
func describe(v any) fieldTree { return describeValue("", "", reflect.ValueOf(v)) }

func describeValue(name, doc string, v reflect.Value) fieldTree {
	t := fieldTree{name: name, doc: doc}
	switch {
	case v.Kind() == reflect.Struct:
		t.nodes = []fieldTree{} // a struct, even one without fields
		for i := range v.NumField() {
			f := v.Type().Field(i)
			if !f.IsExported() {
				continue
			}
			t.nodes = append(t.nodes, describeValue(keyOf(f), f.Tag.Get("doc"), v.Field(i)))
		}
	case v.Kind() == reflect.Map:
		t.open = true
		t.value = plainValue(v)
	default:
		t.value = plainValue(v)
	}
	return t
}

// plainValue turns a value into what a YAML file would have given: maps and lists of scalars. Durations and secrets keep
// their type.
func plainValue(v reflect.Value) any {
	switch v.Kind() {
	case reflect.Struct:
		m := map[string]any{}
		for i := range v.NumField() {
			if f := v.Type().Field(i); f.IsExported() {
				m[keyOf(f)] = plainValue(v.Field(i))
			}
		}
		return m
	case reflect.Map:
		m := map[string]any{}
		for _, k := range v.MapKeys() {
			m[k.String()] = plainValue(v.MapIndex(k))
		}
		return m
	case reflect.Slice, reflect.Array:
		l := make([]any, v.Len())
		for i := range l {
			l[i] = plainValue(v.Index(i))
		}
		return l
	}
	return v.Interface()
}

// keyOf is a field's key: its koanf tag or its name in snake case.
func keyOf(f reflect.StructField) string {
	if tag, _, _ := strings.Cut(f.Tag.Get("koanf"), ","); tag != "" {
		return tag
	}
	return snake(f.Name)
}

// snake turns StateDir into state_dir and CAFile into ca_file.
func snake(s string) string {
	var b strings.Builder
	r := []rune(s)
	for i, c := range r {
		if unicode.IsUpper(c) && i > 0 && (!unicode.IsUpper(r[i-1]) || i+1 < len(r) && unicode.IsLower(r[i+1])) {
			b.WriteByte('_')
		}
		b.WriteRune(unicode.ToLower(c))
	}
	return b.String()
}

// rootTree is the whole configuration of a service's process: the shared keys, then the service's own under its name.
func rootTree(shared Config, name, summary string, own fieldTree) fieldTree {
	root := describe(shared)
	own.name, own.doc = name, summary
	root.nodes = append(root.nodes, own)
	return root
}

// defaults returns the tree's values, nested.
func (t fieldTree) defaults() map[string]any {
	m := map[string]any{}
	for _, n := range t.nodes {
		if n.nodes != nil {
			m[n.name] = n.defaults()
		} else {
			m[n.name] = n.value
		}
	}
	return m
}

// leaves calls f with the path of every key that can be set.
func (t fieldTree) leaves(f func(path []string, leaf fieldTree)) { t.walk(nil, f) }

func (t fieldTree) walk(prefix []string, f func([]string, fieldTree)) {
	for _, n := range t.nodes {
		path := append(slices.Clone(prefix), n.name)
		if n.nodes != nil {
			n.walk(path, f)
		} else {
			f(path, n)
		}
	}
}

// find returns the leaf of a dotted path; the rest of the path below a map is one key of the map.
func (t fieldTree) find(path string) ([]string, bool) {
	for _, n := range t.nodes {
		if n.nodes == nil && path == n.name {
			return []string{n.name}, true
		}
		rest, ok := strings.CutPrefix(path, n.name+".")
		if !ok {
			continue
		}
		if n.open {
			return []string{n.name, rest}, true
		}
		if sub, ok := n.find(rest); ok {
			return append([]string{n.name}, sub...), true
		}
	}
	return nil, false
}

// unknown returns an error for each key of m that the tree does not have. At the root, sections of other services are
// passed over, so that one file can serve all of them.
func (t fieldTree) unknown(m map[string]any, others []string) error {
	var errs []error
	t.findUnknown(m, nil, func(path string) {
		if !slices.Contains(others, path) {
			errs = append(errs, t.unknownKey(path))
		}
	})
	slices.SortFunc(errs, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return errors.Join(errs...)
}

func (t fieldTree) findUnknown(m map[string]any, prefix []string, report func(string)) {
	for key, v := range m {
		path := append(slices.Clone(prefix), key)
		i := slices.IndexFunc(t.nodes, func(n fieldTree) bool { return n.name == key })
		if i < 0 {
			report(strings.Join(path, "."))
			continue
		}
		if sub, ok := v.(map[string]any); ok && t.nodes[i].nodes != nil {
			t.nodes[i].findUnknown(sub, path, report)
		}
	}
}

// unknownKey names the key that was perhaps meant.
func (t fieldTree) unknownKey(path string) error {
	if near := t.nearest(path); near != "" {
		return fmt.Errorf("%s: unknown key; did you mean %s?", path, near)
	}
	return fmt.Errorf("%s: unknown key; --print-config lists all keys", path)
}

func (t fieldTree) nearest(path string) string {
	best, bestDistance := "", len(path)/2+1
	consider := func(candidate string, distance int) {
		if distance < bestDistance {
			best, bestDistance = candidate, distance
		}
	}
	last := path[strings.LastIndexByte(path, '.')+1:]
	t.leaves(func(p []string, _ fieldTree) {
		full := strings.Join(p, ".")
		consider(full, distance(path, full))
		// A key in the wrong section: the last part is right.
		if p[len(p)-1] == last {
			consider(full, 1)
		}
		if len(p) > 1 {
			consider(p[0], distance(path, p[0]))
		}
	})
	return best
}

// distance is the Levenshtein distance in bytes.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost = 1 + min(diagonal, row[j], row[j+1])
			}
			diagonal, row[j+1] = row[j+1], cost
		}
	}
	return row[len(b)]
}

// overlay merges maps, later ones over earlier ones, through koanf. Keys are never split: a topic's name is one key.
func overlay(layers ...map[string]any) (map[string]any, error) {
	k := koanf.New("\x00")
	for _, l := range layers {
		if err := k.Load(confmap.Provider(l, ""), nil); err != nil {
			return nil, err
		}
	}
	return k.Raw(), nil
}

// otherServices are the services of the catalogue but one.
func otherServices(name string) []string {
	var names []string
	for _, t := range schemas.Catalogue() {
		for _, s := range slices.Concat(t.Producers, t.Consumers) {
			if s != name && s != "api" && s != "cli" && !slices.Contains(names, s) {
				names = append(names, s)
			}
		}
	}
	return names
}

var (
	durationType = reflect.TypeFor[time.Duration]()
)
