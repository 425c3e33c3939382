package archive_test

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"

	"github.com/parquet-go/parquet-go"
	"github.com/twmb/avro"

	"databus/pkg/archive"
	"databus/pkg/archive/archivetest"
)

func field(name, kind string) string { return `{"name":"` + name + `","type":` + kind + `}` }

func recordOf(fields ...string) string {
	return `{"type":"record","name":"n.R","fields":[` + strings.Join(fields, ",") + `]}`
}

const unions = `["null","int",{"type":"record","name":"n.A","fields":[{"name":"x","type":"int"}]},{"type":"array","items":["string","boolean"]},{"type":"record","name":"m.A","fields":[{"name":"y","type":"int"}]}]`

// A union of several types is a group with a column for each, named by its type.
func TestUnionColumns(t *testing.T) {
	schema := compile(t, recordOf(field("u", unions), field("v", `{"type":"array","items":["int","string"]}`)))
	a := avro.MustParse(schema.String())
	var records []archive.Record
	for i, u := range []any{nil, 7, map[string]any{"n.A": map[string]any{"x": 3}}, map[string]any{"array": []any{"s", true, "t"}}, map[string]any{"m.A": map[string]any{"y": 4}}, map[string]any{"array": []any{}}} {
		value, err := a.Encode(map[string]any{"u": u, "v": []any{1, "two", 3}[:i%4]})
		if err != nil {
			t.Fatal(err)
		}
		records = append(records, archive.Record{Offset: int64(i), Value: value})
	}
	records = append(records, archive.Record{Offset: 9})
	object, _ := encode(t, schema, 0, 10, records)
	got, _ := decode(t, object)
	if !reflect.DeepEqual(got, records) {
		t.Errorf("got %+v, want %+v", got, records)
	}
	f, err := parquet.OpenFile(bytes.NewReader(object), int64(len(object)))
	if err != nil {
		t.Fatal(err)
	}
	var paths []string
	for _, p := range f.Schema().Columns() {
		paths = append(paths, strings.Join(p, "."))
	}
	want := []string{"u.int", "u.A.x", "u.array.list.element.string", "u.array.list.element.boolean", "u.m_A.y", "v.list.element.int", "v.list.element.string"}
	if !reflect.DeepEqual(paths[len(paths)-len(want):], want) {
		t.Errorf("columns %v, want %v", paths, want)
	}
	for _, branch := range []byte{10, 1, 13} { // 5, -1, -7
		if err := schema.Check([]byte{branch, 0}); !errors.Is(err, archive.ErrValue) {
			t.Errorf("branch %d: %v", branch, err)
		}
	}
	if err := compile(t, recordOf(field("u", `["int"]`))).Check([]byte{1, 2}); !errors.Is(err, archive.ErrValue) {
		t.Errorf("branch -1 of a union of one type: %v", err)
	}
}

func TestGeneratedSchemasHoldUnions(t *testing.T) {
	found := 0
	for seed := range uint64(60) {
		text, _ := (&archivetest.Generator{Rand: rand.New(rand.NewPCG(seed, 3))}).Schema()
		s := avro.MustParse(text)
		var walk func(*avro.SchemaNode)
		walk = func(n *avro.SchemaNode) {
			if n == nil {
				return
			}
			if len(n.Branches) > 2 {
				found++
			}
			for i := range n.Fields {
				walk(&n.Fields[i].Type)
			}
			for i := range n.Branches {
				walk(&n.Branches[i])
			}
			walk(n.Items)
			walk(n.Values)
		}
		walk(s.Root())
	}
	if found < 30 {
		t.Errorf("the generated schemas hold %d unions of more than two types", found)
	}
}

// Unions of several types are resolved as Avro's rules say, compared with a general decoder.
func TestResolveUnions(t *testing.T) {
	for _, c := range []struct {
		old, now string
		values   []any
	}{
		{`["null","int"]`, `["string","long","null"]`, []any{nil, 5}},
		{`"int"`, `["string","int"]`, []any{5}},
		{`["int","string"]`, `["null","string","boolean","int"]`, []any{5, "five"}},
		{`["int","long"]`, `"long"`, []any{map[string]any{"int": 5}, map[string]any{"long": int64(6)}}},
		{`["int","float","null"]`, `["null","double"]`, []any{map[string]any{"int": 5}, map[string]any{"float": float32(0.5)}, nil}},
		{`[{"type":"record","name":"A","fields":[{"name":"x","type":"int"}]},{"type":"record","name":"B","fields":[{"name":"x","type":"int"}]}]`,
			`[{"type":"record","name":"B","fields":[{"name":"x","type":"int"},{"name":"z","type":"int","default":9}]},"string",{"type":"record","name":"A","fields":[{"name":"x","type":"long"}]}]`,
			[]any{map[string]any{"A": map[string]any{"x": 1}}, map[string]any{"B": map[string]any{"x": 2}}}},
		{`{"type":"map","values":["int","string"]}`, `{"type":"map","values":["string","int"]}`, []any{map[string]any{"k": 1}, map[string]any{"k": "s"}, map[string]any{}}},
	} {
		old, now := recordOf(field("u", c.old)), recordOf(field("u", c.now))
		w, r := avro.MustParse(old), avro.MustParse(now)
		oracle, err := avro.Resolve(w, r)
		if err != nil {
			t.Fatalf("%s to %s: %v", c.old, c.now, err)
		}
		resolver, err := archive.NewResolver(compile(t, old), compile(t, now))
		if err != nil {
			t.Fatalf("%s to %s: %v", c.old, c.now, err)
		}
		for _, v := range c.values {
			value, err := w.Encode(map[string]any{"u": v})
			if err != nil {
				t.Fatalf("%s: %v: %v", c.old, v, err)
			}
			var want, got any
			if _, err := oracle.Decode(value, &want); err != nil {
				t.Fatal(err)
			}
			resolved, err := resolver.Resolve(nil, value)
			if err != nil {
				t.Fatalf("%s to %s: %v: %v", c.old, c.now, v, err)
			}
			if rest, err := r.Decode(resolved, &got); err != nil || len(rest) > 0 {
				t.Fatalf("%s to %s: %v, %d bytes left", c.old, c.now, err, len(rest))
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("%s to %s: %v is %+v, want %+v", c.old, c.now, v, got, want)
			}
		}
	}
	if _, err := archive.NewResolver(compile(t, recordOf(field("u", `["int","string"]`))), compile(t, recordOf(field("u", `["int","boolean"]`)))); !errors.Is(err, archive.ErrSchema) {
		t.Errorf("a type that is gone: %v", err)
	}
}
