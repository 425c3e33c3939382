package archive

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the golden files anew")

// everyType has a field of each type that the format has columns for.
const everyType = `{"type":"record","name":"E","fields":[
	{"name":"b","type":"boolean"},{"name":"i","type":"int"},{"name":"l","type":["null","long"]},{"name":"f","type":"float"},{"name":"d","type":"double"},
	{"name":"bytes","type":"bytes"},{"name":"text","type":"string"},{"name":"fix","type":{"type":"fixed","name":"F","size":4}},
	{"name":"kind","type":{"type":"enum","name":"K","symbols":["A","B"]}},
	{"name":"date","type":{"type":"int","logicalType":"date"}},
	{"name":"tm","type":{"type":"int","logicalType":"time-millis"}},{"name":"tu","type":{"type":"long","logicalType":"time-micros"}},
	{"name":"ms","type":{"type":"long","logicalType":"timestamp-millis"}},{"name":"us","type":{"type":"long","logicalType":"timestamp-micros"}},
	{"name":"ns","type":{"type":"long","logicalType":"timestamp-nanos"}},{"name":"lms","type":{"type":"long","logicalType":"local-timestamp-millis"}},
	{"name":"dec","type":{"type":"bytes","logicalType":"decimal","precision":12,"scale":3}},
	{"name":"id","type":{"type":"string","logicalType":"uuid"}},
	{"name":"either","type":["null","int","string",{"type":"record","name":"n.C","fields":[{"name":"c","type":"long"}]}]},
	{"name":"tags","type":{"type":"array","items":"string"}},
	{"name":"Map","type":{"type":"map","values":["null",{"type":"record","name":"R","fields":[{"name":"x","type":"int"},{"name":"y","type":{"type":"array","items":"long"}}]}]}}]}`

func TestDDL(t *testing.T) {
	schema, err := Compile(everyType)
	if err != nil {
		t.Fatal(err)
	}
	for _, engine := range []string{Athena, DuckDB, Spark} {
		got, err := DDL(engine, Table{Name: "every_type", Location: "s3://bucket/archive/every.type", Schema: schema, From: "2026-01-02"})
		if err != nil {
			t.Fatal(err)
		}
		golden := filepath.Join("testdata", "ddl."+engine+".sql")
		if *update {
			if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if err != nil || got != string(want) {
			t.Errorf("%s: got\n%s\nwant\n%s (%v; after a wanted change: go test -run TestDDL -update)", engine, got, want, err)
		}
	}
}

func TestDDLRefuses(t *testing.T) {
	good, err := Compile(`{"type":"record","name":"E","fields":[{"name":"a","type":"int"}]}`)
	if err != nil {
		t.Fatal(err)
	}
	for _, table := range []Table{{Name: "a`b", Location: "s3://b"}, {Name: "a", Location: "s3://b'"}, {Name: "", Location: "s3://b"}} {
		table.Schema = good
		if _, err := DDL(Athena, table); err == nil {
			t.Errorf("%+v was taken", table)
		}
	}
	if _, err := DDL("presto", Table{Name: "a", Location: "s3://b", Schema: good}); err == nil || !strings.Contains(err.Error(), "athena, duckdb and spark") {
		t.Errorf("an unknown engine: %v", err)
	}
	for _, fields := range []string{
		`{"name":"a","type":"int"},{"name":"A","type":"int"}`,
		`{"name":"dt","type":"int"}`,
		`{"name":"r","type":{"type":"record","name":"R","fields":[{"name":"xY","type":"int"},{"name":"Xy","type":"int"}]}}`,
	} {
		s, err := Compile(`{"type":"record","name":"E","fields":[` + fields + `]}`)
		if err != nil {
			t.Fatal(err)
		}
		for _, engine := range []string{Athena, Spark} {
			if _, err := DDL(engine, Table{Name: "a", Location: "s3://b", Schema: s}); !errors.Is(err, ErrSchema) {
				t.Errorf("%s with %s: %v", engine, fields, err)
			}
		}
	}
}
